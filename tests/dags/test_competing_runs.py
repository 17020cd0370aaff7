"""A run whose dates another run in progress codes, through the whole DAG: Airflow tells whether the other one is."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import duckdb
import pytest

from coding_service import CodingServiceHook
from include.coding.claims import claim_dates
from include.coding.plan import Plan
from include.pipeline.names import TIMEZONE
from tests.support.dag_runner import DAY, TEXTS, DagRunner, Outcome
from tests.support.warehouses import open_warehouse

# Airflow warns about its own reader of .airflowignore and about its database.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def other_run(runner: DagRunner) -> Iterator[Any]:
    """Another run of the same date, which has planned and waits."""
    from airflow import settings
    from airflow.models.dagrun import DagRun

    date, run_id = datetime(2026, 9, 2, tzinfo=UTC), f"manual__{uuid4()}"
    with settings.Session() as session:
        run: Any = DagRun(
            dag_id="recode_occupations", run_id=run_id, run_type="manual", state="running", run_after=date, conf={}
        )
        session.add(run)
        session.commit()
        model = CodingServiceHook().latest_model("osca")
        plan = Plan(run_id, "osca", model.model_id, model.version, DAY, DAY, runner.make_source(), timezone=TIMEZONE)
        claim_dates(open_warehouse(runner.warehouse), plan, lambda run_id: True)
        yield run
    end_run(run, "deleted")


def end_run(run: Any, state: str) -> None:
    """Let a run end in a state, or delete it."""
    from airflow import settings
    from airflow.models.dagrun import DagRun

    with settings.Session() as session:
        row = session.get(DagRun, run.id)
        if state == "deleted" and row:
            session.delete(row)
        elif row:
            row._state = state
        session.commit()


def test_a_run_is_skipped_with_a_report_while_another_codes_its_date(runner: DagRunner, other_run: Any) -> None:
    assert runner.run() == Outcome("success", operations=0, uploads=0, texts=0)
    (report,) = (runner.folder / "staging").rglob("report.md")
    assert f"The dates {DAY} are left to run '{other_run.run_id}'" in report.read_text(encoding="utf-8")
    with duckdb.connect(str(runner.warehouse), read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM coding.coded_records").fetchall() == [(0,)]


@pytest.mark.parametrize("state", ["failed", "success", "deleted"])
def test_a_run_that_has_ended_or_was_deleted_does_not_hold_its_date(
    runner: DagRunner, other_run: Any, state: str
) -> None:
    end_run(other_run, state)
    assert runner.run() == Outcome("success", operations=1, uploads=1, texts=TEXTS)
    with duckdb.connect(str(runner.warehouse), read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM coding.date_claims").fetchall() == [(0,)]
