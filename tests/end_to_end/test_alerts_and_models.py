"""Alerts, the watch for new models, and a DAG that uses the codes, on real Airflow processes."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pendulum
import pytest
import requests

from include.pipeline.names import RECODE_DAG_ID as DAG_ID
from include.stack.processes import PROJECT, Stack
from tests.end_to_end.conftest import Harness, LaneStack, until
from tests.support.file_notifier import read_alerts
from tests.support.smtp import Mailbox, read_body, run_mailbox

pytestmark = pytest.mark.airflow
ENDED = ("success", "failed")

#: A DAG with our alerts whose task is killed, as by a machine that is out of memory.
KILLED = """
import os, signal
from airflow.sdk import DAG, task
from coding_service.alerts import landing_deadline, tell_of_failure

@task
def die():
    os.kill(os.getpid(), signal.SIGKILL)

with DAG("killed", schedule="@once", on_failure_callback=tell_of_failure, deadline=landing_deadline()):
    die()
"""


class Night(Harness):
    """A stack in which every run is late, and where its alerts go."""

    def __init__(self, stack: Stack, mailbox: Mailbox, alerts: Path) -> None:
        super().__init__(stack)
        self.mailbox, self._alerts = mailbox, alerts

    def alerts(self, run_id: str) -> list[dict[str, str]]:
        """What the notifier of the test has been told of a run."""
        return [alert for alert in read_alerts(self._alerts) if f"Run {run_id} " in alert["message"]]

    def latest_models(self) -> list[str]:
        """GUIDs of the models of `osca`, the latest last."""
        state = requests.get(f"{self.stack.service_url}/_local/state", timeout=10).json()
        return [model["modelId"] for model in state["topics"]["osca"]["models"]]

    def set_variable(self, name: str, value: str) -> None:
        self.api.request("POST", "/variables", json={"key": name, "value": value})

    def unpause(self, dag_id: str) -> None:
        until(lambda: self.api.request("GET", f"/dags/{dag_id}", ignore=(404,)) is not None, f"{dag_id} is parsed")
        self.api.request("PATCH", f"/dags/{dag_id}", json={"is_paused": False})

    def runs(self, dag_id: str, **query: Any) -> list[dict[str, Any]]:
        return list(self.api.request("GET", f"/dags/{dag_id}/dagRuns", params=query)["dag_runs"])

    def start(self, dag_id: str, **body: Any) -> str:
        """Start a run and return its id."""
        answer = self.api.request("POST", f"/dags/{dag_id}/dagRuns", json={"logical_date": None, **body})
        return str(answer["dag_run_id"])

    def wait(self, dag_id: str, run_id: str) -> str:
        """Wait for a run to end and return its state."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}"
        until(lambda: self.api.request("GET", path)["state"] in ENDED, f"{run_id} has ended", 240)
        return str(self.api.request("GET", path)["state"])

    def states(self, dag_id: str, run_id: str) -> dict[str, str]:
        """State of each task of a run."""
        listed = self.api.request("GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances")["task_instances"]
        return {item["task_id"]: item["state"] for item in listed}

    def has_a_deadline(self, run_id: str) -> bool:
        """Whether anybody would be told that a run is late."""
        sql = "SELECT 1 FROM dag_run JOIN deadline ON deadline.dagrun_id = dag_run.id WHERE dag_run.run_id = ?"
        database = sqlite3.connect(f"file:{self.stack.folder / 'airflow' / 'airflow.db'}?mode=ro", uri=True)
        try:
            return bool(database.execute(sql, [run_id]).fetchall())
        finally:
            database.close()


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Night]:
    folder = tmp_path_factory.mktemp("night")
    dags = shutil.copytree(PROJECT / "dags", folder / "dags", ignore=shutil.ignore_patterns("__pycache__"))
    (dags / "killed.py").write_text(KILLED)
    with run_mailbox() as mailbox:
        settings = {
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
            "CODING_LAND_WITHIN_HOURS": "0.0003",
            "CODING_ALERT_EMAIL": "night@agency.example",
            "AIRFLOW_CONN_SMTP_DEFAULT": mailbox.connection(),
        }
        stack = LaneStack(folder / "stack", settings, service_options=("--coder", "stub"))
        stack.start()
        try:
            yield Night(stack, mailbox, folder / "alerts.jsonl")
        finally:
            stack.stop()


