"""How the Coding page looks, who sees it, and whether everybody can use it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import pytest
from playwright.sync_api import Page, expect

from include.pipeline.names import RECODE_DAG_ID
from include.stack.processes import USER
from tests.browser.conftest import (
    AS_AIRFLOW,
    CODING,
    DESKTOP,
    PHONE,
    STRANGER,
    VIEWER,
    Window,
    find_faults,
    page_paths,
    take_picture,
)  # fmt: skip
from tests.end_to_end.conftest import Harness, wait_until

pytestmark = pytest.mark.airflow

PAGES = ("today", "dates", "runs", "run", "report", "models", "help")


@pytest.fixture(scope="module")
def paths(harness: Harness) -> dict[str, str]:
    """The address of each page by its name. The run is that of last night, which starts by itself and lands."""
    wait_until(lambda: bool(harness.runs(run_type="scheduled")), "the run of last night has started")
    run_id = harness.runs(run_type="scheduled")[0]["dag_run_id"]
    assert harness.wait(run_id) == "success"
    return page_paths(run_id)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_readable_on_a_desk_and_on_a_phone_in_light_and_in_dark(
    open_window: Callable[..., Window], paths: dict[str, str], name: str
) -> None:
    for size, scheme in ((DESKTOP, "light"), (PHONE, "dark")):
        window = open_window(size=size, scheme=scheme)
        answer = window.page.goto(window.root + paths[name])
        assert answer is not None
        assert answer.status == 200
        width = window.page.evaluate("document.documentElement.scrollWidth")
        assert width <= size["width"], f"the page is {width} px wide, and scrolls sideways"
        assert find_faults(window.page) == [], scheme


@pytest.mark.parametrize("name", PAGES)
def test_only_those_who_may_read_the_dag_see_a_page(
    open_window: Callable[..., Window], paths: dict[str, str], name: str
) -> None:
    for user, status in (("", 401), (STRANGER, 403), (VIEWER, 200)):
        window = open_window(user)
        answer = window.page.goto(window.root + paths[name])
        assert answer is not None
        assert answer.status == status, user or "nobody"


def choose_appearance(page: Page, name: str) -> None:
    """Switch Airflow to dark or light. The inner menu opens when the mouse moves over its entry."""
    page.get_by_role("button", name="User").click()
    entry, choice = page.get_by_role("menuitem", name="Appearance"), page.get_by_role("menuitemradio", name=name)
    steps = count(5)

    def has_opened() -> bool:
        if not choice.is_visible():
            entry.hover(position={"x": next(steps) % 40, "y": 8})
        return choice.is_visible()

    wait_until(has_opened, "the menu is open")
    choice.click()


def test_the_page_is_two_clicks_from_home_and_dark_where_airflow_is_dark(
    open_window: Callable[..., Window], paths: dict[str, str]
) -> None:
    window = open_window(USER, DESKTOP, AS_AIRFLOW)
    page = window.page
    for mode, background in (("Dark", "rgb(13, 17, 23)"), ("Light", "rgb(255, 255, 255)")):
        window.open("/")
        choose_appearance(page, f"{mode} Mode")
        page.get_by_role("button", name="Browse").click()
        page.get_by_role("menuitem", name="Coding").click()
        expect(window.frame.get_by_role("heading", level=1)).to_contain_text("have landed")
        expect(window.frame.locator("body")).to_have_css("background-color", background)
        if mode == "Light":
            take_picture(page, "today")


def test_a_marked_range_of_dates_gives_the_command_of_its_backfill(window: Window, paths: dict[str, str]) -> None:
    window.open(paths["dates"])
    page = window.page
    page.get_by_label("From", exact=True).fill("2026-10-01")
    page.get_by_label("To", exact=True).fill("2026-10-03")
    page.get_by_role("button", name="Mark").click()
    expect(page.get_by_text(f"airflow backfill create --dag-id {RECODE_DAG_ID}")).to_be_visible()
    assert page.url.startswith(window.root + CODING)
