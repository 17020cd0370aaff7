"""A used-up quota on real Airflow processes: the task comes back when it is over, and nobody calls meanwhile."""

from __future__ import annotations

import sqlite3

import pytest

from include.pipeline.names import RECODE_DAG_ID as DAG_ID
from include.stack.airflow_api import FINAL_STATES as ENDED
from tests.end_to_end.conftest import Harness, until

pytestmark = pytest.mark.airflow


def test_an_exceeded_limit_delays_the_retry_by_a_day_and_costs_one_try_and_one_call(harness: Harness) -> None:
    def is_idle() -> bool:
        runs = harness.api.request("GET", f"/dags/{DAG_ID}/dagRuns")["dag_runs"]
        return bool(runs) and all(run["state"] in ENDED for run in runs)

    until(is_idle, "the night that the schedule brings, which would meet the limit first, is over")
    harness.knob("faults", name="limit_exceeded", path_contains="/models")
    mark = harness.mark()
    run_id = harness.api.trigger({"from_date": "2020-01-01"})
    until(lambda: harness.api.tasks(run_id).get("plan") == "up_for_retry", "plan waits for its retry")
    try:
        with sqlite3.connect(harness.stack.folder / "airflow" / "airflow.db") as database:
            [(tries, max_tries, delay)] = database.execute(
                "SELECT try_number, max_tries, retry_delay_override FROM task_instance"
                " WHERE run_id = ? AND task_id = 'plan'",
                [run_id],
            )
        assert (tries, max_tries) == (1, 3)
        assert 86_300 < delay <= 86_401
        until(lambda: "the quota of calls is used up until 20" in harness.log(run_id), "the log says until when", 20)
        refused = [one for one in harness.journal(mark) if one["path"].startswith("/v1/")]
        assert [one["status"] for one in refused] == [200, 429]
    finally:  # a day later
        for path in (harness.stack.folder / "airflow" / "coding_service").glob("*.calls"):
            path.unlink()
        clear = {"dry_run": False, "dag_run_id": run_id, "task_ids": ["plan"], "only_failed": False}
        harness.api.request("POST", f"/dags/{DAG_ID}/clearTaskInstances", json=clear)
    assert harness.api.wait(run_id) == "success"
