"""Backfills, which tasks find and start through Airflow's REST API."""

from __future__ import annotations

from typing import Any

from airflow.providers.http.hooks.http import HttpHook
from airflow.sdk.exceptions import AirflowNotFoundException

from coding_service.errors import SettingsError
from coding_service.transfer import NoAuth
from include.pipeline.names import AIRFLOW_API_CONN_ID, RECODE_DAG_ID

#: Maximum number of backfills in one response of the API.
PAGE_SIZE = 100
TIMEOUT_S = 60


class BackfillError(Exception):
    """Airflow did not accept the request; a later attempt can succeed."""


def find_backfill(conf: dict[str, Any]) -> int | None:
    """Return the id of the newest backfill of `recode_occupations` with this conf; None if there is none."""
    page = _call("GET", f"backfills?dag_id={RECODE_DAG_ID}&order_by=-id&limit={PAGE_SIZE}")
    return next((backfill["id"] for backfill in page["backfills"] if backfill["dag_run_conf"] == conf), None)


def start_backfill(conf: dict[str, Any], from_date: str, to_date: str, max_active_runs: int) -> int:
    """Start a backfill of `recode_occupations` with this conf, newest date first, and return its id.

    :param from_date, to_date: response dates, ISO 8601, both inclusive; dates that are coded already are coded again
    :raises BackfillError: another backfill is running, and a DAG can have only one at a time
    """
    body = {
        "dag_id": RECODE_DAG_ID,
        # Airflow takes midnight UTC for midnight in the timezone of the DAG
        "from_date": f"{from_date}T00:00:00Z",
        "to_date": f"{to_date}T00:00:00Z",
        "run_backwards": True,
        "reprocess_behavior": "completed",
        "max_active_runs": max_active_runs,
        "dag_run_conf": conf,
    }
    return int(_call("POST", "backfills", body)["id"])


def _call(method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    try:
        connection = HttpHook.get_connection(AIRFLOW_API_CONN_ID)
    except AirflowNotFoundException:
        raise SettingsError(
            f"there is no Airflow connection {AIRFLOW_API_CONN_ID!r}: create one of type http with the base URL of"
            " this Airflow as host, and login and password of a user who is allowed to start backfills"
        ) from None
    credentials = {"username": connection.login, "password": connection.password}
    token = _send("POST", "auth/token", credentials)["access_token"]
    return _send(method, f"api/v2/{path}", body, {"Authorization": f"Bearer {token}"})


def _send(method: str, path: str, body: Any, headers: dict[str, str] | None = None) -> Any:
    # NoAuth, because HttpHook would send the login of the connection instead of the token.
    hook = HttpHook(method, AIRFLOW_API_CONN_ID, auth_type=lambda login, password: NoAuth())
    response = hook.run(
        path, json=body, headers=headers, extra_options={"check_response": False, "timeout": TIMEOUT_S}
    )
    summary = f"{method} {path.partition('?')[0]} of connection {AIRFLOW_API_CONN_ID!r}: HTTP {response.status_code}"
    if response.status_code in (401, 403):
        raise SettingsError(f"{summary}; check login and password, and that the user is allowed to start backfills")
    if not response.ok:
        raise BackfillError(f"{summary} {response.text[:500]}")
    return response.json()
