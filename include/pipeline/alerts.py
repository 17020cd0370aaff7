"""Alerts about failed and late runs, sent through any notifier of Airflow.

`CODING_ALERTS` sets the notifiers, or `CODING_ALERT_EMAIL` the addresses for e-mail: Airflow Variables or environment
variables, read when there is something to send. An alert contains no secret and no text of a person.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, ClassVar
from urllib.parse import quote

from airflow.sdk import BaseNotifier, conf
from airflow.sdk.definitions.callback import AsyncCallback
from airflow.sdk.definitions.deadline import BaseDeadlineReference, DeadlineAlert
from airflow.sdk.module_loading import import_string
from jinja2 import StrictUndefined
from jinja2.sandbox import SandboxedEnvironment

from coding_service.errors import SettingsError

CHANNELS, EMAIL, LAND_WITHIN = "CODING_ALERTS", "CODING_ALERT_EMAIL", "CODING_LAND_WITHIN_HOURS"
SMTP_NOTIFIER = "airflow.providers.smtp.notifications.smtp.SmtpNotifier"
RUNBOOK = "docs/runbook.md"
TEMPLATES = SandboxedEnvironment(undefined=StrictUndefined)

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
        dates = [str(self.conf[name]) for name in ("from_date", "to_date") if self.conf.get(name)]
        return self.partition_key or " to ".join(dates)

    @property
    def url(self) -> str:
        """The page of the run in Airflow's UI."""
        base = (conf.get("api", "base_url", fallback="") or "").rstrip("/")
        return f"{base}/dags/{quote(self.dag_id)}/runs/{quote(self.run_id)}"


class ScheduledRunDue(BaseDeadlineReference):
    """The time when a scheduled run was due, even if no scheduler was running then. Other runs have no deadline,
    because the runs of a backfill are all queued at once.

    It replaces Airflow's DAGRUN_QUEUED_AT, with which Airflow 3.3.2 cannot clear a task of a run that is not late.
    """

    required_kwargs: ClassVar = {"dag_id", "run_id"}

    def _evaluate_with(self, *, session: Any, dag_id: str, run_id: str) -> datetime | None:
        from airflow.models.dagrun import DagRun
        from sqlalchemy import select

        runs = select(DagRun.run_after).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id)
        return session.scalar(runs.where(DagRun.run_type == "scheduled"))


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
    run, task = context.get("dag_run"), context.get("ti")  # both are missing if the run timed out
    partition_key, run_conf = getattr(run, "partition_key", None), getattr(run, "conf", None) or {}
    subject = AlertSubject(context["dag"].dag_id, context["run_id"], partition_key, run_conf)
    states = task.get_task_states(subject.dag_id, run_ids=[subject.run_id])[subject.run_id] if task else {}
    failed = sorted(name for name, state in states.items() if state == "failed")
    alert = _compose_alert(
        subject,
        f"{subject.dag_id} failed for {subject.dates or subject.run_id}",
        f"failed: {', '.join(failed) or context.get('reason')}",
        "a-run-failed",
    )
    with _log_errors(alert):
        for channel in _read_channels(alert):
            with _log_errors(alert):
                _make_notifier(channel, alert)({**alert})


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


def _compose_alert(run: AlertSubject, subject: str, event: str, section: str) -> dict[str, Any]:
    """Return the values that the templates of a :data:`Channel` can use."""
    lines = [
        f"Run {run.run_id} of {run.dag_id} {event}",
        *([f"Response dates: {run.dates}"] if run.dates else []),
        f"The run: {run.url}",
        f"What to do: {RUNBOOK}#{section}",
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
