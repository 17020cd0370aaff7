"""A text that makes the service fail: set aside in the same run, and its words in no log, XCom or report."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import pytest
import requests

from tests.end_to_end.conftest import Harness, wait_until
from tests.end_to_end.test_secrets import read_database

pytestmark = pytest.mark.airflow

#: What the service says about the text that it refuses.
MARK = "the-answer-of-a-person-5ec4e7"


@pytest.fixture
def source(source_folder: Path) -> Path:
    """Forty records of one day, which no other test of the stack uses; one of them has a text with the mark."""
    path = source_folder / "answers.parquet"
    duckdb.execute(
        "COPY (SELECT 'M' || i AS record_id, DATE '2026-09-20' AS response_date, CASE i WHEN 17 THEN"
        f" '{MARK}' ELSE 'occupation number ' || i END AS occp_text, '' AS tasks_text FROM range(40) AS numbers(i))"
        f" TO '{path}' (FORMAT parquet)"
    )
    return path


def test_a_text_that_fails_its_operation_is_rejected_all_others_are_coded_and_its_words_are_nowhere_else(
    harness: Harness, source: Path
) -> None:
    position = harness.last_request()
    harness.control_service(
        "faults", name="operation_fails", count=1000, part_contains=MARK, error=f"malformed record: {MARK}"
    )
    try:
        run_id, state = harness.run(source=source.as_uri(), from_date="2026-09-20", to_date="2026-09-20")
    finally:
        requests.delete(f"{harness.stack.service_url}/_local/faults", timeout=10)
    assert state == "success"
    summary = harness.api.xcom(run_id, "land")
    assert (summary["read"], summary["rejected"]) == (40, 1)
    assert 40 < summary["texts_sent"] < 4 * 40
    assert harness.query(
        "SELECT record_id, outcome, reason FROM coding.coded_records"
        " WHERE response_date = DATE '2026-09-20' AND outcome = 'rejected'"
    ) == [("M17", "rejected", "refused_by_service")]
    words = "SELECT DISTINCT error FROM coding.coding_operations WHERE run_id = ? AND state = 'failed'"
    assert harness.query(words, run_id) == [(f"malformed record: {MARK}",)]
    assert summary["operations"] == len(harness.uploads(position)) <= 20, "nothing was sent twice"
    # An operation that was opened and not used, because its step was repeated, is recorded as abandoned.
    rows = harness.query("SELECT operation_id FROM coding.coding_operations WHERE run_id = ?", run_id)
    recorded = {operation_id for (operation_id,) in rows}
    opened = set(re.findall(r"Opened operation ([\w-]+) for", harness.log(run_id)))
    uploaded = {entry["operation_id"] for entry in harness.uploads(position)}
    assert uploaded
    assert uploaded <= opened <= recorded
    assert len(recorded) <= len(harness.creations(position))
    assert harness.api.tasks(run_id)["code.poll[0]"] == "failed"
    assert re.search(r"\| refused_by_service +\| 1 ", harness.log(run_id))

    folder = harness.stack.folder
    logs = [path for name in ("logs", "airflow/logs") for path in (folder / name).rglob("*.log")]
    contents = [(str(path), path.read_bytes()) for path in logs if path.name != "local-service.log"]
    contents += list(read_database(folder / "airflow" / "airflow.db"))
    contents += [(path.name, path.read_bytes()) for path in (folder / "airflow").glob("airflow.db*")]
    contents += [(str(path), path.read_bytes()) for path in folder.rglob("report.*")]
    assert [name for name, content in contents if MARK.encode() in content] == []
    names = " ".join(name for name, _ in contents)
    assert all(part in names for part in ("task_id=collect", "xcom.value", "task_state_store.value", "report.md"))


def test_a_run_waits_for_the_texts_of_another_one_without_a_slot_of_the_pool_and_sends_them_not_again(
    harness: Harness, source_folder: Path
) -> None:
    path = source_folder / "two_days.parquet"
    duckdb.execute(
        "COPY (SELECT 'T' || day || i AS record_id, DATE '2026-09-21' + CAST(day AS INTEGER) AS response_date,"
        " CASE i WHEN 0 THEN 'held back on day ' || day ELSE 'trade number ' || i END AS occp_text, '' AS tasks_text"
        f" FROM range(12) AS numbers(i), range(2) AS days(day)) TO '{path}' (FORMAT parquet)"
    )
    position = harness.last_request()
    harness.control_service("faults", name="late_status", polls=4, part_contains="held back on day 0")

    def start(day: str) -> str:
        return harness.api.trigger({"source": path.as_uri(), "from_date": day, "to_date": day})

    first = start("2026-09-21")
    wait_until(lambda: harness.api.tasks(first).get("prepare") == "success", "the first run has claimed its texts")
    second = start("2026-09-22")
    wait_until(lambda: bool(harness.uploads(position)), "the first run has sent its texts")
    operation_id = harness.uploads(position)[0]["operation_id"]
    harness.control_service("faults", name="unknown_status", status="queued", count=1000, path_contains=operation_id)
    wait_until(lambda: harness.api.tasks(second).get("collect") == "up_for_reschedule", "the second run waits")
    requests.delete(f"{harness.stack.service_url}/_local/faults", timeout=10)
    assert [harness.api.wait(run_id) for run_id in (first, second)] == ["success", "success"]
    sent = "SELECT sum(records) FROM coding.coding_operations WHERE run_id = ?"
    assert [harness.query(sent, run_id) for run_id in (first, second)] == [[(12,)], [(1,)]]
    published = "SELECT response_date, count(DISTINCT code) FROM coding.coded_records WHERE run_id = ? GROUP BY 1"
    assert len(harness.query(published, second)) == 1
    assert "11 texts that other runs send have no result yet" in harness.log(second)
