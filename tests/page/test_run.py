"""The page of a run, its tab in Airflow, and the reports."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from include.coding.estimate import Estimate
from include.coding.parts import Part
from include.page.run import STEPS, EstimateFacts, PartFacts, WaitFacts
from include.pipeline import settings
from include.pipeline.handoffs import WaitOutcome
from tests.page.conftest import NONCE, Metadata, TestClient, make_landing, make_plan
from tests.page.test_pages import read_text

Client = Callable[..., TestClient]
RUN_ID = "manual__2026-11-02T01:02:03+00:00"
OPERATION, REPLACED = "11111111-2222-4333-8444-555555555555", "99999999-2222-4333-8444-555555555555"
HOSTILE = "<script>alert(1)</script>'\">"
PARTS = [
    {"part": 0, "records": 40_000, "expected_seconds": 700.0, "input_uri": "file:///secret/part-0000.jsonl"},
    {"part": 1, "records": 1234, "expected_seconds": 90.0, "input_uri": "file:///secret/part-0001.jsonl"},
]
ESTIMATE = {"read": 2037, "texts": 1500, "texts_to_send": 41_234, "parts": 2, "calls": 14, "coding_seconds": 700.4}


def add_run(metadata: Metadata, run_id: str = RUN_ID, **fields: Any) -> None:
    metadata.add_run(run_id, None, kind="manual", user="ada", **{"plan": make_plan(), **fields})


def open_run(client: Client, run_id: str = RUN_ID, **query: str) -> str:
    answer = client("viewer").get("/run", params={"run": run_id, **query})
    assert answer.status_code == 200, answer.text
    return answer.text


def write_report(run_key: str, html: str) -> None:
    with settings.open_staging(run_key) as staging:
        staging.scratch.mkdir(parents=True)
        (staging.scratch / "report.html").write_text(html)


@pytest.fixture(autouse=True)
def staging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODING_STAGING", (tmp_path / "staging").as_uri())


# ---- what a run did ----------------------------------------------------------------------------------------------


def test_a_run_that_landed_shows_its_counts_beside_the_estimate(client: Client, metadata: Metadata) -> None:
    add_run(metadata, land=make_landing("2026-11-01"), xcoms={("prepare", -1, "estimate"): ESTIMATE})
    words = read_text(open_run(client))
    assert "Coded 2,009 of 2,037 records, 11 uncoded, 17 rejected." in words
    assert "Texts sent 41,234 400" in words
    assert "by ada, took 12 min 5 s" in words
    assert "2026-11-01" in words


def test_an_operation_shows_its_id_its_state_and_its_time_beside_the_expected_one(
    client: Client, metadata: Metadata
) -> None:
    ended = {"operation_id": OPERATION, "state": "complete", "message": "", "seconds": 655.0, "ended_at": 1.0}
    add_run(
        metadata, state="running",
        tasks=(
            ("code.create", "success"), ("code.create", "running"), ("code.upload", "success"), ("code.poll", "success"),
            ("code.download", "success"),
        ),
        xcoms={
            ("prepare", -1, "return_value"): PARTS,
            ("code.create", 0, "return_value"): REPLACED,
            ("code.upload", 0, "return_value"): OPERATION,
            ("code.poll", 0, "operation"): ended,
        },
    )  # fmt: skip
    html = open_run(client)
    words = read_text(html)
    assert f'id="operation-{OPERATION}"' in html
    assert REPLACED not in html
    assert re.search(rf"1 of 2 40,000 {OPERATION} downloaded complete .* 10 min 55 s 11 min 40 s", words)
    assert re.search(r"2 of 2 1,234 create: running", words)
    assert "/tasks/code.download/mapped/0" in html
    assert "secret" not in html


def test_an_operation_that_waits_shows_how_long_it_has(client: Client, metadata: Metadata) -> None:
    add_run(
        metadata, state="running",
        tasks=(("code.create", "success"), ("code.upload", "success"), ("code.poll", "deferred")),
        xcoms={("prepare", -1, "return_value"): PARTS[:1], ("code.upload", 0, "return_value"): OPERATION},
    )  # fmt: skip
    uploaded = datetime.now(UTC) - timedelta(minutes=3)
    with metadata.make_session.begin() as session:
        session.execute(
            text("UPDATE task_instance SET end_date = :moment WHERE task_id = 'code.upload'"),
            {"moment": uploaded.replace(tzinfo=None).isoformat(" ")},
        )
    words = read_text(open_run(client))
    assert re.search(rf"1 of 1 40,000 {OPERATION} waits for the service .* 3 min \d+ s 11 min 40 s", words)


def test_a_failed_run_shows_its_error_what_the_runbook_says_and_what_to_clear(
    client: Client, metadata: Metadata
) -> None:
    add_run(
        metadata, state="failed", tasks=(("plan", "success"), ("prepare", "failed")),
        xcoms={
            ("prepare", -1, "failure"): "source 'answers' has no column 'job'",
            ("prepare", -1, "failure_class"): "SourceError",
        },
    )  # fmt: skip
    html = open_run(client)
    words = read_text(html)
    assert "Failed in prepare. Nothing of this run is published." in words
    assert "has no column &#39;job&#39;" in words
    assert "help?dag=recode_occupations#SourceError" in html
    assert "What to do" in words
    assert "clear prepare with downstream tasks" in words


def test_a_task_that_left_no_error_is_named_all_the_same(client: Client, metadata: Metadata) -> None:
    add_run(metadata, state="failed", tasks=(("code.poll", "success"), ("code.poll", "failed")))
    words = read_text(open_run(client))
    assert "code.poll (part 2) failed" in words
    assert "It left no error" in words


def test_all_parts_of_the_largest_run_have_an_anchor(client: Client, metadata: Metadata) -> None:
    parts = [{"part": number, "records": 10} for number in range(1024)]
    xcoms = {("prepare", -1, "return_value"): parts, ("code.create", 1023, "return_value"): OPERATION}
    add_run(metadata, state="running", xcoms=xcoms)
    html = open_run(client)
    assert f'id="operation-{OPERATION}"' in html
    assert "1,024 of 1,024 10" in read_text(html)


@pytest.mark.parametrize(
    ("states", "words"),
    [
        ((), "not begun"),
        (("success", "success", "failed", "upstream_failed"), "poll: failed"),
        (("success", "success", "success", "up_for_retry"), "download: up for retry"),
    ],
)
def test_an_operation_shows_the_step_it_has_come_to_or_that_failed(
    client: Client, metadata: Metadata, states: tuple[str, ...], words: str
) -> None:
    tasks = tuple(zip(STEPS, states, strict=False))
    add_run(metadata, state="running", tasks=tasks, xcoms={("prepare", -1, "return_value"): PARTS[:1]})
    assert f"1 of 1 40,000 {words}" in read_text(open_run(client))


def test_an_operation_shows_when_the_service_answered(client: Client, metadata: Metadata) -> None:
    ended = datetime(2026, 11, 2, 3, 4, tzinfo=UTC).timestamp()
    outcome = {"operation_id": OPERATION, "state": "complete", "message": "", "seconds": 5.0, "ended_at": ended}
    xcoms = {("prepare", -1, "return_value"): PARTS[:1], ("code.poll", 0, "operation"): outcome}
    add_run(metadata, xcoms=xcoms)
    assert "complete 02 Nov 2026 14:04 5 s" in read_text(open_run(client))


@pytest.mark.parametrize(
    ("facts", "handoff"), [(PartFacts, Part), (WaitFacts, WaitOutcome), (EstimateFacts, Estimate)]
)
def test_the_page_reads_what_tasks_write(facts: type[Any], handoff: type[Any]) -> None:
    assert {field.name for field in fields(facts)} <= {field.name for field in fields(handoff)}


def test_a_run_that_was_cleared_does_not_pass_for_one_that_has_landed(client: Client, metadata: Metadata) -> None:
    values = {"state": "running", "land": make_landing("2026-11-01")}
    add_run(metadata, "again", tasks=(("prepare", "running"),), **values)
    add_run(metadata, "landed", tasks=(("land", "success"), ("report", "running")), **values)
    assert read_text(open_run(client, "again")).startswith("Under way again, after its tasks were cleared.")
    assert read_text(open_run(client, "landed")).startswith("Coded 2,009 of 2,037 records")


def test_a_run_under_way_offers_no_report_before_it_is_written(client: Client, metadata: Metadata) -> None:
    add_run(metadata, "early", state="running")
    add_run(metadata, "late", state="running", xcoms={("report", -1, "return_value"): "file:///x/report.html"})
    early, late = open_run(client, "early"), open_run(client, "late")
    assert ("no report yet" in early, "report?dag=" in early) == (True, False)
    assert ("no report yet" in late, "report?dag=" in late) == (False, True)


def test_the_task_to_clear_is_the_first_that_failed(client: Client, metadata: Metadata) -> None:
    add_run(
        metadata, state="failed", tasks=(("land", "failed"), ("code.poll", "success"), ("code.poll", "failed")),
        xcoms={("land", -1, "failure"): "a part is incomplete", ("code.poll", 1, "failure"): "it did not end"},
    )  # fmt: skip
    with metadata.make_session.begin() as session:
        for minute, task_id in enumerate(("code.poll", "land")):
            values = {"moment": f"2026-11-02 03:{minute:02}:00", "task": task_id}
            session.execute(text("UPDATE task_instance SET end_date = :moment WHERE task_id = :task"), values)
    words = read_text(open_run(client))
    assert words.count("with downstream tasks, unless its error names another task") == 1
    assert "clear code.poll (part 2) with downstream tasks" in words
    assert words.index("it did not end") < words.index("a part is incomplete")


def test_a_part_that_failed_in_a_run_that_landed_needs_nothing(client: Client, metadata: Metadata) -> None:
    add_run(metadata, land=make_landing("2026-11-01"), tasks=(("code.poll", "failed"),))
    words = read_text(open_run(client))
    assert "nothing has to be cleared" in words
    assert "When the cause is removed" not in words


def test_the_number_of_queries_does_not_grow_with_the_parts(client: Client, metadata: Metadata) -> None:
    browser, counts = client("viewer"), []
    for name, parts in (("small", 1), ("large", 20)):
        tasks = tuple((step, state) for step, state in zip(STEPS, ("success", "failed"), strict=False)) * parts
        values = [{"part": number, "records": 10} for number in range(parts)]
        add_run(metadata, name, state="failed", tasks=tasks, xcoms={("prepare", -1, "return_value"): values})
        browser.get("/run", params={"run": name})
        metadata.statements.clear()
        assert browser.get("/run", params={"run": name}).status_code == 200
        counts.append(len(metadata.statements))
    assert counts[0] == counts[1] <= 8


@pytest.mark.parametrize("value", [HOSTILE, [1], {"part": HOSTILE}, [{"part": -1, "records": 1}], None, 7])
def test_xcoms_that_somebody_has_edited_are_no_error_and_no_html(
    client: Client, metadata: Metadata, value: Any
) -> None:
    keys = ("return_value", "estimate", "operation", "failure", "failure_class")
    tasks = ("prepare", "code.create", "code.upload", "code.poll")
    add_run(
        metadata, state="failed", plan=value, land=value, note=HOSTILE, tasks=((HOSTILE, "failed"), ("prepare", "failed")),
        xcoms={(task, index, key): value for task in tasks for index in (-1, 0) for key in keys},
    )  # fmt: skip
    html = open_run(client)
    for part in ("<script", "'\">"):
        assert part not in html
    assert "&lt;script&gt;" in html


# ---- who sees it -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", ["/run", "/report"])
def test_only_those_who_may_read_the_dag_see_a_run(client: Client, metadata: Metadata, page: str) -> None:
    add_run(metadata)
    write_report(settings.make_run_key("recode_occupations", RUN_ID), "<h1>a report</h1>")
    answers = [client(role).get(page, params={"run": RUN_ID}) for role in (None, "none", "viewer")]
    assert [answer.status_code for answer in answers] == [401, 403, 200]


@pytest.mark.parametrize("page", ["/run", "/report"])
def test_a_run_of_another_dag_is_not_found_whatever_dag_the_url_names(
    client: Client, metadata: Metadata, page: str
) -> None:
    metadata.add_dag("payroll", tag="finance")
    metadata.add_run("secret", None, dag_id="payroll", note="wages of Ada")
    answers = [
        client("admin").get(page, params={"dag": dag_id, "run": "secret"}) for dag_id in ("recode_occupations", "payroll")
    ]  # fmt: skip
    assert [answer.status_code for answer in answers] == [404, 403]
    assert not any("wages" in answer.text for answer in answers)


def test_the_tab_of_a_run_of_another_dag_says_so_and_nothing_else(client: Client, metadata: Metadata) -> None:
    metadata.add_dag("payroll", tag="finance")
    metadata.add_run("secret", None, dag_id="payroll", note="wages of Ada")
    answers = [
        client("viewer").get("/run", params={"dag": dag_id, "run": "secret", "tab": "1"})
        for dag_id in ("payroll", "no-such-dag")
    ]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert "This run is of another DAG." in answers[0].text
    assert NONCE.sub("", answers[0].text) == NONCE.sub("", answers[1].text)
    assert client().get("/run", params={"dag": "payroll", "run": "secret", "tab": "1"}).status_code == 401


def test_the_tab_of_a_comparison_leads_to_its_report(client: Client, metadata: Metadata) -> None:
    metadata.add_dag("compare_models", tag="coding")
    metadata.add_run("a&b", dag_id="compare_models")
    html = client("viewer").get("/run", params={"dag": "compare_models", "run": "a&b", "tab": "1"}).text
    assert read_text(html) == "This run compares models. Its report"
    assert 'href="report?dag=compare_models&amp;run=a%26b"' in html


@pytest.mark.parametrize("page", ["/", "/dates", "/runs", "/run"])
def test_the_dag_of_comparisons_has_no_pages_of_runs(client: Client, metadata: Metadata, page: str) -> None:
    metadata.add_dag("compare_models", tag="coding")
    metadata.add_run("a", dag_id="compare_models")
    assert client("viewer").get(page, params={"dag": "compare_models", "run": "a"}).status_code == 403


@pytest.mark.parametrize("query", ["run=other", "run=", "", "run=%00"])
def test_a_run_that_does_not_exist_is_a_page_with_a_sentence(client: Client, metadata: Metadata, query: str) -> None:
    add_run(metadata)
    answer = client("viewer").get(f"/run?{query}")
    assert answer.status_code == 404
    assert read_text(answer.text) == "This DAG has no such run."


def test_the_url_gives_no_query_a_character_that_postgresql_refuses(client: Client) -> None:
    assert "\0" not in client("viewer").get("/runs?topic=a%00b").text


def test_airflow_gets_the_address_of_the_tab_with_the_placeholders_that_its_ui_replaces() -> None:
    from occupation_coding_plugin import OccupationCodingPlugin

    (view,) = [view for view in OccupationCodingPlugin.external_views if view["destination"] == "dag_run"]
    assert view["href"] == "occupation-coding/run?dag={DAG_ID}&run={RUN_ID}&tab=1"
