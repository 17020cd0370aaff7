"""What a run says when its connections are wrong: the tasks' own functions, real HTTP, real files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest

from coding_service.errors import AuthorizationError, ServiceUnavailableError, SettingsError
from include.local_service.http.server import LocalService
from include.stack.processes import free_port
from include.warehouse.errors import WarehouseSettingsError


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalService]:
    with LocalService(tmp_path_factory.mktemp("service"), coder="stub") as running:
        yield running


@pytest.fixture
def plan(service: LocalService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """The task `plan`, called with changes to a connection that works."""
    import recode_occupations

    task = recode_occupations.dag.get_task("plan")

    def call(extra: Mapping[str, Any] = MappingProxyType({}), **changes: Any) -> dict[str, Any]:
        connection = {
            "conn_type": "coding_service", "host": service.url, "login": "local-client", "password": "local-secret",
            "extra": {"auth_host": service.url, "requests_per_second": 50, "state_dir": str(tmp_path), **extra},
            **changes,
        }  # fmt: skip
        monkeypatch.setenv("AIRFLOW_CONN_CODING_SERVICE_DEFAULT", json.dumps(connection))
        monkeypatch.setenv("CODING_STAGING", tmp_path.as_uri())
        params = {name: recode_occupations.dag.params[name] for name in recode_occupations.dag.params}
        dag_run = SimpleNamespace(
            partition_key=None, run_after=datetime(2026, 11, 23, 14, tzinfo=UTC), run_type="manual", conf={}
        )
        planned: dict[str, Any] = task.python_callable(params=params, dag_run=dag_run, run_id="manual__1")
        return planned

    return call


def test_a_working_connection_gives_a_plan_for_the_day_before_in_sydney(plan: Callable[..., dict[str, Any]]) -> None:
    planned = plan()
    assert (planned["from_date"], planned["to_date"]) == ("2026-11-23", "2026-11-23")  # it is the 24th in Sydney
    assert planned["topic"] == "osca"


def test_wrong_credentials_are_named_as_such(plan: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(AuthorizationError, match=r"refused with HTTP 40[01].*check login \(client id\) and password"):
        plan(password="wrong")


def test_a_service_that_is_down_is_named_with_its_address(plan: Callable[..., dict[str, Any]]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ServiceUnavailableError, match=f"{url}/oauth2/token did not get through.*is the service up"):
        plan(host=url, extra={"auth_host": url})


def test_a_missing_service_connection_is_named_with_what_to_do(
    plan: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import recode_occupations

    monkeypatch.delenv("AIRFLOW_CONN_CODING_SERVICE_DEFAULT", raising=False)
    params = {name: recode_occupations.dag.params[name] for name in recode_occupations.dag.params}
    dag_run = SimpleNamespace(
        partition_key="2026-10-01", run_after=datetime(2026, 11, 23, tzinfo=UTC), run_type="scheduled", conf=None
    )
    with pytest.raises(SettingsError, match=r"no Airflow connection 'coding_service_default'.*Admin > Connections"):
        recode_occupations.dag.get_task("plan").python_callable(params=params, dag_run=dag_run, run_id="manual__1")


def test_a_connection_over_plain_http_to_another_machine_is_refused(plan: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(SettingsError, match=r"'http://coder.example.org'.*use https"):
        plan(host="http://coder.example.org")


def test_a_missing_warehouse_connection_is_named_with_what_to_do(
    plan: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import recode_occupations

    planned = plan()
    monkeypatch.delenv("AIRFLOW_CONN_WAREHOUSE_DEFAULT", raising=False)
    with pytest.raises(WarehouseSettingsError, match=r"no Airflow connection 'warehouse_default'.*type duckdb"):
        recode_occupations.dag.get_task("prepare").python_callable(planned, ti=None)


@pytest.mark.parametrize(
    "staging", ["gs://bucket/staging", "/data/staging", "file://data/staging", "file:///data/#1"]
)
def test_a_staging_place_that_is_neither_here_nor_in_s3_is_refused(
    plan: Callable[..., dict[str, Any]], staging: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from coding_service.errors import InputFileError

    monkeypatch.setenv("AIRFLOW_VAR_CODING_STAGING", staging)
    with pytest.raises(InputFileError, match=f"'{staging}' is no file:///... and no s3://.*: set CODING_STAGING"):
        plan()
