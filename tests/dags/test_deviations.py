"""Each deviation of docs/service-contract.md 10, through the whole DAG, against the local service.

The DAG runs as in `airflow dags test`. Waits between attempts take no time: the clocks jump, and what processes
remember about refusals for some time is forgotten.
"""

from __future__ import annotations

import copy
import json
import shutil
import time
from collections.abc import Callable, Iterator
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
from include.coding.isolation import MAX_EXTRA_OPERATIONS
from include.local_service.http.server import LocalService

# Airflow warns about its own reader of .airflowignore and about its database.
pytestmark = pytest.mark.filterwarnings("default")

DAY = "2026-09-01"
TEXTS = 60
#: Count of a fault that does not end within a run.
EVERY_REQUEST = 1000


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
    """Runs `recode_occupations` in this process, against the local service and an empty warehouse."""

    def __init__(self, service: LocalService, folder: Path, verify: bool | str) -> None:
        self.service, self.folder, self.offset_s = service, folder, 0.0
        self.session = requests.Session()
        self.session.trust_env, self.session.verify = False, verify
        self.warehouse = folder / "warehouse.duckdb"

    def control(self, knob: str, **body: Any) -> Any:
        response = self.session.post(f"{self.service.url}/_local/{knob}", json=body, timeout=10)
        assert response.ok, response.text
        return response.json()

    def fault(self, name: str, **options: Any) -> None:
        self.control("faults", name=name, **options)

    def pass_time(self, seconds: float) -> None:
        self.offset_s += seconds
        self.control("clock", jump_seconds=seconds)
        shutil.rmtree(self.folder / "state", ignore_errors=True)

    def make_connection(self, **extra: Any) -> str:
        extra = {
            "auth_host": self.service.url, "requests_per_second": 10_000, "poll_interval": 0.05,
            "state_dir": str(self.folder / "state"), **extra,
        }  # fmt: skip
        credentials = {"login": "local-client", "password": "local-secret"}
        return json.dumps({"conn_type": "coding_service", "host": self.service.url, **credentials, "extra": extra})

    def connect(self, monkeypatch: pytest.MonkeyPatch, **extra: Any) -> None:
        monkeypatch.setenv("AIRFLOW_CONN_CODING_SERVICE_DEFAULT", self.make_connection(**extra))

    def make_source(self) -> str:
        path = self.folder / "source-files" / "source.parquet"
        path.parent.mkdir(exist_ok=True)
        duckdb.execute(
            f"COPY (SELECT 'R' || i AS record_id, DATE '{DAY}' AS response_date, 'job number ' || i AS occp_text,"
            f" 'tasks' AS tasks_text FROM range({TEXTS}) AS numbers(i)) TO '{path}' (FORMAT parquet)"
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


@pytest.fixture(scope="module")
def _metadata_database() -> None:
    from airflow.utils.db import initdb

    initdb()


@pytest.fixture(scope="module")
def plain_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalService]:
    with LocalService(tmp_path_factory.mktemp("service"), coder="stub", progression="immediate") as service:
        yield service


@pytest.fixture
def make_runner(
    _metadata_database: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., DagRunner]:
    """Return a function that connects the DAG to a service without any state; extra fields as keywords."""

    def make(service: LocalService, **extra: Any) -> DagRunner:
        import recode_occupations

        runner = DagRunner(service, tmp_path, extra.get("verify", True))
        runner.control("reset")
        runner.control("progression", progression="immediate")
        clock = Clock(lambda: time.time() + runner.offset_s, runner.pass_time)
        monkeypatch.setattr(CodingServiceHook, "clock", clock)
        monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", Fernet.generate_key().decode())
        runner.connect(monkeypatch, **extra)
        warehouse = {"conn_type": "duckdb", "host": str(runner.warehouse)}
        monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE_DEFAULT", json.dumps(warehouse))
        monkeypatch.setenv("CODING_STAGING", (tmp_path / "staging").as_uri())
        monkeypatch.setenv("CODING_SOURCE_FOLDERS", str(tmp_path / "source-files"))
        # `DAG.test` changes the params of the DAG.
        monkeypatch.setattr(recode_occupations.dag, "params", copy.deepcopy(recode_occupations.dag.params))
        for task in recode_occupations.dag.tasks:
            monkeypatch.setattr(task, "retry_policy", PatientPolicy(task.retry_policy, runner.pass_time))
        return runner

    return make


@pytest.fixture
def runner(make_runner: Callable[..., DagRunner], plain_service: LocalService) -> DagRunner:
    return make_runner(plain_service)


def storage_errors(method: str, *codes: str) -> list[dict[str, Any]]:
    return [{"name": "storage_error", "method": method, "code": code} for code in codes]


