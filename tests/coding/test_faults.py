"""What breaks in the middle is told clearly, leaves nothing half-done, and a retry succeeds."""

import subprocess
import threading
import time
from dataclasses import asdict

import pytest

from include.coding.errors import StagingError
from include.coding.landing import land
from include.coding.staging import Staging
from include.warehouse.errors import WarehouseError
from tests.coding.conftest import CHEF, DAY, Pipeline, code_line
from tests.support.postgres import run_postgres

BAKER = {**CHEF, "codeCategory": "3512", "codeLabel": "Bakers"}
RECORDS = 40_000


@pytest.fixture(scope="module")
def server():
    """A PostgreSQL server that may be restarted."""
    with run_postgres() as running:
        yield running


@pytest.fixture
def pipeline(server, tmp_path):
    """A pipeline that has landed once, and has prepared another coding of the same texts."""
    made = Pipeline(tmp_path, server.conninfo(server.create_database()))
    made.fill()
    made.ask(
        f"INSERT INTO survey_responses SELECT CAST(i AS VARCHAR), DATE '{DAY}', 'job ' || i % 20000, ''"
        f" FROM generate_series(1, {RECORDS}) AS s(i)"
    )
    made.run(code=lambda line: code_line(line, result=BAKER))
    made.prepare(run_id="run-2", selection="all")
    return made


class Landing(threading.Thread):
    """A landing of what was prepared last."""

    def __init__(self, pipeline):
        super().__init__()
        parts = pipeline.prepared.parts
        self._of = (pipeline.plan, pipeline.prepared.to_dict(), [asdict(part) for part in parts])
        self._returned = [pipeline.code_part(part) for part in parts]
        self._to, self.error = (pipeline.warehouse, pipeline.staging), None

    def run(self):
        try:
            land(*self._of, self._returned, *self._to)
        except Exception as error:  # noqa: BLE001 it is the test's to judge
            self.error = error


def published(pipeline):
    return pipeline.query("SELECT run_id, code, count(*) FROM coding.coded_records GROUP BY 1, 2")


def wait_until_it_waits(pipeline):
    deadline = time.monotonic() + 30
    while pipeline.query("SELECT count(*) FROM pg_locks WHERE NOT granted") == [(0,)]:
        assert time.monotonic() < deadline, "the landing does not wait for the lock"


def restart_before(landing, pipeline, server):
    """Begin a landing that has to wait for a lock, and restart the warehouse when it does."""
    with pipeline.warehouse.session() as session, session.transaction(lock="coding.coding_runs"):
        landing.start()
        wait_until_it_waits(pipeline)
        server.restart()


def test_a_landing_that_a_restart_of_the_warehouse_breaks_off_says_so_and_a_retry_succeeds(pipeline, server):
    before, landing = published(pipeline), Landing(pipeline)
    with pytest.raises(WarehouseError):
        restart_before(landing, pipeline, server)
    landing.join()
    assert isinstance(landing.error, WarehouseError)
    assert "warehouse 'postgres://tests' refused a statement or broke off: " in str(landing.error)
    assert published(pipeline) == before == [("run-1", "3512", RECORDS)]
    pipeline.land()
    assert published(pipeline) == [("run-2", "351311", RECORDS)]


def test_whenever_the_warehouse_restarts_what_is_published_is_as_before_or_complete(pipeline, server):
    begun = time.monotonic()
    pipeline.land()
    whole, after = time.monotonic() - begun, published(pipeline)
    for moment in (0.3, 0.5, 0.7, 0.9):
        pipeline.run(run_id="run-1", selection="all", code=lambda line: code_line(line, result=BAKER))
        before = published(pipeline)
        pipeline.prepare(run_id="run-2", selection="all")
        landing = Landing(pipeline)
        landing.start()
        landing.join(moment * whole)
        server.restart()
        landing.join()
        assert landing.error is None or isinstance(landing.error, WarehouseError)
        assert published(pipeline) == (before if landing.error else after)
        pipeline.land()
        assert published(pipeline) == after


@pytest.fixture
def small_disk(tmp_path):
    """A disk of a few megabytes, and what makes it larger."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(*options):
        done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"this user may mount nothing: {done.stderr.strip()}")

    mount("-t", "tmpfs", "-o", "size=2m", "tmpfs")
    yield folder, lambda: mount("-o", "remount,size=200m")
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_while_a_run_is_prepared_says_so_and_a_retry_succeeds(small_disk, pipeline):
    folder, grow = small_disk
    pipeline.folder = folder
    with pytest.raises(StagingError, match="ran out of room.*free some"):
        pipeline.prepare(run_id="run-3", selection="all")
    assert [path.name for path in (folder / "run-3").iterdir() if path.suffix != ".partial"] == []
    grow()
    parts = pipeline.prepare(run_id="run-3", selection="all").parts
    assert sum(part.records for part in parts) == 20_000
    assert pipeline.land().coded == RECORDS


def test_a_disk_that_fills_while_a_run_is_landed_publishes_nothing_and_a_retry_succeeds(
    small_disk, pipeline, tmp_path
):
    folder, grow = small_disk
    landing, before = Landing(pipeline), published(pipeline)
    (folder / "filler").write_bytes(bytes(1_900_000))
    landing._to = (pipeline.warehouse, Staging(pipeline.staging.uri, folder / "run-2"))
    landing.run()
    assert isinstance(landing.error, StagingError)
    assert published(pipeline) == before
    grow()
    landing.error = None
    landing.run()
    assert (landing.error, published(pipeline)) == (None, [("run-2", "351311", RECORDS)])
