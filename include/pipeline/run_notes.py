"""The outcome of a run where people look: its note in Airflow's UI, and the report of a run that failed.

A task that fails leaves the sentence of its error as an XCom (:func:`explain_failure`). When the run ends, the
scheduler writes its note (:func:`on_dag_run_success`, :func:`on_dag_run_failed`), but never over that of a person.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from airflow.listeners import hookimpl

from coding_service.errors import CodingServiceError
from include.coding.errors import DataError, EngineError, StagingError
from include.coding.markdown import escape_cell
from include.pipeline.alerts import FAILURE_CLASS_KEY
from include.pipeline.names import POOL
from include.warehouse.errors import WarehouseError

#: XCom keys of a task that failed: the sentence of its error, and the URI of the report of the run.
FAILURE_KEY, FAILURE_REPORT_KEY = "failure", "failure_report"
#: Errors whose messages the project composes, without a person's text or a link.
OWN_ERRORS = (DataError, StagingError, EngineError, WarehouseError, CodingServiceError)
#: Airflow's limit for a note is 1,000 characters, and escapes make a sentence longer.
MAX_SENTENCE_CHARACTERS, MAX_NOTE_CHARACTERS = 600, 1000
#: Tasks that fail after the report of the run is written, which stays.
LAST_TASKS = ("announce", "clean_up")
#: Beginnings of our notes. Airflow's API and UI record the person who wrote a note, but its command line does not.
_OWN_NOTE = re.compile(r"Coded [\d,]+ of |Dry run: |Nothing was sent: |The run failed|\*\*[\w.]+\*\*: ")
_LANDED_COUNTS = ("coded", "read", "uncoded", "rejected")


# ---- in the task that fails ----------------------------------------------------------------------------------------


def explain_failure(context: Mapping[str, Any]) -> None:
    """Keep why a task failed for the note of the run, and write the report of the run: the `on_failure_callback` of
    its tasks, called in the worker. It is not called if the worker is killed; then the note names the task only."""
    ti, error = context["ti"], context.get("exception")
    sentence = describe_error(error)
    ti.xcom_push(key=FAILURE_KEY, value=sentence)
    if isinstance(error, OWN_ERRORS):
        ti.xcom_push(key=FAILURE_CLASS_KEY, value=type(error).__name__)
    if ti.map_index < 0 and ti.task_id not in LAST_TASKS:  # after a part that failed, `collect` and `land` go on
        ti.xcom_push(key=FAILURE_REPORT_KEY, value=_write_failure_report(ti, type(error).__name__, sentence))


def describe_error(error: Any) -> str:
    """Return the sentence of an error of ours; of any other only its type, because its words can quote anything."""
    if isinstance(error, OWN_ERRORS):
        return _shorten(" ".join(str(error).split()), MAX_SENTENCE_CHARACTERS)
    return f"{type(error).__name__}, which only the log of the task explains" if error else "see its log"


def _write_failure_report(ti: Any, error_type: str, sentence: str) -> str:
    from include.coding.report import write_failure_report
    from include.pipeline import handoffs
    from include.pipeline.settings import open_staging, read_run_key

    plan = estimate = None
    try:
        plan = handoffs.pull_plan(ti)
        estimate = handoffs.pull_estimate(ti)
    except DataError:  # the run failed before
        pass
    run_key = read_run_key(ti)
    with open_staging(run_key) as staging:
        return write_failure_report(run_key, ti.task_id, error_type, sentence, plan, estimate, staging)


# ---- in the scheduler ----------------------------------------------------------------------------------------------


@hookimpl
def on_dag_run_success(dag_run: Any, msg: str) -> None:
    """Write what a run coded to its note, in the transaction that ends it."""
    if _has_coding_tasks(dag_run):
        write_note(dag_run, _describe_success(dag_run))


@hookimpl
def on_dag_run_failed(dag_run: Any, msg: str) -> None:
    """Write why a run failed to its note, in the transaction that ends it."""
    if _has_coding_tasks(dag_run):
        write_note(dag_run, _describe_failure(dag_run))


def write_note(dag_run: Any, text: str) -> None:
    """Set the note of a run, unless a person has written one."""
    note = dag_run.dag_run_note
    if note is None:
        dag_run.note = _shorten(text, MAX_NOTE_CHARACTERS)
    elif note.user_id is None and _OWN_NOTE.match(note.content or ""):
        note.content = _shorten(text, MAX_NOTE_CHARACTERS)


def _has_coding_tasks(dag_run: Any) -> bool:
    from sqlalchemy.orm import object_session

    return object_session(dag_run) is not None and any(task.pool == POOL for task in dag_run.dag.tasks)


def _describe_success(dag_run: Any) -> str:
    from include.pipeline import handoffs  # imported here, because the plugin loads in every process

    summary = _read_xcom(dag_run, handoffs.LAND, handoffs.RETURN_KEY)
    if isinstance(summary, dict) and all(isinstance(summary.get(name), int) for name in _LANDED_COUNTS):
        coded, read, uncoded, rejected = (summary[name] for name in _LANDED_COUNTS)
        return f"Coded {coded:,} of {read:,} records, {uncoded:,} uncoded, {rejected:,} rejected"
    plan = _read_xcom(dag_run, handoffs.PLAN, handoffs.RETURN_KEY)
    estimate = _read_xcom(dag_run, handoffs.PREPARE, handoffs.ESTIMATE_KEY)
    texts = estimate.get("texts_to_send") if isinstance(estimate, dict) else None
    if isinstance(plan, dict) and plan.get("dry_run") and isinstance(texts, int):
        return f"Dry run: {texts:,} texts to send; nothing was sent"
    if isinstance(texts, int):
        return f"Nothing was sent: the approval of {texts:,} texts was rejected"
    return "Nothing was sent: other runs code these dates, see the report"


def _describe_failure(dag_run: Any) -> str:
    """Return the sentence of the task that failed last, which knows most."""
    from airflow.models.taskinstance import TaskInstance
    from sqlalchemy import select
    from sqlalchemy.orm import object_session

    session: Any = object_session(dag_run)
    failed = session.execute(
        select(TaskInstance.task_id, TaskInstance.map_index)
        .where(
            TaskInstance.dag_id == dag_run.dag_id,
            TaskInstance.run_id == dag_run.run_id,
            TaskInstance.state == "failed",
        )
        .order_by(TaskInstance.end_date.desc())
        .limit(1)
    ).first()
    if failed is None:
        return "The run failed, but none of its tasks: it may have taken too long, or somebody marked it"
    sentence = _read_xcom(dag_run, failed.task_id, FAILURE_KEY, failed.map_index)
    return f"**{failed.task_id}**: {escape_cell(sentence) if isinstance(sentence, str) else 'failed, see its log'}"


def _read_xcom(dag_run: Any, task_id: str, key: str, map_index: int = -1) -> Any:
    from airflow.models.xcom import XComModel
    from sqlalchemy import select
    from sqlalchemy.orm import object_session

    session: Any = object_session(dag_run)
    row = session.execute(
        select(XComModel.value).where(
            XComModel.dag_id == dag_run.dag_id,
            XComModel.run_id == dag_run.run_id,
            XComModel.task_id == task_id,
            XComModel.key == key,
            XComModel.map_index == map_index,
        )
    ).first()
    return None if row is None else XComModel.deserialize_value(row)


def _shorten(text: str, max_characters: int) -> str:
    return text if len(text) <= max_characters else text[: max_characters - 1] + "…"
