"""A stack with Celery workers on separate disks, which share PostgreSQL and S3."""

from __future__ import annotations

from pathlib import Path

import kombu
import psycopg
import pyarrow.parquet as pq
from adbc_driver_postgresql import dbapi

from include.stack.processes import Stack, StackState
from include.stack.sample import write_sample
from tests.support.postgres import Postgres
from tests.support.s3 import S3


class CeleryStack(Stack):
    """A stack with workers instead of the scheduler's own, and with servers instead of files.

    Celery's broker is a table here; a deployment has Redis. Everything else is as in a deployment.

    :param workers: names of the workers
    :param tasks_per_worker: tasks that each of them runs at once
    """

    def __init__(
        self,
        folder: Path,
        postgres: Postgres,
        s3: S3,
        workers: tuple[str, ...],
        service_options: tuple[str, ...] = (),
        tasks_per_worker: int = 1,
    ) -> None:
        self.workers, self.bucket, self._postgres = workers, s3.create_bucket(), postgres
        metadata, self.coding = postgres.create_database(), postgres.create_database()
        address = f"postgres@/{metadata}?host={postgres.socket_folder}"
        settings = {
            "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
            "AIRFLOW__CORE__PARALLELISM": "32",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{address}",
            "AIRFLOW__CELERY__BROKER_URL": f"sqla+postgresql+psycopg2://{address}",
            "AIRFLOW__CELERY__RESULT_BACKEND": f"db+postgresql+psycopg2://{address}",
            "AIRFLOW__CELERY__WORKER_CONCURRENCY": str(tasks_per_worker),
            "AIRFLOW_CONN_WAREHOUSE_DEFAULT": postgres.connection(self.coding),
            "AIRFLOW_CONN_STAGING_DEFAULT": s3.connection(),
            "CODING_STAGING": f"s3://{self.bucket}/team",
        }
        with kombu.Connection(settings["AIRFLOW__CELERY__BROKER_URL"]) as broker:
            broker.SimpleQueue("default").close()  # creates its tables: several workers cannot at the same time
        super().__init__(folder, settings, service_options)

    def disk(self, worker: str) -> Path:
        """Return the folder of all files that a worker writes."""
        return self.folder / "disks" / worker

    def is_ready(self, worker: str) -> bool:
        """Return whether a worker waits for tasks."""
        log = (self.logs / f"{worker}.log").read_text()
        return f"{worker}@" in log and " ready." in log

    def query(self, sql: str) -> list[tuple]:
        """Query the warehouse."""
        with psycopg.connect(self._postgres.conninfo(self.coding)) as connection:
            return connection.execute(sql).fetchall()

    def load(self, path: Path, table: str) -> None:
        """Load a Parquet file into a new table of the warehouse."""
        with dbapi.connect(self._postgres.conninfo(self.coding)) as connection, connection.cursor() as cursor:
            cursor.adbc_ingest(table, pq.read_table(path), mode="create")
            connection.commit()

    def _load_sample(self) -> None:
        write_sample(self.folder / "sample.parquet")
        self.load(self.folder / "sample.parquet", "survey_responses")

    def _commands(self, state: StackState) -> dict[str, list[str]]:
        worker = ["airflow", "celery", "worker", "--skip-serve-logs", "--celery-hostname"]
        return {**super()._commands(state), **{name: [*worker, f"{name}@%h"] for name in self.workers}}

    def _spawn(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        if name in self.workers:
            temporary = self.disk(name) / "tmp"
            temporary.mkdir(parents=True)
            environment = {**environment, "AIRFLOW_HOME": str(self.disk(name)), "TMPDIR": str(temporary)}
        super()._spawn(name, command, environment)
