"""
Check once a day whether the coding service has a new model, with one call for each watched topic.

A new model emits an event of the asset `coding_models`, which can start other DAGs. If `CODING_RECODE_HISTORY_FROM`
is a response date, the run also starts a backfill with the new model, from that date to yesterday: of every DAG that
has the topic in its form and a schedule, or else of `recode_occupations`. The first run for a topic only stores its
model.

`recode_history` fails once, so that there is an alert, if such a DAG is paused, or if its backfill was cancelled or
ended with failed runs. Its log says what to do; later runs skip.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pendulum
from airflow.sdk import DAG, Asset, TriggerRule, task, task_group

from coding_service import CodingServiceRetryPolicy
from include.pipeline import names
from include.pipeline.alerts import alert_on_failure
from include.pipeline.documentation import SERVICE_ERRORS, TOPIC_LABEL, document_dag, name_dag

CODING_MODELS = Asset(names.CODING_MODELS)
QUIET_ARGS: dict[str, Any] = {"multiple_outputs": False, "show_return_value_in_logs": False}


@task(
    doc_md="Reads the topics to watch from `CODING_WATCH_TOPICS`. If it fails, correct that setting, then clear it.",
    **QUIET_ARGS,
)
def topics() -> list[str]:
    """Return the topics to watch."""
    from include.pipeline import watch

    return watch.list_topics()


@task(
    outlets=[CODING_MODELS],
    doc_md="Asks the service for the latest model of the topic, and emits an event if it is new; otherwise it is"
    " skipped. If it fails, correct what its message names; the next day asks again.",
    map_index_template=TOPIC_LABEL,
    **QUIET_ARGS,
)
def look(
    topic: str, *, run_id: Any = None, asset_state_store: Any = None, outlet_events: Any = None
) -> dict[str, Any]:
    """Ask for the latest model and emit an event if it is new; otherwise skip, because success always emits one."""
    from include.pipeline import watch

    return watch.detect_new_model(topic, run_id, asset_state_store[CODING_MODELS], outlet_events[CODING_MODELS])


@task(
    inlets=[CODING_MODELS],
    trigger_rule=TriggerRule.NONE_FAILED,
    doc_md="Starts a backfill with the newest model, if `CODING_RECODE_HISTORY_FROM` is set and none was started;"
    " otherwise it is skipped. If it fails, a person has to do what its message says; the next day continues.",
    map_index_template=TOPIC_LABEL,
    **QUIET_ARGS,
)
def recode_history(topic: str, *, asset_state_store: Any = None) -> dict[str, int]:
    """Start the backfills with the newest model that were not started already, and return their ids by DAG."""
    from include.pipeline import watch

    return watch.recode_history(topic, asset_state_store[CODING_MODELS])


@task_group(group_id="watch")
def watch_topic(topic: Any) -> None:
    """Watch one topic."""
    look(topic) >> recode_history(topic)


with DAG(
    "watch_models",
    dag_display_name=name_dag("Watch for new models", "watch_models"),
    description="Looks for new models of the service every day at 07:00 in Sydney, and can start backfills.",
    doc_md=document_dag(__doc__, *SERVICE_ERRORS),
    schedule="0 7 * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz=names.TIMEZONE),
    catchup=False,
    is_paused_upon_creation=False,
    max_active_runs=1,
    default_args={
        "execution_timeout": timedelta(hours=1),  # a few calls
        "retries": 3,
        "retry_delay": timedelta(minutes=5),
        "retry_exponential_backoff": True,
        "retry_policy": CodingServiceRetryPolicy(),
    },
    on_failure_callback=alert_on_failure,
    tags=["occupation", "coding"],
) as dag:
    watch_topic.expand(topic=topics())
