"""What passes between the tasks of `recode_occupations`: dataclasses, with their task ids and XCom keys.

Each `pull` function returns what a task left, and raises :class:`DataError` if that task has not succeeded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from coding_service.models import DownloadResult, OperationOutcome
from coding_service.sensors import OPERATION_KEY
from include.coding.errors import DataError
from include.coding.estimate import Estimate
from include.coding.handoff import Handoff
from include.coding.plan import Plan

if TYPE_CHECKING:  # imported by the functions that need them, because they load the data engine
    from include.coding.landing import LandingSummary
    from include.coding.parts import Part
    from include.coding.prepare import Prepared
    from include.coding.recoding import CollectSummary
    from include.coding.results import PartResult

H = TypeVar("H", bound=Handoff)

#: Ids of the tasks whose results others use.
PLAN, PREPARE, COLLECT, LAND = "plan", "prepare", "collect", "land"
CREATE, UPLOAD, POLL, DOWNLOAD = "code.create", "code.upload", "code.poll", "code.download"
#: XCom keys of `prepare`, beside its return value, the list of parts that the task group `code` is mapped over.
PREPARED_KEY, ESTIMATE_KEY = "prepared", "estimate"
RETURN_KEY = "return_value"


def push_prepared(ti: Any, prepared: Prepared, estimate: Estimate) -> None:
    """Store what `prepare` counted and estimated for later tasks."""
    ti.xcom_push(key=PREPARED_KEY, value=prepared.to_dict())
    ti.xcom_push(key=ESTIMATE_KEY, value=estimate.to_dict())


def pull_plan(ti: Any) -> Plan:
    return _pull(ti, PLAN, RETURN_KEY, Plan)


def pull_prepared(ti: Any) -> Prepared:
    from include.coding.prepare import Prepared

    return _pull(ti, PREPARE, PREPARED_KEY, Prepared)


def pull_estimate(ti: Any) -> Estimate:
    return _pull(ti, PREPARE, ESTIMATE_KEY, Estimate)


def pull_collect_summary(ti: Any) -> CollectSummary:
    """Return what came back of the texts of the run; of none if there was nothing to send."""
    from include.coding.recoding import CollectSummary

    prepared = pull_prepared(ti)
    return _pull(ti, COLLECT, RETURN_KEY, CollectSummary) if prepared.parts else CollectSummary()


def has_operations(ti: Any) -> bool:
    """Return whether an operation was opened for any part of the run.

    :raises DataError: `prepare` has not succeeded
    """
    return any(result.operation_id for result in pull_part_results(ti, pull_prepared(ti).parts))


def pull_landing_summary(ti: Any) -> LandingSummary:
    from include.coding.landing import LandingSummary

    return _pull(ti, LAND, RETURN_KEY, LandingSummary)


def pull_part_results(ti: Any, parts: Sequence[Part]) -> list[PartResult]:
    """Return how each part ended, even if some of its tasks failed."""
    return [_pull_part_result(ti, part.part) for part in parts]


def _pull(ti: Any, task_id: str, key: str, kind: type[H]) -> H:
    # Without `map_indexes`, Airflow returns an empty list for a task without a result.
    value = ti.xcom_pull(task_ids=task_id, key=key, map_indexes=None)
    if value is None:
        raise DataError(
            f"the result of task {task_id!r} is missing, because it did not succeed or was marked as success by hand:"
            f" clear {task_id!r} with downstream tasks"
        )
    return kind.from_dict(value)


def _pull_part_result(ti: Any, part: int) -> PartResult:
    from include.coding.parts import Fingerprint
    from include.coding.results import PartResult

    def pull(task_id: str, key: str = RETURN_KEY) -> Any:
        return ti.xcom_pull(task_ids=task_id, key=key, map_indexes=part)

    outcome, files = pull(POLL, OPERATION_KEY), pull(DOWNLOAD)
    end = OperationOutcome.from_dict(outcome or {"operation_id": "", "state": "unknown", "message": ""})
    if files is None:
        missing = f"its output was not downloaded; see the log of {DOWNLOAD}[{part}], or clear it if it was marked"
        message = missing if end.state == "complete" else end.message or None
        return PartResult(part, pull(UPLOAD) or pull(CREATE), end.state, message)
    download = DownloadResult.from_dict(files)
    return PartResult(
        part, download.operation_id, end.state, output_uri=download.output_uri, metadata_uri=download.metadata_uri,
        input_uri=download.input_uri, fingerprint=Fingerprint(**download.fingerprint.to_dict()), seconds=end.seconds,
    )  # fmt: skip
