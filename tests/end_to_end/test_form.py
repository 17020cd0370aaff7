"""Manual runs, as the trigger form of the Airflow UI starts them: what it accepts, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
import requests

from include.pipeline.names import POOL, POOL_SLOTS, RECODE_DAG_ID
from tests.end_to_end.conftest import Harness, wait_until

pytestmark = pytest.mark.airflow


@pytest.fixture
def wave(source_folder: Path) -> str:
    """The URI of a CSV file with thirty records without dates, each with a different text."""
    path = source_folder / "wave.csv"
    duckdb.execute(
        "COPY (SELECT 'W' || i AS record_id, 'wave job ' || i AS occp_text, 'tasks' AS tasks_text"
        f" FROM range(30) AS numbers(i)) TO '{path}'"
    )
    return path.as_uri()


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("from_date", "05/10/2026"),
        ("selection", "some"),
        ("records_per_part", 0),
        ("max_records", 0),
        ("max_uncoded_share", 1.5),
        ("look_back_days", -1),
        ("dry_run", "yes"),
        ("columns", ["occp_text"]),
        ("source", ""),
    ],
)
def test_an_invalid_param_is_refused_before_a_run_exists(harness: Harness, param: str, value: Any) -> None:
    with pytest.raises(requests.HTTPError, match=f"HTTP 400 .*{param}"):
        harness.api.trigger({param: value})


def test_params_that_contradict_each_other_fail_in_the_first_task(harness: Harness) -> None:
    conf = {"response_date": "2026-06-30", "from_date": "2026-06-30"}
    partition = {"logical_date": None, "partition_key": "2026-10-20", "conf": {"dry_run": True}}
    runs = {
        "`response_date` gives all records the date '2026-06-30', but the form also": harness.api.trigger(conf),
        "dry_run would leave records of the partition '2026-10-20' uncoded": harness.api.request(
            "POST", f"/dags/{RECODE_DAG_ID}/dagRuns", json=partition
        )["dag_run_id"],
    }
    for message, run_id in runs.items():
        assert harness.wait(run_id) == "failed"
        assert message in harness.log(run_id)
        tasks = harness.api.tasks(run_id)
        assert not any(state == "success" for name, state in tasks.items() if name.startswith("code."))


def test_a_dry_run_estimates_what_would_be_sent_and_sends_nothing(harness: Harness, wave: str) -> None:
    harness.wait_until_idle()
    position = harness.last_request()
    run_id, state = harness.run(source=wave, response_date="2026-06-29", records_per_part=10, dry_run=True)
    assert state == "success"
    report = harness.log(run_id)
    assert "Records: 30, of which 0 are rejected" in report
    assert "**30 to send**" in report
    assert "bytes in 3 parts, one operation each" in report
    assert "Calls of the service: about 17; within the call budget they take less than a second" in report
    assert [call["method"] for call in harness.calls(position)] == ["GET", "GET"]
    assert harness.query("SELECT count(*) FROM coding.coded_texts WHERE occp_text LIKE 'wave job%'") == [(0,)]
    tasks = harness.api.tasks(run_id)
    assert (tasks["land"], tasks["announce"], tasks["clean_up"]) == ("skipped", "skipped", "success")


def test_a_trial_stores_its_records_in_separate_tables(harness: Harness, wave: str) -> None:
    run_id, state = harness.run(source=wave, response_date="2026-06-28", max_records=5)
    assert state == "success"
    assert harness.api.xcom(run_id, "land")["read"] == 5
    assert harness.query("SELECT count(*) FROM coding_trial.coded_records WHERE run_id = ?", run_id) == [(5,)]
    assert harness.query("SELECT count(*) FROM coding.coded_records WHERE run_id = ?", run_id) == [(0,)]
    assert ": a trial of 5 records" in harness.log(run_id)
    assert harness.api.tasks(run_id)["announce"] == "skipped"


def test_texts_are_sent_only_after_a_person_approves(harness: Harness, wave: str) -> None:
    conf = {"source": wave, "response_date": "2026-06-30", "approve_above": 29}
    position, rejected_id = harness.last_request(), harness.api.trigger(conf)
    wait_for_question(harness, rejected_id)
    assert harness.uploads(position) == []
    send_response(harness, rejected_id, "Reject")
    assert harness.wait(rejected_id) == "success"
    assert set(harness.api.tasks(rejected_id).values()) == {"success", "skipped"}
    assert harness.uploads(position) == []

    run_id = harness.api.trigger(conf)
    assert "**30 to send**" in wait_for_question(harness, run_id)
    send_response(harness, run_id, "Approve")
    assert harness.wait(run_id) == "success"
    assert len(harness.uploads(position)) == 1
    summary = "SELECT count(*), min(response_date), max(response_date) FROM coding.coded_records WHERE run_id = ?"
    ((count, first, last),) = harness.query(summary, run_id)
    assert (count, str(first), str(last)) == (30, "2026-06-30", "2026-06-30")
    events = harness.api.request("GET", "/assets/events", params={"source_run_id": run_id})["asset_events"]
    assert [(event["partition_key"], event["extra"]["read"]) for event in events] == [("2026-06-30", 30)]

    _, state = harness.run(**{**conf, "approve_above": 0})
    assert state == "success", "nothing is left to send, so nobody has to approve"


def write_wave(path: Path, texts: int) -> None:
    """Write a CSV file with records without dates, each with a different text."""
    duckdb.execute(
        "COPY (SELECT 'W' || i AS record_id, 'wave job ' || i AS occp_text, 'more tasks' AS tasks_text"
        f" FROM range({texts}) AS numbers(i)) TO '{path}'"
    )


def test_an_approval_counts_for_the_texts_that_were_shown(harness: Harness, source_folder: Path) -> None:
    path, position = source_folder / "growing.csv", harness.last_request()
    write_wave(path, 30)
    run_id = harness.api.trigger({"source": path.as_uri(), "response_date": "2026-06-27", "approve_above": 10})
    assert "**30 to send**" in wait_for_question(harness, run_id)

    write_wave(path, 530)
    harness.clear(run_id, "prepare")  # the run is still running, and Airflow keeps the question
    wait_until(lambda: "it is 530 texts" in harness.log(run_id), "the task compares the numbers")
    assert harness.wait(run_id) == "failed"
    assert harness.api.tasks(run_id)["approve"] == "failed"
    assert "the question was about 30 texts" in harness.log(run_id)
    assert harness.uploads(position) == []

    harness.clear(run_id, "approve")  # the run has ended and starts again, so Airflow asks again
    assert "**530 to send**" in wait_for_question(harness, run_id)
    assert harness.uploads(position) == []
    send_response(harness, run_id, "Approve")
    assert harness.wait(run_id) == "success"
    assert harness.api.xcom(run_id, "land")["texts_sent"] == 530


def wait_for_question(harness: Harness, run_id: str) -> str:
    """Wait until a run asks for approval and return what it asks."""
    wait_until(lambda: harness.api.tasks(run_id).get("approve") == "awaiting_input", "approval is requested")
    # A response before the scheduler knows that this attempt waits would make it regard the task as failed.
    path = f"/dags/{RECODE_DAG_ID}/dagRuns/{run_id}"
    attempt = harness.api.request("GET", f"{path}/taskInstances/approve")["try_number"]
    event = (
        f"executor event with state success for task instance TaskInstanceKey(dag_id='{RECODE_DAG_ID}',"
        f" task_id='approve', run_id='{run_id}', try_number={attempt}, "
    )
    scheduler_log = harness.stack.logs / "scheduler.log"
    wait_until(lambda: event in scheduler_log.read_text(), "the scheduler knows that the task waits")
    (details,) = harness.api.request("GET", f"{path}/hitlDetails")["hitl_details"]
    return str(details["body"])


def send_response(harness: Harness, run_id: str, option: str) -> None:
    path = f"/dags/{RECODE_DAG_ID}/dagRuns/{run_id}/taskInstances/approve/-1/hitlDetails"
    harness.api.request("PATCH", path, json={"chosen_options": [option], "params_input": {}})


@pytest.fixture
def no_pool(harness: Harness) -> Iterator[None]:
    harness.api.request("DELETE", f"/pools/{POOL}")
    yield
    harness.api.create_pool(POOL, POOL_SLOTS)


@pytest.mark.usefixtures("no_pool")
def test_a_missing_pool_fails_a_run_at_once(harness: Harness) -> None:
    run_id, state = harness.run(from_date="2026-10-05")
    assert state == "failed"
    assert "there is no pool 'coding_service', so no task of `code` could ever start: create it" in harness.log(
        run_id
    )
