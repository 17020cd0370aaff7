"""A used-up quota on real Airflow processes: the task is retried an hour later at most, with no call before."""

from __future__ import annotations

import sqlite3

import pytest

from include.pipeline.names import RECODE_DAG_ID
from tests.end_to_end.conftest import Harness, wait_until

pytestmark = pytest.mark.airflow


def test_an_exceeded_limit_costs_one_call_and_the_next_one_comes_an_hour_later_or_at_midnight_utc(
    harness: Harness,
) -> None:
    harness.wait_until_idle()  # another run would meet the limit first
    harness.control_service("faults", name="limit_exceeded", path_contains="/models")
    position = harness.last_request()
    run_id = harness.api.trigger({"from_date": "2020-01-01"})
    wait_until(lambda: harness.api.tasks(run_id).get("plan") == "up_for_retry", "plan waits for its retry")
    try:
        with sqlite3.connect(harness.stack.folder / "airflow" / "airflow.db") as database:
            [(attempt, max_retries, delay_s)] = database.execute(
                "SELECT try_number, max_tries, retry_delay_override FROM task_instance"
                " WHERE run_id = ? AND task_id = 'plan'",
                [run_id],
            )
        assert (attempt, max_retries) == (1, 3)
        assert 0 < delay_s <= 3_601
        wait_until(
            lambda: "no calls to the coding service before 20" in harness.log(run_id), "the log gives the end", 20
        )
        assert [call["status"] for call in harness.calls(position)] == [200, 429]
    finally:  # after midnight
        for path in (harness.stack.folder / "airflow" / "coding_service").glob("*.calls"):
            path.unlink()
        clear = {"dry_run": False, "dag_run_id": run_id, "task_ids": ["plan"], "only_failed": False}
        harness.api.request("POST", f"/dags/{RECODE_DAG_ID}/clearTaskInstances", json=clear)
    assert harness.wait(run_id) == "success"
