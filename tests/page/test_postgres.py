"""The queries of the page in PostgreSQL, where most deployments keep Airflow's metadata."""

from __future__ import annotations

import json
from datetime import date

from airflow.models import import_all_models
from airflow.models.base import Base
from airflow.models.dagrun import DagRun
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from include.page.runs import Filters, RunQuery, count_tasks
from tests.page.conftest import MODEL, NOW, make_landing, make_plan
from tests.support.postgres import Postgres


def test_runs_are_selected_by_what_their_plan_says(postgres: Postgres) -> None:
    import_all_models()
    postgres.execute("CREATE DATABASE airflow_metadata")
    url = f"postgresql+psycopg://postgres@/airflow_metadata?host={postgres.socket_folder}"
    engine = create_engine(url)
    Base.metadata.create_all(engine)
    plans = {
        "night": make_plan(), "dry": make_plan(dry_run=True), "trial": make_plan(max_records=5),
        "other": make_plan("2026-11-05", topic="anzsco"), "edited": {"dry_run": "perhaps", "max_records": [1]},
        "text": "a text",
    }  # fmt: skip
    with Session(engine) as session:
        session.execute(text("SET session_replication_role = replica"))  # task instances and their DAG are left out
        for name, plan in plans.items():
            run = DagRun(dag_id="recode_occupations", run_id=name, run_type="manual", state="success", run_after=NOW)
            session.add(run)
            session.flush()
            for task_id, value in (("plan", plan), ("land", make_landing("2026-11-01"))):
                session.execute(
                    text(
                        "INSERT INTO xcom (dag_run_id, task_id, key, dag_id, run_id, value, timestamp) VALUES (:id,"
                        " :task, 'return_value', 'recode_occupations', :run, CAST(:value AS jsonb), now())"
                    ),
                    {"id": run.id, "task": task_id, "run": name, "value": json.dumps(value)},
                )
        query = RunQuery("recode_occupations")

        def select(**filters: str) -> set[str]:
            return {run.run_id for run in query.read(session, Filters(**filters))}

        assert select() == set(plans)
        assert select(mode="dry run") == {"dry"}
        assert select(mode="trial") == {"trial", "edited"}
        assert select(model=MODEL, topic="osca", mode="publish") == {"night"}
        assert select(first="2026-11-02", last="2026-11-30") == {"other"}
        assert {run.run_id for run in query.read_recent(session, date(2026, 11, 2))} == {"other"}
        assert query.find_first_use(session, MODEL) == NOW
        assert count_tasks(session, "recode_occupations", query.read(session, Filters())) == []
    engine.dispose()