@pytest.fixture(scope="module")
def to_a_file(night: Night, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whoever is told from now on is told through a notifier of the test's own."""
    kwargs = {"path": str(night._alerts), "subject": "{{ subject }}", "message": "{{ message }}"}
    channel = {"notifier": "tests.support.file_notifier.FileNotifier", "kwargs": kwargs}
    night.set_variable("CODING_ALERTS", json.dumps(channel))


def test_a_late_night_and_a_failed_run_are_told_by_mail_if_only_an_address_is_set(night: Night) -> None:
    yesterday = pendulum.yesterday("Australia/Sydney").to_date_string()
    until(lambda: bool(night.mailbox.messages), "a mail")
    (run,) = night.runs(DAG_ID, run_type="scheduled")
    (message,) = night.mailbox.messages
    assert message["To"] == "night@agency.example"
    assert message["Subject"] == f"{DAG_ID} is late: no codes for {yesterday}"
    assert f"Run {run['dag_run_id']} of {DAG_ID} has not landed by " in read_body(message)
    assert "docs/runbook.md#the-codes-are-late" in read_body(message)

    run_id, state = night.code(topic="oska")
    assert state == "failed"
    until(lambda: len(night.mailbox.messages) == 2, "a second mail")
    assert night.mailbox.messages[1]["Subject"] == f"{DAG_ID} failed for {run_id}"


@pytest.mark.usefixtures("to_a_file")
def test_a_run_by_hand_that_fails_is_told_once_with_its_failed_tasks_and_not_that_it_is_late(night: Night) -> None:
    run_id, state = night.code(topic="oska", from_date="2026-10-05")
    assert state == "failed"
    until(lambda: bool(night.alerts(run_id)), "an alert")
    assert not night.has_a_deadline(run_id)
    (alert,) = night.alerts(run_id)
    assert alert["subject"] == f"{DAG_ID} failed for 2026-10-05"
    assert f"{DAG_ID} failed: land, plan\n" in alert["message"]
    assert f"The run: {night.api.url}/dags/{DAG_ID}/runs/{run_id}\n" in alert["message"]


@pytest.mark.usefixtures("to_a_file")
def test_a_scheduled_run_whose_task_is_killed_is_told_as_failed_and_as_late(night: Night) -> None:
    night.unpause("killed")
    until(lambda: bool(night.runs("killed")), "a scheduled run")
    (run_id,) = (run["dag_run_id"] for run in night.runs("killed"))
    until(lambda: len(night.alerts(run_id)) == 2, "two alerts")
    failed, late = sorted(night.alerts(run_id), key=lambda alert: alert["subject"])
    assert failed["subject"].startswith("killed failed")
    assert f"Run {run_id} of killed failed: die\n" in failed["message"]
    assert late["subject"].startswith("killed is late")


@pytest.mark.usefixtures("to_a_file")
def test_a_new_model_is_an_event_and_history_is_recoded_with_it_once_which_is_never_late(night: Night) -> None:
    days = [pendulum.now("Australia/Sydney").subtract(days=ago).to_date_string() for ago in (1, 2)]
    user, password = night.stack.login
    connection = {"conn_type": "http", "host": night.api.url, "login": user, "password": password}
    night.api.request("POST", "/connections", json={"connection_id": "airflow_api", **connection})
    night.set_variable("CODING_RECODE_HISTORY_FROM", days[-1])

    def look() -> tuple[dict[str, str], list[dict[str, Any]], list[dict[str, Any]]]:
        run_id = night.start("watch_models")
        assert night.wait("watch_models", run_id) == "success"
        events = night.api.request("GET", "/assets/events", params={"name_pattern": "coding_models"})["asset_events"]
        backfills = night.api.request("GET", "/backfills", params={"dag_id": DAG_ID})["backfills"]
        return night.states("watch_models", run_id), events, backfills

    states, events, backfills = look()
    assert (states["watch.look"], events, backfills) == ("skipped", [], [])

    night.knob("faults", name="new_latest_model", count=1)
    states, events, backfills = look()
    assert states["watch.look"] == states["watch.recode_history"] == "success"
    ((event,), (backfill,)) = events, backfills
    models = night.latest_models()
    assert {"topic": "osca", "model_before": models[-2], "model_after": models[-1]}.items() <= event["extra"].items()
    assert (event["extra"]["version_before"], event["extra"]["version_after"]) == (2, 3)
    assert backfill["dag_run_conf"] == {"model": models[-1], "topic": "osca"}
    assert (backfill["max_active_runs"], backfill["reprocess_behavior"]) == (2, "completed")

    states, events, backfills = look()
    assert states["watch.look"] == states["watch.recode_history"] == "skipped"
    assert (len(events), len(backfills)) == (1, 1)

    # as if the try that started the backfill had died before it could write that down
    path = f"/assets/{event['asset_id']}/state-store/osca"
    night.api.request("PUT", path, json={"value": event["extra"]})
    states, events, backfills = look()
    assert (states["watch.look"], states["watch.recode_history"]) == ("skipped", "success")
    assert (len(events), len(backfills)) == (1, 1)
    assert night.api.request("GET", path)["value"]["backfill"] == backfill["id"]

    until(lambda: len(night.runs(DAG_ID, run_type="backfill")) == len(days), "the runs of the backfill")
    for run in night.runs(DAG_ID, run_type="backfill"):
        assert night.wait(DAG_ID, run["dag_run_id"]) == "success"
        assert not night.has_a_deadline(run["dag_run_id"])
        assert night.alerts(run["dag_run_id"]) == []
    assert {run["partition_key"] for run in night.runs(DAG_ID, run_type="backfill")} == set(days)


def test_a_dag_that_uses_the_codes_starts_for_the_date_that_has_landed(night: Night) -> None:
    night.unpause("example_use_codes")
    landed = night.start(DAG_ID, partition_key="2026-10-11")
    assert night.wait(DAG_ID, landed) == "success"
    until(lambda: bool(night.runs("example_use_codes")), "a run of the example")
    (run,) = night.runs("example_use_codes")
    assert run["partition_key"] == "2026-10-11"
    assert night.wait("example_use_codes", run["dag_run_id"]) == "success"
    path = f"/dags/example_use_codes/dagRuns/{run['dag_run_id']}/taskInstances/count_codes/xcomEntries/return_value"
    counted = night.api.request("GET", path, params={"deserialize": True})["value"]
    assert [[digit, records] for digit, records, _ in counted] == [
        list(row)
        for row in night.query(
            "SELECT code[1], count(*) FROM coding.coded_records"
            " WHERE response_date = DATE '2026-10-11' AND outcome = 'coded' GROUP BY 1 ORDER BY 1"
        )
    ]
