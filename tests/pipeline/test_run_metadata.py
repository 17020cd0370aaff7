"""What the scheduler writes into the conf of a run, and what the tasks read from it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.models.backfill import Backfill
from airflow.models.dag_version import DagVersion
from airflow.models.dagrun import DagRun
from airflow.models.log import Log
from airflow.models.pool import Pool
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from include.coding.errors import PlanError
from include.pipeline import consent, preload, run_metadata, run_notes
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
    ("key", "dag_id"),
    [("night", "recode_occupations"), ("recode_labour_force/night", "recode_labour_force")],
)
def test_airflow_is_asked_about_the_run_of_the_dag_that_the_key_names(
    monkeypatch: pytest.MonkeyPatch, key: str, dag_id: str
) -> None:
    runs = {(dag_id, "night")}

    def count(dag_id: str, run_ids: list[str], states: list[str]) -> int:
        return sum((dag_id, run_id) in runs for run_id in run_ids)

    monkeypatch.setattr(RuntimeTaskInstance, "get_dr_count", count)
    assert run_metadata.is_in_progress(key)
    assert not run_metadata.is_in_progress(f"recode_graduates/{key.rpartition('/')[2]}")


@pytest.mark.parametrize(
    ("pool", "max_operations"),
    [(PoolSize(4, True), 4), (PoolSize(4, False), None), (PoolSize(-1, True), None), (PoolSize(0, True), None)],
)
def test_a_pool_limits_the_operations_only_if_waiting_tasks_occupy_slots(
    pool: PoolSize, max_operations: int | None
) -> None:
    assert pool.max_operations == max_operations


def test_the_plugin_registers_the_listeners_and_the_deadline() -> None:
    from occupation_coding_plugin import OccupationCodingPlugin

    assert OccupationCodingPlugin.listeners == (preload, run_metadata, consent, run_notes)
    assert OccupationCodingPlugin.deadline_references == (ScheduledRunDue,)


# ---- in the scheduler --------------------------------------------------------------------------------------------


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


def hours_after_midnight(hours: float) -> datetime:
    """Return a time after the run of 5 October was due."""
    return datetime(2026, 10, 5, tzinfo=UTC) + timedelta(hours=hours)


def log_action(
    session: Session, event: str, hours: float, dag_id: str | None = "recode_occupations", **extra: Any
) -> None:
    """Add an entry to Airflow's audit log."""
    entry = Log(event=event, dag_id=dag_id, extra=json.dumps(extra))
    entry.dttm = hours_after_midnight(hours)
    session.add(entry)


def due_time(session: Session) -> datetime | None:
    """Return when the run of 5 October was due, as its deadline counts."""
    run = add_run(session, 5)
    return ScheduledRunDue()._evaluate_with(session=session, dag_id=run.dag_id, run_id=run.run_id)


@pytest.mark.parametrize(
    ("event", "fields"),
    [
        ("patch_dag", {"is_paused": False, "method": "PATCH"}),
        ("patch_dags", {"is_paused": False, "dag_id_pattern": "~", "dag_id": None}),
        ("cli_dag_unpause", {"full_command": "['airflow', 'dags', 'unpause', 'recode_occupations']"}),
        (
            "cli_dag_unpause",
            {"full_command": "['airflow', 'dags', 'unpause', '--treat-dag-id-as-regex', 'rec.*']", "dag_id": "rec.*"},
        ),
    ],
    ids=["one DAG", "several DAGs", "command", "command for several"],
)
def test_the_run_of_the_night_before_the_dag_was_switched_on_is_due_from_then(
    session: Session, event: str, fields: dict[str, Any]
) -> None:
    log_action(session, event, 15, **fields)
    log_action(session, event, -30, **fields)
    assert due_time(session) == hours_after_midnight(15)


def test_a_run_that_is_late_because_no_scheduler_was_running_is_due_at_midnight(session: Session) -> None:
    log_action(session, "patch_dag", -1, is_paused=False)  # the evening before
    log_action(session, "patch_dag", 9, is_paused=True)
    log_action(session, "patch_dag", 9, dag_id="watch_models", is_paused=False)
    log_action(session, "cli_dag_unpause", 9, dag_id="watch_models", full_command="['airflow', 'dags', 'unpause']")
    log_action(session, "trigger_dag_run", 9)
    session.add(DagVersion(dag_id="recode_occupations", created_at=hours_after_midnight(-100), bundle_name="dags"))
    session.add(
        DagVersion(
            dag_id="recode_occupations", created_at=hours_after_midnight(8), bundle_name="dags", version_number=2
        )
    )
    assert due_time(session) == hours_after_midnight(0)


def test_the_run_of_the_night_before_the_dag_was_deployed_is_due_from_then(session: Session) -> None:
    session.add(DagVersion(dag_id="recode_occupations", created_at=hours_after_midnight(15), bundle_name="dags"))
    assert due_time(session) == hours_after_midnight(15)


def test_an_entry_of_the_audit_log_without_details_does_not_stop_the_scheduler(session: Session) -> None:
    for extra in (None, "", "[]", "not JSON"):
        entry = Log(event="patch_dag", dag_id="recode_occupations", extra=extra)
        entry.dttm = hours_after_midnight(9)
        session.add(entry)
    assert due_time(session) == hours_after_midnight(0)
