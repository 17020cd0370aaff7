"""The note that a run has when it ended, on a metadata database of Airflow, and the report of a run that failed."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from airflow.models.dagrun import DagRun
from airflow.models.xcom import XComModel
from sqlalchemy import insert
from sqlalchemy.orm import Session

from coding_service.errors import CodingServiceError
from include.coding.errors import SourceError
from include.coding.files import path_from_uri
from include.coding.plan import Plan
from include.pipeline.names import POOL
from include.pipeline.run_notes import explain_failure, on_dag_run_failed, on_dag_run_success
from tests.pipeline.conftest import TaskInstance

LANDED = {"coded": 2009, "read": 2037, "uncoded": 11, "rejected": 17}


def add_run(session: Session, pool: str = POOL) -> Any:
    run: Any = DagRun(
        dag_id="recode_occupations", run_id="run", run_type="manual", state="running", conf={},
        run_after=datetime(2026, 10, 5, tzinfo=UTC),
    )  # fmt: skip
    run.dag = SimpleNamespace(tasks=[SimpleNamespace(task_id="create", pool=pool)])
    session.add(run)
    session.flush()
    return run


def add_task(session: Session, run: Any, task_id: str, state: str, minute: int = 0, **values: Any) -> None:
    """Add a task of a run in a state, with the XComs of these keys."""
    from airflow.models.taskinstance import TaskInstance

    fields = {"dag_id": run.dag_id, "run_id": run.run_id, "task_id": task_id, "map_index": -1}
    session.execute(
        insert(TaskInstance.__table__).values(
            id=uuid4(), state=state, pool="default_pool", pool_slots=1, try_number=1, max_tries=0,
            end_date=datetime(2026, 10, 6, 1, minute, tzinfo=UTC), **fields,
        )
    )  # fmt: skip
    for key, value in values.items():
        session.add(XComModel(dag_run_id=run.id, key=key, value=json.dumps(value), **fields))
    session.flush()


def test_the_note_of_a_run_that_landed_counts_its_records(session: Session) -> None:
    run = add_run(session)
    add_task(session, run, "land", "success", return_value=LANDED)
    on_dag_run_success(run, "")
    assert run.note == "Coded 2,009 of 2,037 records, 11 uncoded, 17 rejected"


@pytest.mark.parametrize(
    ("is_dry_run", "note"),
    [
        (True, "Dry run: 1,200 texts to send; nothing was sent"),
        (False, "Nothing was sent: the approval of 1,200 texts was rejected"),
    ],
)
def test_the_note_of_a_run_that_sent_nothing_says_why(session: Session, is_dry_run: bool, note: str) -> None:
    run = add_run(session)
    add_task(session, run, "plan", "success", return_value={"dry_run": is_dry_run})
    add_task(session, run, "prepare", "success", estimate={"texts_to_send": 1200})
    add_task(session, run, "land", "skipped")
    on_dag_run_success(run, "")
    assert run.note == note


def test_the_note_of_a_run_that_failed_is_the_sentence_of_the_task_that_failed_last(session: Session) -> None:
    run = add_run(session)
    add_task(session, run, "plan", "success", failure="of an earlier attempt")
    add_task(session, run, "collect", "failed", 1, failure="too early")
    add_task(session, run, "land", "failed", 2, failure="source '<script>![](https://x.example)' has no column 'job'")
    on_dag_run_failed(run, "task_failure")
    assert run.note.startswith("**land**: source '&#60;script&#62;&#33;&#91;&#93;(https://x.example)' has no column")


def test_the_note_of_a_task_without_a_sentence_names_the_task(session: Session) -> None:
    run = add_run(session)
    add_task(session, run, "prepare", "failed")
    on_dag_run_failed(run, "task_failure")
    assert run.note == "**prepare**: failed, see its log"


@pytest.mark.parametrize(
    ("note", "user", "is_replaced"),
    [
        ("Coded 1 of 2 records, 0 uncoded, 1 rejected", None, True),
        ("**prepare**: failed, see its log", None, True),
        ("asked the source team", "admin", False),
        ("Coded 1 of 2 records? Please check", "admin", False),
        ("asked the source team", None, False),
    ],
)
def test_a_note_of_a_person_stays_and_one_of_an_earlier_attempt_is_replaced(
    session: Session, note: str, user: str | None, is_replaced: bool
) -> None:
    run = add_run(session)
    run.note = (note, user)
    session.flush()
    add_task(session, run, "land", "success", return_value=LANDED)
    on_dag_run_success(run, "")
    assert (run.note != note) is is_replaced


def test_runs_of_other_dags_get_no_note(session: Session) -> None:
    run = add_run(session, pool="default_pool")
    on_dag_run_success(run, "")
    on_dag_run_failed(run, "task_failure")
    assert run.note is None


# ---- the report of a run that failed ---------------------------------------------------------------------------------


def fail(plan: Plan, error: BaseException, task_id: str = "prepare", map_index: int = -1) -> dict[str, Any]:
    """Let a task fail, and return what it pushed."""
    ti: Any = TaskInstance({"plan": plan.to_dict()})
    ti.task_id, ti.map_index = task_id, map_index
    explain_failure({"ti": ti, "exception": error})
    return dict(ti.pushed)


def test_a_run_that_failed_has_a_report_with_the_task_and_its_error(make_plan: Callable[..., Plan]) -> None:
    pushed = fail(make_plan(source="<script>"), SourceError("source '<script>' has no column 'job'. Name another"))
    assert pushed["failure"] == "source '<script>' has no column 'job'. Name another"
    assert pushed["failure_class"] == "SourceError"
    path = path_from_uri(pushed["failure_report"])
    html, data = path.read_text(encoding="utf-8"), json.loads(path.with_suffix(".json").read_text())
    assert data["title"] == "Occupation coding, 2026-10-05 to 2026-10-06: the run failed"
    assert data["warnings"] == ["`prepare` failed: source '<script>' has no column 'job'. Name another"]
    assert "<code>prepare</code> failed: source &#39;&lt;script&gt;&#39; has no column" in html
    assert "<code>SourceError</code>" in html
    assert "<script" not in html


def test_the_words_of_errors_that_are_not_ours_are_in_no_note_and_no_report(make_plan: Callable[..., Plan]) -> None:
    pushed = fail(make_plan(), ValueError("could not convert 'secret chef' of https://bucket/x?signature=1"))
    assert pushed["failure"] == "ValueError, which only the log of the task explains"
    assert "failure_class" not in pushed
    assert "secret chef" not in path_from_uri(pushed["failure_report"]).read_text(encoding="utf-8")


def test_a_part_that_failed_and_a_task_after_the_report_leave_the_report_alone(
    make_plan: Callable[..., Plan],
) -> None:
    error = CodingServiceError("operation 'x' failed")
    assert fail(make_plan(), error, "code.poll", 2) == {
        "failure": "operation 'x' failed", "failure_class": "CodingServiceError",
    }  # fmt: skip
    assert fail(make_plan(), error, "clean_up") == {
        "failure": "operation 'x' failed", "failure_class": "CodingServiceError",
    }  # fmt: skip
