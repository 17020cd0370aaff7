"""Operations that were opened and never used are recorded, whatever happened to their run."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import pytest
from airflow.sdk.crypto import get_fernet
from airflow.sdk.exceptions import AirflowException

from coding_service import CodingServiceHook
from coding_service.models import InputPart
from coding_service.part_operation import PartOperation
from include.pipeline import settings, steps
from tests.pipeline.conftest import Store, TaskInstance
from tests.support.dag_runner import DAY, DagRunner

# Airflow warns about its own reader of .airflowignore and about its database.
pytestmark = pytest.mark.filterwarnings("default")

OPERATIONS = "SELECT state, records, usable FROM coding.coding_operations ORDER BY state, records"
NO_INPUT = ("abandoned", 0, 0)


def test_an_operation_whose_upload_url_was_dead_is_recorded_and_reported(runner: DagRunner) -> None:
    runner.fault("storage_error", code="ExpiredToken", method="PUT")
    assert runner.run().state == "success"
    assert runner.query(OPERATIONS) == [NO_INPUT, ("complete", 60, 60)]
    ((abandoned,),) = runner.query("SELECT operation_id FROM coding.coding_operations WHERE state = 'abandoned'")
    (report,) = (runner.folder / "staging").rglob("report.md")
    text = report.read_text(encoding="utf-8")
    assert f"**Operations that were opened and never used: 1 (`{abandoned}`).**" in text
    assert "sent: 60 in 1 operations" in text, "an operation without input is not counted"


def test_an_operation_whose_upload_never_happened_is_recorded_when_the_run_fails(runner: DagRunner) -> None:
    import recode_occupations

    conf = {"source": runner.make_source(), "from_date": DAY, "max_uncoded_share": 1}
    marks = r"code\.(upload|poll|download)"
    assert recode_occupations.dag.test(run_conf=conf, mark_success_pattern=marks).state == "failed"
    assert runner.query(OPERATIONS) == [NO_INPUT]


class Part:
    """A part of a run whose tasks open operations, without Airflow's processes."""

    def __init__(self, runner: DagRunner, store: Store, **changes: Any) -> None:
        import recode_occupations

        from tests.pipeline.test_competing_runs import make_run

        get_fernet.cache_clear()
        form = {
            **recode_occupations.dag.params.validate(), "source": runner.make_source(), "from_date": DAY, **changes
        }  # fmt: skip
        plan = steps.make_plan(form, make_run("run-1"), list(recode_occupations.PARAMS), lambda run_id: True)
        self.ti = TaskInstance({"plan": plan})
        ((part),) = steps.prepare_parts(self.ti, make_run("run-1"), lambda run_id: True)
        self.operation = PartOperation(
            CodingServiceHook(), InputPart.from_dict(part), store, labels={"run_id": "run-1", "part": 0}
        )


def test_an_attempt_with_force_new_abandons_the_operation_before_it(runner: DagRunner) -> None:
    part = Part(runner, Store(), force_new=True)
    part.operation.open()
    part.operation.upload(*part.operation.open())
    steps.remove_files(part.ti)  # as after a rejection
    assert runner.query(OPERATIONS) == [NO_INPUT, ("abandoned", 60, 0)]


class RefusingStore(Store):
    """A task state store that cannot keep anything, like that of a task which Airflow does not know any more."""

    def set(self, key: str, value: Any, retention: timedelta | None = None) -> None:
        raise AirflowException("the task is not running")


def test_an_operation_is_recorded_if_its_task_is_stopped_before_the_store_has_it(runner: DagRunner) -> None:
    part = Part(runner, RefusingStore())
    with pytest.raises(AirflowException, match="not running"):
        part.operation.open()
    steps.remove_files(part.ti)
    assert runner.query(OPERATIONS) == [NO_INPUT]


def test_the_sweep_records_the_operations_of_a_run_that_was_deleted(runner: DagRunner) -> None:
    operation_id, _ = Part(runner, Store()).operation.open()
    for path in (runner.folder / "staging").rglob("*"):
        os.utime(path, (0, 0))
    assert len(steps.sweep_staging()) == 1
    rows = runner.query("SELECT operation_id, run_id, part, state, error FROM coding.coding_operations")
    assert rows == [(operation_id, "run-1", 0, "abandoned", "it got no input")]
    assert not any(path.name.startswith("operation-") for path in (runner.folder / "staging").rglob("*"))


def test_a_file_that_describes_no_operation_does_not_stop_the_sweep(runner: DagRunner) -> None:
    Part(runner, Store())
    folder = next((runner.folder / "staging" / settings.RUNS).iterdir())
    (folder / "operation-1.json").write_text('{"operation_id": [')
    (folder / "operation-2.json").write_text('{"operation_id": 7}')
    for path in folder.iterdir():
        os.utime(path, (0, 0))
    assert len(steps.sweep_staging()) == 1
