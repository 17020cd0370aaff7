"""From records to parts: clean and validate each distinct answer once, skip coded texts, and write the others."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import duckdb

from include.coding.engine import Engine, copy_to_file, open_engine
from include.coding.errors import SourceError
from include.coding.files import escape_glob
from include.coding.handoff import Handoff
from include.coding.parts import Part, write_parts
from include.coding.plan import Plan
from include.coding.run_log import check_sources, find_published_run
from include.coding.source import RELOAD_HINT, describe_skipped_rows, materialize_source, open_source
from include.coding.staging import Staging
from include.coding.tables import create_tables, table
from include.coding.texts import MACROS
from include.warehouse.duckdb_warehouse import Query
from include.warehouse.warehouse import Session, Warehouse

#: Number of earlier operations of a similar size whose median is the expected duration.
SIMILAR_OPERATIONS = 5

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared(Handoff):
    """What was read and what has to be sent.

    :param read_at: when the source was read, ISO 8601, UTC
    :param checksum: of the records
    :param unchanged: whether exactly these records are published already, so that there is nothing to do
    :param records_uri: Parquet file of the run's records: record_id, occurrence, response_date, text_key, reason;
        None if unchanged
    :param read, undated: records of the dates, and records of the source that have no date
    :param unreadable_dates, unreadable_examples: records of the source with a date that cannot be read; places and
        shapes of some of these dates
    :param empty_rows: rows of the source without any value, which are no records
    :param rejected: records that the service would refuse
    :param texts, known_texts: distinct texts of the other records, and how many of them this model has coded already
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
    known_texts: int
    unreadable_dates: int = 0
    unreadable_examples: tuple[str, ...] = ()
    empty_rows: int = 0


def prepare(plan: Plan, warehouse: Warehouse, staging: Staging) -> Prepared:
    """Read the records of a plan and write what has to be sent to `staging`.

    The same input gives the same parts, byte by byte. Each file appears complete or not at all.

    :raises SourceError: the source is missing, unreadable, lacks a needed column, changes while it is read, or has
        too many dates that cannot be read
    :raises PlanError: more than 1,024 parts
    :raises AuditError: the single date of a source without dates is published from another source
    :raises StagingError: the disk or the object storage refuses a file
    """
    with warehouse.session() as session:
        create_tables(session, plan.schema)
        check_sources(session, plan)  # before anything is sent
    with open_engine(staging.scratch, "prepare", plan.engine_memory_mb) as engine:
        with open_source(plan, engine, warehouse) as snapshot:
            read_at, undated = snapshot.read_at, snapshot.undated
            skipped = (snapshot.unreadable_dates, snapshot.unreadable_examples, snapshot.empty_rows)
            read, checksum = compute_checksum(engine, plan)
            log.info("Read %d records of %s to %s", read, plan.from_date, plan.to_date)
            if undated:
                log.warning("Source %r has %d records without a date: no run codes them", plan.source, undated)
            for sentence in describe_skipped_rows(*skipped):
                log.warning("Source %r: %s", plan.source, sentence)
            if plan.selection == "uncoded":
                with warehouse.session(read_only=True) as session:
                    published = find_published_run(session, plan, checksum, read)
                if published:
                    log.info("Run %r has published exactly these records: nothing to do", published.run_id)
                    rejected, texts = published.rejected, published.texts
                    return Prepared(
                        read_at, checksum, True, None, (), read, undated, rejected, texts, texts, *skipped
                    )
            materialize_source(plan, engine)
            validate_answers(engine, plan)
            records = staging.scratch / "records.parquet"
            rejected = write_records(engine, plan, records, read)
        texts, known_texts = _find_new_texts(engine, plan, warehouse)
        log.info(
            "%d records are rejected; the others have %d distinct texts, %d of which are coded already",
            rejected, texts, known_texts,
        )  # fmt: skip
        parts = _add_expected_durations(write_parts(engine, plan, staging), plan, warehouse)
    records_uri = staging.keep(records)
    return Prepared(
        read_at, checksum, False, records_uri, parts, read, undated, rejected, texts, known_texts, *skipped
    )


def compute_checksum(engine: Engine, plan: Plan) -> tuple[int, str]:
    """Return the number of records in the engine's `source`, and a checksum of the records (in any order) and of the
    rules that validate them."""
    ((records, total),) = engine.execute(
        "SELECT count(*), sum(hash(record_id, response_date, occp_text, tasks_text)) FROM source"
    ).fetchall()
    # Another version of the engine can hash differently; then the run does its work again.
    rules = f"{MACROS} {plan.clean} {plan.max_characters} {plan.model_version}"
    content = f"{records} {total} {duckdb.__version__} {rules}"
    return records, hashlib.sha256(content.encode()).hexdigest()


def validate_answers(engine: Engine, plan: Plan) -> None:
    """Create the table `answers`: each distinct pair of raw texts with its key, or the reason why it is rejected.

    Most answers occur many times, so validating each pair once saves most of the time.
    """
    clean = "clean_text({0})" if plan.clean else "coalesce({0}, '')"
    engine.execute(
        f"""
        CREATE TABLE answers AS
        WITH raw AS (
            SELECT DISTINCT occp_text AS raw_occp, tasks_text AS raw_tasks FROM source WHERE record_id <> ''
        ), cleaned AS (
            SELECT *, {clean.format("raw_occp")} AS occp_text, {clean.format("raw_tasks")} AS tasks_text FROM raw
        ), validated AS (
            SELECT *, reject_reason(occp_text, tasks_text, {plan.max_characters}) AS reason FROM cleaned
        )
        SELECT *, CASE WHEN reason IS NULL THEN text_key(occp_text, tasks_text) END AS text_key FROM validated
        """
    )


