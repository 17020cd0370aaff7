"""What passes between the tasks of a DAG of `recode_dag`: dataclasses, with their task ids and XCom keys.

Each `pull` function returns what a task left, and raises :class:`DataError` if that task has not succeeded, or if its
XCom is not what that task can have written. People who may edit XComs are no more trusted than those who may start a
run: files are only taken from the folder of the run that reads them, which is computed from its DAG and its id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from coding_service.sensors import OPERATION_KEY
from coding_service.triggers import Reason
from include.coding.errors import DataError, PlanError
from include.coding.estimate import Estimate
from include.coding.handoff import Count, Guid, Handoff, InputFile, RunFile, Seconds, Sha256, Text
from include.coding.parts import Fingerprint, Part
from include.coding.plan import Plan
from include.pipeline import settings

if TYPE_CHECKING:  # imported by the functions that need them, because they load the data engine
    from include.coding.export import ExportSummary
    from include.coding.landing import LandingSummary
    from include.coding.prepare import Prepared
    from include.coding.recoding import CollectSummary
    from include.coding.results import PartResult

H = TypeVar("H", bound=Handoff)

#: Ids of the tasks whose results others use.
PLAN, PREPARE, COLLECT, LAND, EXPORT, ANNOUNCE = "plan", "prepare", "collect", "land", "export", "announce"
CREATE, UPLOAD, POLL, DOWNLOAD = "code.create", "code.upload", "code.poll", "code.download"
#: The tasks between `prepare` and `land`, which have nothing to do in a run that sends nothing.
SENDING = ("approve", CREATE, UPLOAD, POLL, DOWNLOAD, "wait_for_parts", COLLECT)
#: XCom keys of `prepare`, beside its return value, the list of parts that the task group `code` is mapped over.
PREPARED_KEY, ESTIMATE_KEY = "prepared", "estimate"
RETURN_KEY = "return_value"


def skip_tasks(task_ids: Sequence[str]) -> None:
    """Have Airflow skip later tasks of the run that have nothing to do, unless they have started already.

    Otherwise it would start each of these tasks only to skip it, or skip them one after the other. A task that raises
    `DownstreamTasksSkipped` has the same effect, but no result that other tasks could be mapped over.
    """
    from airflow.sdk.execution_time import task_runner  # a task has imported it, and parsing of DAGs does not need it
    from airflow.sdk.execution_time.comms import SkipDownstreamTasks

    task_runner.SUPERVISOR_COMMS.send(SkipDownstreamTasks(tasks=[(task_id, -1) for task_id in task_ids]))


@dataclass(frozen=True)
class WaitOutcome(Handoff):
    """How the wait for an operation ended: :class:`coding_service.models.OperationOutcome`."""

    operation_id: Guid
    state: Reason
    message: Text
    seconds: Seconds | None = None
    ended_at: Seconds | None = None


@dataclass(frozen=True)
class WaitEvent(Handoff):
    """What the triggerer says about the end of a wait (:func:`coding_service.triggers.make_event`)."""

    status: Text
    reason: Reason
    operation_id: Guid
    message: Text
    seconds: Seconds


@dataclass(frozen=True)
class DownloadedFiles(Handoff):
    """The files of an operation: :class:`coding_service.models.DownloadResult`."""

    operation_id: Guid
    input_uri: InputFile
    output_uri: RunFile
    metadata_uri: RunFile | None
    bytes: Count
    sha256: Sha256
    records: Count
    fingerprint: Fingerprint


@dataclass(frozen=True)
class OperationId(Handoff):
    """The id that a task returned."""

    operation_id: Guid


@dataclass(frozen=True)
class UploadGrant(Handoff):
    """The encrypted upload grant that a task pushed."""

    grant: Text


def check_operation_id(value: Any, task: str) -> str:
    """Return the id of an operation that a task returned.

    :raises PlanError: it is not a GUID
    """
    return OperationId.from_dict({"operation_id": value}, task=task).operation_id


def check_grant(value: Any, task: str) -> str:
    """Return the upload grant that a task pushed. It is encrypted, so nobody without Airflow's Fernet key can write
    another one.

    :raises PlanError: it is not a text
    """
    return UploadGrant.from_dict({"grant": value}, task=task).grant


def push_prepared(ti: Any, prepared: Prepared, estimate: Estimate) -> None:
    """Store what `prepare` counted and estimated for later tasks."""
    ti.xcom_push(key=PREPARED_KEY, value=prepared.to_dict())
    ti.xcom_push(key=ESTIMATE_KEY, value=estimate.to_dict())


def pull_plan(ti: Any) -> Plan:
    """Return the plan of the run. What the deployment decides is taken from its settings.

    :raises PlanError: it is the plan of another run, or for another schema than that of its DAG
    """
    plan = _pull(ti, PLAN, RETURN_KEY, Plan)
    schema = settings.read_dag_schema(ti.dag_id, is_trial=plan.max_records is not None)
    expected = {"run_id": settings.read_run_key(ti), "schema": schema}
    for name, value in expected.items():
        if getattr(plan, name) != value:
            raise PlanError(
                f"Plan is invalid: {name}: it is not {value!r}. Clear the task {PLAN!r} to compute it again"
            )
    return replace(plan, memory_mb=settings.read_memory_mb())


def pull_prepared(ti: Any) -> Prepared:
    """Return what `prepare` has read, and what it has left to send."""
    from include.coding.prepare import Prepared

    return _pull(ti, PREPARE, PREPARED_KEY, Prepared)


def pull_estimate(ti: Any) -> Estimate:
    """Return the estimate of sending, which `prepare` has made."""
    return _pull(ti, PREPARE, ESTIMATE_KEY, Estimate)


def pull_collect_summary(ti: Any) -> CollectSummary:
    """Return the summary of `collect`; an empty one if there was nothing to send."""
    from include.coding.recoding import CollectSummary

    prepared = pull_prepared(ti)
    return _pull(ti, COLLECT, RETURN_KEY, CollectSummary) if prepared.parts else CollectSummary()


def pull_parts(ti: Any) -> list[Part]:
    """Return the parts that the task group `code` is mapped over."""
    folder = settings.run_folder(settings.read_run_key(ti))
    parts = ti.xcom_pull(task_ids=PREPARE, key=RETURN_KEY)
    return [Part.from_dict(part, task=PREPARE, folder=folder) for part in (parts if isinstance(parts, list) else [])]


def has_operations(ti: Any) -> bool:
    """Return whether an operation was opened for any part of the run.

    :raises DataError: `prepare` has not succeeded
    """
    return any(result.operation_id for result in pull_part_results(ti, pull_prepared(ti).parts))


def pull_landing_summary(ti: Any) -> LandingSummary:
    """Return what `land` has published."""
    from include.coding.landing import LandingSummary

    return _pull(ti, LAND, RETURN_KEY, LandingSummary)


def pull_export_summary(ti: Any) -> ExportSummary:
    """Return what `export` has written."""
    from include.coding.export import ExportSummary

    return _pull(ti, EXPORT, RETURN_KEY, ExportSummary)


def pull_part_results(ti: Any, parts: Sequence[Part]) -> list[PartResult]:
    """Return how each part ended, even if some of its tasks failed."""
    return [_pull_part_result(ti, part.part) for part in parts]


def _pull(ti: Any, task_id: str, key: str, kind: type[H]) -> H:
    # Without `map_indexes`, Airflow returns an empty list for a task without a result.
    value = ti.xcom_pull(task_ids=task_id, key=key, map_indexes=None)
    if value is None:
        raise DataError(
            f"the result of task {task_id!r} is missing: clear {task_id!r} with downstream tasks, because it did not"
            " succeed or was marked as success by hand"
        )
    return kind.from_dict(value, task=task_id, folder=settings.run_folder(settings.read_run_key(ti)))


def _pull_part_result(ti: Any, part: int) -> PartResult:
    from include.coding.results import PartResult

    folder = settings.run_folder(settings.read_run_key(ti))

    def pull(task_id: str, kind: type[H], key: str = RETURN_KEY) -> H | None:
        value = ti.xcom_pull(task_ids=task_id, key=key, map_indexes=part)
        return None if value is None else kind.from_dict(value, task=f"{task_id}[{part}]", folder=folder)

    def pull_operation_id(task_id: str) -> str | None:
        value = ti.xcom_pull(task_ids=task_id, key=RETURN_KEY, map_indexes=part)
        return None if value is None else check_operation_id(value, f"{task_id}[{part}]")

    outcome, files = pull(POLL, WaitOutcome, OPERATION_KEY), pull(DOWNLOAD, DownloadedFiles)
    state, seconds = (outcome.state.value, outcome.seconds) if outcome else ("unknown", None)
    if files is None:
        log_place = f"the log of {DOWNLOAD}, part {part + 1}"
        missing = f"its output was not downloaded; see {log_place}, or clear it if it was marked"
        message = missing if state == "complete" else outcome and outcome.message
        return PartResult(part, pull_operation_id(UPLOAD) or pull_operation_id(CREATE), state, message or None)
    return PartResult(
        part, files.operation_id, state, output_uri=files.output_uri, metadata_uri=files.metadata_uri,
        input_uri=files.input_uri, fingerprint=files.fingerprint, seconds=seconds,
    )  # fmt: skip
