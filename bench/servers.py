"""Warehouse and staging as servers, PostgreSQL and S3, beside the files of one machine.

python -m bench.servers
"""

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
from bench.measure import MEGABYTE, Taken, measure
from bench.page import table
from include.coding.staging import Staging
from include.warehouse.duckdb_warehouse import Query
from include.warehouse.postgres_warehouse import PostgresWarehouse
from tests.support.postgres import Postgres, run_postgres
from tests.support.s3 import run_s3

#: Result rows for the bulk ways in, and for `to_sql`, which is slow.
ROWS, FEW = 500_000, 50_000
#: Bytes of a part that goes to staging and back.
PART = 200_000_000
RESULTS = """
    SELECT md5(i::VARCHAR) AS text_key, 'osca' AS topic, '11111111-1111-4111-8111-111111111111' AS model_id,
        1.0::DOUBLE AS model_version, 'occupation ' || i AS occp_text, 'does what people do' AS tasks_text,
        'coded' AS outcome, '351311' AS code, 'Chef' AS label, 0.92::DOUBLE AS confidence, 6 AS level,
        'operation-1' AS operation_id, TIMESTAMP '2026-11-25 01:02:03' AS coded_at
    FROM range({rows}) AS numbers(i)
"""


def sections() -> Iterator[str]:
    """Measure, and yield what the page says of it, piece by piece."""
    folder = Path(tempfile.mkdtemp(prefix="bench-servers-"))
    try:
        with run_postgres() as server:
            yield f"## PostgreSQL as the warehouse\n\n{_ABOUT_POSTGRES}\n\n{rows_in(server)}"
            yield f"The two data steps, 1 M records:\n\n{steps(server, folder)}"
        yield f"## Staging in S3\n\n{_ABOUT_S3}\n\n{staging(folder)}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


_ABOUT_POSTGRES = """The server is an embedded PostgreSQL 18 on the same two cores, without fsync. *ADBC* is what
this project does (`Session.staged`, ANALYZE included), into a temporary table; the other ways write a table."""
_ABOUT_S3 = """A file of 200 MB goes to staging and comes back. The S3 server is moto's, one Python process on the
same cores: it bounds these figures, a real S3 and its network have others."""


def rows_in(server: Postgres) -> str:
    """Result rows a second into PostgreSQL, by several ways."""
    ways: dict[str, tuple[int, Callable[[Postgres, str, int], None]]] = {
        "**ADBC**": (ROWS, _by_adbc),
        "COPY of CSV, psycopg": (ROWS, _by_copy),
        "DataFrame.to_sql": (FEW, _by_to_sql),
    }
    seconds = {name: _timed(way, server, rows) for name, (rows, way) in ways.items()}
    rates = {name: rows / seconds[name] for name, (rows, _) in ways.items()}
    lines = [
        [name, f"{ways[name][0]:,}", f"{rate:,.0f}", f"{rates['**ADBC**'] / rate:.1f}"]
        for name, rate in rates.items()
    ]
    return table(["way", "rows", "rows/s", "ADBC / it"], lines)


def _timed(way: Callable[[Postgres, str, int], None], server: Postgres, rows: int) -> float:
    database, begun = server.create_database(), time.perf_counter()
    way(server, database, rows)
    return time.perf_counter() - begun


def _by_adbc(server: Postgres, database: str, rows: int) -> None:
    warehouse = PostgresWarehouse(lambda: server.conninfo(database), "it")
    with (
        duckdb.connect() as engine,
        warehouse.session() as session,
        session.staged("results", Query(engine, RESULTS.format(rows=rows))),
    ):
        assert session.execute("SELECT count(*) FROM results") == [(rows,)]


def _by_copy(server: Postgres, database: str, rows: int) -> None:
    frame = duckdb.sql(RESULTS.format(rows=rows)).df()
    with psycopg.connect(server.conninfo(database)) as connection:
        connection.execute(f"CREATE TABLE results ({', '.join(f'{name} TEXT' for name in frame.columns)})")
        with connection.cursor().copy("COPY results FROM STDIN (FORMAT csv)") as copy:
            copy.write(frame.to_csv(index=False, header=False))


def _by_to_sql(server: Postgres, database: str, rows: int) -> None:
    frame: pd.DataFrame = duckdb.sql(RESULTS.format(rows=rows)).df()
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(server.conninfo(database))
    )
    frame.to_sql("results", engine, index=False)


def steps(server: Postgres, folder: Path) -> str:
    """`prepare` and `land` over PostgreSQL beside the same over a DuckDB file."""
    size = Size(MILLION, data.records(MILLION), folder)
    taken: dict[tuple[str, str], Taken] = {}
    for name, place in (("DuckDB file", ""), ("PostgreSQL", server.conninfo(server.create_database()))):
        job = size.job(name.replace(" ", "-"), **({"warehouse": place} if place else {}))
        taken["prepare", name] = measure("prepare", "ours", job)
        data.code(Path(job.folder))
        taken["land", name] = measure(
            "land", "ours", size.job(Path(job.folder).name, warehouse=job.warehouse, coded=job.folder)
        )
    lines = [
        [step, name, f"{one.seconds:.1f}", f"{one.seconds / taken[step, 'DuckDB file'].seconds:.2f}",
         f"{MILLION / one.seconds:,.0f}", f"{one.memory_mb:.0f}"]
        for (step, name), one in sorted(taken.items(), reverse=True)
    ]  # fmt: skip
    return table(["step", "warehouse", "s", "s / DuckDB", "records/s", "MB"], lines)


def staging(folder: Path) -> str:
    """A file to staging and back, by S3 and by a folder."""
    lines = []
    with run_s3() as server:
        bucket = server.create_bucket()
        places = {
            "a folder": Staging.here(folder / "here"),
            "S3": Staging(f"s3://{bucket}/runs/run-1", folder / "scratch", server.file_system()),
        }
        for name, place in places.items():
            place.scratch.mkdir()
            path = place.scratch / "part.jsonl"
            path.write_bytes(hashlib.sha256(b"x").digest() * (PART // 32))
            begun = time.perf_counter()
            uri = place.keep(path)
            kept = time.perf_counter()
            with place.open_local(uri) as copy:
                assert copy.stat().st_size == PART
            back = time.perf_counter()
            lines.append(
                [name, f"{kept - begun:.2f}", f"{back - kept:.2f}", f"{PART / MEGABYTE / (back - begun):,.0f}"]
            )
    return table(["staging", "to it, s", "back, s", "MB/s, both ways"], lines)


def main() -> None:
    for section in sections():
        print(section, end="\n\n", flush=True)


if __name__ == "__main__":
    main()
