"""What passes between the tasks: every dataclass survives its way through XCom, and wrong content is refused."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields, replace
from typing import Any

import pytest

from coding_service.models import DownloadResult, Fingerprint, OperationOutcome
from include.coding.errors import DataError, PlanError
from include.coding.estimate import Estimate
from include.coding.handoff import Handoff
from include.coding.isolation import Kind, Piece
from include.coding.landing import LandingSummary
from include.coding.parts import Fingerprint as PartFingerprint
from include.coding.parts import Part
from include.coding.plan import Plan
from include.coding.prepare import Prepared
from include.coding.read_options import ReadOptions
from include.coding.recoding import CollectSummary, RecodingState
from include.coding.results import PartResult
from include.coding.run_log import DateCounts, DateOverLimit
from include.pipeline import handoffs, settings
from include.pipeline.run_metadata import PoolSize, RunMetadata
from tests.pipeline.conftest import TaskInstance

MODEL, OPERATION, OTHER_OPERATION = (f"{digit * 8}-1111-4111-8111-111111111111" for digit in "123")
HASH, LAST_HASH, OUTPUT_HASH = (letter * 64 for letter in "abc")
FOLDER = "file:///s"
INPUT, LAST_INPUT = (f"{FOLDER}/part-000{number}-{'ab'[number] * 12}.jsonl" for number in range(2))
OUTPUT, METADATA_FILE = (f"{FOLDER}/{OPERATION}/{name}" for name in ("output.jsonl", "metadata.json"))
PART = Part(0, "osca", MODEL, False, INPUT, 3, 120, HASH, 61.5)
LAST_PART = Part(1, "osca", MODEL, True, LAST_INPUT, 2, 80, LAST_HASH)
PLAN = Plan(
    "run-1", "osca", MODEL, 2.0, "2026-10-05", "2026-10-06", "answers", {"occp_text": "job_title"},
    selection="all", response_date="2026-10-05", max_records=10, dry_run=True, changed_only=True, records_per_part=2,
    clean=False, max_uncoded_share=0.25, max_rejected_share=1.0, force_new=True, schema="coding_trial", memory_mb=512,
    max_characters=200, min_records_for_limits=20, excluded_dates=("2026-10-05",), unreachable_dates=("2025-01-01",),
    read_options=ReadOptions(2, 5, ";", "cp1252", "%d/%m/%Y", "UTC", "survey_bucket"), timezone="Australia/Sydney",
)  # fmt: skip
PREPARED = Prepared(
    "2026-10-07T01:02:03", "checksum", False, "file:///s/records.parquet", "file:///s/answers.parquet", (PART, LAST_PART), 9, 1, 2, 6, 1,
    3, ("line 11: '99/99/99'",), 4, {"blank": 2}, {"2026-10-05": "too many"}, ("a warning",),
    ("a note",),
)  # fmt: skip
ESTIMATE = Estimate(
    9,
    1,
    2,
    6,
    1,
    5,
    200,
    2,
    12,
    12.0,
    61.5,
    {"blank": 2},
    ("a warning",),
    3,
    ("line 11: '99/99/99'",),
    4,
    ("a note",),
)
SUMMARY = LandingSummary(
    9, 5, 2, 2, 6, 5, 2, "2026-10-05", "2026-10-06", None, (DateCounts("2026-10-05", 9, 5, 2, 2),),
    (DateOverLimit("2026-10-01", "2026-10-02", "too many"),), 1,
)  # fmt: skip
COLLECTED = CollectSummary(5, 3, 2, 1, 1, 1, 1, "file:///s/unresolved.jsonl", 1, ("part 1 (operation op-1): lost",))
PIECE = Piece(
    1, Kind.SPLIT, 0, 2, 3, 2, 7, "complete", "lost", INPUT, 120, HASH, OPERATION, 1.5, OUTPUT,
    METADATA_FILE, 2, 1, "file:///s/piece-0123456789abcdef.jsonl", True,
)  # fmt: skip
FIRST_PIECE = replace(PIECE, number=0, kind=Kind.PART, parent=None)
STATE = RecodingState("abc", 3, 1, ("part 1 (operation op-1): lost",), (FIRST_PIECE, PIECE))
RESULT = PartResult(
    0, OPERATION, "complete", None, OUTPUT, METADATA_FILE, INPUT, PartFingerprint("osca", MODEL, HASH), 61.5,
)  # fmt: skip
METADATA = RunMetadata("3 of 2026-10-07T00:00:00+00:00", PoolSize(4, True), ("2026-10-04",), ("2026-09-30",))

EXAMPLES = [
    PLAN,
    Plan("run-1", "osca", MODEL, None, "2026-10-05", "2026-10-05", "answers"),
    PART,
    LAST_PART,
    PREPARED,
    Prepared("2026-10-07T01:02:03", "checksum", True, None, None, (), 9, 0, 0, 6, 6),
    ESTIMATE,
    Estimate(9, 1, 2, 6, 6, 0, 0, 0, 2, 2.0, None),
    COLLECTED,
    CollectSummary(),
    STATE,
    SUMMARY,
    LandingSummary(0, 0, 0, 0, 0, 0, 0, "2026-10-05", "2026-10-05", "run-0"),
    RESULT,
    PartResult(1, None, "unknown", "its output was not downloaded"),
    METADATA,
    RunMetadata(None, None),
]
FULL_EXAMPLES = [PLAN, PART, PREPARED, ESTIMATE, COLLECTED, PIECE, STATE, SUMMARY, RESULT, METADATA]


@pytest.fixture(autouse=True)
def _run_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "run_folder", lambda run_id: FOLDER)


def name_type(example: Handoff) -> str:
    return type(example).__name__


def list_fields(required: bool) -> list[Any]:
    return [
        pytest.param(example, field.name, id=f"{name_type(example)}.{field.name}")
        for example in FULL_EXAMPLES
        for field in fields(example)  # type: ignore[arg-type]
        if not required or field.default is field.default_factory is MISSING
    ]


@pytest.mark.parametrize("example", EXAMPLES, ids=name_type)
def test_a_handoff_is_unchanged_by_its_way_through_xcom(example: Handoff) -> None:
    assert type(example).from_dict(json.loads(json.dumps(example.to_dict()))) == example


@pytest.mark.parametrize(("example", "name"), list_fields(required=True))
def test_a_handoff_with_a_missing_field_is_refused_with_its_name(example: Handoff, name: str) -> None:
    data = {key: value for key, value in example.to_dict().items() if key != name}
    with pytest.raises(PlanError, match=rf"{name_type(example)} is invalid: {name}: "):
        type(example).from_dict(data)


@pytest.mark.parametrize(("example", "name"), list_fields(required=False))
def test_a_handoff_with_a_field_of_a_wrong_type_is_refused_with_its_name(example: Handoff, name: str) -> None:
    with pytest.raises(PlanError, match=rf"{name_type(example)} is invalid: {name}\b.*: "):
        type(example).from_dict({**example.to_dict(), name: [["a list in a list"]]})


def test_a_missing_field_inside_a_handoff_is_named_with_its_path() -> None:
    data = PREPARED.to_dict()
    del data["parts"][1]["sha256"]
    with pytest.raises(PlanError, match=r"Prepared is invalid: parts\.1\.sha256: "):
        Prepared.from_dict(data)


def test_what_is_pushed_is_what_later_tasks_pull() -> None:
    ti = TaskInstance()
    handoffs.push_prepared(ti, PREPARED, ESTIMATE)
    assert set(ti.pushed) == {"prepared", "estimate"}
    later = TaskInstance(
        {
            "plan": PLAN.to_dict(),
            "collect": COLLECTED.to_dict(),
            "land": SUMMARY.to_dict(),
            **{("prepare", key): value for key, value in ti.pushed.items()},
        }
    )
    assert handoffs.pull_plan(later) == PLAN
    assert handoffs.pull_prepared(later) == PREPARED
    assert handoffs.pull_estimate(later) == ESTIMATE
    assert handoffs.pull_collect_summary(later) == COLLECTED
    assert handoffs.pull_landing_summary(later) == SUMMARY


@pytest.mark.parametrize(
    ("pull", "task_id"),
    [
        (handoffs.pull_plan, "plan"),
        (handoffs.pull_prepared, "prepare"),
        (handoffs.pull_estimate, "prepare"),
        (handoffs.pull_landing_summary, "land"),
    ],
)
def test_a_missing_result_is_refused_with_the_task_that_did_not_succeed(pull: Any, task_id: str) -> None:
    with pytest.raises(DataError, match=f"the result of task '{task_id}' is missing"):
        pull(TaskInstance())


def test_a_run_without_parts_has_collected_nothing() -> None:
    prepared = Prepared("2026-10-07T01:02:03", "checksum", True, None, None, (), 9, 0, 0, 6, 6)
    assert (
        handoffs.pull_collect_summary(TaskInstance({("prepare", "prepared"): prepared.to_dict()})) == CollectSummary()
    )


def test_a_run_whose_parts_were_not_collected_cannot_land() -> None:
    with pytest.raises(DataError, match="the result of task 'collect' is missing"):
        handoffs.pull_collect_summary(TaskInstance({("prepare", "prepared"): PREPARED.to_dict()}))


# ---- how a part ended --------------------------------------------------------------------------------------------

OUTCOME_KEY = ("code.poll[1]", "operation")
FILES = DownloadResult(
    OPERATION, LAST_INPUT, OUTPUT, None, 200, OUTPUT_HASH, 2, Fingerprint("osca", MODEL, LAST_HASH)
).to_dict()


def pull_last_part(xcoms: dict[Any, Any]) -> PartResult:
    """Return how the last of two parts ended. The other one was not opened."""
    first, last = handoffs.pull_part_results(TaskInstance(xcoms), [PART, LAST_PART])
    assert first == PartResult(0, None, "unknown")
    return last


@pytest.mark.parametrize(
    ("xcoms", "state", "message"),
    [
        ({}, "unknown", None),
        ({"code.create[1]": OPERATION}, "unknown", None),
        (
            {
                "code.upload[1]": OPERATION,
                OUTCOME_KEY: OperationOutcome(OPERATION, "failed", "out of memory", 7).to_dict(),
            },
            "failed",
            "out of memory",
        ),
        (
            {
                "code.upload[1]": OPERATION,
                OUTCOME_KEY: OperationOutcome(OPERATION, "complete", "complete", 7).to_dict(),
            },
            "complete",
            "its output was not downloaded; see the log of code.download, part 2, or clear it if it was marked",
        ),
    ],
    ids=["not created", "not uploaded", "failed", "not downloaded"],
)
def test_the_result_of_a_part_without_output_says_why(xcoms: dict[Any, Any], state: str, message: str | None) -> None:
    assert pull_last_part(xcoms) == PartResult(1, OPERATION if xcoms else None, state, message)


def test_the_operation_of_a_part_is_the_one_that_its_input_was_uploaded_to() -> None:
    assert pull_last_part({"code.create[1]": OTHER_OPERATION, "code.upload[1]": OPERATION}).operation_id == OPERATION


def test_a_part_with_output_has_its_files_and_what_was_coded() -> None:
    outcome = OperationOutcome(OPERATION, "complete", "complete", 61.5).to_dict()
    xcoms = {
        "code.create[1]": OTHER_OPERATION,
        "code.upload[1]": OPERATION,
        OUTCOME_KEY: outcome,
        "code.download[1]": FILES,
    }
    assert pull_last_part(xcoms) == PartResult(
        1,
        OPERATION,
        "complete",
        output_uri=OUTPUT,
        input_uri=LAST_INPUT,
        fingerprint=PartFingerprint("osca", MODEL, LAST_HASH),
        seconds=61.5,
    )


def test_a_part_whose_poll_was_marked_as_success_in_the_ui_is_landed_like_any_other() -> None:
    result = pull_last_part({"code.upload[1]": OPERATION, "code.download[1]": FILES})
    assert (result.state, result.output_uri, result.metadata_uri) == ("unknown", OUTPUT, None)
    assert (result.input_uri, result.fingerprint) == (
        LAST_INPUT,
        PartFingerprint("osca", MODEL, LAST_HASH),
    )
