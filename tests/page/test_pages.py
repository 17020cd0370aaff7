"""What the pages say about runs and dates."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from airflow.models.log import Log

from include.page.app import read_today
from tests.page.conftest import MODEL, NOW, Metadata, TestClient, make_landing, make_plan

Client = Callable[..., TestClient]
#: A value that would run as a script, or end an attribute, if it stood in a page as it is.
HOSTILE = """<script>alert("1")</script>'"><img src=x onerror=alert(2)>"""
YESTERDAY = (read_today(NOW) - timedelta(days=1)).isoformat()


def read_text(html: str) -> str:
    """Return what a person reads."""
    body = html.partition("<main")[2].partition(">")[2]
    return " ".join(re.sub(r"<[^>]*>", " ", body).split())


def find_day(html: str, day: str) -> str:
    """Return the text alternative of a date of the calendar."""
    match = re.search(rf'aria-label="{day}: ([^"]*)"', html)
    assert match, day
    return match[1]


# ---- Today -------------------------------------------------------------------------------------------------------


def test_today_says_how_many_records_of_the_last_night_are_coded(client: Client, metadata: Metadata) -> None:
    metadata.add_run("night", YESTERDAY, plan=make_plan(YESTERDAY), land=make_landing(YESTERDAY))
    text = read_text(client("viewer").get("/").text)
    assert text.startswith(f"The responses of {YESTERDAY} have landed: 2,009 of 2,037 records coded (98.6%).")
    assert "Nothing of the last month." in text
    assert f"the last run that landed used model 3, {MODEL}" in text


def test_today_counts_the_last_night_apart_from_late_answers_of_earlier_dates(
    client: Client, metadata: Metadata
) -> None:
    landing = make_landing(YESTERDAY, "2026-11-01", "2026-11-02")
    metadata.add_run("night", YESTERDAY, plan=make_plan(YESTERDAY), land=landing)
    text = read_text(client("viewer").get("/").text)
    assert "have landed: 2,009 of 2,037 records coded (98.6%). Late answers of 2 earlier dates are coded too." in text


def test_a_night_that_starts_when_the_dag_is_switched_on_is_not_late(client: Client, metadata: Metadata) -> None:
    metadata.add_run(
        "night", YESTERDAY, state="running", run_after=NOW - timedelta(hours=7), plan=make_plan(YESTERDAY)
    )
    with metadata.make_session.begin() as session:
        event = Log(event="patch_dag", dag_id="recode_occupations", extra=json.dumps({"is_paused": False}))
        session.add(event)
    assert "is late" not in client("viewer").get("/").text


def test_today_names_the_task_in_which_the_night_failed_and_what_to_do(client: Client, metadata: Metadata) -> None:
    tasks = (("plan", "success"), ("prepare", "failed"), ("land", "upstream_failed"))
    metadata.add_run("night", YESTERDAY, state="failed", tasks=tasks)
    text = read_text(client("viewer").get("/").text)
    assert text.startswith(f"The night of {YESTERDAY} failed in prepare. Nothing of it is published.")
    assert "clear the task with downstream tasks" in text
    assert f"{YESTERDAY} : its run failed, and nothing of it is published." in text


@pytest.mark.parametrize(
    ("age", "task", "sentence"),
    [
        (timedelta(hours=1), ("code.poll", "deferred"), "is under way in code.poll. It is due at"),
        (timedelta(hours=7), ("code.poll", "deferred"), "is late, since"),
        (timedelta(hours=1), ("approve", "awaiting_input"), "waits for a person: approve."),
    ],
    ids=["under way", "late", "approval"],
)
def test_today_says_where_a_night_is(
    client: Client, metadata: Metadata, age: timedelta, task: tuple[str, str], sentence: str
) -> None:
    tasks = (task, task) if task[0].startswith("code.") else (task,)
    metadata.add_run(
        "night", YESTERDAY, state="running", run_after=NOW - age, plan=make_plan(YESTERDAY),
        tasks=(("plan", "success"), *tasks),
    )  # fmt: skip
    text = read_text(client("viewer").get("/").text)
    assert text.startswith(f"The night of {YESTERDAY} {sentence}")
    assert f"{task[0]}: {len(tasks)} {task[1].replace('_', ' ')}" in text


