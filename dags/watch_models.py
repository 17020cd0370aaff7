"""
Notice a new latest model of the coding service, once a day, with one call for each topic that is watched.

A new model is an event of the asset `coding_models`, for other DAGs to start on. With `CODING_RECODE_HISTORY_FROM`
set to a response date, a backfill of `recode_occupations` with the new model starts as well, from that date to
yesterday. The first look at a topic only remembers its model.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pendulum
from airflow.sdk import DAG, Asset, TriggerRule, task, task_group
from airflow.sdk.exceptions import AirflowSkipException

from coding_service import CodingServiceRetryPolicy
from coding_service.alerts import tell_of_failure

TIMEZONE = "Australia/Sydney"
CODING_MODELS = Asset("coding_models")


@task
def topics() -> list[str]:
    """The topics that are watched."""
    from coding_settings import setting

    return [topic.strip() for topic in setting("CODING_WATCH_TOPICS", "osca").split(",")]


@task(outlets=[CODING_MODELS])
def look(
    topic: str, *, run_id: Any = None, asset_state_store: Any = None, outlet_events: Any = None
) -> dict[str, Any]:
    """Ask for the latest model and emit an event if it is a new one. If not, skip: a success always emits one.

    The last change stays in the state store of the asset, with the run that noticed it: a retry emits the same event.
    """
    from coding_service import CodingServiceHook

    latest, store = CodingServiceHook().latest_model(topic), asset_state_store[CODING_MODELS]
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
        raise AirflowSkipException(f"the first model seen of topic {topic!r} is {latest.model_id}")
    if change["noticed_by"] != run_id:
        raise AirflowSkipException(f"the latest model of topic {topic!r} is still {latest.model_id}")
    outlet_events[CODING_MODELS].extra = change
    return change


@task(inlets=[CODING_MODELS], trigger_rule=TriggerRule.NONE_FAILED)
def recode_history(topic: str, *, asset_state_store: Any = None) -> int:
    """Start the backfill that the newest model is owed, unless one was started; return its id.

    What is owed is owed until it is started: if another backfill is running, the run of the next day tries again.
    """
    from coding_backfills import find_backfill, start_backfill
    from coding_settings import setting

    store, from_date = asset_state_store[CODING_MODELS], setting("CODING_RECODE_HISTORY_FROM", "")
    change = store.get(topic)
    if not from_date or change["model_before"] is None or "backfill" in change:
        raise AirflowSkipException("switched off, or no new model, or its backfill was started")
    conf = {"model": change["model_after"], "topic": topic}
    backfill = find_backfill(conf)  # a try that died may have started it
    if backfill is None:
        yesterday = pendulum.yesterday(TIMEZONE).to_date_string()
        backfill = start_backfill(conf, from_date, yesterday, int(setting("CODING_RECODE_RUNS", "2")))
    store.set(topic, {**change, "backfill": backfill})
    return backfill


@task_group
def watch(topic: Any) -> None:
    """One topic."""
    look(topic) >> recode_history(topic)


with DAG(
    "watch_models",
    doc_md=__doc__,
    schedule="0 7 * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz=TIMEZONE),
    catchup=False,
    is_paused_upon_creation=False,
    max_active_runs=1,
    default_args={
        "retries": 3,
        "retry_delay": timedelta(minutes=5),
        "retry_exponential_backoff": True,
        "retry_policy": CodingServiceRetryPolicy(),
    },
    on_failure_callback=tell_of_failure,
    tags=["occupation", "coding"],
) as dag:
    watch.expand(topic=topics())
