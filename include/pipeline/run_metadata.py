"""What the scheduler knows about a run but its tasks cannot ask for: its backfill, its pool, earlier runs.

The scheduler writes it to the conf of the run (:func:`on_dag_run_running`), tasks read it (:func:`read_metadata`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from airflow.listeners import hookimpl

from include.coding.handoff import Day, Handoff, ShortText, WholeNumber
from include.coding.run_keys import split_run_key
from include.pipeline.names import MAX_LOOK_BACK_DAYS, POOL

#: Entry of the conf that holds the metadata.
CONF_KEY = "_airflow"
#: Maximum number of earlier runs that the metadata names; a look-back reaches no further.
MAX_DATES = MAX_LOOK_BACK_DAYS


@dataclass(frozen=True)
class PoolSize(Handoff):
    """The pool of tasks that call the service: its slots (-1: unlimited), and whether deferred tasks occupy some."""

    slots: WholeNumber
    include_deferred: bool

    @property
    def max_operations(self) -> int | None:
        """How many operations can be in progress at once; None for any number."""
        return self.slots if self.include_deferred and self.slots > 0 else None


@dataclass(frozen=True)
class RunMetadata(Handoff):
    """What the scheduler knows about a run.

    :param backfill: number of its backfill and when that was created; None without one
    :param pool: None if the pool does not exist
    :param unfinished: response dates of earlier scheduled runs of the DAG that are not finished
    :param failed: response dates of earlier scheduled runs that failed, if no run of the date has succeeded since
    """

    OBSOLETE_FIELDS = frozenset({"earlier"})

    backfill: ShortText | None
    pool: PoolSize | None
    unfinished: tuple[Day, ...] = ()
    failed: tuple[Day, ...] = ()


def read_metadata(dag_run: Any) -> RunMetadata | None:
    """Return what the scheduler wrote to the conf of a run; None without a scheduler, as in `airflow dags test`."""
    data = (dag_run.conf or {}).get(CONF_KEY)
    return None if data is None else RunMetadata.from_dict(data)


def is_in_progress(run_key: str) -> bool:
    """Return whether a run is queued or running; False if it was deleted."""
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    dag_id, run_id = split_run_key(run_key)
    count = RuntimeTaskInstance.get_dr_count(dag_id, run_ids=[run_id], states=["queued", "running"])
    return count > 0


@hookimpl
def on_dag_run_running(dag_run: Any, msg: str) -> None:
    """Write the metadata to the conf of a run that starts, in the scheduler and the transaction that starts it."""
    from airflow.models.dagrun import DagRun
    from airflow.models.pool import Pool
    from sqlalchemy import exists, select
    from sqlalchemy.orm import aliased, object_session

    session = object_session(dag_run)
    if session is None or not any(task.pool == POOL for task in dag_run.dag.tasks):
        return
    pool = session.scalar(select(Pool).where(Pool.pool == POOL))
    earlier = (
        select(DagRun.partition_key)
        .where(
            DagRun.dag_id == dag_run.dag_id,
            DagRun.run_after < dag_run.run_after,
            DagRun.run_type == "scheduled",
            DagRun.partition_key.is_not(None),
        )
        .order_by(DagRun.run_after.desc())
        .limit(MAX_DATES)
    )
    success = aliased(DagRun)
    has_succeeded_since = exists().where(
        success.dag_id == DagRun.dag_id,
        success.partition_key == DagRun.partition_key,
        success.state == "success",
        success.end_date > DagRun.end_date,
    )
    unfinished = earlier.where(DagRun.state.in_(("queued", "running")))
    failed = earlier.where(DagRun.state == "failed", ~has_succeeded_since)
    backfill = dag_run.backfill
    metadata = RunMetadata(
        backfill=f"{backfill.id} of {backfill.created_at.isoformat()}" if backfill else None,
        pool=PoolSize(pool.slots, pool.include_deferred) if pool else None,
        unfinished=tuple(session.scalars(unfinished)),
        failed=tuple(session.scalars(failed)),
    )
    dag_run.conf = {**(dag_run.conf or {}), CONF_KEY: metadata.to_dict()}
