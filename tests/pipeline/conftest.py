"""Stand-ins for what the tasks talk to: the coding service, Airflow's API, and the XComs of other tasks."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qs

import pytest
from airflow.models import import_all_models
from airflow.models.base import Base
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from include.coding.plan import Plan
from include.local_service.http.server import LocalService
from include.stack.processes import coding_connection

PASSWORD, TOKEN = "the-password-of-the-user", "the-token-of-the-user"


class TaskInstance:
    """A task instance that has only the XComs of other tasks, as JSON values.

    It belongs to the run `run-1`.

    :param values: by task id, or by task id and key. Those of a mapped task have an index: `code.poll[2]`.
    """

    def __init__(
        self,
        values: Mapping[Any, Any] = MappingProxyType({}),
        run_id: str = "run-1",
        dag_id: str = "recode_occupations",
    ) -> None:
        self.run_id, self.dag_id = run_id, dag_id
        self._values = {
            name if isinstance(name, tuple) else (name, "return_value"): value for name, value in values.items()
        }
        self.pushed: dict[str, Any] = {}

    def xcom_pull(self, task_ids: str, key: str = "return_value", map_indexes: int | None = None) -> Any:
        name = task_ids if map_indexes is None else f"{task_ids}[{map_indexes}]"
        return json.loads(json.dumps(self._values.get((name, key))))

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = json.loads(json.dumps(value))


class Store(dict[str, Any]):
    """A state store of a task or an asset, which keeps JSON."""

    def set(self, key: str, value: Any, retention: timedelta | None = None) -> None:
        self[key] = json.loads(json.dumps(value))


class FakeAirflowApi(ThreadingHTTPServer):
    """The part of Airflow's API that deals with DAGs of `recode_dag` and their backfills."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _RequestHandler)
        self.backfills: list[dict[str, Any]] = []
        self.failed_runs: list[dict[str, Any]] = []
        #: Topics of the DAGs that have a schedule, by DAG id, and the ids of those without one and of paused ones.
        self.topics = {"recode_occupations": "osca"}
        self.unscheduled: dict[str, str] = {}
        self.paused: set[str] = set()
        #: DAGs of which another backfill is running, and those of which Airflow can start none at present.
        self.conflicts: set[str] = set()
        self.broken: set[str] = set()

    def end_backfill(self, failed_runs: int = 0, is_cancelled: bool = False) -> None:
        """End the newest backfill; some of its runs have failed."""
        backfill = self.backfills[0]
        backfill |= {"completed_at": "2026-11-26T00:00:00Z", "is_paused": is_cancelled}
        conf = {**backfill["dag_run_conf"], "_airflow": {}}
        self.failed_runs += [{"dag_id": backfill["dag_id"], "conf": conf} for _ in range(failed_runs)]

    def connection(self, password: str = PASSWORD) -> str:
        host, port = self.server_address[:2]
        return json.dumps({"conn_type": "http", "host": host, "port": port, "login": "u", "password": password})


class _RequestHandler(BaseHTTPRequestHandler):
    server: FakeAirflowApi

    def do_GET(self) -> None:
        path, _, query = self.path.removeprefix("/api/v2/").partition("?")
        params = parse_qs(query)
        topics = {**self.server.topics, **self.server.unscheduled}
        dags = [
            {
                "dag_id": dag_id, "is_paused": dag_id in self.server.paused,
                "is_backfillable": dag_id in self.server.topics, "timetable_partitioned": dag_id in self.server.topics,
            }
            for dag_id in topics
            if params.get("tags") == ["recode_dag"]
        ]  # fmt: skip
        page = slice(int(params.get("offset", ["0"])[0]), int(params.get("offset", ["0"])[0]) + 2)
        responses: dict[str, Any] = {
            "backfills": {
                "backfills": [item for item in self.server.backfills if [item["dag_id"]] == params.get("dag_id")]
            },
            "dags": {"dags": dags[page], "total_entries": len(dags)},
        }
        for dag_id, topic in topics.items():
            runs = [run for run in self.server.failed_runs if run["dag_id"] == dag_id]
            responses[f"dags/{dag_id}/details"] = {"params": {"topic": {"value": topic}}}
            responses[f"dags/{dag_id}/dagRuns"] = {"dag_runs": runs if params.get("state") == ["failed"] else []}
        self._respond(*self._authorize(lambda: (200, responses[path])))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/auth/token":
            return self._respond(*((201, {"access_token": TOKEN}) if body["password"] == PASSWORD else (401, {})))
        return self._respond(*self._authorize(lambda: self._create(body)))

    def _create(self, body: dict[str, Any]) -> tuple[int, Any]:
        if body["dag_id"] in self.server.broken:
            return 500, {}
        if body["dag_id"] in self.server.conflicts:
            return 409, {"detail": "There is already a running backfill"}
        state = {"id": 7 + len(self.server.backfills), "completed_at": None, "is_paused": False}
        self.server.backfills.insert(0, {**state, **body})
        return 200, self.server.backfills[0]

    def _authorize(self, respond: Callable[[], tuple[int, Any]]) -> tuple[int, Any]:
        is_allowed = self.headers["Authorization"] == f"Bearer {TOKEN}"
        return respond() if is_allowed else (403, {})

    def _respond(self, status: int, body: Any) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalService]:
    """The local coding service, with the connection to it."""
    with LocalService(tmp_path / "service", coder="stub") as service:
        monkeypatch.setenv("AIRFLOW_CONN_CODING_SERVICE_DEFAULT", json.dumps(coding_connection(service.url)))
        yield service


@pytest.fixture
def airflow_api(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAirflowApi]:
    """Airflow's API, with the connection to it."""
    with FakeAirflowApi() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("AIRFLOW_CONN_AIRFLOW_API", server.connection())
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def session() -> Iterator[Session]:
    """A session of an Airflow database in memory."""
    import_all_models()
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        yield session
    engine.dispose()


@pytest.fixture
def make_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Plan]:
    """Make the plan of a run whose files are below `tmp_path`."""
    monkeypatch.setenv("CODING_STAGING", tmp_path.as_uri())

    def make(**changes: Any) -> Plan:
        fields = {
            "run_id": "run-1", "topic": "osca", "model_id": "11111111-1111-4111-8111-111111111111",
            "model_version": 2.0, "from_date": "2026-10-05", "to_date": "2026-10-06", "source": "survey_responses",
        }  # fmt: skip
        return Plan.from_dict({**fields, **changes})

    return make
