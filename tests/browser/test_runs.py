"""What a person clicks to code answers, and where they find what became of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from playwright.sync_api import Locator, Page, expect

from include.pipeline.names import RECODE_DAG_ID
from tests.browser.conftest import CODING, Window, first_day, take_picture, yesterday
from tests.end_to_end.conftest import Harness, wait_until
from tests.end_to_end.test_form import wait_for_question

pytestmark = pytest.mark.airflow

HOSTILE_SOURCE = "<img src=x onerror=alert(1)>"
#: Longer than the tests take: operations of the service wait until a test lets them end.
HELD_S = 3600


@pytest.fixture
def held_service(harness: Harness) -> Iterator[None]:
    """The service works on operations without an end."""
    harness.control_service("progression", progression="by_time", seconds=HELD_S)
    yield
    let_operations_end(harness)


def let_operations_end(harness: Harness) -> None:
    harness.control_service("progression", progression="by_time", seconds=1)


def open_form(window: Window) -> Locator:
    """Open the form of the DAG as a person does, and return it."""
    window.open(f"/dags/{RECODE_DAG_ID}")
    window.page.get_by_role("button", name="Trigger Dag").click()
    form = window.page.get_by_role("dialog")
    expect(form.locator("[name=element_from_date]")).to_be_visible()
    return form


def start_run(window: Window, harness: Harness, from_date: str, to_date: str, is_dry: bool = False) -> str:
    """Start a run with the form, and return its id."""
    earlier_ids = {run["dag_run_id"] for run in harness.runs()}
    form = open_form(window)
    form.locator("[name=element_from_date]").fill(from_date)
    form.locator("[name=element_to_date]").fill(to_date)
    if is_dry:
        form.get_by_label("Dry run").press("Space")
        expect(form.get_by_label("Dry run")).to_be_checked()
    form.get_by_role("button", name="Trigger").click()
    new: list[str] = []

    def has_started() -> bool:
        new[:] = [run["dag_run_id"] for run in harness.runs() if run["dag_run_id"] not in earlier_ids]
        return bool(new)

    wait_until(has_started, "the form starts a run")
    return new[0]


def open_run(window: Window, run_id: str) -> Page:
    """Open a run in Airflow."""
    window.open(f"/dags/{RECODE_DAG_ID}/runs/{run_id}")
    return window.page


def test_the_form_opens_with_the_dates_and_the_dry_run_and_without_a_click_on_a_section(window: Window) -> None:
    form = open_form(window)
    for name in ("from_date", "to_date"):
        expect(form.locator(f"[name=element_{name}]")).to_be_visible()
    expect(form.get_by_label("Dry run")).to_be_attached()
    expect(form.get_by_text("Send nothing: the report counts")).to_be_visible()
    expect(form.locator("[name=element_topic]")).not_to_be_visible()


def test_a_dry_run_from_the_form_says_in_its_note_what_would_be_sent(window: Window, harness: Harness) -> None:
    run_id = start_run(window, harness, str(first_day()), str(yesterday()), is_dry=True)
    assert harness.wait(run_id) == "success"
    page = open_run(window, run_id)
    expect(page.get_by_text(re.compile(r"Dry run: [\d,]+ texts to send; nothing was sent"))).to_be_visible()


@pytest.mark.usefixtures("held_service")
def test_a_run_is_followed_from_the_form_over_its_wait_to_its_codes(window: Window, harness: Harness) -> None:
    harness.wait_until_idle()
    run_id = start_run(window, harness, str(first_day()), str(yesterday()))
    wait_until(
        lambda: harness.api.tasks(run_id).get("code.poll[0]") == "deferred", "the run waits for the service", 600
    )
    window.open(f"{CODING}/")
    under_way = window.page.get_by_role("row").filter(has_text=run_id)
    expect(under_way).to_contain_text("code.poll: 1 deferred")

    window.open(f"/dags/{RECODE_DAG_ID}/runs/{run_id}/tasks/code.poll/mapped/0/details")
    page = window.page
    expect(page.get_by_text("Deferred").first).to_be_visible()
    page.get_by_role("link", name="Operation", exact=True).click()  # while the task waits
    operation_id = page.url.partition("#operation-")[2]
    assert operation_id
    expect(page.locator(f"[id='operation-{operation_id}']")).to_contain_text(operation_id)

    let_operations_end(harness)
    assert harness.wait(run_id) == "success"
    page = open_run(window, run_id)
    expect(page.get_by_text(re.compile(r"Coded [\d,]+ of [\d,]+ records"))).to_be_visible()
    page.get_by_role("link", name="Coding", exact=True).click()
    expect(window.frame.get_by_text(operation_id).first).to_be_visible()
    take_picture(page, "run")

    window.open(f"/dags/{RECODE_DAG_ID}/runs/{run_id}/tasks/report/details")
    page.get_by_role("link", name="Report", exact=True).click()
    assert page.url.endswith(f"{CODING}/report?dag={RECODE_DAG_ID}&run={page.url.partition('&run=')[2]}")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    take_picture(page, "report")


def test_a_run_that_waits_for_approval_is_found_and_approved_in_the_browser(window: Window, harness: Harness) -> None:
    source = harness.stack.source_files / "wave.csv"
    lines = "".join(f"W{number},wave job {number},tasks\n" for number in range(40))
    source.write_text("record_id,occp_text,tasks_text\n" + lines)
    run_id = harness.api.trigger({"source": source.as_uri(), "response_date": "2026-06-30", "approve_above": 10})
    wait_for_question(harness, run_id)
    window.open(f"{CODING}/")
    page = window.page
    expect(page.get_by_role("listitem").filter(has_text=run_id)).to_contain_text("waits for approval")

    window.open("/")
    page.get_by_role("button", name="Browse").click()
    page.get_by_role("menuitem", name="Required Actions").click()
    page.get_by_role("link", name=re.compile("Send 40 texts of 2026-06-30")).click()
    expect(page.get_by_text("what is sent is paid for")).to_be_visible()
    page.get_by_role("button", name="Approve").click()
    assert harness.wait(run_id) == "success"
    assert harness.api.xcom(run_id, "land")["texts_sent"] == 40


def test_a_failed_run_shows_a_hostile_name_as_text(window: Window, harness: Harness) -> None:
    dialogs: list[str] = []
    window.page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    run_id, state = harness.run(source=HOSTILE_SOURCE, from_date="2001-02-03")
    assert state == "failed"
    window.open(f"{CODING}/runs?state=failed&dag={RECODE_DAG_ID}")
    row = window.page.get_by_role("row").filter(has_text=run_id)
    expect(row).to_contain_text(HOSTILE_SOURCE)
    expect(row).to_contain_text("prepare")
    window.open(f"{CODING}/run?dag={RECODE_DAG_ID}&run={quote(run_id)}")
    expect(window.page.get_by_text(HOSTILE_SOURCE).first).to_be_visible()
    open_run(window, run_id)
    expect(window.page.get_by_text("onerror=alert(1)").first).to_be_visible()
    window.page.get_by_role("link", name="Coding", exact=True).click()
    expect(window.frame.get_by_text("SourceError").first).to_be_visible()
    assert window.page.locator("img[src=x]").count() + window.frame.locator("img").count() == 0
    assert dialogs == []
