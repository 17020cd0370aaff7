"""Runs of `recode_occupations` on real Airflow processes: scheduler, dag processor, triggerer and API server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from include.stack.processes import PROJECT
from tests.end_to_end.conftest import Harness, wait_until

pytestmark = pytest.mark.airflow
MAKE_RESPONSES = PROJECT.parent / "shared" / "tools" / "make_responses.py"


class FirstRun(NamedTuple):
    """A successful run over two of the three days of a file.

    :param conf: its params
    :param records, answers: records of its days, and how many different answers they have
    :param uploads: input files that it uploaded
    """

    run_id: str
    conf: dict[str, Any]
    records: int
    answers: int
    uploads: int


@pytest.fixture(scope="module")
def first_run(harness: Harness) -> FirstRun:
    if not MAKE_RESPONSES.exists():
        pytest.skip(f"there is no {MAKE_RESPONSES.name} beside the project")
    path = harness.stack.source_files / "responses.parquet"
    command = [sys.executable, str(MAKE_RESPONSES), str(path), "--rows", "20000", "--days", "3"]
    subprocess.run(command, check=True, capture_output=True)
    dates = {"from_date": "2026-10-01", "to_date": "2026-10-02"}
    ((records, answers),) = harness.query(
        f"SELECT count(*), count(DISTINCT (occp_text, tasks_text)) FROM '{path}' WHERE response_date BETWEEN ? AND ?",
        *dates.values(),
    )
    conf = {"source": path.as_uri(), **dates, "records_per_part": answers // 4}
    position = harness.last_request()
    run_id, state = harness.run(**conf)
    assert state == "success"
    return FirstRun(run_id, conf, records, answers, len(harness.uploads(position)))


def test_every_record_ends_in_exactly_one_outcome(harness: Harness, first_run: FirstRun) -> None:
    summary = harness.api.xcom(first_run.run_id, "land")
    outcomes = harness.query(
        "SELECT outcome, count(*) FROM coding.coded_records WHERE run_id = ? GROUP BY ALL", first_run.run_id
    )
    assert sum(count for _, count in outcomes) == first_run.records == summary["read"]
    assert {outcome for outcome, _ in outcomes} == {"coded", "uncoded", "rejected"}
    assert harness.query(
        "SELECT count(*) FROM (SELECT record_id, occurrence, response_date FROM coding.coded_records"
        " WHERE run_id = ? GROUP BY ALL HAVING count(*) > 1)", first_run.run_id
    ) == [(0,)]  # fmt: skip
    assert summary["texts_sent"] == summary["texts"] <= first_run.answers < first_run.records
    assert first_run.uploads == summary["operations"] > 1


def test_a_grant_is_used_before_the_next_one_is_created(harness: Harness, first_run: FirstRun) -> None:
    instances = harness.api.task_instances(first_run.run_id)
    weights = {item["task_id"]: item["priority_weight"] for item in instances}
    steps = [weights[f"code.{step}"] for step in ("create", "upload", "poll", "download")]
    assert steps == sorted(set(steps)), "a later step has a higher priority"

    starts = sorted((item["start_date"], item["task_id"]) for item in instances if item["map_index"] >= 0)
    assert len(starts) >= 4 * 4
    grants = max_grants = 0
    for _, task_id in starts:
        grants += {"code.create": 1, "code.upload": -1}.get(task_id, 0)
        max_grants = max(max_grants, grants)
    assert max_grants <= 2, "one can be created while the upload of the one before starts, no more"


def test_a_second_run_sends_nothing(harness: Harness, first_run: FirstRun) -> None:
    position = harness.last_request()
    run_id, state = harness.run(**first_run.conf)
    assert state == "success"
    summary = harness.api.xcom(run_id, "land")
    assert (summary["texts_sent"], summary["published_by_run"]) == (0, first_run.run_id)
    assert (harness.creations(position), harness.uploads(position)) == ([], [])
    count = "SELECT count(*) FROM coding.coded_records WHERE run_id = ?"
    assert harness.query(count, first_run.run_id) == [(first_run.records,)]

    assert harness.started_tasks(run_id) == {"plan", "prepare", "land", "report", "clean_up"}
    harness.clear(run_id, "approve")  # it is asked again whether to send nothing
    assert harness.wait(run_id) == "success"
    tasks = harness.api.tasks(run_id)
    assert (tasks["approve"], tasks["code.create"], tasks["land"]) == ("success", "skipped", "success")
    assert (harness.creations(position), harness.uploads(position)) == ([], [])


def test_a_part_that_fails_once_is_coded_again_in_the_same_run(harness: Harness, texts_file: Path) -> None:
    conf = {"source": texts_file.as_uri(), "from_date": "2026-09-01", "records_per_part": 20}
    count = "SELECT count(*) FROM coding.coded_records WHERE response_date = DATE '2026-09-01'"
    harness.control_service("faults", name="operation_fails", skip=1, count=1, error="the inference job crashed")
    position = harness.last_request()
    run_id, state = harness.run(**conf)
    assert state == "success"
    tasks = harness.api.tasks(run_id)
    (part,) = (part for part in range(3) if tasks[f"code.poll[{part}]"] == "failed")
    operations = "SELECT part, records, error FROM coding.coding_operations WHERE state = 'failed' AND run_id = ?"
    ((failed_part, records, error),) = harness.query(operations, run_id)
    assert (failed_part, error) == (part, "the inference job crashed")
    summary = harness.api.xcom(run_id, "land")
    assert (summary["texts_sent"], summary["operations"], summary["extra_operations"]) == (50 + records, 4, 1)
    again = "SELECT records, usable FROM coding.coding_operations WHERE part = 3 AND run_id = ?"
    assert harness.query(again, run_id) == [(records, records)]
    assert len(harness.uploads(position)) == 4
    assert harness.query(count) == [(50,)]

    position = harness.last_request()
    _, state = harness.run(**conf)
    assert (state, harness.uploads(position)) == ("success", [])


def test_bad_input_fails_with_a_clear_message_and_changes_nothing(harness: Harness, texts_file: Path) -> None:
    unreadable = texts_file.with_name("unreadable.parquet")
    unreadable.write_text("this is not Parquet")
    cases = {
        "the service has no topic 'oska'; it has ['anzsco', 'osca']": {"topic": "oska"},
        f"source {unreadable.as_uri()!r} cannot be read": {"source": unreadable.as_uri()},
        "lacks the columns ['job']; it has ['record_id', 'response_date', 'occp_text', 'tasks_text']": {
            "source": texts_file.as_uri(),
            "columns": {"occp_text": "job"},
        },
        "source 'answers' is neither a table or view of warehouse": {"source": "answers"},
    }
    count = "SELECT count(*), (SELECT count(*) FROM coding.coded_texts), max(coded_at) FROM coding.coded_records"
    before = harness.query(count)
    runs = {message: harness.api.trigger(conf) for message, conf in cases.items()}
    for message, run_id in runs.items():
        assert harness.wait(run_id) == "failed"
        assert message in harness.log(run_id)
    assert harness.query(count) == before


def test_a_day_without_records_succeeds_and_says_so(harness: Harness) -> None:
    run_id, state = harness.run(from_date="2020-02-02")  # a date that no other test of the shared stack runs
    assert state == "success"
    assert "Nothing was sent: the source has no records of these dates." in harness.log(run_id)


def test_no_operation_is_repeated_if_the_triggerer_is_killed(harness: Harness, texts_file: Path) -> None:
    harness.control_service("progression", progression="by_time", seconds=3600)
    position = harness.last_request()
    run_id = harness.api.trigger(
        {"source": texts_file.as_uri(), "from_date": "2026-09-01", "selection": "all", "records_per_part": 25}
    )
    wait_until(lambda: list(harness.api.tasks(run_id).values()).count("deferred") == 2, "both polls are deferred")
    harness.stack.process("triggerer").kill()
    harness.control_service("progression", progression="by_time", seconds=1)
    harness.stack.restart("triggerer")
    assert harness.wait(run_id) == "success"
    assert (len(harness.creations(position)), len(harness.uploads(position))) == (2, 2)
