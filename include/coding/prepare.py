"""From records to parts: read, clean, judge, keep each distinct text once, drop what is coded, write JSONL."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from include.coding.engine import open_engine
from include.coding.errors import PlanError
from include.coding.plan import Plan
from include.coding.source import open_source
from include.coding.tables import create_tables, table
from include.warehouse.duckdb_warehouse import DuckDBWarehouse

#: Airflow maps a task over so many parts at most ([core] max_map_length).
MAX_PARTS = 1024
#: The smaller reading of 5 GB (contract 8, question 31).
MAX_PART_BYTES = 5_000_000_000

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """A slice of the texts to send: one input file, one operation.

    :param part: its number, from 0
    :param uri: of the input file: JSONL, each line `recordId` (the text's key), `occp_text`, `tasks_text`
    :param records: lines of the file
    :param bytes: size of the file
    :param sha256: of the file, hexadecimal
    """

    part: int
    topic: str
    model_id: str
    force_new: bool
    uri: str
    records: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Prepared:
    """What `prepare` found and wrote.

    :param read_at: when the source was read, ISO 8601, UTC
    :param records_uri: Parquet of all records of the run: record_id, occurrence, response_date, text_key, reason
    :param read: records of the dates
    :param undated: records of the source that have no date
    :param rejected: records that the service would refuse
    :param texts: distinct texts of the others
    :param known: distinct texts that this model coded before
    """

    read_at: str
    records_uri: str
    parts: tuple[Part, ...]
    read: int
    undated: int
    rejected: int
    texts: int
    known: int

    def as_dict(self) -> dict[str, Any]:
        """As JSON values, without the parts."""
        return {name: value for name, value in asdict(self).items() if name != "parts"}


def prepare(plan: Plan, warehouse: DuckDBWarehouse, folder: Path) -> Prepared:
    """Read the plan's records and write what has to be sent into `folder`.

    The same input gives the same parts, byte by byte. Files appear whole or not at all.

    :raises SourceError: the source is missing, unreadable, or not of the shape that is needed
    :raises PlanError: more than 1,024 parts
    """
    with warehouse.session() as session:
        create_tables(session, plan.schema)
    read_at = datetime.now(UTC).replace(tzinfo=None).isoformat()
    with open_engine(folder, "prepare") as engine:
        with open_source(plan, engine, warehouse) as undated:
            _judge(engine, plan)
        read, rejected = _one(engine, "SELECT count(*), count(reason) FROM records")
        log.info("Read %d records of %s to %s; %d rejected", read, plan.from_date, plan.to_date, rejected)
        if undated:
            log.warning("Source %r has %d records without a date: they belong to no run", plan.source, undated)
        texts, known = _find_new_texts(engine, plan, warehouse)
        log.info("%d distinct texts, of which %d are coded already", texts, known)
        records = folder / "records.parquet"
        _copy(engine, _RECORDS, records, "FORMAT parquet, COMPRESSION zstd")
        parts = _write_parts(engine, plan, folder)
    return Prepared(read_at, records.as_uri(), parts, read, undated, rejected, texts, known)


def _judge(engine: duckdb.DuckDBPyConnection, plan: Plan) -> None:
    clean = "cleaned({0})" if plan.clean else "coalesce({0}, '')"
    engine.execute(
        f"""
        CREATE TABLE records AS
        WITH texts AS (
            SELECT coalesce(record_id, '') AS record_id, response_date,
                {clean.format("occp_text")} AS occp_text, {clean.format("tasks_text")} AS tasks_text
            FROM source
        ), judged AS (
            SELECT *, reject_reason(record_id, occp_text, tasks_text, {plan.max_characters}) AS reason FROM texts
        )
        SELECT record_id, response_date, reason,
            CASE WHEN reason IS NULL THEN text_key(occp_text, tasks_text) END AS text_key,
            CASE WHEN reason IS NULL THEN occp_text END AS occp_text,
            CASE WHEN reason IS NULL THEN tasks_text END AS tasks_text
        FROM judged
        """
    )


#: A record id may stand twice on a day; the order of its texts tells them apart, so that each try numbers them alike.
_RECORDS = """
    SELECT record_id, response_date, text_key, reason,
        row_number() OVER (PARTITION BY response_date, record_id ORDER BY text_key, reason) AS occurrence
    FROM records
"""


def _find_new_texts(engine: duckdb.DuckDBPyConnection, plan: Plan, warehouse: DuckDBWarehouse) -> tuple[int, int]:
    """Make the table `new_texts`, in the order of the keys; return how many texts there are and how many known."""
    engine.execute(
        "CREATE TABLE texts AS SELECT text_key,"
        " any_value(occp_text) AS occp_text, any_value(tasks_text) AS tasks_text"
        " FROM records WHERE reason IS NULL GROUP BY text_key"
    )
    engine.execute("CREATE TABLE known (text_key VARCHAR)")
    if plan.selection == "uncoded":
        with warehouse.session(read_only=True) as session:
            coded = session.read(
                f"SELECT text_key FROM {table(plan.schema, 'coded_texts')} WHERE topic = ? AND model_id = ?",
                [plan.topic, plan.model_id],
            )
            engine.register("coded", coded)
            engine.execute("INSERT INTO known SELECT text_key FROM coded SEMI JOIN texts USING (text_key)")
            engine.unregister("coded")
    engine.execute(
        "CREATE TABLE new_texts AS SELECT *, row_number() OVER (ORDER BY text_key) - 1 AS place"
        " FROM texts ANTI JOIN known USING (text_key) ORDER BY text_key"
    )
    return _one(engine, "SELECT (SELECT count(*) FROM texts), (SELECT count(*) FROM known)")


def _write_parts(engine: duckdb.DuckDBPyConnection, plan: Plan, folder: Path) -> tuple[Part, ...]:
    (lines,) = _one(engine, "SELECT count(*) FROM new_texts")
    count = -(-lines // plan.records_per_part)
    if count > MAX_PARTS:
        raise PlanError(
            f"{lines} texts make {count} parts of {plan.records_per_part}; at most {MAX_PARTS} can be mapped: raise"
            f" records_per_part to {-(-lines // MAX_PARTS)} or more, or run fewer dates"
        )
    return tuple(_write_part(engine, plan, folder, number, lines) for number in range(count))


def _write_part(engine: duckdb.DuckDBPyConnection, plan: Plan, folder: Path, number: int, lines: int) -> Part:
    first = number * plan.records_per_part
    last = min(first + plan.records_per_part, lines)
    written = folder / f"part-{number:04}.jsonl"
    _copy(
        engine,
        "SELECT text_key AS recordId, occp_text, tasks_text FROM new_texts"
        f" WHERE place >= {first} AND place < {last} ORDER BY place",
        written,
        "FORMAT json",
    )
    size = written.stat().st_size
    if size > MAX_PART_BYTES:
        raise PlanError(f"part {number} has {size} bytes, the service takes {MAX_PART_BYTES}: lower records_per_part")
    with written.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    # named by its content: what another try of this task prepares never takes the place of what was sent
    path = written.replace(folder / f"part-{number:04}-{digest[:12]}.jsonl")
    log.info("Part %d: %d texts, %d bytes", number, last - first, size)
    return Part(number, plan.topic, plan.model_id, plan.force_new, path.as_uri(), last - first, size, digest)


def _copy(engine: duckdb.DuckDBPyConnection, select: str, path: Path, options: str) -> None:
    """Write the rows of `select` to a file that appears when it is whole."""
    partial = path.with_name(path.name + ".partial")
    literal = "'" + str(partial).replace("'", "''") + "'"
    engine.execute(f"COPY ({select}) TO {literal} ({options})")
    partial.replace(path)


def _one(engine: duckdb.DuckDBPyConnection, sql: str) -> tuple[Any, ...]:
    (row,) = engine.execute(sql).fetchall()
    return tuple(row)
