"""Backfills, which tasks find and start through Airflow's REST API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from airflow.providers.http.hooks.http import HttpHook
from airflow.sdk.exceptions import AirflowNotFoundException

from coding_service.errors import SettingsError
from coding_service.transfer import NoAuth
from include.pipeline.names import AIRFLOW_API_CONN_ID, RECODE_TAG

#: Maximum number of backfills, runs or DAGs in one response of the API.
PAGE_SIZE = 100
TIMEOUT_S = 60


class BackfillError(Exception):
    """Airflow did not accept the request; a later attempt can succeed."""


class BackfillConflictError(BackfillError):
    """Another backfill is running, and a DAG can have only one at a time."""


@dataclass(frozen=True)
class RecodeDag:
    """A DAG that `recode_dag` made and that can have a backfill, because it has a run for each date.

    :param topic: default of its form
    """

    dag_id: str
    topic: str
    is_paused: bool


@dataclass(frozen=True)
class Backfill:
    """A backfill of a DAG.

    :param is_complete: whether it has no run to start any more; Airflow also marks a cancelled backfill so
    :param is_paused: whether it starts no runs at present; Airflow leaves a cancelled backfill paused
    """

    id: int
    is_complete: bool
    is_paused: bool

    @property
    def is_cancelled(self) -> bool:
        return self.is_complete and self.is_paused


def list_recode_dags() -> list[RecodeDag]:
    """Return the DAGs that `recode_dag` made, except those without a schedule for each date."""
    dags: list[dict[str, Any]] = []
    total = 1
    while len(dags) < total:
        path = f"dags?tags={RECODE_TAG}&order_by=dag_id&limit={PAGE_SIZE}&offset={len(dags)}"
        page = _call("GET", path)
        dags, total = [*dags, *page["dags"]], page["total_entries"] if page["dags"] else 0
    return [
        RecodeDag(dag["dag_id"], _read_topic(dag["dag_id"]), bool(dag["is_paused"]))
        for dag in dags
        if dag["is_backfillable"] and dag["timetable_partitioned"]
    ]


def _read_topic(dag_id: str) -> str:
    return str(_call("GET", f"dags/{dag_id}/details")["params"]["topic"]["value"])


def find_backfill(dag_id: str, conf: dict[str, Any]) -> Backfill | None:
    """Return the newest backfill of a DAG with this conf; None if there is none."""
    page = _call("GET", f"backfills?dag_id={dag_id}&order_by=-id&limit={PAGE_SIZE}")
    backfills = (item for item in page["backfills"] if item["dag_run_conf"] == conf)
    newest = next(backfills, None)
    return newest and Backfill(newest["id"], newest["completed_at"] is not None, bool(newest["is_paused"]))


def count_failed_runs(dag_id: str, conf: dict[str, Any]) -> int:
    """Return how many runs of backfills with this conf have failed: those of the last `PAGE_SIZE` failed ones."""
    path = f"dags/{dag_id}/dagRuns?run_type=backfill&state=failed&order_by=-id&limit={PAGE_SIZE}"
    runs = _call("GET", path)["dag_runs"]
    return sum(conf.items() <= (run["conf"] or {}).items() for run in runs)


def start_backfill(dag_id: str, conf: dict[str, Any], from_date: str, to_date: str, max_active_runs: int) -> int:
    """Start a backfill of a DAG with this conf, newest date first, and return its id.

    :param from_date, to_date: response dates, ISO 8601, both inclusive; dates that are coded already are coded again
    :raises BackfillConflictError: another backfill is running
    """
    body = {
        "dag_id": dag_id,
        # Airflow takes a time in UTC for the same time in the timezone of the DAG. The last day belongs to the
        # backfill only if it ends after the time of the schedule.
        "from_date": f"{from_date}T00:00:00Z",
        "to_date": f"{to_date}T23:59:00Z",
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
    if response.status_code == 409:
        raise BackfillConflictError(f"{summary} {response.text[:500]}")
    if not response.ok:
        raise BackfillError(f"{summary} {response.text[:500]}")
    return response.json()
