"""What the scheduler writes into the conf of a run, and what the tasks read from it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.models import import_all_models
from airflow.models.backfill import Backfill
from airflow.models.base import Base
from airflow.models.dagrun import DagRun
from airflow.models.pool import Pool
from sqlalchemy import create_engine, func, select
from sqlalchemy.orm import Session

from include.coding.errors import PlanError
from include.pipeline import run_metadata
from include.pipeline.alerts import ScheduledRunDue
from include.pipeline.run_metadata import PoolSize, RunMetadata, read_metadata


@pytest.mark.parametrize("conf", [None, {}, {"model": "latest"}])
def test_a_run_that_no_scheduler_started_has_no_metadata(conf: dict[str, str] | None) -> None:
    assert read_metadata(SimpleNamespace(conf=conf)) is None


@pytest.mark.parametrize(
    "metadata",
    [RunMetadata("3 of 2026-10-07T00:00:00+00:00", PoolSize(4, True)), RunMetadata(None, None, ("2026-10-04",))],
    ids=["backfill", "no pool"],
)
def test_the_metadata_is_an_entry_of_the_conf(metadata: RunMetadata) -> None:
    conf = {"model": "latest", "_airflow": metadata.to_dict()}
    assert read_metadata(SimpleNamespace(conf=conf)) == metadata


def test_metadata_of_another_form_is_refused() -> None:
    with pytest.raises(PlanError, match="RunMetadata .*: pool"):
        read_metadata(SimpleNamespace(conf={"_airflow": {"backfill": None, "pool": 4, "earlier": 0}}))


@pytest.mark.parametrize(
    ("pool", "max_operations"),
    [(PoolSize(4, True), 4), (PoolSize(4, False), None), (PoolSize(-1, True), None), (PoolSize(0, True), None)],
)
def test_a_pool_limits_the_operations_only_if_waiting_tasks_occupy_slots(
    pool: PoolSize, max_operations: int | None
) -> None:
    assert pool.max_operations == max_operations


def test_the_plugin_registers_the_listener_and_the_deadline() -> None:
    from occupation_coding_plugin import OccupationCodingPlugin

    assert OccupationCodingPlugin.listeners == (run_metadata,)
    assert OccupationCodingPlugin.deadline_references == (ScheduledRunDue,)


# ---- in the scheduler --------------------------------------------------------------------------------------------


@pytest.fixture
def session() -> Iterator[Session]:
    """A session of an Airflow database in memory."""
    import_all_models()
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        yield session
    engine.dispose()


def add_run(
    session: Session, day: int, run_type: str = "scheduled", state: str = "running", *, pool: str = "coding_service"
) -> Any:
    """Add a run of a DAG with one task in a pool; runs end in the order in which they are added."""
    date = datetime(2026, 10, day, tzinfo=UTC)
    number = session.scalar(select(func.count()).select_from(DagRun))
    end = None if state in ("queued", "running") else datetime(2026, 11, 1, number, tzinfo=UTC)
    run: Any = DagRun(
        dag_id="recode_occupations", run_id=f"{run_type}-{day}", run_type=run_type, state=state, run_after=date,
        conf={"model": "latest"}, partition_key=None if run_type == "manual" else (date - timedelta(days=1)).date().isoformat(),
    )  # fmt: skip
    run.end_date = end
    run.dag = SimpleNamespace(tasks=[SimpleNamespace(pool="default_pool"), SimpleNamespace(pool=pool)])
    session.add(run)
    session.flush()
    return run


def test_a_run_that_starts_gets_its_pool_and_the_unfinished_nights_before_it(session: Session) -> None:
    session.add(Pool(pool="coding_service", slots=4, include_deferred=True, description=""))
    for day, run_type, state in [
        (1, "scheduled", "running"), (2, "scheduled", "queued"), (3, "scheduled", "success"), (4, "manual", "running"),
        (6, "scheduled", "queued"),
    ]:  # fmt: skip
        add_run(session, day, run_type, state)
    run = add_run(session, 5)
    run_metadata.on_dag_run_running(run, "")
    assert read_metadata(run) == RunMetadata(None, PoolSize(4, True), ("2026-10-01", "2026-09-30"))
    assert run.conf["model"] == "latest"


def test_a_run_that_starts_gets_the_failed_nights_before_it_whose_date_no_run_has_coded_since(
    session: Session,
) -> None:
    for day, run_type, state in [
        (2, "scheduled", "failed"), (3, "backfill", "success"), (3, "scheduled", "failed"), (4, "scheduled", "failed"),
        (5, "scheduled", "failed"), (5, "backfill", "success"), (6, "backfill", "failed"), (6, "scheduled", "success"),
        (8, "scheduled", "failed"),
    ]:  # fmt: skip
        add_run(session, day, run_type, state)
    run = add_run(session, 7)
    run_metadata.on_dag_run_running(run, "")
    metadata = read_metadata(run)
    assert metadata is not None
    assert (metadata.unfinished, metadata.failed) == ((), ("2026-10-03", "2026-10-02", "2026-10-01"))


def test_the_metadata_that_an_earlier_version_wrote_is_read(session: Session) -> None:
    run = SimpleNamespace(conf={"_airflow": {"backfill": None, "pool": None, "earlier": 3}})
    assert read_metadata(run) == RunMetadata(None, None)


def test_a_run_of_a_backfill_gets_its_number_and_when_it_was_created(session: Session) -> None:
    date = datetime(2026, 10, 7, tzinfo=UTC)
    run = add_run(session, 5, "backfill")
    run.backfill = Backfill(
        id=3, dag_id=run.dag_id, from_date=date, to_date=date, dag_run_conf={}, max_active_runs=2, created_at=date
    )
    run_metadata.on_dag_run_running(run, "")
    assert read_metadata(run) == RunMetadata("3 of 2026-10-07T00:00:00+00:00", None)


def test_a_run_of_a_dag_without_tasks_in_the_pool_gets_no_metadata(session: Session) -> None:
    run = add_run(session, 5, pool="another_pool")
    run_metadata.on_dag_run_running(run, "")
    assert run.conf == {"model": "latest"}


@pytest.mark.parametrize("run_type", ["scheduled", "manual", "backfill"])
def test_only_a_scheduled_run_has_a_deadline_and_it_counts_from_when_the_run_was_due(
    session: Session, run_type: str
) -> None:
    run = add_run(session, 5, run_type)
    due = ScheduledRunDue()._evaluate_with(session=session, dag_id=run.dag_id, run_id=run.run_id)
    assert due == (datetime(2026, 10, 5, tzinfo=UTC) if run_type == "scheduled" else None)
