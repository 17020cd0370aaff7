"""Alerts: somebody is told that a run failed or that its codes are late, through any notifier of Airflow.

Who is told, and how, is set by `CODING_ALERTS`, or by `CODING_ALERT_EMAIL` for e-mail: Airflow Variables or
environment variables, read when there is something to tell. No secret and no text of a person is in an alert.
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

from airflow.sdk import BaseNotifier, Variable, conf
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

#: {"notifier": dotted class, "kwargs": its arguments, templates that may use `subject`, `message` and `dag_run`}
Channel = Mapping[str, Any]


@dataclass(frozen=True)
class AlertedRun:
    """The run that an alert is about: the same whichever of Airflow's processes we are called in."""

    dag_id: str
    run_id: str
    partition_key: str | None = None
    conf: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def dates(self) -> str:
        """The response dates that it was started for; empty if it was left to itself which they are."""
        given = [str(self.conf[name]) for name in ("from_date", "to_date") if self.conf.get(name)]
        return self.partition_key or " to ".join(given)

    @property
    def url(self) -> str:
        """Its page in Airflow's UI."""
        base = (conf.get("api", "base_url", fallback="") or "").rstrip("/")
        return f"{base}/dags/{quote(self.dag_id)}/runs/{quote(self.run_id)}"


class ScheduledRunDue(BaseDeadlineReference):
    """When a scheduled run was due, whether or not a scheduler was there to start it. Others have no deadline: the
    runs of a backfill are queued all at once.

    Not Airflow's DAGRUN_QUEUED_AT: with that, 3.3.2 can clear no task of a run that is not late yet.
    """

    required_kwargs: ClassVar = {"dag_id", "run_id"}

    def _evaluate_with(self, *, session: Any, dag_id: str, run_id: str) -> datetime | None:
        from airflow.models.dagrun import DagRun
        from sqlalchemy import select

        due = select(DagRun.run_after).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id)
        found: datetime | None = session.scalar(due.where(DagRun.run_type == "scheduled"))
        return found


def landing_deadline() -> DeadlineAlert:
    """The deadline of a DAG: its scheduled runs have landed so many hours after they were due, at midnight.

    :raises SettingsError: the environment variable `CODING_LAND_WITHIN_HOURS` is no number of hours
    """
    text = os.environ.get(LAND_WITHIN) or "6"
    try:
        within = timedelta(hours=float(text))
    except (ValueError, OverflowError):
        within = timedelta(0)
    if within <= timedelta(0):
        raise SettingsError(f"the environment variable {LAND_WITHIN} is {text!r}; expected hours, such as '6'")
    return DeadlineAlert(ScheduledRunDue(), within, AsyncCallback(tell_of_lateness), name="codes landed in time")


# ---- what Airflow calls --------------------------------------------------------------------------------------------


def tell_of_failure(context: Mapping[str, Any]) -> None:
    """Tell that a run failed: for `on_failure_callback` of a DAG.

    Not of a task: that of a task whose worker was killed is never called. Airflow calls it in the dag processor.
    """
    run, task = context.get("dag_run"), context.get("ti")  # neither is there when the run timed out
    alerted = AlertedRun(
        context["dag"].dag_id,
        context["run_id"],
        getattr(run, "partition_key", None),
        getattr(run, "conf", None) or {},
    )
    states = task.get_task_states(alerted.dag_id, run_ids=[alerted.run_id])[alerted.run_id] if task else {}
    failed = sorted(name for name, state in states.items() if state == "failed")
    about = _compose(
        alerted,
        f"{alerted.dag_id} failed for {alerted.dates or alerted.run_id}",
        f"failed: {', '.join(failed) or context.get('reason')}",
        "a-run-failed",
    )
    with _never_silent(about):
        for channel in _channels(about):
            with _never_silent(about):
                _notifier(channel, about)({**about})


