"""A small client of Airflow's REST API: check that Airflow is ready, trigger runs and watch them."""

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

from include.pipeline.names import RECODE_DAG_ID

FINAL_STATES = ("success", "failed")


class AirflowApi:
    """A client of one Airflow API server.

    :param url: its base URL
    :param user, password: login of a user who is allowed to trigger runs
    """

    def __init__(self, url: str, user: str, password: str) -> None:
        self.url, self._user, self._password = url, user, password
        self._session = requests.Session()
        self._session.trust_env = False
        # the stack's metadata database is SQLite, and the API answers 500 while it is locked
        retry = Retry(5, backoff_factor=0.5, status_forcelist=[500, 503], allowed_methods=None, raise_on_status=False)
        self._session.mount("http://", HTTPAdapter(max_retries=retry))

    @classmethod
    def from_environment(cls) -> AirflowApi:
        """Return a client configured by AIRFLOW_URL, AIRFLOW_USER and AIRFLOW_PASSWORD (or AIRFLOW_PASSWORD_FILE).

        :raises KeyError: one of them is not set
        """
        password = os.environ.get("AIRFLOW_PASSWORD") or Path(os.environ["AIRFLOW_PASSWORD_FILE"]).read_text().strip()
        return cls(os.environ["AIRFLOW_URL"].rstrip("/"), os.environ["AIRFLOW_USER"], password)

    def healthy_components(self) -> set[str]:
        """Return the names of the components that report to be healthy; empty while the server does not answer."""
        try:
            response = self._session.get(f"{self.url}/api/v2/monitor/health", timeout=5)
            health = response.json() if response.ok else {}
        except (requests.RequestException, ValueError):
            return set()
        return {name for name, part in health.items() if isinstance(part, dict) and part.get("status") == "healthy"}

    def request(self, method: str, path: str, *, ignore: tuple[int, ...] = (), **kwargs: Any) -> Any:
        """Call the API and return its JSON, or None for an empty response or an HTTP status in `ignore`.

        :raises requests.HTTPError: any other error response, with its text
        """
        if "Authorization" not in self._session.headers:
            credentials = {"username": self._user, "password": self._password}
            token = self._session.post(f"{self.url}/auth/token", json=credentials, timeout=30)
            token.raise_for_status()
            self._session.headers["Authorization"] = f"Bearer {token.json()['access_token']}"
        response = self._session.request(method, f"{self.url}/api/v2{path}", timeout=60, **kwargs)
        if response.status_code in ignore:
            return None
        if not response.ok:
            message = f"{method} {path}: HTTP {response.status_code} {response.text}"
            raise requests.HTTPError(message, response=response)
        return response.json() if response.content else None

    def create_pool(self, name: str, slots: int) -> None:
        """Create a pool that counts deferred tasks, unless it exists."""
        pool = {"name": name, "slots": slots, "include_deferred": True, "description": "Concurrent operations"}
        self.request("POST", "/pools", json=pool, ignore=(409,))

    def unpause(self) -> None:
        """Unpause the DAG."""
        self.request("PATCH", f"/dags/{RECODE_DAG_ID}", json={"is_paused": False})

    def trigger(self, conf: dict[str, Any]) -> str:
        """Start a run and return its id. The id is generated here, so that a retry does not start a second run."""
        run_id = f"manual__{datetime.now(UTC):%Y-%m-%dT%H-%M-%S}__{secrets.token_hex(4)}"
        body = {"dag_run_id": run_id, "logical_date": None, "conf": conf}
        self.request("POST", f"/dags/{RECODE_DAG_ID}/dagRuns", json=body, ignore=(409,))
        return run_id

    def run(self, run_id: str) -> dict[str, Any]:
        """Return a run, with its `state`."""
        return dict(self.request("GET", f"/dags/{RECODE_DAG_ID}/dagRuns/{run_id}"))

    def tasks(self, run_id: str) -> dict[str, str]:
        """Return the state of each task instance of a run, by `task_id` or `task_id[map_index]`."""
        return {
            item["task_id"] + (f"[{item['map_index']}]" if item["map_index"] >= 0 else ""): item["state"] or "-"
            for item in self.task_instances(run_id)
        }

    def task_instances(self, run_id: str) -> list[dict[str, Any]]:
        """Return all task instances of a run. The API returns a hundred at a time."""
        instances: list[dict[str, Any]] = []
        path = f"/dags/{RECODE_DAG_ID}/dagRuns/{run_id}/taskInstances"
        while True:
            page = self.request("GET", path, params={"limit": 100, "offset": len(instances), "order_by": "id"})
            instances += page["task_instances"]
            if len(instances) >= page["total_entries"] or not page["task_instances"]:
                return instances

    def xcom(self, run_id: str, task_id: str) -> Any:
        """Return the return value of an unmapped task of a run."""
        path = f"/dags/{RECODE_DAG_ID}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/return_value"
        return self.request("GET", path, params={"deserialize": True})["value"]

    def watch(self, run_id: str, seconds: float, period: float = 1.0) -> Iterator[tuple[datetime, str, str]]:
        """Yield (time, task or `run`, state) at each change of state until the run ends.

        :raises TimeoutError: the run has not ended within `seconds`
        """
        states: dict[str, str] = {}
        deadline = time.monotonic() + seconds
        while True:
            state = self.run(run_id)["state"]
            for name, value in {**self.tasks(run_id), "run": state}.items():
                if states.get(name, "-") != value:
                    states[name] = value
                    yield datetime.now(UTC), name, value
            if state in FINAL_STATES:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"run {run_id!r} is {state!r} after {seconds:.0f} s. Task states: {states}")
            time.sleep(period)

    def wait(self, run_id: str, seconds: float = 600) -> str:
        """Wait for a run to end and return its final state."""
        *_, (_, _, state) = self.watch(run_id, seconds)
        return state
