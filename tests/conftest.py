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
from _pytest.nodeid import NodeId

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadScopeScheduling

    from tests.support.postgres import Postgres
    from tests.support.redshift import Redshift
    from tests.support.s3 import S3

ROOT = Path(__file__).resolve().parents[1]

# What points tests/contract to the real service; nothing else reads them
KEPT = {f"CODING_{name}" for name in ("SERVICE_URL", "AUTH_URL", "CLIENT_ID", "CLIENT_SECRET")}

# End-to-end tests with a stack of their own, which need not wait for those that share one
OWN_STACK = {
    "test_alerts_and_models.py", "test_history.py", "test_make_run.py", "test_two_workers.py",
}  # fmt: skip

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
# here the PostgreSQL of the tests keeps its lock; without the folder it is one for all of the machine
(Path(_home) / "python_PostgresServer").mkdir()
sys.path.insert(0, str(ROOT / "dags"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where the suite is shared out among processes, tests of real Airflow processes come first: they take longest."""
    for item in items:
        if not item.nodeid.endswith(item.name):  # the ids of schemathesis lack the operation
            item._id = NodeId.parse(f"{item.nodeid.partition('::')[0]}::{item.name}")
    if hasattr(config, "workerinput"):
        if len({item.nodeid for item in items}) < len(items):
            raise pytest.UsageError("tests with the same id: all but one of them would not run")
        items.sort(key=lambda item: item.get_closest_marker("airflow") is None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Share the suite out by files, in their order, and give all files that use one stack to one process."""
    from xdist.scheduler import LoadFileScheduling

    class Lanes(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            folder, _, name = nodeid.partition("::")[0].rpartition("/")
            return folder if folder == "tests/end_to_end" and name not in OWN_STACK else f"{folder}/{name}"

    config.option.loadscopereorder = False
    return Lanes(config, log)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server for the whole session."""
    from tests.support.postgres import run_postgres  # it looks at the environment when it is imported

    with run_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """An S3 server for the whole session."""
    from tests.support.s3 import run_s3

    with run_s3() as server:
        yield server


@pytest.fixture(scope="session")
def redshift(postgres: Postgres, s3: S3) -> Iterator[Redshift]:
    """A stand-in for Redshift for the whole session."""
    from tests.support.redshift import run_redshift

    with run_redshift(postgres, s3.url) as server:
        yield server


@pytest.fixture(params=["duckdb", "postgres", "redshift"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str | Path]:
    """Where an empty warehouse is, once for each kind: see `open_warehouse`."""
    if request.param == "duckdb":
        yield tmp_path / "warehouse.duckdb"
    elif request.param == "redshift":
        with request.getfixturevalue("redshift").lend_place() as place:
            yield place
    else:
        server = request.getfixturevalue("postgres")
        with server.lend_database() as database:
            yield server.conninfo(database)
