"""The bodies of the tasks of `watch_models`: notice a new model of the service, and recode history with it."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from datetime import date
from typing import Any

import pendulum
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from coding_service import CodingServiceHook
from coding_service.errors import SettingsError
from include.pipeline.backfills import (
    Backfill,
    BackfillConflictError,
    BackfillError,
    RecodeDag,
    count_failed_runs,
    find_backfill,
    list_recode_dags,
    start_backfill,
)
from include.pipeline.form import PARAMS, name_default
from include.pipeline.names import RECODE_DAG_ID, TIMEZONE
from include.pipeline.settings import read_setting

log = logging.getLogger(__name__)


def list_topics() -> list[str]:
    """Return the topics to watch (`CODING_WATCH_TOPICS`), by default that of the nightly run."""
    topics = _read_topics()
    log.info("Watching %s: %s", "1 topic" if len(topics) == 1 else f"{len(topics):,} topics", ", ".join(topics))
    return topics


def _read_topics() -> list[str]:
    nightly = os.environ.get(name_default("topic")) or str(PARAMS["topic"].value)
    topics = (topic.strip() for topic in read_setting("CODING_WATCH_TOPICS", nightly).split(","))
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
    log.info("Topic %r has a new model, %s; it was %s", topic, latest.model_id, change["model_before"])
    event.extra = change
    return change


@dataclass(frozen=True)
class Outcome:
    """What became of the backfill of a DAG.

    :param message: a sentence about it
    :param new_id: of a backfill that was started, and that no earlier run has recorded
    :param problem: identifies what a person has to solve; None if nothing is wrong
    """

    dag_id: str
    message: str
    new_id: int | None = None
    problem: str | None = None


def recode_history(topic: str, store: Any) -> dict[str, int]:
    """Start a backfill of each DAG of the topic with the newest model, and return the ids of the new ones by DAG.

    Something that a person has to do fails one run, which causes an alert; later runs skip, and log it again. A DAG
    with a problem does not keep the others from starting.

    :raises AirflowFailException: a DAG is paused, or its backfill ended without some of its days
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
    outcomes: list[Outcome] = []
    errors: list[BackfillError] = []
    for dag in _find_dags(topic):
        try:
            outcome = _advance_backfill(dag, topic, store.get(topic), (first_day, yesterday))
        except BackfillError as error:  # raised below, when the other DAGs have had their turn
            errors.append(error)
            continue
        outcomes.append(outcome)
        if outcome.new_id is not None:
            _record(store, topic, "backfills", {outcome.dag_id: outcome.new_id})
    if errors:
        raise errors[0]
    known_problems = _read_by_dag(store.get(topic), "problem")
    new_problems = [
        outcome for outcome in outcomes if outcome.problem not in (None, known_problems.get(outcome.dag_id))
    ]
    if new_problems:
        _record(store, topic, "problems", {outcome.dag_id: outcome.problem for outcome in new_problems})
        raise AirflowFailException("; ".join(outcome.message for outcome in new_problems))
    if ids := {outcome.dag_id: outcome.new_id for outcome in outcomes if outcome.new_id is not None}:
        log.info("%s", "; ".join(outcome.message for outcome in outcomes))
        return ids
    raise AirflowSkipException("; ".join(outcome.message for outcome in outcomes))


def _find_dags(topic: str) -> list[RecodeDag]:
    """Return the DAGs whose form has the topic; if there are none, `recode_occupations`, which can code any topic."""
    dags = list_recode_dags()
    return [dag for dag in dags if dag.topic == topic] or [dag for dag in dags if dag.dag_id == RECODE_DAG_ID]


def _advance_backfill(dag: RecodeDag, topic: str, change: dict[str, Any], days: tuple[date, date]) -> Outcome:
    """Start the backfill of a DAG, unless it was started already, and return what became of it."""
    conf = {"model": change["model_after"], "topic": topic}
    recorded_id = _read_by_dag(change, "backfill").get(dag.dag_id)
    backfill = find_backfill(dag.dag_id, conf)  # an attempt that was killed may have started it
    if backfill is None and recorded_id is not None:
        message = f"backfill {recorded_id} of {dag.dag_id} was started, and Airflow has deleted it since"
        return Outcome(dag.dag_id, message)
    if (backfill is None or not backfill.is_complete) and dag.is_paused:
        return Outcome(dag.dag_id, _describe_pause(dag, conf, backfill), problem=f"paused {conf['model']}")
    if backfill is None:
        first_day, last_day = (day.isoformat() for day in days)
        try:
            backfill_id = start_backfill(dag.dag_id, conf, first_day, last_day, _read_max_runs())
        except BackfillConflictError as error:
            return Outcome(
                dag.dag_id,
                f"topic {topic!r} is not coded again with model {conf['model']} yet, because another backfill of"
                f" {dag.dag_id} is running; the next run tries again ({error})",
            )
        return Outcome(dag.dag_id, f"backfill {backfill_id} of {dag.dag_id} was started", new_id=backfill_id)
    if recorded_id != backfill.id:
        return Outcome(dag.dag_id, f"backfill {backfill.id} of {dag.dag_id} was started", new_id=backfill.id)
    if backfill.is_complete and (failed := count_failed_runs(dag.dag_id, conf)):
        return Outcome(dag.dag_id, _describe_end(dag, conf, backfill, failed), problem=f"incomplete {backfill.id}")
    state = "has ended" if backfill.is_complete else "is paused" if backfill.is_paused else "is running"
    return Outcome(dag.dag_id, f"backfill {backfill.id} of {dag.dag_id} with model {conf['model']} {state}")


def _read_by_dag(change: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the backfills or problems by DAG. Earlier versions kept that of `recode_occupations`, without its id."""
    return {**({RECODE_DAG_ID: change[name]} if name in change else {}), **change.get(f"{name}s", {})}


def _record(store: Any, topic: str, name: str, values: dict[str, Any]) -> None:
    change = store.get(topic)
    store.set(topic, {**change, name: {**change.get(name, {}), **values}})


def _check_topic(topic: str) -> None:
    """Raise :class:`SettingsError` if a topic, which comes from XCom, is not one of the deployment's."""
    if topic not in _read_topics():
        raise SettingsError(
            "the topic is not one that CODING_WATCH_TOPICS lists. Clear the task 'topics' to compute it again"
        )


def _describe_pause(dag: RecodeDag, conf: dict[str, Any], backfill: Backfill | None) -> str:
    wait = f"backfill {backfill.id} waits" if backfill else "no backfill was started"
    return (
        f"history is not coded again with model {conf['model']}: {wait}, because {dag.dag_id} is paused. Unpause"
        " it: the next run of watch_models then continues. Or unset CODING_RECODE_HISTORY_FROM"
    )


def _describe_end(dag: RecodeDag, conf: dict[str, Any], backfill: Backfill, failed: int) -> str:
    end = "was cancelled" if backfill.is_cancelled else "has ended"
    return (
        f"history is not completely coded again with model {conf['model']}: backfill {backfill.id} {end}, and"
        f" {failed} of its runs have failed. To continue, start a backfill of {dag.dag_id} over the same dates"
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
