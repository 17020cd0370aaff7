"""The page of a run, its tab in Airflow, and the reports."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from include.pipeline import settings
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


def write_report(run_key: str, html: str, area: str = settings.RUNS) -> None:
    with settings.open_staging(run_key, area) as staging:
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


def test_only_the_first_operations_of_many_are_shown(client: Client, metadata: Metadata) -> None:
    parts = [{"part": number, "records": 10} for number in range(1000)]
    add_run(metadata, state="running", xcoms={("prepare", -1, "return_value"): parts})
    words = read_text(open_run(client))
    assert "200 of 1,000 10" in words
    assert "201 of 1,000 10" not in words
    assert "The first 200 of 1,000 parts." in words


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


# ---- reports -----------------------------------------------------------------------------------------------------


def test_a_report_runs_nothing_and_loads_nothing(client: Client, metadata: Metadata) -> None:
    add_run(metadata)
    write_report(settings.make_run_key("recode_occupations", RUN_ID), "<h1>a report</h1>")
    answer = client("viewer").get("/report", params={"run": RUN_ID})
    assert answer.text == "<h1>a report</h1>"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "sandbox" in policy
    assert "script" not in policy


def test_a_report_that_is_gone_is_a_sentence(client: Client, metadata: Metadata) -> None:
    add_run(metadata)
    answer = client("viewer").get("/report", params={"run": RUN_ID})
    assert answer.status_code == 404
    assert "There is no report to show" in answer.text


def test_the_report_of_a_comparison_needs_the_right_to_read_comparisons(client: Client, metadata: Metadata) -> None:
    metadata.add_dag("compare_models", tag="coding")
    metadata.add_run(RUN_ID, None, kind="manual", dag_id="compare_models")
    write_report(RUN_ID, "<h1>a comparison</h1>", settings.COMPARISONS)
    answers = [
        client(role).get("/report", params={"dag": "compare_models", "run": RUN_ID}) for role in ("viewer", "none")
    ]  # fmt: skip
    assert [answer.status_code for answer in answers] == [200, 403]
    assert "a comparison" in answers[0].text


def test_a_comparison_that_quotes_people_is_shown_only_if_the_setting_allows_it(
    client: Client, metadata: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata.add_dag("compare_models", tag="coding")
    metadata.add_run(RUN_ID, None, kind="manual", dag_id="compare_models", conf={"with_texts": True})
    write_report(RUN_ID, "<h1>what people wrote</h1>", settings.COMPARISONS)
    query = {"dag": "compare_models", "run": RUN_ID}
    refusal = client("admin").get("/report", params=query)
    assert refusal.status_code == 403
    assert "CODING_REPORT_TEXTS" in refusal.text
    monkeypatch.setenv("CODING_REPORT_TEXTS", "true")
    assert client("admin").get("/report", params=query).status_code == 200
