"""One stack for all end-to-end tests: real Airflow processes, the local coding service, an embedded warehouse."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
import requests

from include.stack.processes import Stack, StackState, free_port


def until(condition: Callable[[], bool], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.3)


class LaneStack(Stack):
    """A stack that starts while another one does, in another process of the tests: they prefer different ports."""

    _first_port = 8100 + 100 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))

    def _choose_ports(self) -> tuple[int, int]:
        return free_port(self._first_port), free_port(self._first_port + 1)

    def environment(self, state: StackState) -> dict[str, str]:
        logs = {
            f"AIRFLOW__LOGGING__{name}_LOG_SERVER_PORT": str(free_port(self._first_port + number))
            for number, name in enumerate(("WORKER", "TRIGGER"), 2)
        }
        return {**super().environment(state), **logs}


class Harness:
    """The stack and the questions that tests ask of it."""

    def __init__(self, stack: Stack) -> None:
        self.stack, self.api = stack, stack.api

    def knob(self, knob: str, **body: Any) -> Any:
        """Turn a knob of the local coding service."""
        answer = requests.post(f"{self.stack.service_url}/_local/{knob}", json=body, timeout=10)
        assert answer.ok, answer.text
        return answer.json()

    def journal(self, since: int = 0) -> list[dict[str, Any]]:
        """Requests that the service has seen."""
        answer = requests.get(f"{self.stack.service_url}/_local/journal", params={"since": since}, timeout=10)
        return list(answer.json()["entries"])

    def mark(self) -> int:
        """Where the journal stands now."""
        entries = self.journal()
        return int(entries[-1]["sequence"]) if entries else 0

    def uploads(self, since: int) -> list[dict[str, Any]]:
        """Input files that arrived."""
        return [entry for entry in self.journal(since) if entry["method"] == "PUT" and entry["status"] == 200]

    def query(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Ask the warehouse, which must be free: no run is going on."""
        with duckdb.connect(str(self.stack.warehouse), read_only=True) as connection:
            return connection.execute(sql, values).fetchall()

    def code(self, **conf: Any) -> tuple[str, str]:
        """Run the DAG and return (run id, how it ended)."""
        run_id = self.api.trigger(conf)
        return run_id, self.api.wait(run_id)

    def log(self, run_id: str) -> str:
        """All task logs of a run."""
        folder = self.stack.folder / "airflow" / "logs" / "dag_id=recode_occupations" / f"run_id={run_id}"
        return "".join(path.read_text() for path in sorted(folder.rglob("*.log")))


@pytest.fixture(scope="package")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    stack = LaneStack(tmp_path_factory.mktemp("stack"), service_options=("--coder", "stub"))
    stack.start()
    try:
        yield Harness(stack)
    finally:
        stack.stop()


@pytest.fixture
def texts_file(tmp_path: Path) -> Path:
    """Fifty records of one day, each with a text of its own."""
    path = tmp_path / "answers.parquet"
    duckdb.execute(
        "COPY (SELECT 'T' || i AS record_id, DATE '2026-09-01' AS response_date, 'job number ' || i AS occp_text,"
        f" 'tasks' AS tasks_text FROM range(50) AS numbers(i)) TO '{path}' (FORMAT parquet)"
    )
    return path
