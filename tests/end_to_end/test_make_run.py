"""`make run` as a newcomer runs it, with the real coder; then, with the stack of its folder started again, a second
`make run`, and the call budget, which all processes of Airflow keep together."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from include.pipeline.names import CODING_SERVICE_CONN_ID, POOL
from include.stack.processes import PROJECT, StackState
from tests.end_to_end.conftest import FastStack, Harness, copy_dags, run_stack, wait_until

pytestmark = pytest.mark.airflow
#: More operations than Airflow runs tasks at once (4), and the calls to observe before they end.
OPERATION_COUNT, MIN_CALLS = 10, 40
#: A call is sent at its moment, but a busy machine can delay its arrival, so that the next one is closer to it.
JITTER_S = 0.9
WAITS = f"""
from airflow.sdk import DAG, Param, task
from coding_service import BatchCodeSensor

@task
def operations(*, params=None):
    return params["operations"]

with DAG("waits", schedule=None, is_paused_upon_creation=False, params={{"operations": Param([], type="array")}}):
    wait = BatchCodeSensor.partial(task_id="wait", topic="osca", pool="{POOL}", deferrable=True)
    wait.expand(operation_id=operations())
"""


def make_run(folder: Path) -> str:
    """Run the command of `make run` in a folder, and return what it prints."""
    command = [sys.executable, "-m", "include.stack", "run", "--folder", str(folder)]
    process = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=900, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def first_run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a first `make run`, with its output in the file `output`."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "output").write_text(make_run(folder))
    return folder


def test_make_run_codes_the_sample_shows_the_result_and_stops_all_processes(first_run_folder: Path) -> None:
    output = (first_run_folder / "output").read_text()
    assert "Records read: 20,000:" in output
    assert "code.poll[3]         deferred" in output, "a line for each change of state"
    assert "run                  success" in output
    assert output.count("\nR0") == 10, "ten coded rows"
    for file in ("report.html", "warehouse.duckdb"):
        (line,) = (line for line in output.splitlines() if file in line)
        assert Path(line.split()[1]).exists()
    processes = psutil.process_iter(["cmdline"])
    assert [process.pid for process in processes if str(first_run_folder) in str(process.info["cmdline"])] == []


# ---- the stack of the same folder, started again ---------------------------------------------------------------------


class BudgetStack(FastStack):
    """A stack with the budget that the service grants a partner, one call a second, and a DAG that only waits."""

    def __init__(self, folder: Path) -> None:
        dags = copy_dags(folder / "dags")
        (dags / "waits.py").write_text(WAITS)
        super().__init__(
            folder, {"AIRFLOW__CORE__DAGS_FOLDER": str(dags)}, ("--progression", "by_time", "--seconds", "3600")
        )

    def connections(self, state: StackState) -> dict[str, dict[str, Any]]:
        connections = super().connections(state)
        connections[CODING_SERVICE_CONN_ID]["extra"] |= {"requests_per_second": 1, "poll_interval": 2}
        return connections


@pytest.fixture(scope="module")
def budgeted(first_run_folder: Path) -> Iterator[Harness]:
    with run_stack(BudgetStack(first_run_folder)) as stack:
        yield Harness(stack)


def test_a_second_make_run_sends_nothing_and_leaves_a_running_stack_running(budgeted: Harness) -> None:
    output = make_run(budgeted.stack.folder)
    assert "Nothing was sent or written: run `manual__" in output
    assert "sent: 0 in 0 operations" in output
    assert budgeted.stack.is_complete()


@pytest.fixture
def operations(budgeted: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of operations in progress, opened through a connection with another budget."""
    from coding_service import CodingServiceHook

    connection = budgeted.stack.connections(budgeted.stack.state)[CODING_SERVICE_CONN_ID]
    connection["extra"] |= {"requests_per_second": 1000, "state_dir": str(tmp_path / "state")}
    monkeypatch.setenv("AIRFLOW_CONN_OTHER_BUDGET", json.dumps(connection))
    hook, path = CodingServiceHook("other_budget"), tmp_path / "part.jsonl"
    path.write_text('{"recordId": "1", "occp_text": "chef", "tasks_text": ""}\n')
    model = hook.latest_model("osca").model_id
    grants = [hook.create_operation("osca", model) for _ in range(OPERATION_COUNT)]
    for grant in grants:
        hook.upload(grant, path)
    return [grant.operation_id for grant in grants]


def test_operations_in_progress_occupy_no_worker_and_with_a_run_never_exceed_one_call_a_second(
    budgeted: Harness, operations: list[str]
) -> None:
    api, waits = budgeted.api, "/dags/waits/dagRuns"
    api.request("PATCH", f"/pools/{POOL}", json={"name": POOL, "slots": 64, "include_deferred": True})
    budgeted.unpause("waits")
    position = budgeted.last_request()
    waits_id = api.request("POST", waits, json={"logical_date": None, "conf": {"operations": operations}})[
        "dag_run_id"
    ]
    run_id = api.trigger({"from_date": "2026-10-05", "to_date": "2026-10-06", "selection": "all"})

    def states() -> list[str]:
        return [task["state"] for task in api.request("GET", f"{waits}/{waits_id}/taskInstances")["task_instances"]]

    wait_until(lambda: states().count("deferred") == OPERATION_COUNT, "all operations are in progress", 300)
    assert states().count("running") == 0, "a wait occupies no worker"
    wait_until(lambda: len(budgeted.calls(position)) >= MIN_CALLS, f"{MIN_CALLS} calls", 300)
    budgeted.control_service("progression", progression="immediate")
    assert budgeted.wait(run_id) == "success"
    assert budgeted.wait(waits_id, "waits") == "success"

    calls = budgeted.calls(position)
    times = sorted(datetime.fromisoformat(call["time"]).timestamp() for call in calls)
    for window_s in (1, 10, times[-1] - times[0] + 1):
        max_calls = max(sum(start <= time < start + window_s for time in times) for start in times)
        assert max_calls <= window_s + 1 + JITTER_S, f"{max_calls} calls arrived within {window_s} s"
    close_pairs = sum(later - earlier < 0.5 for earlier, later in pairwise(times))
    print(
        f"{len(times)} calls in {times[-1] - times[0]:.0f} s, {close_pairs} of them within half a second of another"
    )
    assert {call["method"] for call in calls} == {"GET", "POST"}, "waits in the triggerer, and tasks of the run"
    assert all(call["status"] != 429 for call in calls)
    assert len([entry for entry in budgeted.journal() if entry["path"] == "/oauth2/token"]) == 3, (
        "one of each account"
    )
