"""Two Celery workers on disks of their own: they share the metadata database, the warehouse and staging in S3."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import kombu
import psycopg
import pytest
from adbc_driver_postgresql import dbapi

from include.stack.sample import write_sample
from tests.end_to_end.conftest import LaneStack, until
from tests.support.postgres import Postgres
from tests.support.s3 import S3, SECRET

pytestmark = [pytest.mark.airflow, pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")]
WORKERS = ("worker-a", "worker-b")


class Cluster(LaneStack):
    """The stack with two workers in place of the scheduler's own, and servers in place of its files.

    Celery's broker is a table here; a deployment has Redis. All else is as it is there.
    """

    def __init__(self, folder: Path, postgres: Postgres, s3: S3) -> None:
        self.bucket, self._postgres = s3.create_bucket(), postgres
        metadata, self.coding = postgres.create_database(), postgres.create_database()
        address = f"postgres@/{metadata}?host={postgres.socket_folder}"
        warehouse = {
            "conn_type": "postgres",
            "host": postgres.socket_folder,
            "schema": self.coding,
            "login": "postgres",
        }
        settings = {
            "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{address}",
            "AIRFLOW__CELERY__BROKER_URL": f"sqla+postgresql+psycopg2://{address}",
            "AIRFLOW__CELERY__RESULT_BACKEND": f"db+postgresql+psycopg2://{address}",
            "AIRFLOW__CELERY__WORKER_CONCURRENCY": "1",
            "AIRFLOW_CONN_WAREHOUSE_DEFAULT": json.dumps(warehouse),
            "AIRFLOW_CONN_STAGING_DEFAULT": s3.connection(),
            "CODING_STAGING": f"s3://{self.bucket}/team",
        }
        with kombu.Connection(settings["AIRFLOW__CELERY__BROKER_URL"]) as broker:
            broker.SimpleQueue("default").close()  # makes its tables, for which two workers at once would quarrel
        super().__init__(folder, settings, ("--coder", "stub"))

    def disk(self, worker: str) -> Path:
        """Folder of all that a worker writes."""
        return self.folder / "disks" / worker

    def log(self, name: str) -> str:
        """What a process has said so far."""
        return (self.logs / f"{name}.log").read_text()

    def query(self, sql: str) -> list[tuple]:
        """Ask the warehouse."""
        with psycopg.connect(self._postgres.conninfo(self.coding)) as connection:
            return connection.execute(sql).fetchall()

    def _load_sample(self) -> None:
        import pyarrow.parquet as pq

        write_sample(self.folder / "sample.parquet")
        with dbapi.connect(self._postgres.conninfo(self.coding)) as connection, connection.cursor() as cursor:
            cursor.adbc_ingest("survey_responses", pq.read_table(self.folder / "sample.parquet"), mode="create")
            connection.commit()

    def _commands(self, running):  # type: ignore[no-untyped-def]
        worker = ["airflow", "celery", "worker", "--skip-serve-logs", "--celery-hostname"]
        return {**super()._commands(running), **{name: [*worker, f"{name}@%h"] for name in WORKERS}}

    def _spawn(self, name: str, command: list[str], environment: dict[str, str]) -> tuple[int, float]:
        if name in WORKERS:
            (self.disk(name) / "tmp").mkdir(parents=True)
            own = {"AIRFLOW_HOME": str(self.disk(name)), "TMPDIR": str(self.disk(name) / "tmp")}
            environment = {**environment, **own}
        return super()._spawn(name, command, environment)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres, s3: S3) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("cluster"), postgres, s3)
    made.start()
    try:
        for name in WORKERS:
            until(lambda name=name: f"{name}@" in made.log(name) and " ready." in made.log(name), f"{name} is ready")
        yield made
    finally:
        made.stop()


def test_a_run_is_coded_by_both_and_no_file_of_it_stays_on_either(cluster: Cluster, s3: S3) -> None:
    run_id = cluster.api.trigger({"from_date": "2026-10-01", "to_date": "2026-10-30", "records_per_part": 1000})
    assert cluster.api.wait(run_id) == "success"
    landed = cluster.api.xcom(run_id, "land")
    assert landed["operations"] > 2
    assert cluster.query("SELECT count(*) FROM coding.coded_records") == cluster.query(
        "SELECT count(*) FROM survey_responses"
    )
    for name in WORKERS:
        logs = cluster.disk(name) / "logs"
        assert list(logs.glob(f"dag_id=*/run_id={run_id}/task_id=*")), f"{name} has done nothing"
        left = [
            path.name for path in cluster.disk(name).rglob("*") if path.suffix in (".jsonl", ".parquet", ".duckdb")
        ]
        assert left == []
    logs = [path for path in cluster.folder.rglob("*.log") if SECRET in path.read_text(errors="replace")]
    assert logs == []
    # a night's run may have landed as well
    assert {key.rpartition("/")[2] for key in s3.keys(cluster.bucket)} == {"report.md"}
