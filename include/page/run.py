"""One run: what it did, its operations, and what to do if it failed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar

from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from pydantic import ConfigDict, Field, TypeAdapter
from sqlalchemy import select
from sqlalchemy.orm import Session

from coding_service.sensors import OPERATION_KEY
from include.coding.handoff import Count, Guid, PartNumber, Seconds, Text, Word
from include.page.runs import CodingRun, RunQuery, validate
from include.page.today import FAILED, WAITING_FOR_PERSON
from include.pipeline.alerts import FAILURE_CLASS_KEY
from include.pipeline.handoffs import CREATE, DOWNLOAD, ESTIMATE_KEY, LAND, POLL, PREPARE, RETURN_KEY, UPLOAD
from include.pipeline.run_notes import FAILURE_KEY, FAILURE_REPORT_KEY

#: Steps of an operation, in their order.
STEPS = (CREATE, UPLOAD, POLL, DOWNLOAD)
#: Task that writes the report of a run that landed.
REPORT = "report"
#: Maximum number of operations on the page, which is that of the parts of a run, and of failed tasks.
MAX_OPERATIONS, MAX_FAILED_TASKS = 1024, 10
#: States of a task that has not run, because of another one.
WITHOUT_RUNNING = ("upstream_failed", "skipped", "removed")


@dataclass(frozen=True)
class PartFacts:
    """What the page shows of a part (:class:`include.coding.parts.Part`)."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="ignore")

    part: PartNumber
    records: Count
    expected_seconds: Seconds | None = None


@dataclass(frozen=True)
class WaitFacts:
    """How the wait for an operation ended (:class:`include.pipeline.handoffs.WaitOutcome`)."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="ignore")

    operation_id: Guid
    state: Word
    seconds: Seconds | None = None
    ended_at: Seconds | None = None


@dataclass(frozen=True)
class EstimateFacts:
    """What a run was expected to send (:class:`include.coding.estimate.Estimate`)."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="ignore")

    read: Count
    texts: Count
    texts_to_send: Count
    parts: Count
    calls: Count
    coding_seconds: Seconds | None = None


_PARTS = TypeAdapter(Annotated[tuple[PartFacts, ...], Field(max_length=10_000)])
_ESTIMATE, _WAIT = TypeAdapter(EstimateFacts), TypeAdapter(WaitFacts)
_GUID, _SENTENCE = TypeAdapter(Guid), TypeAdapter(Text)


@dataclass(frozen=True)
class TaskState:
    """A task instance.

    :param map_index: -1 for a task that is not mapped
    """

    task_id: str
    map_index: int
    state: str
    started: datetime | None
    ended: datetime | None


@dataclass(frozen=True)
class Operation:
    """A part and its operation.

    :param number: number of the part, from 1
    :param texts: number of its texts; None if unknown
    :param task: the step that it has come to, or that failed; None if none has begun
    :param answer: how the service ended the operation; None if it has not
    :param started, ended: when its first step began, and when the wait for the service ended
    :param seconds: how long the service took, or has taken; None before it has the texts
    """

    number: int
    texts: int | None
    operation_id: str | None
    task: TaskState | None
    answer: str | None
    started: datetime | None
    ended: datetime | None
    seconds: float | None
    expected_seconds: float | None

    @property
    def state(self) -> str:
        """Where the operation is, in words."""
        if self.task is None:
            return "not begun"
        step = self.task.task_id.rpartition(".")[2]
        if self.task.state == "deferred":
            return "waits for the service"
        if self.task.task_id == DOWNLOAD and self.task.state == "success":
            return "downloaded"
        return f"{step}: {self.task.state.replace('_', ' ')}"


@dataclass(frozen=True)
class Failure:
    """A task that failed.

    :param sentence: its error; empty if it left none
    :param error_class: the name of its class; None if it left none, or one that is not ours
    """

    task: TaskState
    sentence: str
    error_class: str | None


@dataclass(frozen=True)
class RunDetails:
    """What a run did.

    :param operations: of its parts, at most :data:`MAX_OPERATIONS`
    :param parts: number of all parts
    :param failures: the tasks that failed, the first one at the beginning
    :param has_report: whether it has written a report, as far as that is known
    """

    run: CodingRun
    tasks: Sequence[TaskState]
    estimate: EstimateFacts | None
    operations: Sequence[Operation]
    parts: int
    failures: Sequence[Failure]
    has_report: bool

    @property
    def headline(self) -> tuple[str, str]:
        """Tone and sentence on how the run went."""
        run, counts = self.run, self.run.landing
        if counts:
            sentence = (
                f"Coded {counts.coded:,} of {counts.read:,} records, {counts.uncoded:,} uncoded,"
                f" {counts.rejected:,} rejected."
            )
            if run.state == "failed":
                return "bad", f"{sentence} A later task failed."
            if not run.is_unfinished or any(task.task_id == LAND and task.state == "success" for task in self.tasks):
                return "good", sentence
            return "busy", f"Under way again, after its tasks were cleared. Before that: {sentence}"
        if run.is_unfinished:
            waits = any(task.state == WAITING_FOR_PERSON for task in self.tasks)
            return "busy", "Waits for a person." if waits else "Under way."
        if run.state == "failed":
            names = ", ".join(dict.fromkeys(failure.task.task_id for failure in self.failures)) or "none of its tasks"
            return "bad", f"Failed in {names}. Nothing of this run is published."
        if run.mode == "dry run" and self.estimate:
            return "good", f"Dry run: {self.estimate.texts_to_send:,} texts to send. Nothing was sent."
        return "quiet", "Ended without anything to publish."

    @property
    def measures(self) -> list[tuple[str, float | None, float | None]]:
        """What the run was expected to do, and what it did: name, estimate, and actual number."""
        estimate, landing = self.estimate, self.run.landing
        seconds = [operation.seconds for operation in self.operations if operation.answer and operation.seconds]
        rows = [
            ("Records", "read", "read"), ("Coded", None, "coded"), ("Uncoded", None, "uncoded"),
            ("Rejected", None, "rejected"), ("Texts sent", "texts_to_send", "texts_sent"),
            ("Operations", "parts", "operations"), ("Calls of the service", "calls", None),
        ]  # fmt: skip
        numbers = [
            (name, getattr(estimate, expected or "", None), getattr(landing, actual or "", None))
            for name, expected, actual in rows
        ]
        expected_s = estimate.coding_seconds if estimate else None
        return [
            *numbers,
            ("Seconds of the longest operation", _round(expected_s), _round(max(seconds, default=None))),
        ]


