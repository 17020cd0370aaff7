"""The page as Airflow mounts it, with Airflow's own auth manager, over a real metadata database."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from airflow import settings
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.models import import_all_models
from airflow.models.base import Base
from airflow.models.dag import DagModel, DagTag
from airflow.models.dagbundle import DagBundleModel
from airflow.models.dagrun import DagRun
from airflow.models.pool import Pool
from fastapi import FastAPI
from sqlalchemy import create_engine, event, text
from sqlalchemy.orm import Session, sessionmaker

with warnings.catch_warnings():  # Airflow's own dependencies import it, and it warns that httpx2 is not installed
    warnings.simplefilter("ignore")
    from airflow.api_fastapi.app import get_auth_manager, init_auth_manager, purge_cached_app
    from fastapi.testclient import TestClient

MODEL = "0a1b2c3d-0000-4000-8000-000000000003"
NOW = datetime.now(UTC).replace(microsecond=0)
#: What differs between two answers with the same content.
NONCE = re.compile('nonce="[^"]*"')


class Metadata:
    """Airflow's metadata database of a test.

    :param statements: SQL that has run since the list was cleared
    """

    def __init__(self, path: Path) -> None:
        self.engine = create_engine(f"sqlite:///{path}")
        self.make_session = sessionmaker(self.engine, expire_on_commit=False)
        self.statements: list[str] = []
        event.listen(self.engine, "before_cursor_execute", lambda *args: self.statements.append(args[2]))
        with self.make_session.begin() as session:
            session.add(DagBundleModel(name="dags"))
            session.add(Pool(pool="coding_service", slots=4, include_deferred=True, description=""))
        self.add_dag("recode_occupations")

    def add_dag(self, dag_id: str, tag: str = "recode_dag") -> None:
        with self.make_session.begin() as session:
            session.add(DagModel(dag_id=dag_id, bundle_name="dags", is_stale=False, is_paused=False))
            session.flush()
            session.add(DagTag(dag_id=dag_id, name=tag))

    def add_run(
        self, run_id: str, day: str | None = "2026-11-01", *, kind: str = "scheduled", state: str = "success",
        run_after: datetime = NOW - timedelta(hours=3), plan: dict[str, Any] | None = None,
        land: Any = None, conf: dict[str, Any] | None = None, dag_id: str = "recode_occupations", user: str | None = None,
        note: str | None = None, tasks: tuple[tuple[str, str], ...] = (),
        xcoms: Mapping[tuple[str, int, str], Any] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        """Add a run, with what its tasks `plan` and `land` reported, the states of others (the same task again is its
        next part), and other XComs by task, index and key."""
        with self.make_session.begin() as session:
            run = DagRun(
                dag_id=dag_id, run_id="new", run_type=kind, state=state, run_after=run_after, conf=conf or {},
                partition_key=day, start_date=run_after, triggering_user_name=user, note=note,
            )  # fmt: skip
            run.end_date = None if state in ("queued", "running") else run_after + timedelta(minutes=12, seconds=5)
            session.add(run)
            session.flush()
            # Airflow refuses most characters in the id of a run, unless its administrator allows them.
            session.execute(text("UPDATE dag_run SET run_id = :name WHERE id = :id"), {"name": run_id, "id": run.id})
            results = {("plan", -1, "return_value"): plan, ("land", -1, "return_value"): land, **xcoms}
            for place, value in results.items():
                if value is not None:
                    add_xcom(session, run.id, dag_id, run_id, place, value)
            parts = Counter[str]()
            for task_id, task_state in tasks:
                index = parts[task_id] if task_id.startswith("code.") else -1
                add_task(session, index, dag_id, run_id, task_id, task_state, run_after)
                parts[task_id] += 1


def add_xcom(
    session: Session, dag_run_id: int, dag_id: str, run_id: str, place: tuple[str, int, str], value: Any
) -> None:
    task_id, map_index, key = place
    session.execute(
        text(
            "INSERT INTO xcom (dag_run_id, task_id, map_index, key, dag_id, run_id, value, timestamp)"
            " VALUES (:id, :task, :index, :key, :dag, :run, :value, '2026-11-01')"
        ),
        {
            "id": dag_run_id, "task": task_id, "index": map_index, "key": key, "dag": dag_id, "run": run_id,
            "value": json.dumps(value),
        },
    )  # fmt: skip


def add_task(
    session: Session, map_index: int, dag_id: str, run_id: str, task_id: str, state: str, started: datetime
) -> None:
    """Add a task instance without the version of its DAG, which a real one has."""
    columns = {column.name: column for column in Base.metadata.tables["task_instance"].columns}
    values: dict[str, Any] = {
        "id": f"{hash((dag_id, run_id, task_id, map_index)) & (2**128 - 1):032x}", "dag_id": dag_id, "run_id": run_id,
        "task_id": task_id, "state": state, "map_index": map_index, "start_date": started.replace(tzinfo=None).isoformat(" "),
        "pool": "coding_service", "pool_slots": 1, "try_number": 1,
    }  # fmt: skip
    for name, column in columns.items():
        if name not in values and not column.nullable:
            values[name] = "0"
    names = ", ".join(values)
    places = ", ".join(f":{name}" for name in values)
    session.execute(text(f"INSERT INTO task_instance ({names}) VALUES ({places})"), values)


def make_plan(day: str = "2026-11-01", **fields: Any) -> dict[str, Any]:
    """Return what `plan` reports."""
    return {
        "topic": "osca", "model_id": MODEL, "model_version": 3.0, "from_date": day, "to_date": day,
        "source": "survey.responses", "max_records": None, "dry_run": False, "memory_mb": 512, **fields,
    }  # fmt: skip


def make_landing(*days: str, read: int = 2037, coded: int = 2009, **fields: Any) -> dict[str, Any]:
    """Return what `land` reports: the same counts for each date."""
    counts = {"read": read, "coded": coded, "uncoded": read - coded - 17, "rejected": 17}
    dates = [{"day": day, **counts} for day in days]
    total = {name: number * len(days) for name, number in counts.items()}
    return {
        **total,
        "texts": 1500,
        "texts_sent": 400,
        "operations": 1,
        "dates": dates,
        "dates_over_limit": [],
        **fields,
    }


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A metadata database with Airflow's tables, which take seconds to create."""
    path = tmp_path_factory.mktemp("airflow") / "empty.db"
    import_all_models()
    engine = create_engine(f"sqlite:///{path}")
    Base.metadata.create_all(engine)
    engine.dispose()
    return path


