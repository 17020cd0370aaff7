"""Alerts: their content, their channels, and that a wrong setting never hides one."""

import json
import logging
import threading
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import ClassVar

import pytest
from airflow.sdk import BaseNotifier

from coding_service.errors import SettingsError
from include.pipeline import alerts
from tests.support.file_notifier import read_alerts
from tests.support.smtp import make_tls, read_body, run_mailbox

FILE_NOTIFIER = "tests.support.file_notifier.FileNotifier"


@pytest.fixture
def sent_alerts(tmp_path, monkeypatch):
    """Send alerts to a file, and return a function that reads it."""
    path = tmp_path / "alerts.jsonl"
    kwargs = {"path": str(path), "subject": "{{ subject }}", "message": "{{ message }}"}
    monkeypatch.setenv("CODING_ALERTS", json.dumps({"notifier": FILE_NOTIFIER, "kwargs": kwargs}))
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.agency.example/")
    return lambda: read_alerts(path)


def failure_context(partition_key="2026-10-05", conf=None, states=None):
    """Return the context that Airflow passes to the callback of a DAG."""
    states = states or {"plan": "success", "code.poll_1": "failed", "land": "failed", "report": "upstream_failed"}
    return {
        "dag": SimpleNamespace(dag_id="recode_occupations"),
        "run_id": "run+1",
        "reason": "task_failure",
        "dag_run": SimpleNamespace(partition_key=partition_key, conf=conf),
        "ti": SimpleNamespace(get_task_states=lambda dag_id, run_ids: {run_ids[0]: states}),
    }


def deadline_context():
    """Return the context that Airflow passes to the callback of a deadline."""
    run = {
        "dag_id": "recode_occupations", "dag_run_id": "run+1", "run_type": "scheduled", "state": "running",
        "partition_key": "2026-10-05", "conf": None,
    }  # fmt: skip
    return {"dag_run": run, "deadline": {"deadline_time": datetime(2026, 10, 5, 19, tzinfo=UTC)}}


def test_the_alert_of_a_failed_run_has_its_failed_tasks_its_dates_its_page_and_what_to_read(sent_alerts):
    alerts.alert_on_failure(failure_context())
    (alert,) = sent_alerts()
    assert alert["subject"] == "recode_occupations failed for 2026-10-05"
    assert alert["message"].splitlines() == [
        "Run run+1 of recode_occupations failed: code.poll_1, land",
        "Response dates: 2026-10-05",
        "The run: https://airflow.agency.example/dags/recode_occupations/runs/run%2B1",
        "What to do: https://airflow.agency.example/occupation-coding/help#a-run-failed",
    ]


def failed_with(error_class):
    """Return the context of a run whose task `land` left this as the class of its error."""
    context = failure_context()
    xcoms = {("land", "failure_class", -1): error_class}
    context["ti"].xcom_pull = lambda task_ids, key, map_indexes: xcoms.get((task_ids, key, map_indexes))
    return context


def test_the_alert_of_a_failed_run_links_to_the_advice_on_the_class_of_its_error(sent_alerts):
    alerts.alert_on_failure(failed_with("AuditError"))
    assert sent_alerts()[0]["message"].endswith("https://airflow.agency.example/occupation-coding/help#AuditError")


def test_the_alert_names_the_table_of_errors_if_airflow_does_not_know_its_address(sent_alerts, monkeypatch):
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "")
    alerts.alert_on_failure(failed_with("AuditError"))
    assert sent_alerts()[0]["message"].endswith("What to do: docs/runbook.md#what-the-errors-mean")


@pytest.mark.parametrize("value", ["Error\nhttps://elsewhere.example", "<script>Error", 5, None, {"a": "Error"}])
def test_an_alert_does_not_show_a_class_of_error_that_somebody_has_put_in_its_place(sent_alerts, value):
    alerts.alert_on_failure(failed_with(value))
    assert sent_alerts()[0]["message"].endswith("/occupation-coding/help#a-run-failed")


