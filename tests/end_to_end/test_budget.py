"""The call budget, kept by all processes of Airflow together."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest

from include.pipeline.names import POOL
from include.stack.processes import PROJECT, StackState
from tests.end_to_end.conftest import Harness, LaneStack, until

pytestmark = pytest.mark.airflow
OPERATIONS, CALLS = 40, 100
WAITS = f"""
from airflow.sdk import DAG, Param, task
from coding_service import BatchCodeSensor

@task
def operations(*, params=None):
    return params["operations"]

with DAG("waits", schedule=None, is_paused_upon_creation=False, params={{"operations": Param([], type="array")}}):
    BatchCodeSensor.partial(task_id="wait", topic="osca", pool="{POOL}").expand(operation_id=operations())
"""


class Budgeted(LaneStack):
    """The stack with the budget that the service grants a partner, one call a second, and a DAG that only waits."""

    def __init__(self, folder: Path) -> None:
        dags = folder / "dags"
        shutil.copytree(PROJECT / "dags", dags, ignore=shutil.ignore_patterns("__pycache__"))
        (dags / "waits.py").write_text(WAITS)
        options = ("--coder", "stub", "--progression", "by_time", "--seconds", "3600")
        super().__init__(folder, {"AIRFLOW__CORE__DAGS_FOLDER": str(dags)}, options)

    def environment(self, state: StackState) -> dict[str, str]:
        environment = super().environment(state)
        connection = json.loads(environment["AIRFLOW_CONN_CODING_SERVICE_DEFAULT"])
        connection["extra"] |= {"requests_per_second": 1, "poll_interval": 10}
        return {**environment, "AIRFLOW_CONN_CODING_SERVICE_DEFAULT": json.dumps(connection)}


@pytest.fixture(scope="module")
def budgeted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    stack = Budgeted(tmp_path_factory.mktemp("budgeted"))
    stack.start()
    try:
        yield Harness(stack)
    finally:
        stack.stop()


@pytest.fixture
def operations(budgeted: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of operations that the service is at work on, opened by somebody with a budget of another kind."""
    from coding_service import CodingServiceHook

    connection = json.loads(budgeted.stack.environment(budgeted.stack.state)["AIRFLOW_CONN_CODING_SERVICE_DEFAULT"])
    connection["extra"] |= {"requests_per_second": 1000, "state_dir": str(tmp_path / "state")}
    monkeypatch.setenv("AIRFLOW_CONN_SOMEBODY", json.dumps(connection))
    hook, path = CodingServiceHook("somebody"), tmp_path / "part.jsonl"
    path.write_text('{"recordId": "1", "occp_text": "chef", "tasks_text": ""}\n')
    model = hook.latest_model("osca").model_id
    grants = [hook.create_operation("osca", model) for _ in range(OPERATIONS)]
    for grant in grants:
        hook.upload(grant, path)
    return [grant.operation_id for grant in grants]


def test_forty_operations_in_flight_and_a_run_beside_them_never_exceed_one_call_a_second(
    budgeted: Harness, operations: list[str]
) -> None:
    api, waits = budgeted.api, "/dags/waits/dagRuns"
    api.request("PATCH", f"/pools/{POOL}", json={"name": POOL, "slots": 64, "include_deferred": True})
    mark = budgeted.mark()
    run_id = api.request("POST", waits, json={"logical_date": None, "conf": {"operations": operations}})["dag_run_id"]
    beside = api.trigger({"from_date": "2026-10-05", "to_date": "2026-10-06", "records_per_part": 400})

    def states() -> list[str]:
        path = f"{waits}/{run_id}/taskInstances"
        return [task["state"] for task in api.request("GET", path, params={"limit": 100})["task_instances"]]

    until(lambda: states().count("deferred") == OPERATIONS, f"{OPERATIONS} operations in flight", 300)
    assert states().count("running") == 0, "who waits holds no worker"
    until(lambda: len(calls_of(budgeted, mark)) >= CALLS, f"{CALLS} calls", 300)
    budgeted.knob("progression", progression="immediate")
    assert api.wait(beside, 600) == "success"
    until(lambda: set(states()) == {"success"}, "all waits are over", 300)

    times = calls_of(budgeted, mark)
    # a call is sent at its moment, but it arrives when a busy machine lets it: by so much two may come closer
    jitter = 0.9
    for seconds in (1, 10, 60):
        most = max(sum(start <= time < start + seconds for time in times) for start in times)
        assert most <= seconds + 1 + jitter, f"{most} calls arrived within {seconds} s"
    together = sum(later - earlier < 0.5 for earlier, later in pairwise(times))
    print(f"{len(times)} calls in {times[-1] - times[0]:.0f} s, {together} of them within half a second of another")
    assert not [entry for entry in budgeted.journal(mark) if entry["status"] == 429]
    assert sum(entry["path"] == "/oauth2/token" for entry in budgeted.journal()) == 2, "somebody's, and Airflow's"


def calls_of(harness: Harness, since: int) -> list[float]:
    """When calls arrived, in seconds, in order."""
    return sorted(
        datetime.fromisoformat(entry["time"]).timestamp()
        for entry in harness.journal(since)
        if "/v1/" in entry["path"]
    )
