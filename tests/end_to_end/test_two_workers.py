"""Two Celery workers with separate disks: they share the metadata database, the warehouse and staging in S3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import kombu
import psycopg
import pyarrow.parquet as pq
import pytest
from adbc_driver_postgresql import dbapi

from include.stack.processes import StackState
from include.stack.sample import write_sample
from tests.end_to_end.conftest import SERVICE_OPTIONS, FastStack, run_stack, wait_until
from tests.support.postgres import Postgres
from tests.support.s3 import S3, SECRET

pytestmark = [pytest.mark.airflow, pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")]
WORKERS = ("worker-a", "worker-b")


class Cluster(FastStack):
    """A stack with two workers instead of the scheduler's own, and with servers instead of files.

    Celery's broker is a table here; a deployment has Redis. Everything else is as in a deployment.
    """

    def __init__(self, folder: Path, postgres: Postgres, s3: S3) -> None:
        self.bucket, self._postgres = s3.create_bucket(), postgres
        metadata, self.coding = postgres.create_database(), postgres.create_database()
        address = f"postgres@/{metadata}?host={postgres.socket_folder}"
        settings = {
            "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{address}",
            "AIRFLOW__CELERY__BROKER_URL": f"sqla+postgresql+psycopg2://{address}",
            "AIRFLOW__CELERY__RESULT_BACKEND": f"db+postgresql+psycopg2://{address}",
            "AIRFLOW__CELERY__WORKER_CONCURRENCY": "1",
            "AIRFLOW_CONN_WAREHOUSE_DEFAULT": postgres.connection(self.coding),
            "AIRFLOW_CONN_STAGING_DEFAULT": s3.connection(),
            "CODING_STAGING": f"s3://{self.bucket}/team",
        }
        with kombu.Connection(settings["AIRFLOW__CELERY__BROKER_URL"]) as broker:
            broker.SimpleQueue("default").close()  # creates its tables: two workers cannot at the same time
        super().__init__(folder, settings, SERVICE_OPTIONS)

    def disk(self, worker: str) -> Path:
        """Return the folder of all files that a worker writes."""
        return self.folder / "disks" / worker

    def is_ready(self, worker: str) -> bool:
        log = (self.logs / f"{worker}.log").read_text()
        return f"{worker}@" in log and " ready." in log

    def query(self, sql: str) -> list[tuple]:
        """Query the warehouse."""
        with psycopg.connect(self._postgres.conninfo(self.coding)) as connection:
            return connection.execute(sql).fetchall()

    def _load_sample(self) -> None:
        write_sample(self.folder / "sample.parquet")
        with dbapi.connect(self._postgres.conninfo(self.coding)) as connection, connection.cursor() as cursor:
            cursor.adbc_ingest("survey_responses", pq.read_table(self.folder / "sample.parquet"), mode="create")
            connection.commit()

    def _commands(self, state: StackState) -> dict[str, list[str]]:
        worker = ["airflow", "celery", "worker", "--skip-serve-logs", "--celery-hostname"]
        return {**super()._commands(state), **{name: [*worker, f"{name}@%h"] for name in WORKERS}}

    def _spawn(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        if name in WORKERS:
            temporary = self.disk(name) / "tmp"
            temporary.mkdir(parents=True)
            environment = {**environment, "AIRFLOW_HOME": str(self.disk(name)), "TMPDIR": str(temporary)}
        super()._spawn(name, command, environment)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres, s3: S3) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"), postgres, s3)
    with run_stack(cluster):
        for name in WORKERS:
            wait_until(lambda name=name: cluster.is_ready(name), f"{name} is ready")
        yield cluster


def test_both_workers_code_a_run_and_keep_no_file_of_it(cluster: Cluster, s3: S3) -> None:
    run_id = cluster.api.trigger({"from_date": "2026-10-01", "to_date": "2026-10-30", "records_per_part": 1200})
    assert cluster.api.wait(run_id) == "success"
    assert cluster.api.xcom(run_id, "land")["operations"] > 2
    assert cluster.query("SELECT count(*) FROM coding.coded_records") == cluster.query(
        "SELECT count(*) FROM survey_responses"
    )
    for name in WORKERS:
        logs = cluster.disk(name) / "logs"
        assert list(logs.glob(f"dag_id=*/run_id={run_id}/task_id=*")), f"{name} ran no task"
        files = cluster.disk(name).rglob("*")
        assert [path.name for path in files if path.suffix in (".jsonl", ".parquet", ".duckdb")] == []
    assert [path for path in cluster.folder.rglob("*.log") if SECRET in path.read_text(errors="replace")] == []
    # the scheduled run can have landed too
    assert {key.rpartition("/")[2] for key in s3.keys(cluster.bucket)} == {"report.html", "report.json", "report.md"}
