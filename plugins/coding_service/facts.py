"""What the scheduler knows of a run, and its tasks do not."""

from __future__ import annotations

from typing import Any

from airflow.listeners import hookimpl

#: Pool whose DAG runs are told the facts, and the entry of their conf that holds them.
POOL, FACTS = "coding_service", "_airflow"


@hookimpl
def on_dag_run_running(dag_run: Any, msg: str) -> None:
    """Write into the conf of a run that begins: its `backfill` (number, and when it was created; None if it is of
    none), its `pool` (`slots`, `include_deferred`; None if it is missing), and how many `earlier` scheduled runs of
    the DAG are unfinished.

    Tasks can ask for none of it. It runs in the scheduler, within the transaction that starts the run.
    """
    from airflow.models.dagrun import DagRun
    from airflow.models.pool import Pool
    from sqlalchemy import func, select
    from sqlalchemy.orm import object_session

    session = object_session(dag_run)
    if session is None or not any(task.pool == POOL for task in dag_run.dag.tasks):
        return
    pool = session.scalar(select(Pool).where(Pool.pool == POOL))
    earlier = select(func.count()).where(
        DagRun.dag_id == dag_run.dag_id,
        DagRun.run_after < dag_run.run_after,
        DagRun.run_type == "scheduled",
        DagRun.state.in_(("queued", "running")),
    )
    backfill = dag_run.backfill
    facts = {
        "backfill": backfill and f"{backfill.id} of {backfill.created_at.isoformat()}",
        "pool": pool and {"slots": pool.slots, "include_deferred": pool.include_deferred},
        "earlier": session.scalar(earlier),
    }
    dag_run.conf = {**(dag_run.conf or {}), FACTS: facts}
