"""Measure the pages of the Coding page side by side with Airflow's own list of runs, in one process and one database.

The pages read the same runs as the list, and also the XComs in which the tasks of the runs reported what they did.
"""

from __future__ import annotations

import os
import secrets
import statistics
import tempfile
import time
from contextlib import redirect_stdout
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

from bench.measure import ROOT

DAG_ID = "recode_occupations"
RUNS, DATES, NIGHTS = 3_000, 365, 365
#: The tasks of a run that has one part.
TASKS = (
    "plan", "prepare", "approve", "code.create", "code.upload", "code.poll", "code.download", "wait_for_parts",
    "collect", "land", "announce", "export", "report", "clean_up",
)  # fmt: skip
#: Each night publishes its own date and this many earlier ones, for which answers came late.
LATE_DATES = 6
ROUNDS = 9
#: Runs on a page of the list of runs, and the most that Airflow returns at once.
PAGE_RUNS, MAX_LIMIT = 50, 100
LIST = f"/api/v2/dags/{DAG_ID}/dagRuns?order_by=-run_after&limit="
#: Each page, and how many runs of Airflow's list it is compared with: as many as it shows, as far as Airflow allows.
PAGES = {
    "Today": ("/occupation-coding/", MAX_LIMIT),
    "Dates": ("/occupation-coding/dates", MAX_LIMIT),
    "Runs": ("/occupation-coding/runs", PAGE_RUNS),
    "Runs, its last page": (f"/occupation-coding/runs?page={RUNS // PAGE_RUNS}", PAGE_RUNS),
    "Runs of a model": ("/occupation-coding/runs?model=0a1b2c3d-0000-4000-8000-000000000003", PAGE_RUNS),
    "Models": ("/occupation-coding/models", MAX_LIMIT),
}


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        _set_up_airflow(Path(home))
        with redirect_stdout(StringIO()):  # Airflow logs there
            client = _start_api()
            _add_runs()
            seconds = _measure(client)
        print(f"{RUNS:,} runs of {DATES} dates in SQLite, medians of {ROUNDS} answers in turn:")
        print(f"{'page':24}{'runs':>5}{'their list':>12}{'page':>12}{'ratio':>8}")
        for name, (path, limit) in PAGES.items():
            ours, theirs = seconds[path], seconds[f"{LIST}{limit}"]
            print(f"{name:24}{limit:5}{theirs * 1000:9.0f} ms{ours * 1000:9.0f} ms{ours / theirs:8.2f}")
        answers, theirs = RUNS // MAX_LIMIT, seconds[f"{LIST}{MAX_LIMIT}"] * RUNS / MAX_LIMIT
        print(
            f"Dates and Models read all {RUNS:,} runs, for which Airflow's list needs {answers} answers"
            f" ({theirs:.1f} s): {seconds[PAGES['Dates'][0]] / theirs:.2f} times the time for Dates"
        )


def _set_up_airflow(home: Path) -> None:
    """Give this process an Airflow of its own. Airflow reads these variables when it is imported."""
    os.environ |= {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(64),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
    }


def _start_api() -> Any:
    """Create the tables and return a person's browser of Airflow's API server."""
    from airflow import settings
    from airflow.models import import_all_models
    from airflow.models.base import Base

    settings.initialize()
    import_all_models()
    Base.metadata.create_all(settings.engine)

    from airflow.api_fastapi.app import create_app, get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from fastapi.testclient import TestClient

    app = create_app("core")
    token = get_auth_manager().generate_jwt(SimpleAuthManagerUser(username="ada", role="viewer"))
    return TestClient(app, headers={"Authorization": f"Bearer {token}"})


