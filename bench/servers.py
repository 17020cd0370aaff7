"""Measure PostgreSQL as the warehouse and S3 as the staging area, side by side with local files."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import pandas as pd
import psycopg
import sqlalchemy

from bench import data
from bench.data_work import MILLION, Size
from bench.measure import MEGABYTE, Measurement, measure
from bench.page import table
from include.coding.staging import Staging
from include.warehouse.duckdb_warehouse import Query
from include.warehouse.postgres_warehouse import PostgresWarehouse
from tests.support.postgres import Postgres, run_postgres
from tests.support.s3 import run_s3

#: Result rows that are inserted in bulk, and by the slow `to_sql`.
BULK_ROWS, TO_SQL_ROWS = 500_000, 50_000
PART_BYTES = 200_000_000
RESULTS = """
    SELECT md5(i::VARCHAR) AS text_key, 'osca' AS topic, '11111111-1111-4111-8111-111111111111' AS model_id,
        1.0::DOUBLE AS model_version, 'occupation ' || i AS occp_text, 'does what people do' AS tasks_text,
        'coded' AS outcome, '351311' AS code, 'Chef' AS label, 0.92::DOUBLE AS confidence, 6 AS level,
        'operation-1' AS operation_id, TIMESTAMP '2026-11-25 01:02:03' AS coded_at
    FROM range({rows}) AS numbers(i)
"""


def sections(rows: int | None = None) -> Iterator[str]:
    """Measure the size of the page, or one number of records, and yield the part of the page."""
    folder = Path(tempfile.mkdtemp(prefix="bench-servers-"))
    try:
        with run_postgres() as server:
            yield f"## PostgreSQL as the warehouse\n\n{_ABOUT_POSTGRES}\n\n{compare_inserts(server)}"
            steps_table = compare_steps(server, folder, rows or MILLION)
            yield f"The two data steps, {(rows or MILLION) / MILLION:g} M records:\n\n{steps_table}"
        yield f"## Staging in S3\n\n{_ABOUT_S3}\n\n{compare_staging(folder)}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


_ABOUT_POSTGRES = """The server is an embedded PostgreSQL 18 on the same two cores, without fsync. *ADBC* is what this
project uses (`Session.staged`, ANALYZE included): it fills a temporary table. The other ways fill a table."""
_ABOUT_S3 = """A file of 200 MB is written to the staging area and read back. The S3 server is moto, one Python
process on the same cores, which limits these figures; a real S3 server and its network differ."""


def compare_inserts(server: Postgres) -> str:
    """Return the result rows per second that PostgreSQL takes, by several ways."""
    ways: dict[str, tuple[int, Callable[[Postgres, str, int], None]]] = {
        "**ADBC**": (BULK_ROWS, _insert_by_adbc),
        "COPY of CSV, psycopg": (BULK_ROWS, _insert_by_copy),
        "DataFrame.to_sql": (TO_SQL_ROWS, _insert_by_to_sql),
    }
    rates = {name: rows / _measure_seconds(insert, server, rows) for name, (rows, insert) in ways.items()}
    lines = [
        [name, f"{ways[name][0]:,}", f"{rate:,.0f}", f"{rates['**ADBC**'] / rate:.1f}"]
        for name, rate in rates.items()
    ]
    return table(["way", "rows", "rows/s", "ADBC / it"], lines)


def _measure_seconds(insert: Callable[[Postgres, str, int], None], server: Postgres, rows: int) -> float:
    database, start = server.create_database(), time.perf_counter()
    insert(server, database, rows)
    return time.perf_counter() - start


def _insert_by_adbc(server: Postgres, database: str, rows: int) -> None:
    warehouse = PostgresWarehouse(lambda: server.conninfo(database), "it")
    with (
        duckdb.connect() as engine,
        warehouse.session() as session,
        session.staged("results", Query(engine, RESULTS.format(rows=rows))),
    ):
        assert session.execute("SELECT count(*) FROM results") == [(rows,)]


def _insert_by_copy(server: Postgres, database: str, rows: int) -> None:
    frame = duckdb.execute(RESULTS.format(rows=rows)).df()
    with psycopg.connect(server.conninfo(database)) as connection:
        connection.execute(f"CREATE TABLE results ({', '.join(f'{name} TEXT' for name in frame.columns)})")
        with connection.cursor().copy("COPY results FROM STDIN (FORMAT csv)") as copy:
            copy.write(frame.to_csv(index=False, header=False))


def _insert_by_to_sql(server: Postgres, database: str, rows: int) -> None:
    frame: pd.DataFrame = duckdb.execute(RESULTS.format(rows=rows)).df()
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(server.conninfo(database))
    )
    frame.to_sql("results", engine, index=False)


def compare_steps(server: Postgres, folder: Path, rows: int) -> str:
    """Return the cost of `prepare` and `land` with PostgreSQL and with a DuckDB file."""
    size = Size(rows, data.write_records(rows), folder)
    costs: dict[tuple[str, str], Measurement] = {}
    for name, warehouse in (("DuckDB file", ""), ("PostgreSQL", server.conninfo(server.create_database()))):
        job = size.job(name.replace(" ", "-"), **({"warehouse": warehouse} if warehouse else {}))
        costs["prepare", name] = measure("prepare", "ours", job)
        data.code_parts(Path(job.folder))
        costs["land", name] = measure(
            "land", "ours", size.job(Path(job.folder).name, warehouse=job.warehouse, coded=job.folder)
        )
    lines = [
        [step, name, f"{one.seconds:.1f}", f"{one.seconds / costs[step, 'DuckDB file'].seconds:.2f}",
         f"{rows / one.seconds:,.0f}", f"{one.memory_mb:.0f}"]
        for (step, name), one in sorted(costs.items(), reverse=True)
    ]  # fmt: skip
    return table(["step", "warehouse", "s", "s / DuckDB", "records/s", "MB"], lines)


def compare_staging(folder: Path) -> str:
    """Return the time that a file takes to the staging area and back, for S3 and for a folder."""
    lines = []
    with run_s3() as server:
        bucket = server.create_bucket()
        areas = {
            "a folder": Staging.in_folder(folder / "here"),
            "S3": Staging(f"s3://{bucket}/runs/run-1", folder / "scratch", server.file_system()),
        }
        for name, staging in areas.items():
            staging.scratch.mkdir()
            path = staging.scratch / "part.jsonl"
            path.write_bytes(hashlib.sha256(b"x").digest() * (PART_BYTES // 32))
            start = time.perf_counter()
            uri = staging.keep(path)
            middle = time.perf_counter()
            with staging.open_local(uri) as copy:
                assert copy.stat().st_size == PART_BYTES
            end = time.perf_counter()
            rate = PART_BYTES / MEGABYTE / (end - start)
            lines.append([name, f"{middle - start:.2f}", f"{end - middle:.2f}", f"{rate:,.0f}"])
    return table(["staging", "write, s", "read, s", "MB/s, both"], lines)
