"""Backfills of this Airflow, through its own REST API."""

from __future__ import annotations

from typing import Any

from airflow.providers.http.hooks.http import HttpHook
from airflow.sdk.exceptions import AirflowNotFoundException

from coding_service.errors import SettingsError
from coding_service.transfer import NoAuth

CONN_ID = "airflow_api"
DAG_ID = "recode_occupations"
#: Most that the API gives at a time.
PAGE = 100


class BackfillError(Exception):
    """Airflow does not start the backfill now; it may later."""


def find_backfill(conf: dict[str, Any]) -> int | None:
    """Id of the newest backfill of `recode_occupations` with these params, whatever became of it."""
    listed = _call("GET", f"backfills?dag_id={DAG_ID}&order_by=-id&limit={PAGE}")
    return next((known["id"] for known in listed["backfills"] if known["dag_run_conf"] == conf), None)


def start_backfill(conf: dict[str, Any], from_date: str, to_date: str, max_active_runs: int) -> int:
    """Start a backfill of `recode_occupations` with these params, newest day first, and return its id.

    :param from_date, to_date: response dates, ISO 8601, both inclusive; days that were coded are coded again
    :raises BackfillError: another one is running: a DAG has one at a time
    """
    body = {
        "dag_id": DAG_ID,
        # midnight of UTC stands for that of the DAG's own timezone
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
        connection = HttpHook.get_connection(CONN_ID)
    except AirflowNotFoundException:
        raise SettingsError(
            f"there is no Airflow connection {CONN_ID!r}: make one of type http with the base URL of this Airflow as"
            " host, and login and password of a user who may start backfills"
        ) from None
    credentials = {"username": connection.login, "password": connection.password}
    token = _send("POST", "auth/token", credentials)["access_token"]
    return _send(method, f"api/v2/{path}", body, {"Authorization": f"Bearer {token}"})


def _send(method: str, path: str, body: Any, headers: dict[str, str] | None = None) -> Any:
    # the login is for the token only: HttpHook would send it with every request, in place of the token
    hook = HttpHook(method, CONN_ID, auth_type=lambda login, password: NoAuth())
    answer = hook.run(path, json=body, headers=headers, extra_options={"check_response": False, "timeout": 60})
    what = f"{method} {path.partition('?')[0]} of connection {CONN_ID!r}: HTTP {answer.status_code}"
    if answer.status_code in (401, 403):
        raise SettingsError(f"{what}; check login and password, and that the user may start backfills")
    if not answer.ok:
        raise BackfillError(f"{what} {answer.text[:500]}")
    return answer.json()