def _add_runs() -> None:
    from airflow.models.dag import DagModel, DagTag
    from airflow.models.dag_version import DagVersion
    from airflow.models.dagbundle import DagBundleModel
    from airflow.models.dagrun import DagRun
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.xcom import XCOM_RETURN_KEY, XComModel
    from airflow.providers.standard.operators.empty import EmptyOperator
    from airflow.sdk import DAG
    from airflow.serialization.serialized_objects import LazyDeserializedDAG
    from airflow.utils.session import create_session
    from airflow.utils.state import DagRunState
    from sqlalchemy import insert

    now = datetime.now(UTC)
    with create_session() as session:
        session.add(DagBundleModel(name="dags"))
        session.flush()
        session.add(DagModel(dag_id=DAG_ID, bundle_name="dags", is_stale=False, is_paused=False))
        session.flush()
        session.add(DagTag(dag_id=DAG_ID, name="recode_dag"))
        with DAG(DAG_ID, schedule=None) as dag:  # without it, Airflow has no list
            EmptyOperator(task_id="plan")
        SerializedDagModel.write_dag(LazyDeserializedDAG.from_dag(dag), bundle_name="dags", session=session)
        session.flush()
        version: Any = DagVersion.get_latest_version(DAG_ID, session=session)
        results = []
        for number in range(RUNS):
            age = timedelta(days=1 + number % DATES)
            day, is_night = (now - age).date().isoformat(), number < NIGHTS
            run: Any = DagRun(
                dag_id=DAG_ID, run_id=f"run-{number}", run_type="scheduled" if is_night else "backfill",
                state=DagRunState.SUCCESS, run_after=now - age, start_date=now - age, partition_key=day, conf={},
            )  # fmt: skip
            run.created_dag_version = version
            run.end_date = run.start_date + timedelta(minutes=12)
            run.note = "Coded 2,009 of 2,037 records, 11 uncoded, 17 rejected"
            session.add(run)
            results.append((run, {"plan": _make_plan(day), "land": _make_landing(day, is_night)}))
        session.flush()
        tasks = [
            {
                "dag_id": DAG_ID, "run_id": run.run_id, "task_id": task_id, "map_index": -1, "state": "success",
                "start_date": run.start_date, "end_date": run.end_date, "dag_version_id": version.id,
                "pool": "default_pool", "pool_slots": 1, "try_number": 1,
            }
            for run, _ in results
            for task_id in TASKS
        ]  # fmt: skip
        session.execute(insert(TaskInstance.__table__), tasks)
        xcoms = [
            {
                "dag_run_id": run.id, "dag_id": DAG_ID, "run_id": run.run_id, "task_id": task_id, "value": value,
                "key": XCOM_RETURN_KEY, "map_index": -1,
            }
            for run, values in results
            for task_id, value in values.items()
        ]  # fmt: skip
        session.execute(insert(XComModel.__table__), xcoms)


def _make_plan(day: str) -> dict[str, Any]:
    """Return what `plan` reports, with all fields that take room."""
    return {
        "run_id": "run", "topic": "osca", "model_id": "0a1b2c3d-0000-4000-8000-000000000003", "model_version": 3.0,
        "from_date": day, "to_date": day, "source": "survey.responses", "columns": {}, "read_options": {},
        "selection": "uncoded", "records_per_part": 500_000, "clean": True, "max_records": None, "dry_run": False,
        "max_uncoded_share": 0.5, "max_rejected_share": 0.2, "schema": "coding", "memory_mb": 512,
        "timezone": "Australia/Sydney", "changed_only": False, "excluded_dates": [], "unreachable_dates": [],
    }  # fmt: skip


def _make_landing(day: str, is_night: bool) -> dict[str, Any]:
    """Return what `land` reports."""
    first = datetime.fromisoformat(day).date()
    days = [(first - timedelta(days=age)).isoformat() for age in range(1 + LATE_DATES * is_night)]
    counts = {"read": 2037, "coded": 2009, "uncoded": 11, "rejected": 17}
    return {
        **counts, "texts": 1500, "texts_sent": 400, "operations": 1, "from_date": days[-1], "to_date": day,
        "published_by_run": None, "dates": [{"day": name, **counts} for name in days], "dates_over_limit": [],
        "extra_operations": 0,
    }  # fmt: skip


def _measure(client: Any) -> dict[str, float]:
    """Return the median seconds of each page and list, which take turns."""
    paths = list(dict.fromkeys(path for page, limit in PAGES.values() for path in (page, f"{LIST}{limit}")))
    seconds: dict[str, list[float]] = {path: [] for path in paths}
    for number in range(ROUNDS + 2):  # the first answers fill caches
        for path in paths:
            start = time.perf_counter()
            answer = client.get(path)
            if number > 1:
                seconds[path].append(time.perf_counter() - start)
            if answer.status_code != 200:
                raise RuntimeError(f"{path}: HTTP {answer.status_code}")
    return {path: statistics.median(values) for path, values in seconds.items()}


if __name__ == "__main__":
    main()
