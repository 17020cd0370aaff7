"""Alerts, the watch for new models, and a DAG that uses the codes, on real Airflow processes."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pendulum
import pytest
import requests

from include.pipeline.names import AIRFLOW_API_CONN_ID, CODED_RECORDS, CODING_MODELS, RECODE_DAG_ID, TIMEZONE
from include.stack.processes import Stack
from tests.end_to_end.conftest import SERVICE_OPTIONS, FastStack, Harness, copy_dags, run_stack, wait_until
from tests.support.file_notifier import read_alerts
from tests.support.smtp import Mailbox, read_body, run_mailbox

pytestmark = pytest.mark.airflow

#: A DAG with the project's alerts whose task is killed, as on a machine that runs out of memory.
KILLED = """
import os, signal
from airflow.sdk import DAG, task
from include.pipeline.alerts import alert_on_failure, landing_deadline

@task
def die():
    os.kill(os.getpid(), signal.SIGKILL)

with DAG("killed", schedule="@once", on_failure_callback=alert_on_failure, deadline=landing_deadline()):
    die()
"""


class AlertHarness(Harness):
    """A stack in which every scheduled run is late, and the destinations of its alerts."""

    def __init__(self, stack: Stack, mailbox: Mailbox, alert_file: Path) -> None:
        super().__init__(stack)
        self.mailbox, self.alert_file = mailbox, alert_file

    def alerts(self, run_id: str) -> list[dict[str, str]]:
        """Return the alerts about a run that the notifier of the test has written."""
        return [alert for alert in read_alerts(self.alert_file) if f"Run {run_id} " in alert["message"]]

    def osca_models(self) -> list[str]:
        """Return the GUIDs of the models of `osca`, the latest last."""
        state = requests.get(f"{self.stack.service_url}/_local/state", timeout=10).json()
        return [model["modelId"] for model in state["topics"]["osca"]["models"]]

    def set_variable(self, name: str, value: str) -> None:
        self.api.request("POST", "/variables", json={"key": name, "value": value})

    def start(self, dag_id: str, **body: Any) -> str:
        """Start a run and return its id."""
        run = self.api.request("POST", f"/dags/{dag_id}/dagRuns", json={"logical_date": None, **body})
        return str(run["dag_run_id"])

    def states(self, dag_id: str, run_id: str) -> dict[str, str]:
        """Return the state of each task of a run."""
        page = self.api.request("GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances")
        return {item["task_id"]: item["state"] for item in page["task_instances"]}

    def has_deadline(self, run_id: str) -> bool:
        """Return whether there would be an alert if the run were late."""
        sql = "SELECT 1 FROM dag_run JOIN deadline ON deadline.dagrun_id = dag_run.id WHERE dag_run.run_id = ?"
        database = sqlite3.connect(f"file:{self.stack.folder / 'airflow' / 'airflow.db'}?mode=ro", uri=True)
        try:
            return bool(database.execute(sql, [run_id]).fetchall())
        finally:
            database.close()


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AlertHarness]:
    folder = tmp_path_factory.mktemp("night")
    dags = copy_dags(folder / "dags")
    (dags / "killed.py").write_text(KILLED)
    with run_mailbox() as mailbox:
        settings = {
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
            "CODING_LAND_WITHIN_HOURS": "0.0003",
            "CODING_ALERT_EMAIL": "night@agency.example",
            "AIRFLOW_CONN_SMTP_DEFAULT": mailbox.connection(),
        }
        with run_stack(FastStack(folder / "stack", settings, SERVICE_OPTIONS)) as stack:
            yield AlertHarness(stack, mailbox, folder / "alerts.jsonl")


@pytest.fixture(scope="module")
def file_channel(night: AlertHarness) -> None:
    """Sends all further alerts to a file, through a notifier of the tests."""
    kwargs = {"path": str(night.alert_file), "subject": "{{ subject }}", "message": "{{ message }}"}
    channel = {"notifier": "tests.support.file_notifier.FileNotifier", "kwargs": kwargs}
    night.set_variable("CODING_ALERTS", json.dumps(channel))


def test_a_late_run_and_a_failed_run_cause_emails_if_only_an_address_is_set(night: AlertHarness) -> None:
    yesterday = pendulum.yesterday(TIMEZONE).to_date_string()
    wait_until(lambda: bool(night.mailbox.messages), "an e-mail")
    (run,) = night.runs(run_type="scheduled")
    (message,) = night.mailbox.messages
    assert message["To"] == "night@agency.example"
    assert message["Subject"] == f"{RECODE_DAG_ID} is late: no codes for {yesterday}"
    assert f"Run {run['dag_run_id']} of {RECODE_DAG_ID} has not landed by " in read_body(message)
    assert "/occupation-coding/help#the-codes-are-late" in read_body(message)

    run_id, state = night.run(topic="oska")
    assert state == "failed"
    wait_until(lambda: len(night.mailbox.messages) == 2, "a second e-mail")
    assert night.mailbox.messages[1]["Subject"] == f"{RECODE_DAG_ID} failed for {run_id}"


@pytest.mark.usefixtures("file_channel")
def test_a_failed_manual_run_causes_one_alert_with_its_failed_tasks_and_is_never_late(night: AlertHarness) -> None:
    run_id, state = night.run(topic="oska", from_date="2026-10-05")
    assert state == "failed"
    wait_until(lambda: bool(night.alerts(run_id)), "an alert")
    assert not night.has_deadline(run_id)
    (alert,) = night.alerts(run_id)
    assert alert["subject"] == f"{RECODE_DAG_ID} failed for 2026-10-05"
    assert f"{RECODE_DAG_ID} failed: plan\n" in alert["message"]
    assert f"The run: {night.api.url}/dags/{RECODE_DAG_ID}/runs/{run_id}\n" in alert["message"]


@pytest.mark.usefixtures("file_channel")
def test_a_scheduled_run_whose_task_is_killed_causes_an_alert_as_failed_and_as_late(night: AlertHarness) -> None:
    night.unpause("killed")
    wait_until(lambda: bool(night.runs("killed")), "a scheduled run")
    (run_id,) = (run["dag_run_id"] for run in night.runs("killed"))
    wait_until(lambda: len(night.alerts(run_id)) == 2, "two alerts")
    failed_alert, late_alert = sorted(night.alerts(run_id), key=lambda alert: alert["subject"])
    assert failed_alert["subject"].startswith("killed failed")
    assert f"Run {run_id} of killed failed: die\n" in failed_alert["message"]
    assert late_alert["subject"].startswith("killed is late")


@pytest.mark.usefixtures("file_channel")
def test_a_new_model_emits_an_event_and_starts_one_backfill_whose_runs_are_never_late(night: AlertHarness) -> None:
    days = [pendulum.now(TIMEZONE).subtract(days=ago).to_date_string() for ago in (1, 2)]
    user, password = night.stack.login
    connection = {"conn_type": "http", "host": night.api.url, "login": user, "password": password}
    night.api.request("POST", "/connections", json={"connection_id": AIRFLOW_API_CONN_ID, **connection})
    night.set_variable("CODING_RECODE_HISTORY_FROM", days[-1])

    def watch() -> tuple[dict[str, str], list[dict[str, Any]], list[dict[str, Any]]]:
        """Run the watch once; return the states of its tasks, and all events and backfills so far."""
        run_id = night.start("watch_models")
        assert night.wait(run_id, "watch_models") == "success"
        events = night.api.request("GET", "/assets/events", params={"name_pattern": CODING_MODELS})["asset_events"]
        backfills = night.api.request("GET", "/backfills", params={"dag_id": RECODE_DAG_ID})["backfills"]
        return night.states("watch_models", run_id), events, backfills

    states, events, backfills = watch()
    assert (states["watch.look"], events, backfills) == ("skipped", [], [])

    night.control_service("faults", name="new_latest_model", count=1)
    states, events, backfills = watch()
    assert states["watch.look"] == states["watch.recode_history"] == "success"
    ((event,), (backfill,)) = events, backfills
    models = night.osca_models()
    assert {"topic": "osca", "model_before": models[-2], "model_after": models[-1]}.items() <= event["extra"].items()
    assert (event["extra"]["version_before"], event["extra"]["version_after"]) == (2, 3)
    assert backfill["dag_run_conf"] == {"model": models[-1], "topic": "osca"}
    assert (backfill["max_active_runs"], backfill["reprocess_behavior"]) == (2, "completed")

    states, events, backfills = watch()
    assert states["watch.look"] == states["watch.recode_history"] == "skipped"
    assert (len(events), len(backfills)) == (1, 1)

    # as if the attempt that started the backfill had died before it could store its id
    path = f"/assets/{event['asset_id']}/state-store/osca"
    night.api.request("PUT", path, json={"value": event["extra"]})
    states, events, backfills = watch()
    assert (states["watch.look"], states["watch.recode_history"]) == ("skipped", "success")
    assert (len(events), len(backfills)) == (1, 1)
    assert night.api.request("GET", path)["value"]["backfills"] == {RECODE_DAG_ID: backfill["id"]}

    wait_until(lambda: len(night.runs(run_type="backfill")) == len(days), "the backfill has all runs")
    runs = night.runs(run_type="backfill")
    assert {run["partition_key"] for run in runs} == set(days)
    for run in runs:
        assert night.wait(run["dag_run_id"]) == "success"
        assert not night.has_deadline(run["dag_run_id"])
        assert night.alerts(run["dag_run_id"]) == []


def test_a_dag_that_uses_the_codes_starts_for_the_date_that_was_published(night: AlertHarness) -> None:
    night.unpause("example_use_codes")
    assert night.wait(night.start(RECODE_DAG_ID, partition_key="2026-10-11")) == "success"

    def runs_of_the_day() -> list[dict[str, Any]]:  # the nightly run may have started one for another day
        return [run for run in night.runs("example_use_codes") if run["partition_key"] == "2026-10-11"]

    wait_until(lambda: bool(runs_of_the_day()), "a run of the example")
    (run,) = runs_of_the_day()
    assert night.wait(run["dag_run_id"], "example_use_codes") == "success"
    path = f"/dags/example_use_codes/dagRuns/{run['dag_run_id']}/taskInstances/count_codes/xcomEntries/return_value"
    counts = night.api.request("GET", path, params={"deserialize": True})["value"]
    assert [(digit, records) for digit, records, _ in counts] == night.query(
        f"SELECT code[1], count(*) FROM coding.{CODED_RECORDS}"
        " WHERE response_date = DATE '2026-10-11' AND outcome = 'coded' GROUP BY 1 ORDER BY 1"
    )

    by_hand = night.start("example_use_codes", conf={"response_date": "2026-10-11"})
    assert night.wait(by_hand, "example_use_codes") == "success"
    path = path.replace(run["dag_run_id"], by_hand)
    counts_by_hand = night.api.request("GET", path, params={"deserialize": True})["value"]
    assert [row[:2] for row in counts_by_hand] == [row[:2] for row in counts]
