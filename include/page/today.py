"""What a person wants to know in the morning: the last night, what waits for them, calls, and the set-up."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.configuration import conf
from airflow.models.pool import Pool
from airflow.sdk.exceptions import AirflowNotFoundException
from sqlalchemy import select
from sqlalchemy.orm import Session

from coding_service import CodingServiceHook
from coding_service.call_budget import DAY_S, HOUR_S
from coding_service.errors import CodingServiceError
from coding_service.shared_state import SharedRow
from include.page.runs import CodingRun, TaskCount
from include.pipeline import settings
from include.pipeline.alerts import CHANNELS, EMAIL, LAND_WITHIN, find_due_time
from include.pipeline.names import CODING_SERVICE_CONN_ID, POOL, POOL_SLOTS, WAREHOUSE_CONN_ID

#: States of task instances that explain why a run does not go on.
FAILED, WAITING_FOR_PERSON = "failed", "awaiting_input"
#: States of a task instance that is at work or waits for something.
ACTIVE = (
    "awaiting_input",
    "deferred",
    "running",
    "up_for_retry",
    "up_for_reschedule",
    "queued",
    "scheduled",
    "restarting",
)
#: After this long without a newer night, the schedule has missed one.
NIGHT = timedelta(hours=30)


@dataclass(frozen=True)
class Headline:
    """The sentence on the last night.

    :param tone: `good`, `busy`, `bad` or `quiet`
    :param advice: what to do; empty if nothing
    :param run_id: the run; None without one
    """

    tone: str
    sentence: str
    advice: str = ""
    run_id: str | None = None


def describe_night(
    night: CodingRun | None,
    tasks: Iterable[TaskCount],
    now: datetime,
    is_paused: bool,
    format_time: Callable[[datetime], str],
    due: datetime | None,
) -> Headline:
    """Return the sentence on the last scheduled run.

    :param night: the newest scheduled run; None without one
    :param tasks: its task instances
    :param due: when it should have landed; None without a night
    """
    paused = "The DAG is paused, so no night starts: unpause it." if is_paused else ""
    if night is None:
        return Headline(
            "quiet", "No night has been coded yet.", paused or "The first one starts at the time of the schedule."
        )
    day = night.partition_key or "without a date"
    if now - night.run_after > NIGHT and not night.is_unfinished:
        advice = paused or "Check that the scheduler is running; “The codes are late” on the page Help has more."
        return Headline("bad", f"Last night did not start: the newest night is that of {day}.", advice, night.run_id)
    states = [task for task in tasks if task.run_id == night.run_id]
    if night.landing:
        dates = night.landing.dates
        counts = next((counts for counts in dates if counts.day == day), night.landing)
        sentence = f"The responses of {day} have landed: {_count_coded(counts.coded, counts.read)}."
        if len(dates) > 1:
            sentence += f" Late answers of {len(dates) - 1} earlier dates are coded too."
        if night.state == "failed":
            names = _name_tasks(states, (FAILED,))
            return Headline("bad", f"{sentence} A later task failed: {names}.", _advise(names), night.run_id)
        return Headline("good", sentence, paused, night.run_id)
    if night.is_unfinished:
        return _describe_unfinished(night, day, states, now, format_time, due or now)
    if night.state == "failed":
        names = _name_tasks(states, (FAILED,))
        return Headline(
            "bad", f"The night of {day} failed in {names}. Nothing of it is published.", _advise(names), night.run_id
        )
    return Headline("good", f"The night of {day} has ended, and had nothing to publish.", paused, night.run_id)


def _describe_unfinished(
    night: CodingRun,
    day: str,
    states: Sequence[TaskCount],
    now: datetime,
    format_time: Callable[[datetime], str],
    due: datetime,
) -> Headline:
    names = _name_tasks(states, ACTIVE) or "its start"
    if any(task.state == WAITING_FOR_PERSON for task in states):
        advice = "Approve or reject it in Airflow, under Required Actions."
        return Headline("busy", f"The night of {day} waits for a person: {names}.", advice, night.run_id)
    if now > due:
        advice = "Look at the log of this task; “The codes are late” on the page Help has more."
        return Headline(
            "bad", f"The night of {day} is late, since {format_time(due)}: it waits in {names}.", advice, night.run_id
        )
    return Headline(
        "busy", f"The night of {day} is under way in {names}. It is due at {format_time(due)}.", "", night.run_id
    )


def read_due(session: Session, dag_id: str, run_id: str) -> datetime | None:
    """Return when a night should have landed, as the alert of a late night has it; None for other runs."""
    due = find_due_time(session, dag_id, run_id)
    return due + _read_limit() if due else None


def _read_limit() -> timedelta:
    """Return how long a night may take: as :func:`include.pipeline.alerts.landing_deadline`, where it is checked."""
    try:
        return timedelta(hours=float(os.environ.get(LAND_WITHIN) or "6"))
    except (ValueError, OverflowError):
        return timedelta(hours=6)


def _advise(task_names: str) -> str:
    return (
        f"Open this night to read the error of {task_names} and what to do about it, remove the"
        " cause, and clear the task with downstream tasks. What was published before is unchanged."
    )


def _name_tasks(tasks: Iterable[TaskCount], states: Sequence[str]) -> str:
    names = dict.fromkeys(task.task_id for task in tasks if task.state in states)
    return ", ".join(list(names)[:3]) or ("an unknown task" if FAILED in states else "")


def _count_coded(coded: int, read: int) -> str:
    if not read:
        return "no records"
    return f"{coded:,} of {read:,} records coded ({coded / read:.1%})"


# ---- calls of the service ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Calls:
    """Calls of the last 24 hours.

    :param stopped_until: until when the service accepts no calls; None if it does
    """

    count: int
    per_day: int
    stopped_until: datetime | None = None


def read_calls() -> Calls | None:
    """Return the calls of the account of `coding_service_default`; None if this machine cannot know them.

    They are in the database of `budget_conn_id`, or else in a file of the machine that makes the calls.
    """
    try:
        hook = CodingServiceHook(CODING_SERVICE_CONN_ID)
        state = _read_call_state(hook)
    except (CodingServiceError, AirflowNotFoundException, OSError, ValueError):
        return None
    return None if state is None else count_calls(state, hook.settings.requests_per_day, time.time())


def count_calls(state: dict[str, Any], per_day: int, now: float) -> Calls | None:
    """Return the calls in the state of a call budget; None if it has another form.

    :param now: seconds since the epoch
    """
    try:
        oldest = (now - DAY_S) // HOUR_S
        count = sum(int(calls) for hour, calls in state.get("calls", {}).items() if int(hour) >= oldest)
        stopped = float(state.get("stopped_until", 0.0))
    except (AttributeError, TypeError, ValueError):
        return None
    is_stopped = now < stopped <= now + 2 * DAY_S
    return Calls(count, per_day, datetime.fromtimestamp(stopped, UTC) if is_stopped else None)


def _read_call_state(hook: CodingServiceHook) -> dict[str, Any] | None:
    account, conn_id = hook.settings.account, hook.settings.budget_conn_id
    if conn_id is not None:
        connection = hook.get_connection(conn_id)
        with SharedRow.from_connection(connection, connection.extra_dejson, account).lock() as (state, _):
            return dict(state)
    extra = hook.get_connection(CODING_SERVICE_CONN_ID).extra_dejson
    folder = Path(extra.get("state_dir") or f"{os.environ.get('AIRFLOW_HOME', '~/airflow')}/coding_service")
    path = folder.expanduser() / f"{account}.calls"
    if not path.exists():
        return None
    state = json.loads(path.read_text())
    return state if isinstance(state, dict) else None


# ---- set-up ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Check:
    """Something that a deployment needs.

    :param remedy: what to do if it is missing
    """

    name: str
    is_met: bool
    remedy: str = ""


def check_setup(session: Session, is_paused: bool) -> list[Check]:
    """Return what the deployment has, as this API server sees it, and how to add what it lacks."""
    pool = session.scalar(select(Pool).where(Pool.pool == POOL))
    has_alerts = bool(settings.read_setting(CHANNELS) or settings.read_setting(EMAIL))
    create = "Create it under Admin > Connections."
    return [
        Check("The DAG is switched on", not is_paused, "Unpause it; until then no night and no backfill starts."),
        Check(f"Connection {CODING_SERVICE_CONN_ID}", _has_connection(CODING_SERVICE_CONN_ID), create),
        Check(f"Connection {WAREHOUSE_CONN_ID}", _has_connection(WAREHOUSE_CONN_ID), create),
        Check(
            f"Pool {POOL}", pool is not None,
            f"airflow pools set {POOL} {POOL_SLOTS} 'Concurrent operations' --include-deferred",
        ),
        Check(
            f"Pool {POOL} counts deferred tasks", pool is not None and pool.include_deferred,
            "Set Include Deferred under Admin > Pools, so that its slots limit the operations.",
        ),
        Check(
            "Alerts", has_alerts,
            f"Set the Airflow Variable {EMAIL} to an address, or {CHANNELS} to a notifier; see docs/settings.md.",
        ),
        Check(
            "Fernet key", bool(conf.get("core", "fernet_key", fallback="")),
            "Set [core] fernet_key: without it, passwords and upload grants are stored unencrypted.",
        ),
    ]  # fmt: skip


def _has_connection(conn_id: str) -> bool:
    try:
        CodingServiceHook.get_connection(conn_id)
    except AirflowNotFoundException:
        return False
    return True