async def tell_of_lateness(context: Mapping[str, Any]) -> None:
    """Tell that the codes of a scheduled run have not landed: for the callback of a deadline.

    Airflow calls it in the triggerer, with what its REST API says of the run; nothing here may block the event loop.
    """
    run = context["dag_run"]
    alerted = AlertedRun(run["dag_id"], run["dag_run_id"], run["partition_key"], run["conf"] or {})
    about = _compose(
        alerted,
        f"{alerted.dag_id} is late: no codes for {alerted.dates or alerted.run_id}",
        f"has not landed by {context['deadline']['deadline_time']:%Y-%m-%d %H:%M %Z}; its state is {run['state']}",
        "the-codes-are-late",
    )
    with _never_silent(about):
        for channel in await asyncio.to_thread(_channels, about):
            with _never_silent(about):
                await _notify(await asyncio.to_thread(_notifier, channel, about), {**about})


async def _notify(notifier: BaseNotifier, context: Any) -> None:
    """Use it as the dag processor does, but in a thread: what has told of a failed run then tells of a late one.

    Its asynchronous half is taken if it has no other: that of SmtpNotifier 3.2.0, say, fails with STARTTLS.
    """
    if type(notifier).notify is not BaseNotifier.notify:
        await asyncio.to_thread(notifier, context)
    else:
        notifier.context = context
        await notifier


# ---- what is said, and to whom -------------------------------------------------------------------------------------


def _compose(run: AlertedRun, subject: str, what: str, section: str) -> dict[str, Any]:
    """What templates may use, in the words of :data:`Channel`."""
    lines = [
        f"Run {run.run_id} of {run.dag_id} {what}",
        *([f"Response dates: {run.dates}"] if run.dates else []),
        f"The run: {run.url}",
        f"What to do: {RUNBOOK}#{section}",
    ]
    return {"subject": subject, "message": "\n".join(lines), "dag_run": run}


def _channels(about: Mapping[str, Any]) -> list[Channel]:
    """Whom to tell; a warning if that is nobody."""
    if text := _setting(CHANNELS):
        return read_channels(text)
    if addresses := _setting(EMAIL):
        return [email_channel(addresses)]
    log.warning(
        "Nobody is told: %s. Set the Airflow Variable or environment variable %s to an address, or %s to a notifier",
        about["subject"], EMAIL, CHANNELS,
    )  # fmt: skip
    return []


def read_channels(text: str) -> list[Channel]:
    """Read the value of `CODING_ALERTS`, a channel or a list of them; errors do not repeat it: it may be secret.

    :raises SettingsError: it is something else
    """
    try:
        found = json.loads(text)
    except ValueError as error:
        raise SettingsError(f"{CHANNELS} is not JSON: {error}") from None
    channels = found if isinstance(found, list) else [found]
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
    """E-mail through the Airflow connection `smtp_default`.

    :param addresses: separated by commas
    """
    to = [address.strip() for address in addresses.split(",") if address.strip()]
    kwargs = {"to": to, "subject": "{{ subject }}", "html_content": "<pre>{{ message | e }}</pre>"}
    return {"notifier": SMTP_NOTIFIER, "kwargs": kwargs}


def _notifier(channel: Channel, about: dict[str, Any]) -> BaseNotifier:
    """Make the notifier of a channel.

    Its arguments are rendered here: a notifier renders them too, but its own `subject` or `message` hides ours.
    """
    notifier = import_string(channel["notifier"])
    if not (isinstance(notifier, type) and issubclass(notifier, BaseNotifier)):
        raise SettingsError(f"{CHANNELS}: {channel['notifier']!r} is no notifier of Airflow")
    kwargs = BaseNotifier().render_template(channel.get("kwargs", {}), about, TEMPLATES)  # type: ignore[arg-type]
    return notifier(**kwargs)


@contextmanager
def _never_silent(about: Mapping[str, Any]) -> Iterator[None]:
    """What keeps an alert from being sent must not keep it from the log."""
    try:
        yield
    except Exception:
        log.exception("An alert was not sent: %s", about["subject"])


def _setting(name: str) -> str | None:
    return Variable.get(name, default=None) or os.environ.get(name)
