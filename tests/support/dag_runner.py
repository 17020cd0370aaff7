"""Runs the DAG `recode_occupations` in this process, as `airflow dags test` does, against the local service.

Waits between attempts take no time: the clocks jump, and what processes remember about refusals for some time is
forgotten.
"""

from __future__ import annotations

import copy
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
import requests
from airflow.sdk.definitions.retry_policy import RetryAction, RetryDecision, RetryPolicy
from cryptography.fernet import Fernet

from coding_service import CodingServiceHook
from coding_service.clock import Clock
from include.local_service.http.server import LocalService

DAY = "2026-09-01"
TEXTS = 60
#: The tasks text of all records. Its first word stands nowhere else, so that a search finds texts in wrong places.
TASKS = "MARKED tasks"


class PatientPolicy(RetryPolicy):
    """The retry policy of a task, except that its waits pass at once."""

    def __init__(self, policy: RetryPolicy, pass_time: Callable[[float], None]) -> None:
        self.policy, self.pass_time = policy, pass_time

    def evaluate(self, exception: BaseException, try_number: int, max_tries: int, context: Any = None) -> Any:
        decision = self.policy.evaluate(exception, try_number, max_tries, context)
        if decision.action is RetryAction.FAIL or try_number > max_tries:
            return decision
        delay = decision.retry_delay or timedelta(seconds=30)
        self.pass_time(delay.total_seconds())
        return RetryDecision.retry(timedelta(0), reason=decision.reason)


@dataclass(frozen=True)
class Outcome:
    """What a run did: its state, its operations and uploads, and the texts that the service has received."""

    state: str
    operations: int
    uploads: int
    texts: int


class DagRunner:
    """Runs the DAG with sixty records of one day and an empty warehouse.

    :param service: the local service.
    :param folder: holds the source, the warehouse and the staging area.
    :param verify: the authority of the service, if it uses TLS.
    :param url: the address that the connection has for the service; by default its own.
    :param on_wait: called instead of each wait.
    """

    def __init__(
        self,
        service: LocalService,
        folder: Path,
        *,
        verify: bool | str = True,
        url: str | None = None,
        on_wait: Callable[[], None] = lambda: None,
    ) -> None:
        self.service, self.folder, self.offset_s = service, folder, 0.0
        self.url, self.on_wait = url or service.url, on_wait
        self.session = requests.Session()
        self.session.trust_env, self.session.verify = False, verify
        # The service can close an idle connection just as the next call begins.
        self.session.headers["Connection"] = "close"
        self.warehouse = folder / "warehouse.duckdb"
        self.staging, self.source_files = folder / "staging", folder / "source-files"

    def control(self, knob: str, **body: Any) -> Any:
        response = self.session.post(f"{self.service.url}/_local/{knob}", json=body, timeout=10)
        assert response.ok, response.text
        return response.json()

    def fault(self, name: str, **options: Any) -> None:
        self.control("faults", name=name, **options)

    def clear_faults(self) -> None:
        assert self.session.delete(f"{self.service.url}/_local/faults", timeout=10).ok

    def pass_time(self, seconds: float) -> None:
        self.on_wait()
        self.offset_s += seconds
        self.control("clock", jump_seconds=seconds)
        shutil.rmtree(self.folder / "state", ignore_errors=True)

    def make_connection(self, **extra: Any) -> str:
        extra = {
            "auth_host": self.url, "requests_per_second": 10_000, "poll_interval": 0.05,
            "state_dir": str(self.folder / "state"), **extra,
        }  # fmt: skip
        credentials = {"login": "local-client", "password": "local-secret"}
        return json.dumps({"conn_type": "coding_service", "host": self.url, **credentials, "extra": extra})

    def connect(self, monkeypatch: pytest.MonkeyPatch, **extra: Any) -> None:
        monkeypatch.setenv("AIRFLOW_CONN_CODING_SERVICE_DEFAULT", self.make_connection(**extra))

    def make_source(self) -> str:
        self.source_files.mkdir(exist_ok=True)
        path = self.source_files / "source.parquet"
        duckdb.execute(
            f"COPY (SELECT 'R' || i AS record_id, DATE '{DAY}' AS response_date, 'job number ' || i AS occp_text,"
            f" '{TASKS}' AS tasks_text FROM range({TEXTS}) AS numbers(i)) TO '{path}' (FORMAT parquet)"
        )
        return path.as_uri()

    def run(self, parts: int = 1) -> Outcome:
        import recode_occupations

        conf = {
            "source": self.make_source(),
            "from_date": DAY,
            "max_uncoded_share": 1,
            "records_per_part": TEXTS // parts,
        }
        run = recode_occupations.dag.test(run_conf=conf)
        entries = self.session.get(f"{self.service.url}/_local/journal", timeout=10).json()["entries"]
        uploads = [entry for entry in entries if (entry["method"], entry["status"]) == ("PUT", 200)]
        creations = [
            entry for entry in entries
            if entry["method"] == "POST" and entry["path"].endswith("/batch-code") and entry["status"] == 200
        ]  # fmt: skip
        sent = sum(operation["records"] or 0 for operation in self.list_operations())
        return Outcome(str(run.state), len(creations), len(uploads), sent)

    def list_operations(self) -> list[dict[str, Any]]:
        response = self.session.get(f"{self.service.url}/_local/operations", timeout=10)
        return list(response.json()["operations"])

    def list_pending_faults(self) -> list[dict[str, Any]]:
        """Return the faults that have not had their effect."""
        return list(self.session.get(f"{self.service.url}/_local/faults", timeout=10).json()["faults"])

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(self.warehouse), read_only=True) as connection:
            return connection.execute(sql).fetchall()

    def count_published(self) -> dict[str, int]:
        return dict(self.query("SELECT outcome, count(*) FROM coding.coded_records GROUP BY outcome"))


