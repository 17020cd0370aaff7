"""From records to parts: read, clean and judge each distinct text once, drop what is coded, write what to send."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import duckdb

from include.coding.engine import copy_to, open_engine
from include.coding.errors import SourceError
from include.coding.estimate import expect_seconds
from include.coding.files import pattern_of
from include.coding.ledger import check_sources, find_published, take_checksum
from include.coding.parts import Part, write_parts
from include.coding.plan import Plan
from include.coding.source import CHANGED, hold_source, open_source
from include.coding.staging import Staging
from include.coding.tables import create_tables, table
from include.warehouse.duckdb_warehouse import Query
from include.warehouse.warehouse import Warehouse

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """What `prepare` found and wrote.

    :param read_at: when the source was read, ISO 8601, UTC
    :param checksum: of what was read
    :param unchanged: whether just this stands published already, so that there is nothing to do
    :param records_uri: Parquet of all records of the run: record_id, occurrence, response_date, text_key, reason;
        None if unchanged
    :param read: records of the dates
    :param undated: records of the source that have no date
    :param rejected: records that the service would refuse
    :param texts: distinct texts of the others
    :param known: distinct texts that this model coded before
    """

    read_at: str
    checksum: str
    unchanged: bool
    records_uri: str | None
    parts: tuple[Part, ...]
    read: int
    undated: int
    rejected: int
    texts: int
    known: int

    def as_dict(self) -> dict[str, Any]:
        """As JSON values, without the parts."""
        return {name: value for name, value in asdict(self).items() if name != "parts"}


def prepare(plan: Plan, warehouse: Warehouse, staging: Staging) -> Prepared:
    """Read the plan's records and write what has to be sent to `staging`.

    The same input gives the same parts, byte by byte. Files appear whole or not at all.

    :raises SourceError: the source is missing, unreadable, not of the shape that is needed, or changes meanwhile
    :raises PlanError: more than 1,024 parts
    :raises AuditError: the one date of a source without dates is published from another source
    :raises StagingError: the object storage refuses a file
    """
    with warehouse.session() as session:
        create_tables(session, plan.schema)
        check_sources(session, plan)  # before anything is sent
    with open_engine(staging.scratch, "prepare", plan.engine_memory_mb) as engine:
        with open_source(plan, engine, warehouse) as opened:
            read_at, undated = opened.read_at, opened.undated
            read, checksum = take_checksum(engine, plan)
            log.info("Read %d records of %s to %s", read, plan.from_date, plan.to_date)
            if undated:
                log.warning("Source %r has %d records without a date: they belong to no run", plan.source, undated)
            if plan.selection == "uncoded":
                with warehouse.session(read_only=True) as session:
                    same = find_published(session, plan, checksum, read)
                if same:
                    log.info("Run %r has published just these records: nothing to do", same.rows_of)
                    counts = (read, undated, same.rejected, same.texts, same.texts)
                    return Prepared(read_at, checksum, True, None, (), *counts)
            hold_source(plan, engine)
            judge_texts(engine, plan)
            records = staging.scratch / "records.parquet"
            rejected = write_records(engine, plan, records, read)
        texts, known = _find_new_texts(engine, plan, warehouse)
        log.info(
            "%d records are rejected; the others have %d distinct texts, %d of them coded already",
            rejected, texts, known,
        )  # fmt: skip
        parts = _with_times(write_parts(engine, plan, staging), plan, warehouse)
    counts = (read, undated, rejected, texts, known)
    return Prepared(read_at, checksum, False, staging.keep(records), parts, *counts)


def _with_times(parts: tuple[Part, ...], plan: Plan, warehouse: Warehouse) -> tuple[Part, ...]:
    """The parts, with how long each is expected to take."""
    if not parts:
        return parts
    with warehouse.session(read_only=True) as session:
        seconds = {size: expect_seconds(session, plan, size) for size in {part.records for part in parts}}
    return tuple(replace(part, expected_seconds=seconds[part.records]) for part in parts)


def judge_texts(engine: duckdb.DuckDBPyConnection, plan: Plan) -> None:
    """Make the table `answers`: each pair of texts as it was written, once, with its key or why it is rejected.

    Most people's answers were given by others before them: to judge each pair once is most of the time saved.
    """
    clean = "cleaned({0})" if plan.clean else "coalesce({0}, '')"
    engine.execute(
        f"""
        CREATE TABLE answers AS
        WITH written AS (
            SELECT DISTINCT occp_text AS written_occp, tasks_text AS written_tasks
            FROM source WHERE record_id <> ''
        ), cleaned AS (
            SELECT *, {clean.format("written_occp")} AS occp_text, {clean.format("written_tasks")} AS tasks_text
            FROM written
        ), judged AS (
            SELECT *, reject_reason(occp_text, tasks_text, {plan.max_characters}) AS reason FROM cleaned
        )
        SELECT *, CASE WHEN reason IS NULL THEN text_key(occp_text, tasks_text) END AS text_key FROM judged
        """
    )


def write_records(engine: duckdb.DuckDBPyConnection, plan: Plan, path: Path, read: int) -> int:
    """Write all records of the run, and return how many are rejected.

    A record id may stand twice on a day; the order of its texts tells them apart: each try numbers them alike.
    """
    engine.execute(
        "CREATE TABLE repeated AS SELECT response_date, coalesce(record_id, '') AS record_id"
        " FROM source GROUP BY ALL HAVING count(*) > 1"
    )
    numbered = "row_number() OVER (PARTITION BY response_date, record_id ORDER BY text_key, reason)"
    select = (
        f"SELECT *, 1 AS occurrence FROM ({_JUDGED.format(join='ANTI')})"
        f" UNION ALL SELECT *, {numbered} FROM ({_JUDGED.format(join='SEMI')})"
    )
    # small groups of rows: the writer holds two of them beside the join
    copy_to(engine, select, path, "FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 20480")
    ((written, rejected, judged),) = engine.execute(
        "SELECT count(*), count(reason), count(coalesce(reason, text_key)) FROM read_parquet(?)", [pattern_of(path)]
    ).fetchall()
    if not written == judged == read:
        path.unlink()
        raise SourceError(f"source {plan.source!r} changed while it was read: {CHANGED}")
    return int(rejected)


#: The records with ids that stand once on a day (ANTI) or more often (SEMI).
_JUDGED = """
    SELECT record_id, response_date,
        CASE WHEN record_id <> '' THEN text_key END AS text_key,
        CASE WHEN record_id <> '' THEN reason ELSE 'no_record_id' END AS reason
    FROM (SELECT * REPLACE (coalesce(record_id, '') AS record_id) FROM source) AS records
    {join} JOIN repeated USING (response_date, record_id)
    LEFT JOIN answers
        ON records.occp_text IS NOT DISTINCT FROM written_occp
        AND records.tasks_text IS NOT DISTINCT FROM written_tasks
