"""The listener that removes the questions of cleared tasks, on a metadata database of Airflow."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from airflow.models.dagrun import DagRun
from airflow.models.hitl import HITLDetail
from airflow.models.task_state_store import TaskStateStoreModel
from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from include.pipeline.consent import QUESTION_KEY, on_dag_run_running


def add_question(session: Session, run: Any, state: str | None) -> None:
    """Add the task `approve` of a run in this state, with a question that was asked about it."""
    from airflow.models.taskinstance import TaskInstance

    ti_id = uuid4()
    fields = {"dag_id": run.dag_id, "run_id": run.run_id, "task_id": "approve", "map_index": -1}
    session.execute(
        insert(TaskInstance.__table__).values(
            id=ti_id, state=state, pool="default_pool", pool_slots=1, try_number=1, max_tries=0, **fields
        )
    )
    session.add(HITLDetail(ti_id=ti_id, options=["Approve"], subject="Send texts?", body="30", assignees=[]))
    session.add(TaskStateStoreModel(dag_run_id=run.id, key=QUESTION_KEY, value="{}", **fields))
    session.flush()


def add_run(session: Session, run_id: str, task_type: str = "ApproveSendingOperator") -> Any:
    date = datetime(2026, 10, 5, tzinfo=UTC)
    run: Any = DagRun(
        dag_id="recode_occupations", run_id=run_id, run_type="manual", state="running", run_after=date, conf={}
    )
    run.dag = SimpleNamespace(tasks=[SimpleNamespace(task_id="approve", task_type=task_type)])
    session.add(run)
    session.flush()
    return run


@pytest.mark.parametrize(
    ("state", "task_type", "questions"),
    [
        (None, "ApproveSendingOperator", ["other"]),
        ("success", "ApproveSendingOperator", ["other", "run"]),
        ("awaiting_input", "ApproveSendingOperator", ["other", "run"]),
        (None, "ApprovalOperator", ["other", "run"]),
    ],
    ids=["cleared", "approved", "waiting", "another operator"],
)
def test_only_the_question_of_a_task_that_runs_again_is_removed(
    session: Session, state: str | None, task_type: str, questions: list[str]
) -> None:
    run, other = add_run(session, "run", task_type), add_run(session, "other")
    add_question(session, run, state)
    add_question(session, other, None)
    on_dag_run_running(run, "")
    from airflow.models.taskinstance import TaskInstance

    query = select(TaskInstance.run_id).join(HITLDetail, HITLDetail.ti_id == TaskInstance.id)
    assert sorted(session.scalars(query)) == questions
    assert sorted(session.scalars(select(TaskStateStoreModel.run_id))) == questions


def test_a_run_that_starts_for_the_first_time_has_no_question_to_remove(session: Session) -> None:
    on_dag_run_running(add_run(session, "run"), "")
    assert session.scalars(select(HITLDetail)).all() == []
