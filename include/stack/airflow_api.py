"""The few calls of Airflow's REST API that starting, triggering and watching need."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

DAG_ID = "recode_occupations"
ENDED = ("success", "failed")


class AirflowApi:
    """A client of one Airflow API server.

    :param url: its base URL
    :param user, password: of a user who may trigger runs
    """

    def __init__(self, url: str, user: str, password: str) -> None:
        self.url, self._user, self._password = url, user, password
        self._session = requests.Session()
        self._session.trust_env = False
        # the metadata database is SQLite here, which is locked for a moment now and then: the API answers 500
        again = Retry(
            total=5, backoff_factor=0.5, status_forcelist=[500, 503], allowed_methods=None, raise_on_status=False
        )
        self._session.mount("http://", HTTPAdapter(max_retries=again))

    @classmethod
    def from_environment(cls) -> AirflowApi:
        """The server that `AIRFLOW_URL`, `AIRFLOW_USER` and `AIRFLOW_PASSWORD` (or `AIRFLOW_PASSWORD_FILE`) name.

        :raises KeyError: one of them is missing
        """
        password = os.environ.get("AIRFLOW_PASSWORD") or Path(os.environ["AIRFLOW_PASSWORD_FILE"]).read_text().strip()
        return cls(os.environ["AIRFLOW_URL"].rstrip("/"), os.environ["AIRFLOW_USER"], password)

    def healthy(self) -> set[str]:
        """Names of the components that report themselves healthy; empty while the server does not answer."""
        try:
            answer = self._session.get(f"{self.url}/api/v2/monitor/health", timeout=5)
            parts = answer.json() if answer.ok else {}
        except (requests.RequestException, ValueError):
            return set()
        return {name for name, state in parts.items() if isinstance(state, dict) and state.get("status") == "healthy"}

    def request(self, method: str, path: str, *, known: tuple[int, ...] = (), **kwargs: Any) -> Any:
        """Call the API and return its JSON, None for an empty answer or a status in `known`.

        :raises requests.HTTPError: the answer is an error, with its text
        """
        if "Authorization" not in self._session.headers:
            credentials = {"username": self._user, "password": self._password}
            token = self._session.post(f"{self.url}/auth/token", json=credentials, timeout=30)
            token.raise_for_status()
            self._session.headers["Authorization"] = f"Bearer {token.json()['access_token']}"
        answer = self._session.request(method, f"{self.url}/api/v2{path}", timeout=60, **kwargs)
        if answer.status_code in known:
            return None
        if not answer.ok:
            raise requests.HTTPError(f"{method} {path}: HTTP {answer.status_code} {answer.text}", response=answer)
        return answer.json() if answer.content else None

    def create_pool(self, name: str, slots: int) -> None:
        """Create a pool that counts deferred tasks, unless it is there."""
        pool = {"name": name, "slots": slots, "include_deferred": True, "description": "Operations at once"}
        self.request("POST", "/pools", json=pool, known=(409,))

    def has_dag(self) -> bool:
        """Whether the DAG has been parsed."""
        return self.request("GET", f"/dags/{DAG_ID}", known=(404,)) is not None

    def import_errors(self) -> list[str]:
        """Traces of DAG files that do not import."""
        return [str(error["stack_trace"]) for error in self.request("GET", "/importErrors")["import_errors"]]

    def unpause(self) -> None:
        """Let the DAG run."""
        self.request("PATCH", f"/dags/{DAG_ID}", json={"is_paused": False})

    def trigger(self, conf: dict[str, Any]) -> str:
        """Start a run with these params and return its id, which is made here so that a repeated call is harmless."""
        run_id = f"manual__{datetime.now(UTC):%Y-%m-%dT%H-%M-%S}__{secrets.token_hex(4)}"
        body = {"dag_run_id": run_id, "logical_date": None, "conf": conf}
        self.request("POST", f"/dags/{DAG_ID}/dagRuns", json=body, known=(409,))
        return run_id

    def run(self, run_id: str) -> dict[str, Any]:
        """State of a run."""
        return dict(self.request("GET", f"/dags/{DAG_ID}/dagRuns/{run_id}"))

    def tasks(self, run_id: str) -> dict[str, str]:
        """State of each task instance of a run, by `task_id` or `task_id[map_index]`."""
        return {
            item["task_id"] + (f"[{item['map_index']}]" if item["map_index"] >= 0 else ""): item["state"] or "-"
            for item in self.task_instances(run_id)
        }

    def task_instances(self, run_id: str) -> list[dict[str, Any]]:
        """All task instances of a run; the API gives a hundred at a time."""
        found: list[dict[str, Any]] = []
        path = f"/dags/{DAG_ID}/dagRuns/{run_id}/taskInstances"
        while True:
            page = self.request("GET", path, params={"limit": 100, "offset": len(found), "order_by": "id"})
            found += page["task_instances"]
            if len(found) >= page["total_entries"] or not page["task_instances"]:
                return found

    def xcom(self, run_id: str, task_id: str) -> Any:
        """What an unmapped task of a run returned."""
        path = f"/dags/{DAG_ID}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/return_value"
        return self.request("GET", path, params={"deserialize": True})["value"]

    def watch(self, run_id: str, seconds: float, period: float = 1.0) -> Iterator[tuple[datetime, str, str]]:
        """Yield (time, task or `run`, state) at each change of state until the run ends.

        :raises TimeoutError: the run has not ended after `seconds`
        """
        seen: dict[str, str] = {}
        deadline = time.monotonic() + seconds
        while True:
            state = self.run(run_id)["state"]
            for name, value in {**self.tasks(run_id), "run": state}.items():
                if seen.get(name, "-") != value:
                    seen[name] = value
                    yield datetime.now(UTC), name, value
            if state in ENDED:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"run {run_id!r} is {state!r} after {seconds:.0f} s; tasks: {seen}")
            time.sleep(period)

    def wait(self, run_id: str, seconds: float = 600) -> str:
        """Wait for a run to end and return its state."""
        *_, (_, _, state) = self.watch(run_id, seconds)
        return state
