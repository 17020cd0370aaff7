"""The bodies of the tasks of `watch_models`: notice a new model of the service, and recode history with it."""

from __future__ import annotations

import json
from datetime import date
from typing import Any, NoReturn

import pendulum
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from coding_service import CodingServiceHook
from coding_service.errors import SettingsError
from include.pipeline.backfills import (
    Backfill,
    BackfillConflictError,
    count_failed_runs,
    find_backfill,
    is_recoding_paused,
    start_backfill,
)
from include.pipeline.names import RECODE_DAG_ID, TIMEZONE
from include.pipeline.settings import read_setting


def list_topics() -> list[str]:
    """Return the topics to watch (`CODING_WATCH_TOPICS`)."""
    topics = (topic.strip() for topic in read_setting("CODING_WATCH_TOPICS", "osca").split(","))
    return list(dict.fromkeys(filter(None, topics)))


def detect_new_model(topic: str, run_id: str, store: Any, event: Any) -> dict[str, Any]:
    """Ask for the latest model; if it is new, describe the change in the asset's event and return it, else skip.

    The last change stays in the asset's state store with the run that noticed it, so that a retry of that run emits
    the same event.

    :param event: event that the asset emits if the task succeeds
    """
    _check_topic(topic)
    latest = CodingServiceHook().latest_model(topic)
    change = store.get(topic) or {"model_after": None, "version_after": None}
    if change["model_after"] != latest.model_id:
        change = {
            "topic": topic,
            "model_before": change["model_after"],
            "model_after": latest.model_id,
            "version_before": change["version_after"],
            "version_after": latest.version,
            "noticed_by": run_id,
        }
        store.set(topic, change)
    if change["noticed_by"] != run_id:
        raise AirflowSkipException(f"the latest model of topic {topic!r} is still {latest.model_id}")
    if change["model_before"] is None:
        raise AirflowSkipException(f"topic {topic!r} is watched for the first time; its model is {latest.model_id}")
    event.extra = change
    return change


def recode_history(topic: str, store: Any) -> int:
    """Start the backfill with the newest model, unless it was started already, and return its id.

    Something that a person has to do fails one run, which causes an alert; later runs skip, and log it again.

    :raises AirflowFailException: the DAG is paused, or the backfill ended without some of its days
    """
    _check_topic(topic)
    first_day, change = _read_first_day(), store.get(topic)
    if first_day is None:
        raise AirflowSkipException("no history is coded again, because CODING_RECODE_HISTORY_FROM is not set")
    if change is None or change["model_before"] is None:
        raise AirflowSkipException(f"topic {topic!r} has had no other model since it is watched")
    yesterday = pendulum.yesterday(TIMEZONE).date()
    if first_day > yesterday:
        raise AirflowSkipException(f"there is no history: CODING_RECODE_HISTORY_FROM, {first_day}, is not past")
    conf = {"model": change["model_after"], "topic": topic}
    backfill = find_backfill(conf)  # an attempt that was killed may have started it
    if backfill is None and "backfill" in change:
        raise AirflowSkipException(f"backfill {change['backfill']} was started, and Airflow has deleted it since")
    if (backfill is None or not backfill.is_complete) and is_recoding_paused():
        _fail_once(store, topic, f"paused {change['model_after']}", _describe_pause(conf, backfill))
    if backfill is None:
        try:
            backfill_id = start_backfill(conf, first_day.isoformat(), yesterday.isoformat(), _read_max_runs())
        except BackfillConflictError as error:
            raise AirflowSkipException(
                f"topic {topic!r} is not coded again with model {change['model_after']} yet, because another backfill"
                f" of {RECODE_DAG_ID} is running; the next run tries again ({error})"
            ) from None
        store.set(topic, {**change, "backfill": backfill_id})
        return backfill_id
    if change.get("backfill") != backfill.id:
        store.set(topic, {**change, "backfill": backfill.id})
        return backfill.id
    if backfill.is_complete and (failed := count_failed_runs(conf)):
        _fail_once(store, topic, f"incomplete {backfill.id}", _describe_end(conf, backfill, failed))
    state = "has ended" if backfill.is_complete else "is paused" if backfill.is_paused else "is running"
    raise AirflowSkipException(f"backfill {backfill.id} with model {change['model_after']} {state}")


def _check_topic(topic: str) -> None:
    """Raise :class:`SettingsError` if a topic, which comes from XCom, is not one of the deployment's."""
    if topic not in list_topics():
        raise SettingsError(
            "the topic is not one that CODING_WATCH_TOPICS lists. Clear the task 'topics' to compute it again"
        )


def _fail_once(store: Any, topic: str, problem: str, message: str) -> NoReturn:
    """Fail the task if its problem is new, so that there is an alert; otherwise skip it."""
    change = store.get(topic)
    if change.get("problem") == problem:
        raise AirflowSkipException(message)
    store.set(topic, {**change, "problem": problem})
    raise AirflowFailException(message)


def _describe_pause(conf: dict[str, Any], backfill: Backfill | None) -> str:
    wait = f"backfill {backfill.id} waits" if backfill else "no backfill was started"
    return (
        f"history is not coded again with model {conf['model']}: {wait}, because {RECODE_DAG_ID} is paused. Unpause"
        " it: the next run of watch_models then continues. Or unset CODING_RECODE_HISTORY_FROM"
    )


def _describe_end(conf: dict[str, Any], backfill: Backfill, failed: int) -> str:
    end = "was cancelled" if backfill.is_cancelled else "has ended"
    return (
        f"history is not completely coded again with model {conf['model']}: backfill {backfill.id} {end}, and"
        f" {failed} of its runs have failed. To continue, start a backfill of {RECODE_DAG_ID} over the same dates"
        f" with the reprocess behavior `failed` and the configuration {json.dumps(conf)}. To leave it, do nothing"
    )


def _read_first_day() -> date | None:
    text = read_setting("CODING_RECODE_HISTORY_FROM")
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        raise SettingsError(
            f"CODING_RECODE_HISTORY_FROM is {text!r}; expected a date such as '2026-10-31', or nothing"
        ) from None


def _read_max_runs() -> int:
    text = read_setting("CODING_RECODE_RUNS", "2")
    if not text.isdecimal() or int(text) == 0:
        raise SettingsError(f"CODING_RECODE_RUNS is {text!r}; expected a whole number of runs, such as '2'")
    return int(text)