@pytest.mark.parametrize(
    ("conf", "dates"),
    [
        ({"from_date": "2026-01-01", "to_date": "2026-01-31"}, "2026-01-01 to 2026-01-31"),
        ({"from_date": "2026-01-01", "to_date": None}, "2026-01-01"),
        ({"from_date": "2026-01-01", "to_date": "2026-01-01"}, "2026-01-01"),
        ({"response_date": "2026-01-01"}, "2026-01-01"),
        (None, "run+1"),
    ],
)
def test_the_dates_of_a_run_without_a_partition_are_those_of_its_form(sent_alerts, conf, dates):
    alerts.alert_on_failure(failure_context(partition_key=None, conf=conf))
    assert sent_alerts()[0]["subject"] == f"recode_occupations failed for {dates}"


def test_the_alert_of_a_run_that_failed_without_a_failed_task_has_the_reason(sent_alerts):
    context = failure_context()
    del context["dag_run"], context["ti"]
    alerts.alert_on_failure({**context, "reason": "timed_out"})
    assert sent_alerts()[0]["message"].startswith("Run run+1 of recode_occupations failed: timed_out\n")


def test_the_alert_names_the_task_that_failed_if_airflow_does_not_list_the_others(sent_alerts):
    def fail(dag_id, run_ids):
        raise NameError("name 'SUPERVISOR_COMMS' is not defined")  # as in `airflow dags test`

    context = {**failure_context(), "ti": SimpleNamespace(task_id="prepare", get_task_states=fail)}
    alerts.alert_on_failure(context)
    assert sent_alerts()[0]["message"].startswith("Run run+1 of recode_occupations failed: prepare\n")


async def test_the_alert_of_a_late_run_has_the_time_by_which_it_should_have_landed(sent_alerts):
    await alerts.alert_on_missed_deadline(deadline_context())
    (alert,) = sent_alerts()
    assert alert["subject"] == "recode_occupations is late: no codes for 2026-10-05"
    assert "has not landed by 2026-10-05 19:00 UTC; its state is running\n" in alert["message"]
    assert alert["message"].endswith("/occupation-coding/help#the-codes-are-late")


class SyncAndAsyncNotifier(BaseNotifier):
    """Records which of its methods was called, and whether that was in the main thread."""

    calls: ClassVar = []

    def notify(self, context):
        self.calls.append(("sync", threading.current_thread() is threading.main_thread()))

    async def async_notify(self, context):
        self.calls.append(("async", threading.current_thread() is threading.main_thread()))


class AsyncNotifier(SyncAndAsyncNotifier):
    """Has only an asynchronous method."""

    notify = BaseNotifier.notify


@pytest.mark.parametrize(
    ("notifier", "call"), [("SyncAndAsyncNotifier", ("sync", False)), ("AsyncNotifier", ("async", True))]
)
async def test_no_notifier_blocks_the_triggerer(monkeypatch, notifier, call):
    SyncAndAsyncNotifier.calls.clear()
    monkeypatch.setenv("CODING_ALERTS", json.dumps({"notifier": f"{__name__}.{notifier}"}))
    await alerts.alert_on_missed_deadline(deadline_context())
    assert SyncAndAsyncNotifier.calls == [call]


@pytest.mark.parametrize("security", ["none", "STARTTLS"])
async def test_with_addresses_alone_alerts_are_sent_by_e_mail(tmp_path, monkeypatch, security):
    monkeypatch.delenv("CODING_ALERTS", raising=False)
    monkeypatch.setenv("CODING_ALERT_EMAIL", "night@agency.example, day@agency.example")
    certificate = tmp_path / "certificate.pem"
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with run_mailbox(make_tls(certificate) if security == "STARTTLS" else None) as mailbox:
        monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", mailbox.connection())
        alerts.alert_on_failure(failure_context())
        await alerts.alert_on_missed_deadline(deadline_context())
    failed, late = mailbox.messages
    for message in (failed, late):
        assert message["To"] == "night@agency.example, day@agency.example"
        assert message["From"] == "airflow@agency.example"
    assert failed["Subject"] == "recode_occupations failed for 2026-10-05"
    assert "failed: code.poll_1, land" in read_body(failed)
    assert late["Subject"] == "recode_occupations is late: no codes for 2026-10-05"