_sleep = time.sleep


def _sleep_unless_dag_test(seconds: float) -> None:
    caller = sys._getframe(1).f_globals["__name__"]
    _sleep(0.01 if caller == "airflow.sdk.definitions.dag" else seconds)


@contextmanager
def open_runner(
    service: LocalService,
    folder: Path,
    *,
    url: str | None = None,
    on_wait: Callable[[], None] = lambda: None,
    **extra: Any,
) -> Iterator[DagRunner]:
    """Connect the DAG to a service, whose state is removed, and yield its runner.

    :param extra: additional fields of the connection's extra.
    """
    import recode_occupations

    runner = DagRunner(service, folder, verify=extra.get("verify", True), url=url, on_wait=on_wait)
    runner.control("reset")
    runner.control("progression", progression="immediate")
    clock = Clock(lambda: time.time() + runner.offset_s, runner.pass_time)
    with pytest.MonkeyPatch.context() as monkeypatch:
        # `DAG.test` sleeps for a second whenever it finds no task to run, which happens five times in a run.
        monkeypatch.setattr(time, "sleep", _sleep_unless_dag_test)
        monkeypatch.setattr(CodingServiceHook, "clock", clock)
        monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", Fernet.generate_key().decode())
        runner.connect(monkeypatch, **extra)
        warehouse = {"conn_type": "duckdb", "host": str(runner.warehouse)}
        monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE_DEFAULT", json.dumps(warehouse))
        monkeypatch.setenv("CODING_STAGING", runner.staging.as_uri())
        monkeypatch.setenv("CODING_SOURCE_FOLDERS", str(runner.source_files))
        # `DAG.test` changes the params of the DAG and of its tasks.
        monkeypatch.setattr(recode_occupations.dag, "params", copy.deepcopy(recode_occupations.dag.params))
        for task in recode_occupations.dag.tasks:
            monkeypatch.setattr(task, "params", copy.deepcopy(task.params))
            monkeypatch.setattr(task, "retry_policy", PatientPolicy(task.retry_policy, runner.pass_time))
        yield runner
