"""Alerts about failed and late runs, sent through any notifier of Airflow.

`CODING_ALERTS` sets the notifiers, or `CODING_ALERT_EMAIL` the addresses for e-mail: Airflow Variables or environment
variables, read when there is something to send. An alert contains no secret and no text of a person.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, ClassVar
from urllib.parse import quote

from airflow.sdk import DAG, BaseNotifier, conf
from airflow.sdk.definitions.callback import AsyncCallback
from airflow.sdk.definitions.deadline import BaseDeadlineReference, DeadlineAlert
from airflow.sdk.module_loading import import_string
from jinja2 import StrictUndefined
from jinja2.sandbox import SandboxedEnvironment

from coding_service.errors import SettingsError
from include.pipeline.links import make_help_url

CHANNELS, EMAIL, LAND_WITHIN = "CODING_ALERTS", "CODING_ALERT_EMAIL", "CODING_LAND_WITHIN_HOURS"
SMTP_NOTIFIER = "airflow.providers.smtp.notifications.smtp.SmtpNotifier"
RUNBOOK = "docs/runbook.md"
#: XCom key of the class of the error with which a task failed, and what such a name looks like.
FAILURE_CLASS_KEY, CLASS_NAME = "failure_class", re.compile(r"[A-Z][A-Za-z]{1,60}Error")
TEMPLATES = SandboxedEnvironment(undefined=StrictUndefined)
#: Entries of Airflow's audit log for switching DAGs on: by command, and through the API for one DAG or for several.
UNPAUSE_COMMAND = "cli_dag_unpause"
UNPAUSE_EVENTS = (UNPAUSE_COMMAND, "patch_dag", "patch_dags")

log = logging.getLogger(__name__)

#: {"notifier": path of its class, "kwargs": its arguments, templates that can use `subject`, `message`, `dag_run`}
Channel = Mapping[str, Any]


@dataclass(frozen=True)
class AlertSubject:
    """The run that an alert is about, whichever process of Airflow sends it."""

    dag_id: str
    run_id: str
    partition_key: str | None = None
    conf: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def dates(self) -> str:
        """The response dates that the run was started for; empty if it was started without dates."""
        names = ("from_date", "to_date", "response_date")
        dates = dict.fromkeys(str(self.conf[name]) for name in names if self.conf.get(name))
        return self.partition_key or " to ".join(dates)

    @property
    def url(self) -> str:
        """The page of the run in Airflow's UI."""
        base = (conf.get("api", "base_url", fallback="") or "").rstrip("/")
        return f"{base}/dags/{quote(self.dag_id)}/runs/{quote(self.run_id)}"


class ScheduledRunDue(BaseDeadlineReference):
    """The time when a scheduled run was due, even if no scheduler was running then. Other runs have no deadline,
    because the runs of a backfill are all queued at once.

    Switching a DAG on also starts the run of last night, which could not start earlier. It is due when the DAG was
    switched on, or first parsed.

    It replaces Airflow's DAGRUN_QUEUED_AT, with which Airflow 3.3.2 cannot clear a task of a run that is not late.
    """

    required_kwargs: ClassVar = {"dag_id", "run_id"}

    def _evaluate_with(self, *, session: Any, dag_id: str, run_id: str) -> datetime | None:
        return find_due_time(session, dag_id, run_id)


def find_due_time(session: Any, dag_id: str, run_id: str) -> datetime | None:
    """Return when a scheduled run was due (:class:`ScheduledRunDue`); None for other runs."""
    from airflow.models.dag_version import DagVersion
    from airflow.models.dagrun import DagRun
    from sqlalchemy import func, select

    runs = select(DagRun.run_after).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id)
    run_after = session.scalar(runs.where(DagRun.run_type == "scheduled"))
    if run_after is None:
        return None
    first_parsed = session.scalar(select(func.min(DagVersion.created_at)).where(DagVersion.dag_id == dag_id))
    return max(filter(None, (run_after, first_parsed, _last_unpaused(session, dag_id, run_after))))


def _last_unpaused(session: Any, dag_id: str, since: datetime) -> datetime | None:
    """Return when a person last switched the DAG on; None if not after `since`. Airflow has this in its audit log."""
    from airflow.models.log import Log
    from sqlalchemy import select

    events = select(Log).where(Log.event.in_(UNPAUSE_EVENTS), Log.dttm > since).order_by(Log.dttm.desc())
    return next((event.dttm for event in session.scalars(events) if _is_unpause(event, dag_id)), None)


