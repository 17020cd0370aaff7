"""Whoever may edit XComs gains nothing: every field of every value is refused if its task cannot have written it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coding_service.models import DownloadResult, Fingerprint
from coding_service.triggers import Reason, make_event
from include.coding.errors import DataError, PlanError
from include.coding.files import path_from_uri
from include.coding.handoff import Handoff
from include.coding.plan import Plan
from include.coding.staging import Staging
from include.pipeline import handoffs, steps
from include.pipeline.collecting import CollectResultsOperator
from include.pipeline.consent import Consent
from include.pipeline.inputs import check_inputs
from include.pipeline.settings import open_staging, read_schema, run_folder
from tests.pipeline.conftest import TaskInstance
from tests.pipeline.test_handoffs import (
    COLLECTED,
    ESTIMATE,
    FOLDER,
    HASH,
    INPUT,
    LAST_HASH,
    METADATA,
    MODEL,
    OPERATION,
    OUTPUT,
    OUTPUT_HASH,
    PART,
    PLAN,
    PREPARED,
    RESULT,
    STATE,
    SUMMARY,
)

OUTCOME = handoffs.WaitOutcome(OPERATION, Reason.COMPLETE, "complete", 61.5, 1.5)
EVENT = handoffs.WaitEvent.from_dict(make_event(Reason.FAILED, OPERATION, "the service failed it", 61.5))
FILES = handoffs.DownloadedFiles.from_dict(
    DownloadResult(OPERATION, INPUT, OUTPUT, None, 200, OUTPUT_HASH, 2, Fingerprint("osca", MODEL, HASH)).to_dict()
)
CONSENT = Consent.from_plan(PLAN, ESTIMATE)
EXAMPLES: list[Handoff] = [
    PLAN, PART, PREPARED, ESTIMATE, COLLECTED, STATE, SUMMARY, RESULT, METADATA, OUTCOME, EVENT, FILES, CONSENT,
]  # fmt: skip

INJECTION = "'; DROP TABLE coding.coded_records; --"
#: No field of a value accepts any of these, apart from the texts for people, where they are harmless.
HOSTILE_VALUES: list[Any] = [
    "../../etc", "file:///etc/passwd", f"{FOLDER}/../../etc/passwd", f"{FOLDER}/%2e%2e/x.jsonl", "s3://bucket/x?a=b",
    INJECTION, "x" * 100_000, 10**400, -(10**20), 1e308, float("nan"), float("inf"), [["a list in a list"]],
    {"a": {"b": 1}}, "latest\0", "2026-10-05'",
]  # fmt: skip
#: Fields with words for people or names that a person chose: any short text has no effect but to be shown or bound.
FREE_TEXTS = {
    "Plan": {"source", "selection", "run_id"},
    "Prepared": {"checksum"},
    "RecodingState": {"generation"},
    "LandingSummary": {"published_by_run"},
    "PartResult": {"message"},
    "RunMetadata": {"backfill"},
    "WaitOutcome": {"message"},
    "WaitEvent": {"message", "status"},
    "Consent": {"source"},
}  # fmt: skip


def list_fields() -> list[Any]:
    return [
        pytest.param(example, field.name, id=f"{type(example).__name__}.{field.name}")
        for example in EXAMPLES
        for field in fields(example)  # type: ignore[arg-type]
    ]


@pytest.mark.parametrize(("example", "name"), list_fields())
def test_a_hostile_value_of_any_field_is_refused_with_a_sentence(example: Handoff, name: str) -> None:
    kind = type(example)
    is_free_text = name in FREE_TEXTS.get(kind.__name__, ())
    for value in HOSTILE_VALUES:
        if is_free_text and isinstance(value, str) and len(value) < 200:
            continue
        with pytest.raises(PlanError) as excinfo:
            kind.from_dict({**example.to_dict(), name: value}, task="plan", folder=FOLDER)
        message = str(excinfo.value)
        assert name in message
        assert message.endswith("Clear the task 'plan' to compute it again")
        assert len(message) < 1000
        assert INJECTION not in message or name in ("selection", "export")
        assert "/etc" not in message or name == "export"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example).__name__)
@pytest.mark.parametrize("key", ["staging_uri", "../../etc", "x\n" * 5000, ""])
def test_a_field_that_no_version_wrote_is_refused(example: Handoff, key: str) -> None:
    with pytest.raises(PlanError, match="Unexpected keyword argument.* Clear the task 'plan'") as excinfo:
        type(example).from_dict({**example.to_dict(), key: 1}, task="plan", folder=FOLDER)
    assert len(str(excinfo.value)) < 300
    assert "\n" not in str(excinfo.value)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example).__name__)
@pytest.mark.parametrize("value", [[], "text", 3, [{"a": 1}], [[[[[[]]]]]]], ids=repr)
def test_a_value_that_is_no_object_is_refused(example: Handoff, value: Any) -> None:
    with pytest.raises(
        PlanError, match=r"is invalid: Input should be .*\. Clear the task 'plan' to compute it again"
    ):
        type(example).from_dict(value, task="plan", folder=FOLDER)


@pytest.mark.parametrize(
    "uri",
    [
        "file:///etc/passwd", "file:///s/../etc/passwd", "file:///s2/part-0000-aaaaaaaaaaaa.jsonl", "file:///s", "",
        "s3://s/part-0000-aaaaaaaaaaaa.jsonl", f"{INPUT}?versionId=1", f"{INPUT}#x", f"{INPUT}/../x", f" {INPUT}",
        "file:///s/records.parquet", "file:///s/.hidden", "file:///s/a/b/part-0000-aaaaaaaaaaaa.jsonl",
        "file:///s/%2e%2e/part-0000-aaaaaaaaaaaa.jsonl", f"{INPUT}\n",
    ],
)  # fmt: skip
def test_a_part_names_an_input_file_of_its_run_and_no_other_file(uri: str) -> None:
    with pytest.raises(PlanError, match=r"Part is invalid: input_uri: .* Clear the task 'prepare'"):
        handoffs.Part.from_dict({**PART.to_dict(), "input_uri": uri}, task="prepare", folder=FOLDER)


@pytest.mark.parametrize("value", ["20261005", "2026-W41-1", "2026-10-5", "2026-02-30", "2026-10-05 00:00", "", 0])
def test_a_date_has_one_form(value: Any) -> None:
    with pytest.raises(PlanError, match="Plan is invalid: to_date: "):
        Plan.from_dict({**PLAN.to_dict(), "to_date": value}, task="plan")


# ---- the operators of the provider -------------------------------------------------------------------------------


@pytest.fixture
def run_folder_of_run_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("CODING_STAGING", tmp_path.as_uri())
    return run_folder("run-1")


def make_context(folder: str, task_id: str = "code.upload", dry_run: bool = False, **changes: Any) -> dict[str, Any]:
    part = replace(PART, input_uri=INPUT.replace(FOLDER, folder)).to_dict()
    values = {
        "task_id": task_id, "part": part, "operation_id": OPERATION, "grant": "encrypted", "outcome": OUTCOME.to_dict(),
    }  # fmt: skip
    task = SimpleNamespace(**{**values, **changes})
    return {
        "task": task,
        "ti": SimpleNamespace(dag_id="recode_occupations", run_id="run-1"),
        "params": {"dry_run": dry_run},
    }


def test_what_the_tasks_of_a_part_wrote_is_accepted(run_folder_of_run_1: str) -> None:
    check_inputs(make_context(run_folder_of_run_1))
    check_inputs({**make_context(run_folder_of_run_1), "task": SimpleNamespace(
        task_id="code.create", part=make_context(run_folder_of_run_1)["task"].part)})  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"operation_id": "../../../etc"}, "OperationId is invalid: operation_id: .*Clear the task 'code.create'"),
        ({"operation_id": None}, "OperationId is invalid: operation_id: .*Clear the task 'code.create'"),
        ({"operation_id": [OPERATION]}, "OperationId is invalid: operation_id: .*Clear the task 'code.create'"),
        (
            {"operation_id": f"{OPERATION}/..", "task_id": "code.download"},
            "OperationId is invalid: operation_id: .*Clear the task 'code.upload'",
        ),
        ({"grant": {"url": "http://169.254.169.254/"}}, "UploadGrant is invalid: grant: .*'code.create'"),
        ({"outcome": {"ended_at": "never"}}, "WaitOutcome is invalid: .*Clear the task 'code.poll'"),
        ({"outcome": [1]}, "WaitOutcome is invalid: .*Clear the task 'code.poll'"),
        ({"part": None}, "Part is invalid: .*Clear the task 'prepare'"),
        ({"dry_run": True}, "a dry run sends nothing, but it has parts"),
    ],
    ids=repr,
)
def test_an_operator_refuses_an_operation_a_grant_and_an_outcome_that_no_task_wrote(
    run_folder_of_run_1: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        check_inputs(make_context(run_folder_of_run_1, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"input_uri": "file:///etc/passwd"},
        {"input_uri": "{folder}/records.parquet"},
        {"input_uri": "{folder}/piece-0123456789abcdef.jsonl"},
        {"input_uri": "{folder}/part-0001-bbbbbbbbbbbb.jsonl"},
        {"sha256": LAST_HASH},
        {"part": 1},
        {"sha256": ""},
        {"topic": "../models"},
        {"model_id": "latest"},
        {"token": "x"},
    ],
    ids=repr,
)
def test_an_operator_refuses_a_part_that_prepare_cannot_have_written(
    run_folder_of_run_1: str, changes: dict[str, Any]
) -> None:
    context = make_context(run_folder_of_run_1)
    for name, value in changes.items():
        context["task"].part[name] = value.replace("{folder}", run_folder_of_run_1) if name == "input_uri" else value
    with pytest.raises(PlanError, match=r"^Part is invalid: .*Clear the task 'prepare' to compute it again$"):
        check_inputs(context)


def test_every_operator_of_a_part_checks_its_inputs() -> None:
    import recode_occupations

    tasks = [task for task in recode_occupations.dag.tasks if task.task_id.startswith("code.")]
    assert len(tasks) == 4
    assert {task._pre_execute_hook for task in tasks} == {check_inputs}


# ---- the plan ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"run_id": "run-2"}, "run_id"),
        ({"run_id": "an earlier run"}, "run_id"),
        ({"schema": "public"}, "schema"),
        ({"schema": "archive"}, "schema"),
        ({"max_records": 5}, "schema"),
    ],
)
def test_the_plan_of_another_run_or_for_another_schema_is_refused(
    make_plan: Callable[..., Plan], changes: dict[str, Any], name: str
) -> None:
    ti = TaskInstance({"plan": {**make_plan().to_dict(), **changes}})
    with pytest.raises(PlanError, match=rf"Plan is invalid: {name}: .*Clear the task 'plan' to compute it again"):
        handoffs.pull_plan(ti)


def test_the_memory_is_that_of_the_deployment(
    make_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODING_MEMORY_MB", "700")
    assert handoffs.pull_plan(TaskInstance({"plan": make_plan(memory_mb=10**9).to_dict()})).memory_mb == 700


@pytest.mark.parametrize("schema", ['a"; DROP TABLE x; --', "a.b", "", " coding", "x" * 58])
def test_a_schema_that_is_no_plain_name_is_refused(monkeypatch: pytest.MonkeyPatch, schema: str) -> None:
    monkeypatch.setenv("CODING_SCHEMA", schema)
    if schema:
        with pytest.raises(PlanError, match="CODING_SCHEMA is .*letters, digits and underscores"):
            read_schema()
    else:
        assert (read_schema(), read_schema(is_trial=True)) == ("coding", "coding_trial")


@pytest.mark.parametrize(
    "event", [{"operation_id": "../..", "reason": "complete"}, {}, {"reason": "hacked"}], ids=repr
)
def test_an_event_that_no_trigger_sent_is_refused(event: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="WaitEvent is invalid: .*Clear the task 'collect'"):
        CollectResultsOperator(task_id="collect").resume({"ti": TaskInstance()}, event)


# ---- files -------------------------------------------------------------------------------------------------------


@pytest.fixture
def other_folder(tmp_path: Path) -> Path:
    """A folder of somebody else, with a file."""
    folder = tmp_path / "precious"
    folder.mkdir()
    (folder / "data.jsonl").write_text("precious")
    return folder


def test_a_folder_that_is_not_that_of_a_run_is_not_cleared(other_folder: Path) -> None:
    with pytest.raises(PlanError, match="is not cleared, because it is not the folder of a run"):
        Staging.in_folder(other_folder).clear()
    assert (other_folder / "data.jsonl").read_text() == "precious"


def test_no_file_outside_of_the_folder_of_the_run_is_read_or_kept(
    run_folder_of_run_1: str, other_folder: Path
) -> None:
    with open_staging("run-1") as staging:
        staging.scratch.mkdir(parents=True)
        link = staging.scratch / "part-0000-aaaaaaaaaaaa.jsonl"
        link.symlink_to(other_folder / "data.jsonl")
        uris = [
            (other_folder / "data.jsonl").as_uri(), link.as_uri(),
            f"{staging.uri}/../../precious/data.jsonl", f"{staging.uri}/%2e%2e/%2e%2e/precious/data.jsonl",
        ]  # fmt: skip
        for uri in uris:
            with pytest.raises(PlanError, match="is not a file of the run"), staging.open_local(uri):
                pass
            with pytest.raises(PlanError, match="is not a file of the run"):
                staging.read_text(uri, 1000)
        for path in (other_folder / "data.jsonl", link):
            with pytest.raises(PlanError, match="cannot be kept"):
                staging.keep(path)


def test_clean_up_clears_the_folder_of_its_own_run_whatever_the_plan_says(
    make_plan: Callable[..., Plan], other_folder: Path
) -> None:
    plan = {**make_plan().to_dict(), "staging": other_folder.as_uri()}
    folder = path_from_uri(run_folder("run-1"))
    folder.mkdir(parents=True)
    (folder / "records.parquet").touch()
    steps.remove_files(TaskInstance({"plan": plan}))
    assert not folder.exists()
    assert (other_folder / "data.jsonl").exists()
