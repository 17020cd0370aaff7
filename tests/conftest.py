"""Airflow for tests: a home of its own, this project's plugins, and no connection but those that a test sets."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.postgres import Postgres
    from tests.redshift import Redshift
    from tests.s3 import S3

ROOT = Path(__file__).resolve().parents[1]

# What points tests/contract to the real service; nothing else reads them
KEPT = {f"CODING_{name}" for name in ("SERVICE_URL", "AUTH_URL", "CLIENT_ID", "CLIENT_SECRET")}

# Airflow reads these when it is imported, which is after this file
_home = tempfile.mkdtemp(prefix="airflow-home-")
atexit.register(shutil.rmtree, _home, ignore_errors=True)
for name in [name for name in os.environ if name.startswith(("AIRFLOW_", "AIRFLOW__", "CODING_"))]:
    if name not in KEPT:
        del os.environ[name]
os.environ |= {
    "AIRFLOW_HOME": _home,
    "XDG_RUNTIME_DIR": _home,
    "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
    "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
}
sys.path.insert(0, str(ROOT / "dags"))


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A PostgreSQL server for the whole session."""
    from tests.postgres import run_postgres  # it looks at the environment when it is imported

    with run_postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """An S3 server for the whole session."""
    from tests.s3 import run_s3

    with run_s3() as server:
        yield server


@pytest.fixture(scope="session")
def redshift(postgres: Postgres) -> Iterator[Redshift]:
    """A stand-in for Redshift, its S3 server included, for the whole session."""
    from tests.redshift import run_redshift

    with run_redshift(postgres) as server:
        yield server


@pytest.fixture(params=["duckdb", "postgres", "redshift"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str | Path:
    """Where an empty warehouse is, once for each kind: see `open_warehouse`."""
    if request.param == "duckdb":
        return tmp_path / "warehouse.duckdb"
    if request.param == "redshift":
        return str(request.getfixturevalue("redshift").create_place())
    server = request.getfixturevalue("postgres")
    return str(server.conninfo(server.create_database()))
