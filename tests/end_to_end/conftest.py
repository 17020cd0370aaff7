"""The stack that most end-to-end tests share: real Airflow processes, the local coding service, a DuckDB warehouse."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import duckdb
import pytest
import requests

from include.pipeline.names import CODING_SERVICE_CONN_ID, RECODE_DAG_ID
from include.stack.airflow_api import FINAL_STATES
from include.stack.processes import PROJECT, Stack, StackState, free_port

#: Settings of Airflow itself: its processes load these modules once instead of in each task, and retries start soon.
AIRFLOW_LOCAL_SETTINGS = """
from datetime import timedelta
import duckdb, fsspec, httpx, pandas, pyarrow.compute, pyarrow.parquet, requests

__all__ = ["task_policy"]

def task_policy(task):
    task.retry_delay = timedelta(seconds=2)
"""
#: Options of the local service: operations take a second.
SERVICE_OPTIONS = ("--coder", "stub", "--progression", "by_time", "--seconds", "1")


def wait_until(condition: Callable[[], bool], description: str, timeout_s: float = 180) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {description}"
        time.sleep(0.5)


def copy_dags(folder: Path) -> Path:
    """Copy the project's DAG files to a folder, to which a test can add its own."""
    return Path(shutil.copytree(PROJECT / "dags", folder, ignore=shutil.ignore_patterns("__pycache__")))


class FastStack(Stack):
    """A stack that starts while another one does, in another process of the tests: they prefer different ports.

    To save time, tasks are forked from processes with loaded libraries, retries and calls do not wait, a dead triggerer
    is noticed soon, DAG files are parsed once, and all such stacks start with a copy of one migrated metadata database.
    """

    _first_port = 8100 + 100 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    _migrated_database: ClassVar[bytes] = b""
    # Airflow 3.3.2 takes a task for failed if its trigger fires before the scheduler has noticed that it was deferred.
    _poll_interval_s: ClassVar[float] = 2.0

    def start(self, print_line: Callable[[str], None] = lambda line: None) -> None:
        (self.folder / "settings").mkdir(parents=True, exist_ok=True)
        (self.folder / "settings" / "airflow_local_settings.py").write_text(AIRFLOW_LOCAL_SETTINGS)
        super().start(print_line)

    def environment(self, state: StackState) -> dict[str, str]:
        return {
            **super().environment(state),
            "PYTHONPATH": f"{PROJECT}{os.pathsep}{self.folder / 'settings'}",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "3600",
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.3",
            "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "12",
        }

    def connections(self, state: StackState) -> dict[str, dict[str, Any]]:
        connections = super().connections(state)
        connections[CODING_SERVICE_CONN_ID]["extra"] |= {
            "poll_interval": self._poll_interval_s,
            "requests_per_second": 100,
        }
        return connections

    def _choose_ports(self) -> tuple[int, int]:
        return free_port(self._first_port), free_port(self._first_port + 1)

    def _commands(self, state: StackState) -> dict[str, list[str]]:
        commands = super()._commands(state)
        scheduler = commands.pop("scheduler")
        return {**commands, "scheduler": scheduler}

    def _spawn(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        if name == "scheduler":  # its first tasks would fail without the API server
            wait_until(lambda: bool(self.api.healthy_components()), "the API server answers")
        if name == "api-server":  # SQLite can lock two of its requests against each other until the timeout ends one
            url = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"
            environment = {**environment, url: environment[url].replace("?timeout=60", "?timeout=5")}
        super()._spawn(name, command, environment)

    def _run_once(self, command: list[str], environment: dict[str, str]) -> None:
        database = self.folder / "airflow" / "airflow.db"
        is_new = environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].startswith("sqlite") and not database.exists()
        if is_new and FastStack._migrated_database:
            database.write_bytes(FastStack._migrated_database)
            return
        super()._run_once(command, environment)
        if is_new:
            with closing(sqlite3.connect(database)) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            FastStack._migrated_database = database.read_bytes()


