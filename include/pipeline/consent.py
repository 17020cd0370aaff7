"""What a person consents to when approving a run, and the listener that lets Airflow ask again.

Airflow keeps the text of a question as long as its task instance exists, even if the task is cleared. When a run
starts again, the questions of its cleared tasks are therefore removed (:func:`on_dag_run_running`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow.listeners import hookimpl

from include.coding.handoff import Count, Day, Guid, Handoff, SourceName, Topic
from include.coding.markdown import format_code

if TYPE_CHECKING:
    from include.coding.estimate import Estimate
    from include.coding.plan import Plan

#: Entry of the task's state store with the consent that the question of the task asks for.
QUESTION_KEY = "question"
APPROVE_OPERATOR = "ApproveSendingOperator"


@dataclass(frozen=True)
class Consent(Handoff):
    """What would be sent: how many texts, in how many parts, coded by which model, from which source and dates."""

    texts_to_send: Count
    parts: Count
    topic: Topic
    model_id: Guid
    source: SourceName
    from_date: Day
    to_date: Day

    @classmethod
    def from_plan(cls, plan: Plan, estimate: Estimate) -> Consent:
        """Return the consent that a run needs."""
        return cls(
            estimate.texts_to_send,
            estimate.parts,
            plan.topic,
            plan.model_id,
            plan.source_name,
            plan.from_date,
            plan.to_date,
        )

    def covers(self, other: Consent) -> bool:
        """Return whether a person who agreed to this has agreed to the other: to as many texts or fewer of the same
        source and dates, coded by the same model."""
        return other.texts_to_send <= self.texts_to_send and self._subject == other._subject

    @property
    def _subject(self) -> tuple[str, ...]:
        return self.topic, self.model_id, self.source, self.from_date, self.to_date

    def __str__(self) -> str:
        return (
            f"{self.texts_to_send:,} texts of {self.source!r}, {self.from_date} to {self.to_date},"
            f" in {self.parts:,} parts, for model {self.model_id!r} of {self.topic!r}"
        )

    @property
    def as_markdown(self) -> str:
        """The consent as a list for people, without its numbers, which are those of the estimate."""
        return "\n".join(
            [
                f"- Source: {format_code(self.source)}, response dates {self.from_date} to {self.to_date}.",
                f"- Model: `{self.model_id}` of `{self.topic}`.",
            ]
        )


@hookimpl
def on_dag_run_running(dag_run: Any, msg: str) -> None:
    """Remove the questions of tasks that a run which starts again will run again; the history of the task keeps them.

    It is called in the scheduler, in the transaction that starts the run.
    """
    from airflow.models.hitl import HITLDetail
    from airflow.models.taskinstance import TaskInstance
    from airflow.state import TaskScope, get_state_backend
    from sqlalchemy import delete, select
    from sqlalchemy.orm import object_session

    session = object_session(dag_run)
    task_ids = [task.task_id for task in dag_run.dag.tasks if task.task_type == APPROVE_OPERATOR]
    if session is None or not task_ids:
        return
    questions = session.execute(
        select(TaskInstance.id, TaskInstance.task_id, TaskInstance.map_index)
        .join(HITLDetail, HITLDetail.ti_id == TaskInstance.id)
        .where(
            TaskInstance.dag_id == dag_run.dag_id,
            TaskInstance.run_id == dag_run.run_id,
            TaskInstance.task_id.in_(task_ids),
            TaskInstance.state.is_(None),
        )
    ).all()
    for ti_id, task_id, map_index in questions:
        scope = TaskScope(dag_id=dag_run.dag_id, run_id=dag_run.run_id, task_id=task_id, map_index=map_index)
        get_state_backend().delete(scope, QUESTION_KEY, session=session)
        session.execute(
            delete(HITLDetail).where(HITLDetail.ti_id == ti_id), execution_options={"synchronize_session": False}
        )
