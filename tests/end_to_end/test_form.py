"""Runs by hand, as the form of the Airflow UI starts them: what it takes, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
import requests

from include.pipeline.names import POOL, POOL_SLOTS
from include.pipeline.names import RECODE_DAG_ID as DAG_ID
from tests.end_to_end.conftest import Harness, until

pytestmark = pytest.mark.airflow


@pytest.fixture
def wave(tmp_path: Path) -> str:
    """Thirty records without dates, each with a text of its own, as the URI of a CSV file."""
    path = tmp_path / "wave.csv"
    duckdb.execute(
        "COPY (SELECT 'W' || i AS record_id, 'wave job ' || i AS occp_text, 'tasks' AS tasks_text"
        f" FROM range(30) AS numbers(i)) TO '{path}'"
    )
    return path.as_uri()


@pytest.mark.parametrize(
    ("conf", "what"),
    [
        ({"from_date": "05/10/2026"}, "from_date"),
        ({"selection": "some"}, "selection"),
        ({"records_per_part": 0}, "records_per_part"),
        ({"max_records": 0}, "max_records"),
        ({"max_uncoded_share": 1.5}, "max_uncoded_share"),
        ({"look_back_days": -1}, "look_back_days"),
        ({"dry_run": "yes"}, "dry_run"),
        ({"columns": ["occp_text"]}, "columns"),
        ({"source": ""}, "source"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_form_refuses_a_value_that_cannot_be_before_a_run_exists(
    harness: Harness, conf: dict[str, Any], what: str
) -> None:
    with pytest.raises(requests.HTTPError, match=f"HTTP 400 .*{what}"):
        harness.api.trigger(conf)


def test_what_does_not_go_together_fails_at_once_with_a_sentence(harness: Harness, wave: str) -> None:
    day = {"response_date": "2026-06-30"}
    cases = {
        "`response_date` gives all records the date '2026-06-30', but the form also names": {**day, "from_date": "2026-06-30"},
        "`columns` names 'day' as the date of each record": {**day, "columns": {"response_date": "day"}},
        "where there are no dates, give all records one by `response_date`": {"source": wave},
    }  # fmt: skip
    runs = {message: harness.api.trigger(conf) for message, conf in cases.items()}
    body = {"logical_date": None, "partition_key": "2026-10-20", "conf": {"dry_run": True}}
    run = harness.api.request("POST", f"/dags/{DAG_ID}/dagRuns", json=body)
    runs["dry_run would code nothing, or not all, of the partition '2026-10-20'"] = run["dag_run_id"]
    for message, run_id in runs.items():
        assert harness.api.wait(run_id) == "failed"
        assert message in harness.log(run_id)
        tasks = harness.api.tasks(run_id)
        assert not any(state == "success" for name, state in tasks.items() if name.startswith("code."))


def test_a_dry_run_says_what_would_be_sent_and_sends_nothing(harness: Harness, wave: str) -> None:
    mark = harness.mark()
    run_id, state = harness.code(source=wave, response_date="2026-06-29", records_per_part=10, dry_run=True)
    assert state == "success"
    report = harness.log(run_id)
    assert "Records: 30, of them 0 rejected" in report
    assert "**30 to send**" in report
    assert "bytes in 3 parts, one operation each" in report
    assert "Calls of the service: about 17; at the budget they take 0:00:02" in report
    assert [entry["method"] for entry in harness.journal(mark) if "/v1/" in entry["path"]] == ["GET", "GET"]
    assert harness.query("SELECT count(*) FROM coding.coded_texts WHERE occp_text LIKE 'wave job%'") == [(0,)]
    tasks = harness.api.tasks(run_id)
    assert (tasks["land"], tasks["announce"], tasks["clean_up"]) == ("skipped", "skipped", "success")


def test_a_trial_codes_some_records_apart_from_all_others(harness: Harness, wave: str) -> None:
    run_id, state = harness.code(source=wave, response_date="2026-06-28", max_records=5)
    assert state == "success"
    assert harness.api.xcom(run_id, "land")["read"] == 5
    assert harness.query("SELECT count(*) FROM coding_trial.coded_records WHERE run_id = ?", run_id) == [(5,)]
    assert harness.query("SELECT count(*) FROM coding.coded_records WHERE run_id = ?", run_id) == [(0,)]
    assert "a trial of 5 records" in harness.log(run_id)
    assert harness.api.tasks(run_id)["announce"] == "skipped"


def test_texts_are_sent_once_somebody_has_approved_and_not_if_somebody_rejects(harness: Harness, wave: str) -> None:
    conf = {"source": wave, "response_date": "2026-06-30", "approve_above": 29}
    mark, run_id = harness.mark(), harness.api.trigger(conf)
    ask(harness, run_id)
    assert harness.uploads(mark) == []
    answer(harness, run_id, "Reject")
    assert harness.api.wait(run_id) == "success"
    assert set(harness.api.tasks(run_id).values()) == {"success", "skipped"}
    assert harness.uploads(mark) == []

    approved = harness.api.trigger(conf)
    assert "**30 to send**" in ask(harness, approved)
    answer(harness, approved, "Approve")
    assert harness.api.wait(approved) == "success"
    assert len(harness.uploads(mark)) == 1
    dated = "SELECT count(*), min(response_date), max(response_date) FROM coding.coded_records WHERE run_id = ?"
    ((count, first, last),) = harness.query(dated, approved)
    assert (count, str(first), str(last)) == (30, "2026-06-30", "2026-06-30")
    events = harness.api.request("GET", "/assets/events", params={"source_run_id": approved})["asset_events"]
    assert [(event["partition_key"], event["extra"]["read"]) for event in events] == [("2026-06-30", 30)]

    _, state = harness.code(**{**conf, "approve_above": 0})
    assert state == "success", "nothing is left to send, so nobody has to approve"


def ask(harness: Harness, run_id: str) -> str:
    """Wait until a person is asked, and return what the person is told."""
    until(lambda: harness.api.tasks(run_id).get("approve") == "awaiting_input", "somebody is asked")
    # nobody answers before the scheduler has heard that the task waits: it would take the task for dead
    heard = f"executor event with state success for task instance TaskInstanceKey(dag_id='{DAG_ID}', task_id='approve', run_id='{run_id}'"
    until(lambda: heard in (harness.stack.logs / "scheduler.log").read_text(), "the scheduler knows that it waits")
    (detail,) = harness.api.request("GET", f"/dags/{DAG_ID}/dagRuns/{run_id}/hitlDetails")["hitl_details"]
    return str(detail["body"])


def answer(harness: Harness, run_id: str, option: str) -> None:
    path = f"/dags/{DAG_ID}/dagRuns/{run_id}/taskInstances/approve/-1/hitlDetails"
    harness.api.request("PATCH", path, json={"chosen_options": [option], "params_input": {}})


@pytest.fixture
def no_pool(harness: Harness) -> Iterator[None]:
    harness.api.request("DELETE", f"/pools/{POOL}")
    yield
    harness.api.create_pool(POOL, POOL_SLOTS)


@pytest.mark.usefixtures("no_pool")
def test_a_missing_pool_is_told_at_once(harness: Harness) -> None:
    run_id, state = harness.code(from_date="2026-10-05")
    assert state == "failed"
    assert "there is no pool 'coding_service', so no task of `code` would ever start: make it by" in harness.log(
        run_id
    )