class Harness:
    """A running stack, with what tests ask of it and do to it."""

    def __init__(self, stack: Stack) -> None:
        self.stack, self.api = stack, stack.api

    # ---- the coding service ----------------------------------------------------------------------------------------

    def control_service(self, knob: str, **body: Any) -> None:
        """Change how the local coding service behaves."""
        response = requests.post(f"{self.stack.service_url}/_local/{knob}", json=body, timeout=10)
        assert response.ok, response.text

    def journal(self, since: int = 0) -> list[dict[str, Any]]:
        """Return the requests that the service has received."""
        response = requests.get(f"{self.stack.service_url}/_local/journal", params={"since": since}, timeout=10)
        return list(response.json()["entries"])

    def last_request(self) -> int:
        """Return the number of the latest request in the journal."""
        entries = self.journal()
        return int(entries[-1]["sequence"]) if entries else 0

    def calls(self, since: int) -> list[dict[str, Any]]:
        """Return the calls of the coding API."""
        return [entry for entry in self.journal(since) if "/v1/" in entry["path"]]

    def creations(self, since: int) -> list[dict[str, Any]]:
        """Return the calls that created an operation."""
        return [call for call in self.calls(since) if call["method"] == "POST" and "batch-code" in call["path"]]

    def uploads(self, since: int) -> list[dict[str, Any]]:
        """Return the requests that stored an input file."""
        return [entry for entry in self.journal(since) if entry["method"] == "PUT" and entry["status"] == 200]

    # ---- runs ------------------------------------------------------------------------------------------------------

    def clear(self, run_id: str, task_id: str) -> None:
        """Clear a task of a run with all downstream tasks."""
        body = {"dag_run_id": run_id, "task_ids": [task_id], "include_downstream": True, "dry_run": False}
        self.api.request("POST", f"/dags/{RECODE_DAG_ID}/clearTaskInstances", json={**body, "only_failed": False})

    def started_tasks(self, run_id: str) -> set[str]:
        """Return the tasks of a run that Airflow has started, whatever became of them."""
        return {task["task_id"] for task in self.api.task_instances(run_id) if task["try_number"] > 0}

    # ---- the warehouse ---------------------------------------------------------------------------------------------

    def query(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Query the warehouse, which no run must be using."""
        with duckdb.connect(str(self.stack.warehouse), read_only=True) as connection:
            return connection.execute(sql, values).fetchall()

    # ---- Airflow ---------------------------------------------------------------------------------------------------

    def run(self, **conf: Any) -> tuple[str, str]:
        """Run `recode_occupations` and return (run id, final state)."""
        run_id = self.api.trigger(conf)
        return run_id, self.wait(run_id)

    def wait(self, run_id: str, dag_id: str = RECODE_DAG_ID, timeout_s: float = 600) -> str:
        """Wait until a run ends and return its state."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}"
        wait_until(lambda: self.api.request("GET", path)["state"] in FINAL_STATES, f"{run_id} ends", timeout_s)
        return str(self.api.request("GET", path)["state"])

    def runs(self, dag_id: str = RECODE_DAG_ID, **filters: Any) -> list[dict[str, Any]]:
        """Return the runs of a DAG, oldest first."""
        params = {"limit": 100, "order_by": "id", **filters}
        return list(self.api.request("GET", f"/dags/{dag_id}/dagRuns", params=params)["dag_runs"])

    def wait_until_idle(self) -> None:
        """Wait until the scheduled run, which a new stack starts by itself, and all others have ended."""

        def is_idle() -> bool:
            runs = self.runs()
            return bool(runs) and all(run["state"] in FINAL_STATES for run in runs)

        wait_until(is_idle, "all runs have ended")

    def unpause(self, dag_id: str) -> None:
        """Unpause a DAG as soon as it is parsed."""
        path = f"/dags/{dag_id}"
        wait_until(lambda: self.api.request("GET", path, ignore=(404,)) is not None, f"{dag_id} is parsed")
        self.api.request("PATCH", path, json={"is_paused": False})

    def log(self, run_id: str) -> str:
        """Return all task logs of a run of `recode_occupations`."""
        folder = self.stack.folder / "airflow" / "logs" / f"dag_id={RECODE_DAG_ID}" / f"run_id={run_id}"
        return "".join(path.read_text() for path in sorted(folder.rglob("*.log")))


@contextmanager
def run_stack(stack: Stack) -> Iterator[Stack]:
    """Start a stack, and stop it at the end."""
    stack.start()
    try:
        yield stack
    finally:
        stack.stop()


@pytest.fixture(scope="package")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    with run_stack(FastStack(tmp_path_factory.mktemp("stack"), service_options=SERVICE_OPTIONS)) as stack:
        yield Harness(stack)


@pytest.fixture
def source_folder(harness: Harness, tmp_path: Path) -> Path:
    """A folder of the test's own from which runs can read files."""
    folder = harness.stack.source_files / tmp_path.name
    folder.mkdir()
    return folder


@pytest.fixture
def texts_file(source_folder: Path) -> Path:
    """Fifty records of one day, each with a different text."""
    path = source_folder / "answers.parquet"
    duckdb.execute(
        "COPY (SELECT 'T' || i AS record_id, DATE '2026-09-01' AS response_date, 'job number ' || i AS occp_text,"
        f" 'tasks' AS tasks_text FROM range(50) AS numbers(i)) TO '{path}' (FORMAT parquet)"
    )
    return path
