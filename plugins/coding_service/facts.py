"""What the scheduler knows of a run, and its tasks do not."""

from __future__ import annotations

from typing import Any

from airflow.listeners import hookimpl

#: Pool whose DAG runs are told the facts, and the entry of their conf that holds them.
POOL, FACTS = "coding_service", "_airflow"


@hookimpl
def on_dag_run_running(dag_run: Any, msg: str) -> None:
    """Write into the conf of a run that begins: its `backfill` (number, and when it was created; None if it is of
    none) and its `pool` (`slots`, `include_deferred`; None if it is missing).

    Tasks can ask for neither: Airflow tells them no more of a run than its type, and nothing of pools. It runs in the
    scheduler, within the transaction that starts the run.
    """
    from airflow.models.pool import Pool
    from sqlalchemy import select
    from sqlalchemy.orm import object_session

    session = object_session(dag_run)
    if session is None or not any(task.pool == POOL for task in dag_run.dag.tasks):
        return
    pool = session.scalar(select(Pool).where(Pool.pool == POOL))
    backfill = dag_run.backfill
    facts = {
        "backfill": backfill and f"{backfill.id} of {backfill.created_at.isoformat()}",
        "pool": pool and {"slots": pool.slots, "include_deferred": pool.include_deferred},
    }
    dag_run.conf = {**(dag_run.conf or {}), FACTS: facts}
