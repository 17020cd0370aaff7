"""A failure in the middle of a run is reported clearly and leaves nothing incomplete, and a retry succeeds."""

import subprocess
import threading
import time
from functools import partial

import fsspec
import pytest

from include.coding.errors import StagingError
from include.coding.staging import Staging
from include.warehouse.errors import WarehouseError
from tests.coding.conftest import CHEF, DAY, Pipeline, code_line, collect_and_land
from tests.support.postgres import run_postgres

BAKER = {**CHEF, "codeCategory": "3512", "codeLabel": "Bakers"}
RECORDS = 40_000


@pytest.fixture(scope="module")
def server():
    """A PostgreSQL server that these tests can restart."""
    with run_postgres() as server:
        yield server


@pytest.fixture
def pipeline(server, tmp_path):
    """A pipeline that has landed once, and has prepared another coding of the same texts."""
    pipeline = Pipeline(tmp_path, server.conninfo(server.create_database()))
    pipeline.fill()
    pipeline.query(
        f"INSERT INTO survey_responses SELECT CAST(i AS VARCHAR), DATE '{DAY}', 'job ' || i % 20000, ''"
        f" FROM generate_series(1, {RECORDS}) AS s(i)"
    )
    pipeline.run(code=partial(code_line, result=BAKER))
    pipeline.prepare(run_id="run-2", selection="all")
    return pipeline


class Landing(threading.Thread):
    """A landing of the run that was prepared last, in a thread of its own."""

    def __init__(self, pipeline, result=CHEF):
        super().__init__()
        code = partial(code_line, result=result)
        part_results = [pipeline.code_part(part, code) for part in pipeline.prepared.parts]
        self._run = (pipeline.plan, pipeline.prepared, part_results, pipeline.warehouse)
        self.staging, self.error = pipeline.staging, None

    def run(self):
        self.error = None
        try:
            collect_and_land(*self._run, self.staging)
        except Exception as error:  # noqa: BLE001 the test checks it
            self.error = error


def count_published(pipeline):
    return pipeline.query("SELECT run_id, code, count(*) FROM coding.coded_records GROUP BY 1, 2")


def wait_for_blocked_session(pipeline):
    deadline = time.monotonic() + 30
    while pipeline.query("SELECT count(*) FROM pg_locks WHERE NOT granted") == [(0,)]:
        assert time.monotonic() < deadline, "the landing does not wait for the lock"


def restart_during(landing, pipeline, server):
    """Start a landing that has to wait for a lock, and restart the warehouse while it waits."""
    with pipeline.warehouse.session() as session, session.transaction(lock="coding.coding_runs"):
        landing.start()
        wait_for_blocked_session(pipeline)
        server.restart()


def test_a_restart_of_the_warehouse_fails_a_landing_with_its_reason_and_a_retry_succeeds(pipeline, server):
    before, landing = count_published(pipeline), Landing(pipeline)
    with pytest.raises(WarehouseError):
        restart_during(landing, pipeline, server)
    landing.join()
    assert isinstance(landing.error, WarehouseError)
    assert "warehouse 'postgres://tests' rejected a statement or closed the connection: " in str(landing.error)
    assert count_published(pipeline) == before == [("run-1", "3512", RECORDS)]
    pipeline.land()
    assert count_published(pipeline) == [("run-2", "351311", RECORDS)]


def test_published_rows_are_unchanged_or_complete_whenever_the_warehouse_restarts(pipeline, server):
    start = time.monotonic()
    pipeline.land()
    duration = time.monotonic() - start
    for moment, result in ((0.3, BAKER), (0.5, CHEF), (0.7, BAKER), (0.9, CHEF)):
        before, run_id = count_published(pipeline), f"run-{moment}"
        after = [(run_id, result["codeCategory"], RECORDS)]
        pipeline.prepare(run_id=run_id, selection="all")
        landing = Landing(pipeline, result)
        landing.start()
        landing.join(moment * duration)
        server.restart()
        landing.join()
        assert landing.error is None or isinstance(landing.error, WarehouseError)
        assert count_published(pipeline) == (before if landing.error else after)
        landing.run()
        assert (landing.error, count_published(pipeline)) == (None, after)


@pytest.fixture
def small_disk(tmp_path):
    """The folder of a disk of a few megabytes, and a function that makes the disk larger."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(*options):
        process = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True, check=False)
        if process.returncode:
            pytest.skip(f"this user cannot mount a disk: {process.stderr.strip()}")

    mount("-t", "tmpfs", "-o", "size=2m", "tmpfs")
    yield folder, lambda: mount("-o", "remount,size=200m")
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_fails_the_preparation_with_its_reason_and_a_retry_succeeds(small_disk, pipeline):
    folder, grow = small_disk
    pipeline.folder = folder
    with pytest.raises(StagingError, match="ran out of disk space in .*free disk space"):
        pipeline.prepare(run_id="run-3", selection="all")
    assert list((folder / "run-3").glob("part-*.jsonl")) == []
    grow()
    parts = pipeline.prepare(run_id="run-3", selection="all").parts
    assert sum(part.records for part in parts) == 20_000
    assert pipeline.land().coded == RECORDS


def test_a_full_disk_fails_the_landing_without_publishing_and_a_retry_succeeds(small_disk, pipeline, tmp_path):
    folder, grow = small_disk
    landing, before = Landing(pipeline), count_published(pipeline)
    (folder / "filler").write_bytes(bytes(1_900_000))
    # as with object storage, whose files are copied to the disk
    landing.staging = Staging(pipeline.staging.uri, folder / "run-2", fsspec.filesystem("file"))
    landing.run()
    assert isinstance(landing.error, StagingError)
    assert count_published(pipeline) == before
    grow()
    landing.run()
    assert (landing.error, count_published(pipeline)) == (None, [("run-2", "351311", RECORDS)])