def test_an_airflow_variable_comes_before_the_environment(sent_alerts, tmp_path, monkeypatch):
    path = tmp_path / "variable.jsonl"
    channel = {"notifier": FILE_NOTIFIER, "kwargs": {"path": str(path), "subject": "{{ dag_run.run_id }}"}}
    monkeypatch.setenv("AIRFLOW_VAR_CODING_ALERTS", json.dumps(channel))
    alerts.alert_on_failure(failure_context())
    assert [alert["subject"] for alert in read_alerts(path)] == ["run+1"]
    assert sent_alerts() == []


def test_without_any_setting_the_log_has_the_alert_and_what_to_set(monkeypatch, caplog):
    monkeypatch.delenv("CODING_ALERTS", raising=False)
    alerts.alert_on_failure(failure_context())
    (record,) = (record for record in caplog.records if record.name == alerts.__name__)
    assert record.levelno == logging.WARNING
    assert "recode_occupations failed for 2026-10-05" in record.getMessage()
    assert "No alert channel is configured; not sent" in record.getMessage()
    assert "CODING_ALERT_EMAIL" in record.getMessage()


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("mail me", "CODING_ALERTS is not JSON"),
        ('"tests.support.file_notifier.FileNotifier"', "or a list of these"),
        ('{"notifier": "tests.support.file_notifier.FileNotifier", "args": {}}', "or a list of these"),
        ('{"kwargs": {}}', "or a list of these"),
        ('{"notifier": "no.such.Notifier"}', "No module named 'no'"),
        ('{"notifier": "json.dumps"}', "'json.dumps' is not a notifier of Airflow"),
        ('{"notifier": "tests.support.file_notifier.FileNotifier", "kwargs": {"to": "x"}}', "argument 'to'"),
        (
            '{"notifier": "tests.support.file_notifier.FileNotifier", "kwargs": {"path": "x", "subject": "{{ text }}"}}',
            "'text' is undefined",
        ),
    ],
)
async def test_with_a_wrong_setting_the_log_has_the_alert_and_what_is_wrong(monkeypatch, caplog, setting, problem):
    monkeypatch.setenv("CODING_ALERTS", setting)
    alerts.alert_on_failure(failure_context())
    await alerts.alert_on_missed_deadline(deadline_context())
    failed, late = (record for record in caplog.records if record.name == alerts.__name__)
    assert (failed.levelno, late.levelno) == (logging.ERROR, logging.ERROR)
    assert "recode_occupations failed for 2026-10-05" in failed.getMessage()
    assert "recode_occupations is late" in late.getMessage()
    assert problem in str(failed.exc_info[1])


async def test_a_channel_that_fails_does_not_stop_the_others(sent_alerts, tmp_path, monkeypatch):
    kwargs = {"path": str(tmp_path / "alerts.jsonl"), "subject": "{{ subject }}"}
    working = {"notifier": FILE_NOTIFIER, "kwargs": kwargs}
    failing = {"notifier": FILE_NOTIFIER, "kwargs": {**kwargs, "path": str(tmp_path / "missing" / "file")}}
    monkeypatch.setenv("CODING_ALERTS", json.dumps([working, failing, working]))
    alerts.alert_on_failure(failure_context())
    await alerts.alert_on_missed_deadline(deadline_context())
    assert [alert["subject"] for alert in sent_alerts()] == [
        "recode_occupations failed for 2026-10-05",
        "recode_occupations failed for 2026-10-05",
        "recode_occupations is late: no codes for 2026-10-05",
        "recode_occupations is late: no codes for 2026-10-05",
    ]


@pytest.mark.parametrize(("text", "hours"), [(None, 6), ("", 6), ("4", 4), ("0.5", 0.5)])
def test_the_hours_within_which_a_run_must_land_are_a_setting(monkeypatch, text, hours):
    monkeypatch.delenv("CODING_LAND_WITHIN_HOURS", raising=False)
    if text is not None:
        monkeypatch.setenv("CODING_LAND_WITHIN_HOURS", text)
    assert alerts.landing_deadline().interval == timedelta(hours=hours)


@pytest.mark.parametrize("text", ["six", "0", "-1", "nan", "inf", "06:00"])
def test_a_value_that_is_not_a_number_of_hours_is_refused_with_the_name_of_the_setting(monkeypatch, text):
    monkeypatch.setenv("CODING_LAND_WITHIN_HOURS", text)
    with pytest.raises(SettingsError, match=f"CODING_LAND_WITHIN_HOURS is '{text}'"):
        alerts.landing_deadline()