def test_today_says_that_no_night_has_started_for_too_long(client: Client, metadata: Metadata) -> None:
    metadata.add_run("old", "2026-01-01", run_after=NOW - timedelta(days=3), land=make_landing("2026-01-01"))
    text = read_text(client("viewer").get("/").text)
    assert text.startswith("Last night did not start: the newest night is that of 2026-01-01.")


def test_a_backfill_of_old_dates_is_under_way_however_many_newer_runs_there_are(
    client: Client, metadata: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("include.page.runs.MAX_RUNS", 2)
    for number in range(3):
        metadata.add_run(f"night-{number}", YESTERDAY, plan=make_plan(YESTERDAY), land=make_landing(YESTERDAY))
    old = NOW - timedelta(days=2000)
    metadata.add_run("old-dates", "2020-01-10", kind="backfill", state="running", run_after=old)
    viewer = client("viewer")
    assert "old-dates" in read_text(viewer.get("/").text)
    assert find_day(viewer.get("/dates?until=2020-01-31").text, "2020-01-10") == "under way"


def test_today_lists_dates_over_a_limit(client: Client, metadata: Metadata) -> None:
    entry = {"day": YESTERDAY, "since": YESTERDAY, "limits": "600 of 1000 records are uncoded"}
    metadata.add_run("night", YESTERDAY, plan=make_plan(YESTERDAY), land=make_landing(dates_over_limit=[entry]))
    assert f"{YESTERDAY} exceeds a limit" in read_text(client("viewer").get("/").text)


# ---- Dates -------------------------------------------------------------------------------------------------------


def test_each_date_has_its_state_counts_and_model_in_words(client: Client, metadata: Metadata) -> None:
    metadata.add_run("a", "2026-11-01", plan=make_plan("2026-11-01"), land=make_landing("2026-11-01"))
    metadata.add_run("b", "2026-11-02", state="failed")
    metadata.add_run("c", "2026-11-03", state="running", tasks=(("approve", "awaiting_input"),))
    metadata.add_run("d", "2026-11-04", state="running")
    html = client("viewer").get("/dates?until=2026-11-10").text
    assert find_day(html, "2026-11-01") == "landed, 2,037 records, 98.6% coded, 17 rejected, model 3 0a1b2c3d"
    states = [find_day(html, f"2026-11-0{day}") for day in (2, 3, 4, 5)]
    assert states == ["failed", "waits for approval", "under way", "no run"]


def test_a_published_date_stays_so_if_a_later_run_of_it_fails(client: Client, metadata: Metadata) -> None:
    metadata.add_run("first", run_after=NOW - timedelta(hours=9), plan=make_plan(), land=make_landing("2026-11-01"))
    metadata.add_run("second", kind="manual", state="failed", plan=make_plan())
    assert find_day(client("viewer").get("/dates?until=2026-11-10").text, "2026-11-01").startswith("landed, 2,037")


def test_trials_dry_runs_and_other_topics_publish_nothing_of_a_date(client: Client, metadata: Metadata) -> None:
    metadata.add_run("night", "2026-11-02", plan=make_plan("2026-11-02"), land=make_landing("2026-11-02"))
    for name, fields in {
        "trial": {"max_records": 10},
        "dry": {"dry_run": True},
        "other": {"topic": "anzsco"},
    }.items():
        metadata.add_run(name, None, kind="manual", plan=make_plan(**fields), land=make_landing("2026-11-01"))
    browser = client("viewer")
    assert find_day(browser.get("/dates?until=2026-11-10").text, "2026-11-01") == "no run"
    assert find_day(browser.get("/dates?until=2026-11-10&topic=anzsco").text, "2026-11-01").startswith("landed")


def test_a_night_that_fails_does_not_mark_the_dates_that_it_looks_back_to(client: Client, metadata: Metadata) -> None:
    plan = make_plan("2026-11-07") | {"from_date": "2026-11-01", "changed_only": True}
    metadata.add_run("night", "2026-11-07", state="failed", plan=plan)
    html = client("viewer").get("/dates?until=2026-11-10").text
    assert [find_day(html, f"2026-11-0{day}") for day in (6, 7)] == ["no run", "failed"]


@pytest.mark.parametrize(
    ("has_run", "end"),
    [(False, "--run-backwards"), (True, "--run-backwards --reprocess-behavior completed")],
    ids=["new dates", "dates with runs"],
)
def test_a_marked_range_gives_the_command_of_its_backfill(
    client: Client, metadata: Metadata, has_run: bool, end: str
) -> None:
    if has_run:
        metadata.add_run("night", "2026-11-02", plan=make_plan("2026-11-02"), land=make_landing("2026-11-02"))
    html = client("viewer").get("/dates?until=2026-11-10&from=2026-11-01&to=2026-11-03").text
    command = re.search("<pre><code>(.*)</code></pre>", html)
    assert command
    assert command[1] == (
        "airflow backfill create --dag-id recode_occupations --from-date 2026-11-01 --to-date 2026-11-03T23:59:00"
        f" --max-active-runs 4 {end}"
    )
    assert html.count(" marked") == 3


def test_the_options_of_the_backfill_command_are_those_of_airflow(client: Client) -> None:
    from airflow.cli.cli_parser import get_parser

    html = client("viewer").get("/dates?from=2026-11-01&to=2026-11-03").text
    command = re.search("<pre><code>airflow (.*)</code></pre>", html)
    assert command
    arguments = get_parser().parse_args([*command[1].split(), "--reprocess-behavior", "completed"])
    assert (arguments.dag_id, arguments.max_active_runs, arguments.run_backwards) == ("recode_occupations", 4, True)


@pytest.mark.parametrize(
    "query", ["from=2026-11-03&to=2026-11-01", "from=2026-13-01", f"from={HOSTILE}", "from=20261101&to=20261103"]
)
def test_an_impossible_range_gives_no_command(client: Client, query: str) -> None:
    html = client("viewer").get(f"/dates?{query}").text
    assert "<pre>" not in html
    assert "Give two dates" in html


@pytest.mark.parametrize("until", ["0001-01-01", "0001-02-01", "9999-12-31", "yesterday"])
def test_the_calendar_shows_any_year(client: Client, until: str) -> None:
    assert client("viewer").get(f"/dates?until={until}").status_code == 200


# ---- Runs --------------------------------------------------------------------------------------------------------


@pytest.fixture
def runs(metadata: Metadata) -> None:
    metadata.add_run("night", "2026-11-01", plan=make_plan(), land=make_landing("2026-11-01"))
    metadata.add_run(
        "backfill",
        "2026-11-02",
        kind="backfill",
        state="failed",
        tasks=(("prepare", "failed"),),
        note="no column 'job'",
    )
    metadata.add_run("dry", None, kind="manual", user="ada", plan=make_plan("2026-11-03", dry_run=True))
    metadata.add_run(
        "trial", None, kind="manual", user="bo", plan=make_plan("2026-11-04", max_records=50, topic="anzsco")
    )


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", "trial dry backfill night"), ("state=failed", "backfill"), ("kind=manual", "trial dry"), ("user=ada", "dry"),
        ("topic=anzsco", "trial"), (f"model={MODEL}", "trial dry night"), ("mode=dry run", "dry"), ("mode=trial", "trial"),
        ("mode=publish&state=success", "night"), ("from=2026-11-02", "trial dry backfill"),
        ("from=2026-11-02&to=2026-11-03", "dry backfill"), ("to=2026-11-01", "night"), ("state=success&kind=manual&user=bo", "trial"),
        (f"topic={HOSTILE}", ""), ("state=' OR 1=1 --", ""),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("runs")
def test_filters_in_the_url_select_runs(client: Client, query: str, names: str) -> None:
    html = client("viewer").get(f"/runs?{query}").text
    assert re.findall(r'<tr><td><a href="[^"]*&amp;run=([\w-]+)">', html) == names.split()


@pytest.mark.usefixtures("runs")
def test_a_run_has_its_counts_where_it_failed_and_its_note(client: Client) -> None:
    text = read_text(client("viewer").get("/runs").text)
    assert "failed in prepare" in text
    assert "no column &#39;job&#39;" in text
    assert "2,037 2,009 11 17 400" in text
    assert "12 min 5 s" in text


def test_further_runs_are_on_further_pages_with_the_same_filters(client: Client, metadata: Metadata) -> None:
    for number in range(51):
        metadata.add_run(f"run-{number}", None, kind="manual", run_after=NOW - timedelta(hours=number))
    browser = client("viewer")
    first = browser.get("/runs?kind=manual").text
    older = re.search(r'rel="next" href="([^"]*)"', first)
    assert older
    assert (first.count(";run=run-"), "kind=manual" in older[1]) == (50, True)
    second = browser.get("/" + older[1].replace("&amp;", "&")).text
    assert re.findall(r";run=(run-\d+)", second) == ["run-50"]


@pytest.mark.parametrize("page", ["0", "-1", "x", "9" * 19, "²"])
def test_a_page_that_is_no_number_is_no_error(client: Client, page: str) -> None:
    assert client("viewer").get(f"/runs?page={page}").status_code == 200


# ---- all pages ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", ["/", "/dates?until=2026-11-10", "/runs", f"/runs?topic={HOSTILE}&model={HOSTILE}&user={HOSTILE}&from={HOSTILE}&mode={HOSTILE}"])  # fmt: skip
def test_hostile_values_are_text_on_every_page(client: Client, metadata: Metadata, page: str) -> None:
    entry = {"day": "2026-11-01", "since": "2026-11-01", "limits": HOSTILE}
    plan = make_plan(source=HOSTILE)
    metadata.add_run(HOSTILE, plan=plan, land=make_landing(dates_over_limit=[entry]), note=HOSTILE, user=HOSTILE)
    metadata.add_run(f"failed{HOSTILE}", state="failed", conf={"topic": HOSTILE}, tasks=((HOSTILE, "failed"),))
    metadata.add_run(f"running{HOSTILE}", None, state="running", kind="manual", tasks=((HOSTILE, "running"),))
    answer = client("viewer").get(page)
    assert answer.status_code == 200
    for part in ("<script", "<img", "'\">"):
        assert part not in answer.text
    assert "&lt;script&gt;" in answer.text


@pytest.mark.parametrize(
    "value",
    ["text", [1], {"read": "many"}, {"topic": "osca"}, {**make_plan(), "from_date": "soon"}, {**make_landing(), "read": -1}, 7],
)  # fmt: skip
@pytest.mark.parametrize("page", ["/", "/dates?until=2026-11-10", "/runs?mode=trial", "/runs?from=2026-01-01"])
def test_an_xcom_that_is_not_what_a_task_reports_is_no_error(
    client: Client, metadata: Metadata, value: Any, page: str
) -> None:
    metadata.add_run("edited", plan=value, land=value)
    assert client("viewer").get(page).status_code == 200


def test_the_texts_in_a_conf_are_not_shown(client: Client, metadata: Metadata) -> None:
    metadata.add_run("run", plan=make_plan(), conf={"columns": {"occp_text": "teh secret job"}})
    assert not any("secret job" in client("viewer").get(page).text for page in ("/", "/dates", "/runs"))


@pytest.mark.parametrize(("page", "most"), [("/", 12), ("/dates", 8), ("/runs", 8)])
def test_the_number_of_queries_does_not_grow_with_the_runs(
    client: Client, metadata: Metadata, page: str, most: int
) -> None:
    browser = client("viewer")
    metadata.add_run("landed", YESTERDAY, plan=make_plan(YESTERDAY), land=make_landing(YESTERDAY))
    counts = []
    for number in range(2):
        for run in range(number * 30):
            metadata.add_run(f"run-{run}", YESTERDAY, plan=make_plan(YESTERDAY), land=make_landing(YESTERDAY))
        metadata.add_run(f"failed-{number}", YESTERDAY, state="failed")
        browser.get(page)
        metadata.statements.clear()
        browser.get(page)
        counts.append(len(metadata.statements))
    assert counts[0] == counts[1] <= most