@pytest.fixture
def metadata(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Metadata]:
    metadata = Metadata(shutil.copy(empty_database, tmp_path / "airflow.db"))
    monkeypatch.setattr(settings, "Session", metadata.make_session)
    monkeypatch.setattr(settings, "NonScopedSession", metadata.make_session)
    yield metadata
    metadata.engine.dispose()


@pytest.fixture
def client(metadata: Metadata, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., TestClient]]:
    """Return a browser in which somebody with a role of Airflow is logged in; nobody without a role."""
    from occupation_coding_plugin import OccupationCodingPlugin

    monkeypatch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS", "False")
    monkeypatch.setenv(
        "AIRFLOW__API_AUTH__JWT_SECRET", "a secret of the tests only, with more than 64 characters " * 2
    )
    airflow = FastAPI()
    for entry in OccupationCodingPlugin().fastapi_apps:
        airflow.mount(entry["url_prefix"], entry["app"])
    init_auth_manager(airflow)

    def log_in(role: str | None = None) -> TestClient:
        headers = {}
        if role is not None:
            user = SimpleAuthManagerUser(username="ada", role=None if role == "none" else role)
            headers = {"Authorization": f"Bearer {get_auth_manager().generate_jwt(user)}"}
        return TestClient(
            airflow, base_url="http://testserver/occupation-coding", headers=headers, follow_redirects=False
        )

    yield log_in
    purge_cached_app()
