"""The watch for new models, against a local coding service and a stand-in for Airflow's own API."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pendulum
import pytest
import requests
from airflow.sdk.exceptions import AirflowSkipException

from coding_backfills import BackfillError
from coding_service.errors import SettingsError
from include.local_service.http.server import LocalService
from include.stack.processes import coding_connection

PASSWORD, TOKEN = "the-password-of-the-user", "the-token-of-the-user"


class StandIn(ThreadingHTTPServer):
    """Airflow's API as far as backfills go."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.backfills: list[dict[str, Any]] = []
        self.runs_another = False

    def connection(self) -> str:
        host, port = self.server_address[:2]
        return json.dumps({"conn_type": "http", "host": host, "port": port, "login": "u", "password": PASSWORD})


class _Answers(BaseHTTPRequestHandler):
    server: StandIn

    def do_GET(self) -> None:
        self._answer(*self._judged(lambda: (200, {"backfills": self.server.backfills})))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/auth/token":
            return self._answer(*((201, {"access_token": TOKEN}) if body["password"] == PASSWORD else (401, {})))
        return self._answer(*self._judged(lambda: self._create(body)))

    def _create(self, body: dict[str, Any]) -> tuple[int, Any]:
        if self.server.runs_another:
            return 409, {"detail": "There is already a running backfill"}
        self.server.backfills.insert(0, {"id": 7, **body})
        return 200, self.server.backfills[0]

    def _judged(self, answer: Any) -> tuple[int, Any]:
        allowed = self.headers["Authorization"] == f"Bearer {TOKEN}" and self.path.startswith("/api/v2/backfills")
        return answer() if allowed else (403, {})

    def _answer(self, status: int, body: Any) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Watch:
    """The tasks of the DAG, and the state store of the asset that they share."""

    def __init__(self) -> None:
        import watch_models

        self._dag, self.store = watch_models, Store()

    def look(self, run_id: str) -> dict[str, Any] | None:
        """What is emitted, if the task is not skipped."""
        emitted = {self._dag.CODING_MODELS: type("Event", (), {"extra": None})()}
        stores = {self._dag.CODING_MODELS: self.store}
        try:
            self._dag.look.function("osca", run_id=run_id, asset_state_store=stores, outlet_events=emitted)
        except AirflowSkipException:
            return None
        return dict(emitted[self._dag.CODING_MODELS].extra)

    def recode_history(self) -> int | None:
        """What the task returns, if it is not skipped."""
        try:
            stores = {self._dag.CODING_MODELS: self.store}
            return int(self._dag.recode_history.function("osca", asset_state_store=stores))
        except AirflowSkipException:
            return None


class Store(dict):  # type: ignore[type-arg]
    """A state store of an asset; it keeps JSON."""

    def set(self, key: str, value: Any) -> None:
        self[key] = json.loads(json.dumps(value))


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalService]:
    with LocalService(tmp_path / "service", coder="stub") as running:
        monkeypatch.setenv("AIRFLOW_CONN_CODING_SERVICE_DEFAULT", json.dumps(coding_connection(running.url)))
        yield running


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with StandIn() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("AIRFLOW_CONN_AIRFLOW_API", server.connection())
        monkeypatch.setenv("CODING_RECODE_HISTORY_FROM", "2026-01-01")
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def watch(service: LocalService) -> Watch:
    """A watch that has looked once."""
    watch = Watch()
    assert watch.look("first") is None
    return watch


def release(service: LocalService) -> None:
    """Let the next look find a new model."""
    requests.post(f"{service.url}/_local/faults", json={"name": "new_latest_model"}, timeout=10).raise_for_status()


def test_a_new_model_is_told_with_the_one_before_it_and_only_by_the_run_that_noticed_it(
    watch: Watch, service: LocalService
) -> None:
    assert watch.look("same") is None
    release(service)
    change = watch.look("second")
    models = service.service.catalogue.models(service.service.catalogue.topic("osca"))
    _, second, third = (model.model_id for model in models)
    assert change == {
        "topic": "osca", "model_before": second, "model_after": third, "version_before": 2, "version_after": 3,
        "noticed_by": "second",
    }  # fmt: skip
    assert watch.look("second") == change, "a retry after the event was lost"
    assert watch.look("third") is None


def test_a_look_is_one_call(watch: Watch, service: LocalService) -> None:
    before = len(service.service.store.entries(0))
    watch.look("again")
    (entry,) = service.service.store.entries(0)[before:]
    assert (entry.method, entry.path) == ("GET", "/v1/topics/osca/models/latest")


def test_the_backfill_of_a_new_model_goes_from_newest_to_oldest_and_codes_again_what_was_coded(
    watch: Watch, service: LocalService, airflow: StandIn
) -> None:
    release(service)
    change = watch.look("second")
    assert change is not None
    assert watch.recode_history() == 7
    (started,) = airflow.backfills
    yesterday = pendulum.yesterday("Australia/Sydney").to_date_string()
    assert started == {
        "id": 7, "dag_id": "recode_occupations", "from_date": "2026-01-01T00:00:00Z",
        "to_date": f"{yesterday}T00:00:00Z", "run_backwards": True, "reprocess_behavior": "completed", "max_active_runs": 2,
        "dag_run_conf": {"model": change["model_after"], "topic": "osca"},
    }  # fmt: skip


def test_a_model_gets_one_backfill_even_if_the_try_that_started_it_died(
    watch: Watch, service: LocalService, airflow: StandIn
) -> None:
    release(service)
    change = watch.look("second")
    assert watch.recode_history() == 7
    assert watch.recode_history() is None, "it is written down"
    watch.store.set("osca", change)
    assert watch.recode_history() == 7, "it is found"
    assert len(airflow.backfills) == 1


def test_a_backfill_that_is_owed_is_tried_again_after_another_has_ended(
    watch: Watch, service: LocalService, airflow: StandIn
) -> None:
    release(service)
    watch.look("second")
    airflow.runs_another = True
    with pytest.raises(BackfillError, match="HTTP 409 .*already a running backfill"):
        watch.recode_history()
    airflow.runs_another = False
    assert watch.look("third") is None
    assert watch.recode_history() == 7


def test_the_first_model_that_is_seen_gets_no_backfill(watch: Watch, airflow: StandIn) -> None:
    assert watch.recode_history() is None
    assert airflow.backfills == []


def test_no_backfill_is_started_unless_it_is_switched_on(
    watch: Watch, service: LocalService, airflow: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CODING_RECODE_HISTORY_FROM")
    release(service)
    watch.look("second")
    assert watch.recode_history() is None
    assert airflow.backfills == []


def test_a_missing_connection_is_named(
    watch: Watch, service: LocalService, airflow: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_AIRFLOW_API")
    release(service)
    watch.look("second")
    with pytest.raises(SettingsError, match="there is no Airflow connection 'airflow_api'"):
        watch.recode_history()


def test_neither_password_nor_token_stands_in_a_log_or_an_error(
    watch: Watch,
    service: LocalService,
    airflow: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    release(service)
    watch.look("second")
    watch.recode_history()
    wrong = json.loads(airflow.connection()) | {"password": "another-password"}
    monkeypatch.setenv("AIRFLOW_CONN_AIRFLOW_API", json.dumps(wrong))
    watch.store["osca"].pop("backfill")
    with pytest.raises(SettingsError, match="POST auth/token of connection 'airflow_api': HTTP 401") as refused:
        watch.recode_history()
    for secret in (PASSWORD, TOKEN, "another-password"):
        assert secret not in caplog.text
        assert secret not in str(refused.value)
