"""A real browser before a real Airflow. All tests of this folder share one stack, and each has a browser window.

Set CHROMIUM to a Chromium or Chrome that is not on the path, REQUIRE_BROWSER to fail without one instead of skipping,
and SCREENSHOTS to a folder to take pictures of what the tests see: `make screenshots`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from urllib.parse import quote

import pendulum
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, FrameLocator, Locator, Page, expect, sync_playwright

from include.pipeline.names import RECODE_DAG_ID, TIMEZONE
from include.stack.processes import USER
from include.stack.sample import write_sample
from tests.end_to_end.conftest import SERVICE_OPTIONS, FastStack, Harness, run_stack

#: Path of the Coding page, below the root of Airflow.
CODING = "/occupation-coding"
#: A person who may look but change nothing, and one who may not see any DAG.
VIEWER, STRANGER = "viewer", "stranger"
BROWSERS = ("chromium", "google-chrome")
BROWSER_OPTIONS = ("--no-sandbox", "--disable-background-networking", "--disable-dev-shm-usage", "--disable-gpu")
SAMPLE_DAYS = 30
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
#: Colour scheme of a window that does not say what its person prefers, so that frames follow the page around them.
AS_AIRFLOW = "null"
#: Airflow draws its pages from many calls of its API, on a machine that is busy with tests.
EXPECT_TIMEOUT_MS = 60_000


class NightStack(FastStack):
    """A stack whose sample ends yesterday, so that the run of last night, which starts by itself, has records."""

    def _load_sample(self) -> None:
        write_sample(self.folder / "sample.parquet", rows=6000, first_day=first_day(), days=SAMPLE_DAYS)
        super()._load_sample()


def yesterday() -> date:
    """Return the day whose answers the run of last night codes."""
    return pendulum.yesterday(TIMEZONE).date()


def first_day() -> date:
    """Return the first day of the sample."""
    return yesterday() - timedelta(days=SAMPLE_DAYS - 1)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        reason = f"no browser: none of {', '.join(BROWSERS)} is on the path. Install chromium, or set CHROMIUM."
        pytest.fail(reason) if os.environ.get("REQUIRE_BROWSER") else pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(BROWSER_OPTIONS))
        expect.set_options(timeout=EXPECT_TIMEOUT_MS)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def harness(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    """The stack, which starts only if there is a browser to look at it."""
    users = {"AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin,{VIEWER}:viewer,{STRANGER}:"}
    # pictures show codes of the real coder, whose model takes a minute to train
    options = SERVICE_OPTIONS[2:] if os.environ.get("SCREENSHOTS") else SERVICE_OPTIONS
    stack = NightStack(tmp_path_factory.mktemp("stack"), settings=users, service_options=options)
    with run_stack(stack):
        yield Harness(stack)


@dataclass(frozen=True)
class Window:
    """A window of the browser in which somebody may be logged in.

    :param page: what Playwright needs
    :param root: base URL of Airflow
    """

    page: Page
    root: str

    def open(self, path: str) -> None:
        """Open a page of Airflow."""
        self.page.goto(self.root + path)

    @property
    def frame(self) -> FrameLocator:
        """The Coding page within Airflow's."""
        return self.page.frame_locator("iframe")

    def heading(self, name: str) -> Locator:
        return self.page.get_by_role("heading", name=name)


@pytest.fixture(scope="package")
def sessions(harness: Harness, browser: Browser) -> dict[str, str]:
    """The cookie of each user, who has logged in with the form of Airflow."""
    passwords = json.loads((harness.stack.secrets / "passwords.json").read_text())
    return {user: log_in(browser, harness.api.url, user, password) for user, password in passwords.items()}


def log_in(browser: Browser, root: str, user: str, password: str) -> str:
    """Log in with Airflow's form and return the cookie."""
    page = browser.new_page()
    page.set_default_timeout(EXPECT_TIMEOUT_MS)
    page.goto(root)
    page.locator("input[name=username]").fill(user)
    page.locator("input[type=password]").fill(password)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(lambda url: "/auth/" not in url)
    (token,) = (cookie["value"] for cookie in page.context.cookies() if cookie["name"] == "_token")
    page.close()
    return token


@pytest.fixture
def open_window(
    browser: Browser, harness: Harness, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Window]]:
    """A function that opens a window for a user (nobody: an empty name), as wide as a desk or a phone, light or dark."""
    contexts = []

    def open_window(user: str = USER, size: dict[str, int] = DESKTOP, scheme: str = AS_AIRFLOW) -> Window:
        context = browser.new_context(
            viewport=size, color_scheme=scheme, timezone_id=TIMEZONE, locale="en-AU", reduced_motion="reduce"
        )
        contexts.append(context)
        context.set_default_timeout(EXPECT_TIMEOUT_MS)
        if user:
            token = request.getfixturevalue("sessions")[user]
            context.add_cookies([{"name": "_token", "value": token, "url": harness.api.url}])
        return Window(context.new_page(), harness.api.url)

    yield open_window
    for context in contexts:
        context.close()


@pytest.fixture
def window(open_window: Callable[..., Window]) -> Window:
    """A window of an administrator on a desk."""
    return open_window()


def take_picture(page: Page | Locator, name: str) -> None:
    """Save a picture of a page for the documents, if the environment asks for them."""
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", animations="disabled")


def find_faults(page: Page) -> list[str]:
    """Return the serious and critical faults that axe finds on a page.

    It runs in a copy, because it would wait without an end in a report, which is sandboxed and runs no script.
    """
    copy = page.context.new_page()
    copy.set_content(page.content())
    violations = Axe().run(copy).response["violations"]
    copy.close()
    return [
        f"{fault['id']}: {fault['help']}: {node['html'][:200]}"
        for fault in violations
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]


def page_paths(run_id: str) -> dict[str, str]:
    """Return the address of each page by its name."""
    query, run = f"?dag={RECODE_DAG_ID}", quote(run_id)
    names = ("today", "dates", "runs", "models", "help")
    paths = {name: f"{CODING}/{'' if name == 'today' else name}{query}" for name in names}
    return {**paths, "run": f"{CODING}/run{query}&run={run}", "report": f"{CODING}/report{query}&run={run}"}