#: Deviations that a run gets over with one operation for each part, to which the input is sent once.
HARMLESS: dict[str, list[dict[str, Any]]] = {
    "10.1": [{"name": "hidden_operation", "count": 2}, {"name": "hidden_operation", "skip": 2, "count": 2}],
    "10.2": [{"name": "missing_links", "count": 6}, *storage_errors("GET", *["NoSuchKey"] * 6)],
    "10.3": storage_errors("GET", "ExpiredToken"),
    "10.4": [
        *storage_errors("PUT", "RequestTimeout", "OperationAborted", "SlowDown", "InternalError", "BadDigest"),
        *storage_errors("GET", "RequestTimeout", "OperationAborted", "SlowDown", "InternalError"),
    ],
    "10.6": [{"name": name} for name in ("chunked_download", "closed_download", "gzip_download")],
    "10.7": [
        *[{"name": "spelled_status", "style": style} for style in ("upper", "title", "hyphens")],
        {"name": "other_field_names", "count": 4}, {"name": "changed_input"}, {"name": "changed_metadata"},
    ],
    "10.9": [
        {"name": "limit_exceeded", "path_contains": "/batch-code"},
        {"name": "limit_exceeded", "path_contains": "/operations/", "skip": 2},
    ],
    "10.10": [
        {"name": "access_denied", "path_contains": "/batch-code", "count": 2},
        {"name": "access_denied", "path_contains": "/oauth2/token"},
    ],
}  # fmt: skip


@pytest.mark.parametrize("faults", HARMLESS.values(), ids=HARMLESS)
def test_a_deviation_costs_no_second_operation_and_no_second_upload(
    runner: DagRunner, faults: list[dict[str, Any]]
) -> None:
    for fault in faults:
        runner.fault(**fault)
    parts = 2 if "download" in faults[0]["name"] else 1
    assert runner.run(parts) == Outcome("success", operations=parts, uploads=parts, texts=TEXTS)
    assert sum(runner.count_published().values()) == TEXTS
    assert runner.list_pending_faults() == []


def test_an_upload_url_that_dies_before_its_time_costs_one_more_operation_and_no_second_upload(
    runner: DagRunner,
) -> None:
    runner.fault("storage_error", code="ExpiredToken", method="PUT")  # 10.3
    assert runner.run() == Outcome("success", operations=2, uploads=1, texts=TEXTS)


def test_a_text_that_makes_operations_fail_is_rejected_and_the_others_are_coded_within_the_bound(
    runner: DagRunner,
) -> None:
    runner.fault("operation_fails", count=EVERY_REQUEST, part_contains='"job number 7"')  # 10.8
    outcome = runner.run()
    assert outcome.state == "success"
    assert runner.count_published()["rejected"] == 1
    assert sum(runner.count_published().values()) == TEXTS
    assert outcome.operations == outcome.uploads <= 1 + MAX_EXTRA_OPERATIONS
    # Each text is sent in its part twice, and then in ever smaller pieces of the part that failed.
    assert outcome.texts <= 4 * TEXTS
    reasons = "SELECT reason, count(*) FROM coding.coded_records WHERE reason IS NOT NULL GROUP BY reason"
    assert runner.query(reasons) == [("refused_by_service", 1)]
    assert runner.run() == outcome, "another run of the same records sends nothing"


def test_a_text_that_is_never_answered_is_sent_twice_and_published_without_a_code(runner: DagRunner) -> None:
    runner.fault("missing_line", count=EVERY_REQUEST, part_contains='"job number 7"')  # 10.8
    assert runner.run() == Outcome("success", operations=2, uploads=2, texts=TEXTS + 1)
    assert sum(runner.count_published().values()) == TEXTS
    assert runner.query("SELECT count(*) FROM coding.coded_records WHERE reason = 'no_result'") == [(1,)]


@pytest.fixture(scope="module")
def tls_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalService]:
    folder = tmp_path_factory.mktemp("tls-service")
    with LocalService(folder, coder="stub", progression="immediate", tls=True) as service:
        yield service


def test_an_upload_that_storage_refuses_over_tls_costs_one_more_operation_at_most(
    make_runner: Callable[..., DagRunner], tls_service: LocalService
) -> None:
    runner = make_runner(tls_service, verify=str(tls_service.ca_file))
    runner.fault("abrupt_refusal")  # 10.5
    outcome = runner.run()
    assert (outcome.state, outcome.uploads, outcome.texts) == ("success", 1, TEXTS)
    assert outcome.operations <= 2


def test_an_untrusted_certificate_ends_the_run_before_anything_is_sent(
    make_runner: Callable[..., DagRunner], tls_service: LocalService, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = make_runner(tls_service, verify=str(tls_service.ca_file))
    runner.connect(monkeypatch, verify=True)  # 10.11
    assert runner.run() == Outcome("failed", operations=0, uploads=0, texts=0)
    assert runner.offset_s == 0, "no attempt waited"