def _round(number: float | None) -> int | None:
    return None if number is None else round(number)


def read_details(session: Session, dag_id: str, run_id: str, now: datetime) -> RunDetails | None:
    """Return what a run did; None if the DAG has no such run."""
    run = RunQuery(dag_id).find(session, run_id)
    if run is None:
        return None
    tasks = _read_tasks(session, dag_id, run_id)
    xcoms = _read_xcoms(session, dag_id, run_id)
    parts = validate(_PARTS, xcoms.get((PREPARE, -1, RETURN_KEY))) or ()
    has_report = (REPORT, -1, RETURN_KEY) in xcoms or any(key == FAILURE_REPORT_KEY for _, _, key in xcoms)
    return RunDetails(
        run, tasks, validate(_ESTIMATE, xcoms.get((PREPARE, -1, ESTIMATE_KEY))),
        list(_list_operations(parts[:MAX_OPERATIONS], tasks, xcoms, now)), len(parts),
        list(_list_failures(tasks, xcoms)),
        has_report or not run.is_unfinished,
    )  # fmt: skip


XComs = Mapping[tuple[str, int, str], Any]


def _read_tasks(session: Session, dag_id: str, run_id: str) -> list[TaskState]:
    """Return the task instances of a run that have begun, in the order in which they did."""
    statement = (
        select(
            TaskInstance.task_id, TaskInstance.map_index, TaskInstance.state, TaskInstance.start_date,
            TaskInstance.end_date,
        )
        .where(TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id, TaskInstance.state.is_not(None))
        .order_by(TaskInstance.start_date, TaskInstance.task_id, TaskInstance.map_index)
    )  # fmt: skip
    return [
        TaskState(task_id, map_index, str(state), started, ended)
        for task_id, map_index, state, started, ended in session.execute(statement)
    ]


def _read_xcoms(session: Session, dag_id: str, run_id: str) -> dict[tuple[str, int, str], Any]:
    """Return what the tasks of a run left, by task, index and key: nothing that is a secret or a file."""
    keys = (RETURN_KEY, ESTIMATE_KEY, OPERATION_KEY, FAILURE_KEY, FAILURE_CLASS_KEY, FAILURE_REPORT_KEY)
    statement = (
        select(XComModel.task_id, XComModel.map_index, XComModel.key, XComModel.value)
        .join(DagRun, DagRun.id == XComModel.dag_run_id)
        .where(DagRun.dag_id == dag_id, DagRun.run_id == run_id, XComModel.key.in_(keys))
    )
    return {(task, index, key): value for task, index, key, value in session.execute(statement)}


def _list_operations(
    parts: Sequence[PartFacts], tasks: Sequence[TaskState], xcoms: XComs, now: datetime
) -> Iterator[Operation]:
    states = {(task.task_id, task.map_index): task for task in tasks}
    for index, part in enumerate(parts):
        steps = [state for step in STEPS if (state := states.get((step, index)))]
        active = [step for step in steps if step.state not in WITHOUT_RUNNING] or steps
        ended = validate(_WAIT, xcoms.get((POLL, index, OPERATION_KEY)))
        # `upload` returns another operation than `create` if the first one could not have the texts.
        ids = (validate(_GUID, xcoms.get((step, index, RETURN_KEY))) for step in (UPLOAD, CREATE))
        upload, poll = states.get((UPLOAD, index)), states.get((POLL, index))
        seconds = ended.seconds if ended else None
        if ended is None and upload and upload.state == "success" and upload.ended and not (poll and poll.ended):
            seconds = (now - upload.ended.astimezone(UTC)).total_seconds()
        yield Operation(
            number=part.part + 1,
            texts=part.records,
            operation_id=ended.operation_id if ended else next(filter(None, ids), None),
            task=active[-1] if active else None,
            answer=ended.state if ended else None,
            started=steps[0].started if steps else None,
            ended=datetime.fromtimestamp(ended.ended_at, UTC) if ended and ended.ended_at else None,
            seconds=seconds,
            expected_seconds=part.expected_seconds,
        )


def _list_failures(tasks: Sequence[TaskState], xcoms: XComs) -> Iterator[Failure]:
    failed = [task for task in tasks if task.state == FAILED]
    failed.sort(key=lambda task: task.ended or datetime.max.replace(tzinfo=UTC))
    for task in failed[:MAX_FAILED_TASKS]:
        key = (task.task_id, task.map_index)
        error_class = xcoms.get((*key, FAILURE_CLASS_KEY))
        yield Failure(
            task, validate(_SENTENCE, xcoms.get((*key, FAILURE_KEY))) or "",
            error_class if isinstance(error_class, str) else None,
        )  # fmt: skip
