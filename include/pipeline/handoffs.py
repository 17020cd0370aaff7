"""What passes between the tasks of `recode_occupations`: dataclasses, with their task ids and XCom keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coding_service.models import DownloadResult, OperationOutcome
from coding_service.sensors import OPERATION_KEY
from include.coding.errors import DataError
from include.coding.estimate import Estimate
from include.coding.landing import LandingSummary
from include.coding.parts import Fingerprint, Part
from include.coding.plan import Plan
from include.coding.prepare import Prepared
from include.coding.results import PartResult

#: Ids of the tasks that leave something for others.
PLAN, PREPARE, LAND = "plan", "prepare", "land"
CREATE, UPLOAD, POLL, DOWNLOAD = "code.create", "code.upload", "code.poll", "code.download"
#: XCom keys of `prepare`, beside its return value, the list of parts that the task group `code` is mapped over.
PREPARED_KEY, ESTIMATE_KEY = "prepared", "estimate"
RETURN_KEY = "return_value"


def push_prepared(ti: Any, prepared: Prepared, estimate: Estimate) -> None:
    """Leave what `prepare` counted and estimated for later tasks."""
    ti.xcom_push(key=PREPARED_KEY, value=prepared.to_dict())
    ti.xcom_push(key=ESTIMATE_KEY, value=estimate.to_dict())


def pull_plan(ti: Any) -> Plan:
    """Return the plan of the run.

    :raises DataError: the task `plan` has not succeeded
    """
    return Plan.from_dict(_pull(ti, PLAN, RETURN_KEY))


def pull_prepared(ti: Any) -> Prepared:
    """Return what was prepared.

    :raises DataError: the task `prepare` has not succeeded
    """
    return Prepared.from_dict(_pull(ti, PREPARE, PREPARED_KEY))


def pull_estimate(ti: Any) -> Estimate:
    """Return what sending takes.

    :raises DataError: the task `prepare` has not succeeded
    """
    return Estimate.from_dict(_pull(ti, PREPARE, ESTIMATE_KEY))


def pull_landing_summary(ti: Any) -> LandingSummary:
    """Return what was published.

    :raises DataError: the task `land` has not succeeded
    """
    return LandingSummary.from_dict(_pull(ti, LAND, RETURN_KEY))


def pull_part_results(ti: Any, parts: Sequence[Part]) -> list[PartResult]:
    """Return how each part ended, judging by what its tasks left, failed ones included."""
    return [_pull_part_result(ti, part.part) for part in parts]


def _pull(ti: Any, task_id: str, key: str) -> Any:
    value = ti.xcom_pull(task_ids=task_id, key=key)
    if value is None:
        raise DataError(f"the result of task {task_id!r} is missing, because it did not succeed: see its log")
    return value


def _pull_part_result(ti: Any, part: int) -> PartResult:
    def pull(task_id: str, key: str = RETURN_KEY) -> Any:
        return ti.xcom_pull(task_ids=task_id, key=key, map_indexes=part)

    outcome, files = pull(POLL, OPERATION_KEY), pull(DOWNLOAD)
    end = None if outcome is None else OperationOutcome.from_dict(outcome)
    state = end.state if end else "unknown"
    if files is None:
        message = end.message if end else None
        if state == "complete":
            message = f"its output was not downloaded; see the log of {DOWNLOAD}[{part}]"
        return PartResult(part, pull(UPLOAD) or pull(CREATE), state, message)
    download = DownloadResult.from_dict(files)
    fingerprint = download.fingerprint
    return PartResult(
        part,
        download.operation_id,
        state,
        output_uri=download.output_uri,
        metadata_uri=download.metadata_uri,
        input_uri=download.input_uri,
        fingerprint=Fingerprint(fingerprint.topic, fingerprint.model_id, fingerprint.input_sha256),
        seconds=end.seconds if end else None,
    )