def _is_unpause(event: Any, dag_id: str) -> bool:
    """Return whether an entry of the audit log says that the DAG, perhaps among others, was switched on."""
    try:
        details = json.loads(event.extra or "{}")
    except ValueError:
        details = None
    if not isinstance(details, dict):
        return False
    if event.event == UNPAUSE_COMMAND:
        return event.dag_id == dag_id or "--treat-dag-id-as-regex" in details.get("full_command", "")
    return details.get("is_paused") is False and event.dag_id in (dag_id, None)


class DeadlineDAG(DAG):
    """A DAG with a deadline that `airflow dags test` can run to its end.

    Airflow 3.3.2 ends the test of a successful run with a StatementError, because it looks up the deadlines of the
    DAG by ids that only the scheduler's copy has. A test run has no deadline anyway, because it is a manual run.
    """

    def test(self, *args: Any, **kwargs: Any) -> Any:
        """Run the DAG once in this process, without its deadline."""
        deadline, self.deadline = self.deadline, None
        try:
            return super().test(*args, **kwargs)
        finally:
            self.deadline = deadline


def landing_deadline() -> DeadlineAlert:
    """Return the deadline of a DAG: its scheduled runs must land within `CODING_LAND_WITHIN_HOURS` of midnight.

    :raises SettingsError: that environment variable is not a number of hours
    """
    text = os.environ.get(LAND_WITHIN) or "6"
    try:
        limit = timedelta(hours=float(text))
    except (ValueError, OverflowError):
        limit = timedelta(0)
    if limit <= timedelta(0):
        raise SettingsError(f"the environment variable {LAND_WITHIN} is {text!r}; expected hours, such as '6'")
    return DeadlineAlert(
        ScheduledRunDue(), limit, AsyncCallback(alert_on_missed_deadline), name="codes landed in time"
    )


# ---- callbacks ---------------------------------------------------------------------------------------------------


def alert_on_failure(context: Mapping[str, Any]) -> None:
    """Send an alert that a run failed: the `on_failure_callback` of a DAG, called in the DAG processor.

    It is not set on tasks, because the callback of a task is not called if its worker is killed.
    """
    run = context.get("dag_run")  # missing if the run timed out
    partition_key, run_conf = getattr(run, "partition_key", None), getattr(run, "conf", None) or {}
    subject = AlertSubject(context["dag"].dag_id, context["run_id"], partition_key, run_conf)
    failed = _list_failed_tasks(context.get("ti"), subject)
    alert = _compose_alert(
        subject,
        f"{subject.dag_id} failed for {subject.dates or subject.run_id}",
        f"failed: {', '.join(failed) or context.get('reason')}",
        _find_error_class(context.get("ti"), failed) or "a-run-failed",
    )
    with _log_errors(alert):
        for channel in _read_channels(alert):
            with _log_errors(alert):
                _make_notifier(channel, alert)({**alert})


def _list_failed_tasks(task: Any, run: AlertSubject) -> list[str]:
    """Return the ids of the failed tasks of a run.

    If Airflow cannot be asked, as in `airflow dags test`, it is only the task that the callback was called for.

    :param task: that task; None if the run timed out
    """
    if task is None:
        return []
    try:
        states = task.get_task_states(run.dag_id, run_ids=[run.run_id])[run.run_id]
    except Exception:  # noqa: BLE001 - whatever it is, the alert is worth more than the complete list
        log.info("Airflow does not list the failed tasks of this run here; the alert names %r", task.task_id)
        return [task.task_id]
    return sorted(name for name, state in states.items() if state == "failed")


def _find_error_class(task: Any, failed_tasks: Iterable[str]) -> str | None:
    """Return the class of the error of the first failed task that has left one; None if none has.

    :param task: the task that the callback was called for; None if the run timed out
    """
    try:
        names = (task.xcom_pull(task_ids=name, key=FAILURE_CLASS_KEY, map_indexes=-1) for name in failed_tasks)
        return next((name for name in names if isinstance(name, str) and CLASS_NAME.fullmatch(name)), None)
    except Exception:  # noqa: BLE001 - as in `airflow dags test`; the alert is worth more than its link
        return None