def write_records(engine: Engine, plan: Plan, path: Path, read: int) -> int:
    """Write all records of the run, and return how many are rejected.

    Records with the same id and day are numbered by their text keys, so that every attempt numbers them equally.
    """
    engine.execute(
        "CREATE TABLE repeated_ids AS SELECT response_date, coalesce(record_id, '') AS record_id"
        " FROM source GROUP BY ALL HAVING count(*) > 1"
    )
    occurrence = "row_number() OVER (PARTITION BY response_date, record_id ORDER BY text_key, reason)"
    select = (
        f"SELECT *, 1 AS occurrence FROM ({_VALIDATED_RECORDS.format(join='ANTI')})"
        f" UNION ALL SELECT *, {occurrence} FROM ({_VALIDATED_RECORDS.format(join='SEMI')})"
    )
    # Small row groups, because the writer holds two of them in memory beside the join.
    copy_to_file(engine, select, path, "FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 20480")
    ((rows, rejected, validated),) = engine.execute(
        "SELECT count(*), count(reason), count(coalesce(reason, text_key)) FROM read_parquet(?)", [escape_glob(path)]
    ).fetchall()
    if not rows == validated == read:
        path.unlink()
        raise SourceError(f"source {plan.source!r} changed while it was read: {RELOAD_HINT}")
    return int(rejected)


#: The records whose id occurs once on a day (ANTI) or more often (SEMI).
_VALIDATED_RECORDS = """
    SELECT record_id, response_date,
        CASE WHEN record_id <> '' THEN text_key END AS text_key,
        CASE WHEN record_id <> '' THEN reason ELSE 'no_record_id' END AS reason
    FROM (SELECT * REPLACE (coalesce(record_id, '') AS record_id) FROM source) AS records
    {join} JOIN repeated_ids USING (response_date, record_id)
    LEFT JOIN answers
        ON records.occp_text IS NOT DISTINCT FROM raw_occp
        AND records.tasks_text IS NOT DISTINCT FROM raw_tasks
"""


def _find_new_texts(engine: Engine, plan: Plan, warehouse: Warehouse) -> tuple[int, int]:
    """Create the table `new_texts`, ordered by key; return the numbers of all texts and of those coded already."""
    engine.execute(
        "CREATE TABLE texts AS SELECT text_key,"
        " any_value(occp_text) AS occp_text, any_value(tasks_text) AS tasks_text"
        " FROM answers WHERE reason IS NULL GROUP BY text_key"
    )
    engine.execute("CREATE TABLE known_texts (text_key VARCHAR)")
    if plan.selection == "uncoded":
        coded_texts = table(plan.schema, "coded_texts")
        with (
            warehouse.session(read_only=True) as session,
            session.staged("run_texts", Query(engine, "SELECT text_key FROM texts")),
        ):
            # The keys go to the warehouse, not the reverse, because a night usually has few of them.
            rows = session.read(
                f"SELECT DISTINCT text_key FROM {coded_texts} WHERE topic = ? AND model_id = ?"
                " AND text_key IN (SELECT text_key FROM run_texts)",
                [plan.topic, plan.model_id],
            )
            engine.register("coded_texts", rows)
            engine.execute("INSERT INTO known_texts FROM coded_texts")
            engine.unregister("coded_texts")
    engine.execute(
        "CREATE TABLE new_texts AS SELECT *, row_number() OVER (ORDER BY text_key) - 1 AS position"
        " FROM texts ANTI JOIN known_texts USING (text_key) ORDER BY text_key"
    )
    ((texts, known_texts),) = engine.execute(
        "SELECT (SELECT count(*) FROM texts), (SELECT count(*) FROM known_texts)"
    ).fetchall()
    return texts, known_texts


def _add_expected_durations(parts: tuple[Part, ...], plan: Plan, warehouse: Warehouse) -> tuple[Part, ...]:
    if not parts:
        return parts
    with warehouse.session(read_only=True) as session:
        seconds = {size: expect_seconds(session, plan, size) for size in {part.records for part in parts}}
    return tuple(replace(part, expected_seconds=seconds[part.records]) for part in parts)


def expect_seconds(session: Session, plan: Plan, records: int) -> float | None:
    """Return the expected seconds from the upload to the end of an operation with this many records: the median of
    the complete operations of this topic that are closest in size; None if there are none."""
    rows = session.execute(
        f"""
        SELECT seconds FROM {table(plan.schema, "coding_operations")}
        WHERE topic = ? AND state = 'complete' AND seconds IS NOT NULL AND records > 0
        ORDER BY abs(ln(records) - ln(?)), landed_at DESC LIMIT {SIMILAR_OPERATIONS}
        """,
        [plan.topic, float(records)],
    )
    return median(seconds for (seconds,) in rows) if rows else None
