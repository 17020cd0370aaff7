"""Backfills through Airflow's own API, against a stand-in for it."""

from __future__ import annotations

import logging

import pytest

from coding_service.errors import SettingsError
from include.pipeline.backfills import Backfill, find_backfill, start_backfill
from tests.pipeline.conftest import PASSWORD, TOKEN, FakeAirflowApi

DAG_ID = "recode_occupations"
CONF = {"model": "11111111-1111-4111-8111-111111111111", "topic": "osca"}


def start() -> int:
    return start_backfill(DAG_ID, CONF, "2026-01-01", "2026-10-05", max_active_runs=2)


def test_a_backfill_is_found_by_its_conf(airflow_api: FakeAirflowApi) -> None:
    assert find_backfill(DAG_ID, CONF) is None
    assert start() == 7
    assert find_backfill(DAG_ID, CONF) == Backfill(7, is_complete=False, is_paused=False)
    airflow_api.end_backfill(is_cancelled=True)
    backfill = find_backfill(DAG_ID, CONF)
    assert backfill is not None
    assert backfill.is_cancelled
    assert find_backfill(DAG_ID, {**CONF, "topic": "anzsco"}) is None
    assert find_backfill("recode_labour_force", CONF) is None


def test_a_missing_connection_is_named_with_what_to_do(
    airflow_api: FakeAirflowApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_AIRFLOW_API")
    with pytest.raises(SettingsError, match="no Airflow connection 'airflow_api': create one of type http"):
        start()


def test_no_log_and_no_error_contains_the_password_or_the_token(
    airflow_api: FakeAirflowApi,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "urllib3.connectionpool")
    caplog.set_level(logging.DEBUG, "airflow.task")
    find_backfill(DAG_ID, CONF)
    start()
    monkeypatch.setenv("AIRFLOW_CONN_AIRFLOW_API", airflow_api.connection("another-password"))
    with pytest.raises(SettingsError, match="POST auth/token of connection 'airflow_api': HTTP 401") as raised:
        start()
    logs = caplog.text + "".join(capfd.readouterr())  # Airflow's own loggers write to stdout
    assert "POST /api/v2/backfills" in caplog.text
    for secret in (PASSWORD, TOKEN, "another-password"):
        assert secret not in logs
        assert secret not in str(raised.value)