async def alert_on_missed_deadline(context: Mapping[str, Any]) -> None:
    """Send an alert that the codes of a scheduled run have not landed in time: the callback of a deadline.

    Airflow calls it in the triggerer, whose event loop it must not block, with the run as in the REST API.
    """
    run = context["dag_run"]
    subject = AlertSubject(run["dag_id"], run["dag_run_id"], run["partition_key"], run["conf"] or {})
    alert = _compose_alert(
        subject,
        f"{subject.dag_id} is late: no codes for {subject.dates or subject.run_id}",
        f"has not landed by {context['deadline']['deadline_time']:%Y-%m-%d %H:%M %Z}; its state is {run['state']}",
        "the-codes-are-late",
    )
    with _log_errors(alert):
        for channel in await asyncio.to_thread(_read_channels, alert):
            with _log_errors(alert):
                await _notify(await asyncio.to_thread(_make_notifier, channel, alert), {**alert})


async def _notify(notifier: BaseNotifier, context: Any) -> None:
    """Call the notifier in a thread, so that it behaves as for failed runs.

    Its asynchronous method is only used if it has no other, because that of SmtpNotifier 3.2.0 fails with STARTTLS.
    """
    if type(notifier).notify is not BaseNotifier.notify:
        await asyncio.to_thread(notifier, context)
    else:
        notifier.context = context
        await notifier


# ---- content and channels ----------------------------------------------------------------------------------------


def _compose_alert(run: AlertSubject, subject: str, event: str, anchor: str) -> dict[str, Any]:
    """Return the values that the templates of a :data:`Channel` can use.

    :param anchor: the class of error, or the section of the runbook, that says what to do
    """
    section = "what-the-errors-mean" if CLASS_NAME.fullmatch(anchor) else anchor
    lines = [
        f"Run {run.run_id} of {run.dag_id} {event}",
        *([f"Response dates: {run.dates}"] if run.dates else []),
        f"The run: {run.url}",
        f"What to do: {make_help_url(anchor) or f'{RUNBOOK}#{section}'}",
    ]
    return {"subject": subject, "message": "\n".join(lines), "dag_run": run}


def _read_channels(alert: Mapping[str, Any]) -> list[Channel]:
    """Return the channels of the deployment; log a warning if there are none."""
    from include.pipeline.settings import read_setting  # imported here, because the plugin loads in every process

    if text := read_setting(CHANNELS):
        return parse_channels(text)
    if addresses := read_setting(EMAIL):
        return [email_channel(addresses)]
    log.warning(
        "No alert channel is configured; not sent: %s. Set the Airflow Variable or environment variable %s to an"
        " e-mail address, or %s to a notifier",
        alert["subject"], EMAIL, CHANNELS,
    )  # fmt: skip
    return []


def parse_channels(text: str) -> list[Channel]:
    """Return the channels in the value of `CODING_ALERTS`, one or a list of them.

    :raises SettingsError: it has another form; the message omits the value, because it can be secret
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        raise SettingsError(f"{CHANNELS} is not JSON: {error}") from None
    channels = value if isinstance(value, list) else [value]
    for channel in channels:
        if not (
            isinstance(channel, dict)
            and set(channel) <= {"notifier", "kwargs"}
            and isinstance(channel.get("notifier"), str)
            and isinstance(channel.get("kwargs", {}), dict)
        ):
            raise SettingsError(
                f'{CHANNELS}: expected {{"notifier": "<class>", "kwargs": {{...}}}} or a list of these'
            )
    return channels


def email_channel(addresses: str) -> Channel:
    """Return the channel for e-mail to these addresses (comma-separated), through the connection `smtp_default`."""
    to = [address.strip() for address in addresses.split(",") if address.strip()]
    kwargs = {"to": to, "subject": "{{ subject }}", "html_content": "<pre>{{ message | e }}</pre>"}
    return {"notifier": SMTP_NOTIFIER, "kwargs": kwargs}


def _make_notifier(channel: Channel, alert: dict[str, Any]) -> BaseNotifier:
    """Return the notifier of a channel. Its arguments are rendered here, because when it renders them itself, its own
    `subject` or `message` hides that of the alert."""
    notifier = import_string(channel["notifier"])
    if not (isinstance(notifier, type) and issubclass(notifier, BaseNotifier)):
        raise SettingsError(f"{CHANNELS}: {channel['notifier']!r} is not a notifier of Airflow")
    kwargs = BaseNotifier().render_template(channel.get("kwargs", {}), alert, TEMPLATES)  # type: ignore[arg-type]
    return notifier(**kwargs)


@contextmanager
def _log_errors(alert: Mapping[str, Any]) -> Iterator[None]:
    """Log any error that prevents an alert, which would be lost silently otherwise."""
    try:
        yield
    except Exception:
        log.exception("An alert was not sent: %s", alert["subject"])
