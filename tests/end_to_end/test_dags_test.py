"""`airflow dags test`: a run in one process, without a scheduler, against the local coding service."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import duckdb
import pytest
import requests

from include.local_service.http.server import LocalService
from include.pipeline.names import POOL, RECODE_DAG_ID
from include.stack.processes import PROJECT, Stack, StackState, free_port
from tests.end_to_end.conftest import FastStack
from tests.support.file_notifier import read_alerts

pytestmark = pytest.mark.airflow

RunDag = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dags-test")


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[LocalService]:
    secret = Stack(folder / "stack").read_secret("client_secret")
    with LocalService(folder / "service", coder="stub", client_secret=secret) as service:
        yield service


@pytest.fixture(scope="module")
def run_dag(folder: Path, service: LocalService) -> RunDag:
    """A function that runs `airflow dags test recode_occupations` with a configuration, and returns the process."""
    kwargs = {"path": str(folder / "alerts.jsonl"), "subject": "{{ subject }}", "message": "{{ message }}"}
    channel = {"notifier": "tests.support.file_notifier.FileNotifier", "kwargs": kwargs}
    stack = FastStack(folder / "stack", {"CODING_ALERTS": json.dumps(channel)})
    for path in (stack.folder / "airflow", stack.logs, stack.source_files):
        path.mkdir(parents=True, exist_ok=True)
    port = urlsplit(service.url).port or 0
    state = StackState(free_port(), port, {})
    environment = stack.environment(state)
    environment["PYTHONPATH"] = str(PROJECT)

    def airflow(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["airflow", *arguments], env=environment, cwd=PROJECT, capture_output=True, text=True, check=False
        )

    airflow("db", "migrate").check_returncode()
    stack.store_connections(state)
    airflow("pools", "set", POOL, "4", "Concurrent operations", "--include-deferred").check_returncode()
    return lambda **conf: airflow("dags", "test", RECODE_DAG_ID, "-c", json.dumps(conf))


@pytest.fixture(scope="module")
def source(folder: Path) -> str:
    """The URI of a sample file: thirty records of one day, each with a different text."""
    path = folder / "stack" / "source-files" / "sample.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    duckdb.execute(
        "COPY (SELECT 'S' || i AS record_id, DATE '2026-09-01' AS response_date, 'sample job ' || i AS occp_text,"
        f" 'tasks' AS tasks_text FROM range(30) AS numbers(i)) TO '{path}'"
    )
    return path.as_uri()


def query(folder: Path, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(folder / "stack" / "warehouse.duckdb"), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def test_a_good_run_publishes_its_records_and_ends_with_exit_code_0(
    run_dag: RunDag, folder: Path, source: str
) -> None:
    process = run_dag(source=source, from_date="2026-09-01", max_uncoded_share=1, records_per_part=20)
    assert process.returncode == 0, process.stdout[-5000:] + process.stderr
    assert "state=success" in process.stdout
    assert not {"StatementError", "NameError"} & set(process.stdout.replace(":", " ").split())
    assert query(folder, "SELECT count(*) FROM coding.coded_records WHERE response_date = '2026-09-01'") == [(30,)]


def test_a_misspelt_key_ends_with_exit_code_1_before_any_call_and_with_one_alert(
    run_dag: RunDag, folder: Path, service: LocalService, source: str
) -> None:
    before = len(service.service.store.entries(0))
    process = run_dag(source=source, from_date="2026-09-01", max_record=5)
    assert process.returncode == 1
    assert process.stderr.endswith("DagRun failed\n")
    assert "has unknown keys: 'max_record' (did you mean 'max_records'?)" in process.stdout
    assert "NameError" not in process.stdout + process.stderr
    assert len(service.service.store.entries(0)) == before
    (alert,) = read_alerts(folder / "alerts.jsonl")
    assert alert["subject"] == f"{RECODE_DAG_ID} failed for 2026-09-01"
    assert f"{RECODE_DAG_ID} failed: " in alert["message"]


def test_a_part_that_fails_ends_with_exit_code_1_and_publishes_nothing(
    run_dag: RunDag, folder: Path, service: LocalService, source: str
) -> None:
    fault = {"name": "operation_fails", "count": 100}
    requests.post(f"{service.url}/_local/faults", json=fault, timeout=10).raise_for_status()
    process = run_dag(source=source, from_date="2026-09-01", selection="all")
    assert process.returncode == 1
    assert process.stderr.endswith("DagRun failed\n")
    assert "NameError" not in process.stdout + process.stderr
    runs = query(folder, "SELECT count(DISTINCT run_id) FROM coding.coded_records WHERE response_date = '2026-09-01'")
    assert runs == [(1,)], "that of the good run"