"""


def _find_new_texts(engine: duckdb.DuckDBPyConnection, plan: Plan, warehouse: Warehouse) -> tuple[int, int]:
    """Make the table `new_texts`, in the order of the keys; return how many texts there are and how many known."""
    engine.execute(
        "CREATE TABLE texts AS SELECT text_key,"
        " any_value(occp_text) AS occp_text, any_value(tasks_text) AS tasks_text"
        " FROM answers WHERE reason IS NULL GROUP BY text_key"
    )
    engine.execute("CREATE TABLE known (text_key VARCHAR)")
    if plan.selection == "uncoded":
        coded = table(plan.schema, "coded_texts")
        with (
            warehouse.session(read_only=True) as session,
            session.staged("run_texts", Query(engine, "SELECT text_key FROM texts")),
        ):
            # the run's keys go to the warehouse, and not the other way: there are few of them on most nights
            known = session.read(
                f"SELECT DISTINCT text_key FROM {coded} WHERE topic = ? AND model_id = ?"
                " AND text_key IN (SELECT text_key FROM run_texts)",
                [plan.topic, plan.model_id],
            )
            engine.register("coded", known)
            engine.execute("INSERT INTO known FROM coded")
            engine.unregister("coded")
    engine.execute(
        "CREATE TABLE new_texts AS SELECT *, row_number() OVER (ORDER BY text_key) - 1 AS place"
        " FROM texts ANTI JOIN known USING (text_key) ORDER BY text_key"
    )
    ((texts, known_texts),) = engine.execute(
        "SELECT (SELECT count(*) FROM texts), (SELECT count(*) FROM known)"
    ).fetchall()
    return texts, known_texts
