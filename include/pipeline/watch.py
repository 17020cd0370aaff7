"""The bodies of the tasks of `watch_models`: notice a new model of the service, and recode history with it."""

from __future__ import annotations

from typing import Any

import pendulum
from airflow.sdk.exceptions import AirflowSkipException

from coding_service import CodingServiceHook
from include.pipeline.backfills import find_backfill, start_backfill
from include.pipeline.names import TIMEZONE
from include.pipeline.settings import read_setting


def list_topics() -> list[str]:
    """Return the topics to watch (`CODING_WATCH_TOPICS`)."""
    return [topic.strip() for topic in read_setting("CODING_WATCH_TOPICS", "osca").split(",")]


def detect_new_model(topic: str, run_id: str, store: Any, event: Any) -> dict[str, Any]:
    """Ask for the latest model; if it is new, describe the change in the asset's event and return it, else skip.

    The last change stays in the asset's state store with the run that noticed it, so that a retry of that run emits
    the same event.

    :param event: event that the asset emits if the task succeeds
    """
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
    if change["model_before"] is None:
        raise AirflowSkipException(f"topic {topic!r} is watched for the first time; its model is {latest.model_id}")
    if change["noticed_by"] != run_id:
        raise AirflowSkipException(f"the latest model of topic {topic!r} is still {latest.model_id}")
    event.extra = change
    return change


def recode_history(topic: str, store: Any) -> int:
    """Start the backfill with the newest model, unless it was started already, and return its id.

    If another backfill is running, the run of the next day tries again.
    """
    from_date = read_setting("CODING_RECODE_HISTORY_FROM")
    change = store.get(topic)
    if not from_date or change["model_before"] is None or "backfill" in change:
        raise AirflowSkipException("recoding is switched off, there is no new model, or its backfill was started")
    conf = {"model": change["model_after"], "topic": topic}
    backfill = find_backfill(conf)  # an attempt that was killed may have started it
    if backfill is None:
        yesterday = pendulum.yesterday(TIMEZONE).to_date_string()
        backfill = start_backfill(conf, from_date, yesterday, int(read_setting("CODING_RECODE_RUNS", "2")))
    store.set(topic, {**change, "backfill": backfill})
    return backfill
