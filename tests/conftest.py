"""Airflow for tests: a home of its own, the plugins of this project, and only the connections that a test sets."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
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

# These settings point tests/contract to the real service. Nothing else reads them.
REAL_SERVICE_SETTINGS = {f"CODING_{name}" for name in ("SERVICE_URL", "AUTH_URL", "CLIENT_ID", "CLIENT_SECRET")}

# End-to-end tests that start a stack of their own, so that they can run beside those that share one.
OWN_STACK_TESTS = {
    "test_alerts_and_models.py", "test_dags_test.py", "test_history.py", "test_make_run.py", "test_two_workers.py",
}  # fmt: skip

# Airflow reads these variables when it is imported, so they are set before any test imports it.
_home = tempfile.mkdtemp(prefix="airflow-home-")
atexit.register(shutil.rmtree, _home, ignore_errors=True)
for name in [name for name in os.environ if name.startswith(("AIRFLOW_", "AIRFLOW__", "CODING_"))]:
    if name not in REAL_SERVICE_SETTINGS:
        del os.environ[name]
os.environ |= {
    "AIRFLOW_HOME": _home,
    "XDG_RUNTIME_DIR": _home,
    "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
    "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
}
# The PostgreSQL server of the tests has its lock file in this folder. Without it, all test processes of the machine
# would share one lock.
(Path(_home) / "python_PostgresServer").mkdir()
sys.path.insert(0, str(ROOT / "dags"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run the tests of real Airflow processes first if several processes share the suite, because they take longest."""
    for item in items:
        if not item.nodeid.endswith(item.name):  # schemathesis leaves the API operation out of the id
            item._id = NodeId.parse(f"{item.nodeid.partition('::')[0]}::{item.name}")
    if hasattr(config, "workerinput"):
        if len({item.nodeid for item in items}) < len(items):
            raise pytest.UsageError(
                "several tests have the same id, and only one of them would run: rename the others"
            )
        items.sort(key=lambda item: item.get_closest_marker("airflow") is None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Give each process whole files, in their order, and one process all files that share a stack."""
    from xdist.scheduler import LoadFileScheduling

    class StackScheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            folder, _, name = nodeid.partition("::")[0].rpartition("/")
            shares_stack = folder == "tests/end_to_end" and name not in OWN_STACK_TESTS
            return folder if shares_stack or folder == "tests/browser" else f"{folder}/{name}"

    config.option.loadscopereorder = False
    return StackScheduling(config, log)


@pytest.fixture(autouse=True)
def _forget_secrets() -> Iterator[None]:
    """Forget the secrets of a test after it. Some are ordinary words, and Airflow's masker takes longer with each."""
    yield
    if masker := sys.modules.get("airflow.sdk._shared.secrets_masker"):
        masker.reset_secrets_masker()
    if redaction := sys.modules.get("coding_service.redaction"):
        redaction._known_secrets.clear()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server for the whole session."""
    from tests.support.postgres import run_postgres  # imported here, because it reads the environment

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


@pytest.fixture
def lend_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], str | Path]]:
    """A function that lends the test an empty warehouse of a kind; it returns what `open_warehouse` takes."""
    with ExitStack() as loans:

        def lend(kind: str) -> str | Path:
            if kind == "duckdb":
                return tmp_path / "warehouse.duckdb"
            server = request.getfixturevalue(kind)
            if kind == "redshift":
                return str(loans.enter_context(server.lend_place()))
            return str(server.conninfo(loans.enter_context(server.lend_database())))

        yield lend


@pytest.fixture(params=["duckdb", "postgres", "redshift"])
def place(request: pytest.FixtureRequest, lend_place: Callable[[str], str | Path]) -> str | Path:
    """Where an empty warehouse is, once for each kind."""
    return lend_place(request.param)
