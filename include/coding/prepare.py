"""From records to parts: clean and validate each distinct answer once, skip coded texts, and write the others."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

from include.coding.abandoned import FILE_PREFIX
from include.coding.checksums import compute_checksum, compute_file_checksum
from include.coding.engine import Engine, copy_to_file, create_table, execute_within_memory, open_engine
from include.coding.export_files import ADDED_COLUMNS, check_size
from include.coding.file_scan import refuse_change
from include.coding.files import escape_glob
from include.coding.handoff import Count, Day, Handoff, InputFile, Moment, RunFile, Sha256, ShortText, Text
from include.coding.limits import (
    describe_exceeded_limits,
    describe_unchecked_limits,
    format_reasons,
    make_limit_error,
)
from include.coding.parts import SELECT_INPUT_LINES, Part, write_input_file, write_parts
from include.coding.plan import Plan
from include.coding.response_dates import describe_skipped_rows
from include.coding.run_log import (
    PublishedRun,
    check_sources,
    find_published_file,
    find_published_run,
    find_unchanged_dates,
    record_dates_over_limit,
)
from include.coding.source import SourceSnapshot, materialize_source, open_source, shorten_texts
from include.coding.source_access import DEFAULT_ACCESS, SourceAccess
from include.coding.source_files import find_file
from include.coding.staged_records import look_up_results, stage_records
from include.coding.staging import Staging
from include.coding.tables import table, update_tables
from include.coding.text_claims import OF_RUN_TEXTS, claim_texts
from include.warehouse.duckdb_warehouse import Query
from include.warehouse.warehouse import Session, Warehouse, quote_date, quote_literal, utc_now

#: Number of earlier operations of a similar size whose median is the expected duration.
SIMILAR_OPERATIONS = 5
#: SQL of a hash of the texts of an answer, of 63 bits, because PostgreSQL has no unsigned numbers.
PAIR_HASH = "CAST(hash({0}, {1}) >> 1 AS BIGINT)"
#: The answers as SQL that follows JOIN, without the cleaned texts, which have the names of the raw texts of a record.
_ANSWERS = "(SELECT * EXCLUDE (occp_text, tasks_text) FROM memory.answers) AS answers"
#: SQL of a hash of the id and the day of a record.
ID_HASH = "hash(response_date, record_id)"
#: Maximum number of records whose distinct answers, or ids, are found in one pass. With more of them, DuckDB needs
#: memory that it cannot free by writing to disk. Each pass reads all records again.
RECORDS_PER_PASS = 25_000_000
#: SQL of the reason why a record is rejected.
_REASON = "CASE WHEN record_id <> '' THEN reason ELSE 'no_record_id' END"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared(Handoff):
    """What was read and what has to be sent.

    :param read_at: when the source was read, ISO 8601, UTC
    :param checksum: checksum of the records
    :param file_checksum: of the file that was read (:func:`compute_file_checksum`), by which later runs recognize it;
        None if they have to read it
    :param unchanged: whether exactly these records are published already, so that there is nothing to do
    :param records_uri: Parquet file of the run's records: record_id, occurrence, response_date, answer (the number of
        its texts), reason; None if unchanged
    :param answers_uri: Parquet file of the answers that are not rejected: answer, text_key; None if unchanged
    :param read, undated: numbers of the records of the dates, and of those of the source that have no date
    :param unreadable_dates, unreadable_examples: records of the source with a date that cannot be read; places and
        shapes of some of these dates
    :param empty_rows: rows of the source without any value in the needed columns, which are no records
    :param rejected: records that the service would refuse
    :param texts, known_texts: distinct texts of the other records, and how many of them this model has coded already;
        without the dates over a limit
    :param rejected_by_reason: numbers of rejected records
    :param dates_over_limit: dates that exceed limits, ISO 8601, with these limits: their texts are not sent
    :param warnings: what a person should know about the limits for publishing
    :param notes: what a person should know about the source
    :param awaited, awaited_uri: texts whose results this run awaits, because other runs in progress send them. They
        are in no part: their number, and their file in the form of an input file
    """

    read_at: Moment
    checksum: ShortText
    unchanged: bool
    records_uri: RunFile | None
    answers_uri: RunFile | None
    parts: tuple[Part, ...]
    read: Count
    undated: Count
    rejected: Count
    texts: Count
    known_texts: Count
    unreadable_dates: Count = 0
    unreadable_examples: tuple[Text, ...] = ()
    empty_rows: Count = 0
    rejected_by_reason: dict[ShortText, Count] = field(default_factory=dict)
    dates_over_limit: dict[Day, Text] = field(default_factory=dict)
    warnings: tuple[Text, ...] = ()
    notes: tuple[Text, ...] = ()
    awaited: Count = 0
    awaited_uri: InputFile | None = None
    file_checksum: Sha256 | None = None


def prepare(
    plan: Plan,
    warehouse: Warehouse,
    staging: Staging,
    access: SourceAccess = DEFAULT_ACCESS,
    is_in_progress: Callable[[str], bool] = lambda run_id: True,
) -> Prepared:
    """Read the records of a plan and write what has to be sent to `staging`.

    The same input and the same claims give the same parts, byte by byte. Each file appears complete or not at all.

    :param access: what runs may read
    :param is_in_progress: returns whether the run with this key is queued or running; texts that such a run has
        claimed are left to it
    :raises SourceError: the source may not be read, is missing, unreadable, lacks a needed column, changes while it
        is read, or has too many dates that cannot be read
    :raises PlanError: more than 1,024 parts, or the records do not fit into the file of `export`
    :raises AuditError: the single date of a source without dates is published from another source
    :raises LimitError: too many records are rejected; nothing was sent
    :raises StagingError: the disk or the object storage refuses a file
    """
    file = find_file(plan.source, access)
    started_at = utc_now().isoformat()
    file_checksum = compute_file_checksum(file, plan) if file else None
    update_tables(warehouse, plan.schema)
    with warehouse.session(read_only=True) as session:
        check_sources(session, plan)  # before anything is sent
        published_file = find_published_file(session, plan, file_checksum) if file_checksum else None
    if published_file and plan.selection == "uncoded" and plan.export is None:
        run, checksum = published_file
        log.info("Run %r has published this file, which has not changed since: nothing to do", run.run_id)
        unchanged = _describe_published(plan, run, checksum, SourceSnapshot(started_at))
        return replace(unchanged, file_checksum=file_checksum)
    with open_engine(staging.scratch, "prepare", plan.engine_memory_mb, file.paths if file else ()) as engine:
        # with all columns for an export, so that it is refused before anything is sent
        with open_source(plan, engine, warehouse, access, file, all_columns=plan.export is not None) as snapshot:
            read_at, undated = snapshot.read_at, snapshot.undated
            skipped = (snapshot.unreadable_dates, snapshot.unreadable_examples, snapshot.empty_rows)
            read, checksum, longest_bytes = compute_checksum(engine, plan)
            if plan.export is not None:
                check_size(plan.export, read, len(snapshot.columns) + len(ADDED_COLUMNS))
            log.info("Read %s records of %s to %s", f"{read:,}", plan.from_date, plan.to_date)
            notes = tuple(snapshot.describe(plan, read))
            undated_rows = [f"{undated:,} records have no date: no run codes them"] if undated else []
            for sentence in (*undated_rows, *describe_skipped_rows(*skipped), *notes):
                log.warning("Source %r: %s", plan.source, sentence)
            if not read or undated or notes or any(skipped):  # each run has to say so
                file_checksum = None
            if plan.selection == "uncoded":
                with warehouse.session(read_only=True) as session:
                    published = find_published_run(session, plan, checksum, read)
                if published:
                    log.info("Run %r has published exactly these records: nothing to do", published.run_id)
                    unchanged = _describe_published(plan, published, checksum, snapshot)
                    return replace(unchanged, notes=notes, file_checksum=file_checksum)
            shorten_texts(engine, plan, longest_bytes)
            materialize_source(plan, engine)
            condition = validate_answers(engine, plan, read)
            records, answers = staging.scratch / "records.parquet", staging.scratch / "answers.parquet"
            rejected = write_records(engine, plan, condition, records, read)
        write_answers(engine, answers)
        reasons, dates_over_limit, warnings = _check_limits(engine, plan, warehouse, records, answers)
        for warning in warnings:
            log.warning("%s", warning)
        texts, known_texts = find_new_texts(engine, plan, warehouse, records, dates_over_limit)
        # A run that has sent texts prepares the same parts again, because it may have paid for their results.
        can_await = not staging.find(FILE_PREFIX)
        known_texts += claim_texts(engine, plan, warehouse, is_in_progress, can_await=can_await)
        log.info(
            "%s records are rejected (%s); the others have %s distinct texts, %s of which are coded already",
            f"{rejected:,}", format_reasons(reasons) or "no reason", f"{texts:,}", f"{known_texts:,}",
        )  # fmt: skip
        parts = _add_expected_durations(write_parts(engine, plan, staging), plan, warehouse)
        awaited, awaited_uri = _write_awaited_texts(engine, staging)
    records_uri, answers_uri = staging.keep(records), staging.keep(answers)
    return Prepared(
        read_at, checksum, False, records_uri, answers_uri, parts, read, undated, rejected, texts, known_texts,
        *skipped, rejected_by_reason=reasons, dates_over_limit=dates_over_limit, warnings=warnings, notes=notes,
        awaited=awaited, awaited_uri=awaited_uri, file_checksum=file_checksum,
    )  # fmt: skip


def _describe_published(plan: Plan, published: PublishedRun, checksum: str, snapshot: SourceSnapshot) -> Prepared:
    """Return the result of `prepare` for records that are published already: their counts, and nothing to send.

    :raises LimitError: they exceed the limits of this run, which can be stricter
    """
    read, rejected, texts = published.read, published.rejected, published.texts
    warnings = []
    if not plan.changed_only and (limits := describe_exceeded_limits(plan, read, rejected, published.uncoded)):
        warnings = [_refuse(plan, limits)]
    return Prepared(
        snapshot.read_at, checksum, True, None, None, (), read, snapshot.undated, rejected, texts, texts,
        snapshot.unreadable_dates, snapshot.unreadable_examples, snapshot.empty_rows, warnings=tuple(warnings),
    )  # fmt: skip


def _refuse(plan: Plan, limits: str, dates: dict[date, str] | None = None) -> str:
    """Refuse to send the texts of a run that exceeds limits; in a dry run return what a real run would say."""
    error = make_limit_error("nothing was sent", limits, dates)
    if not plan.dry_run:
        raise error
    return f"A real run would be refused: {limits}"


def validate_answers(engine: Engine, plan: Plan, read: int, pair_hash: str = PAIR_HASH) -> str:
    """Create the table `memory.answers`: each distinct answer, which is a pair of texts, with a number, the texts as
    they are sent, and their key or the reason why they are rejected. Return the SQL condition that joins a record
    with its answer.

    Most answers occur many times, so validating each one once saves most of the time. Its number is the hash of its
    texts, by which records find their answers in a fraction of the time and of the memory that the texts take. If two
    answers have the same hash, the answers are numbered instead, and records find them by their texts.

    :param read: number of records
    :param pair_hash: SQL of a hash of two texts
    """
    _create_answers(engine, plan, read, pair_hash)
    query = "SELECT count(*) = count(DISTINCT answer) FROM memory.answers"
    ((is_unique,),) = execute_within_memory(engine, query).fetchall()
    if is_unique:
        return f"CASE WHEN record_id <> '' THEN {pair_hash.format('occp_text', 'tasks_text')} END = answers.answer"
    _create_answers(engine, plan, read)
    return "record_id <> '' AND occp_text IS NOT DISTINCT FROM raw_occp AND tasks_text IS NOT DISTINCT FROM raw_tasks"


def _create_answers(engine: Engine, plan: Plan, read: int, pair_hash: str | None = None) -> None:
    """Create the table `memory.answers`.

    :param read: number of records
    :param pair_hash: SQL of a hash of two texts, the number of the answer; None: the answers are numbered, and the
        table has their raw texts too
    """
    clean = "clean_text({0})" if plan.clean else "coalesce({0}, '')"
    columns = "* EXCLUDE (raw_occp, raw_tasks)" if pair_hash else "*"
    passes = _count_passes(read)
    engine.execute("DROP TABLE IF EXISTS memory.answers")
    for number in range(passes):
        sequence = f"row_number() OVER () * {passes} + {number}"
        answer = pair_hash.format("raw_occp", "raw_tasks") if pair_hash else sequence
        execute_within_memory(
            engine,
            f"""
            {"INSERT INTO memory.answers" if number else "CREATE TABLE memory.answers AS"}
            WITH raw AS (
                SELECT DISTINCT occp_text AS raw_occp, tasks_text AS raw_tasks FROM source
                WHERE record_id <> '' AND ({passes} = 1 OR hash(occp_text, tasks_text) % {passes} = {number})
            ), cleaned AS (
                SELECT *, {clean.format("raw_occp")} AS occp_text, {clean.format("raw_tasks")} AS tasks_text FROM raw
            ), validated AS (
                SELECT *, reject_reason(occp_text, tasks_text, $max_characters) AS reason FROM cleaned
            )
            SELECT {columns}, {answer} AS answer,
                CASE WHEN reason IS NULL THEN text_key(occp_text, tasks_text) END AS text_key
            FROM validated
            """,  # noqa: S608
            {"max_characters": plan.max_characters},
        )


def find_rejected_rows(engine: Engine, condition: str, max_rows: int) -> list[tuple[str, int, list[dict[str, Any]]]]:
    """Return for each reason, the most frequent first, how many records of the engine's `numbered_source` it rejects,
    and where the first ones are: their `part` and `row`.

    :param condition: SQL condition of :func:`validate_answers`, which joins a record with its answer
    :param max_rows: for how many rows of each reason to return where they are
    """
    return execute_within_memory(
        engine,
        f"""
        SELECT reason, count(*), min({{'part': source_part, 'row': source_row}}, {max_rows}) FROM (
            SELECT source_part, source_row, {_REASON} AS reason
            FROM numbered_source LEFT JOIN {_ANSWERS} ON {condition}
        ) WHERE reason IS NOT NULL GROUP BY reason ORDER BY 2 DESC, 1
        """,  # noqa: S608
    ).fetchall()


def write_records(engine: Engine, plan: Plan, condition: str, path: Path, read: int) -> int:
    """Write all records of the run with the numbers of their answers, and return how many are rejected.

    Records with the same id and day are numbered by their text keys, so that every attempt numbers them equally.

    :param condition: SQL condition of :func:`validate_answers`, which joins a record with its answer
    :param read: number of records
    """
    columns = "record_id, CAST(occurrence AS INTEGER) AS occurrence, response_date, answer, reason"
    select = f"SELECT {columns} FROM ({number_records(engine, condition, read)})"  # noqa: S608
    # Small row groups, because the writer holds two of them in memory beside the join.
    copy_to_file(engine, select, path, "FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, ROW_GROUP_SIZE 20480")
    ((rows, rejected, validated),) = engine.execute(
        "SELECT count(*), count(reason), count(*) FILTER (reason IS NOT NULL OR answer IS NOT NULL)"
        " FROM read_parquet(?)",
        [escape_glob(path)],
    ).fetchall()
    if not rows == validated == read:
        path.unlink()
        raise refuse_change(plan)
    return int(rejected)


def number_records(engine: Engine, condition: str, read: int, columns: str = "") -> str:
    """Create tables of the records with the same id and day, and return a query for all records of `source` with the
    numbers of their answers and the keys of their texts, or why they are rejected, and with numbers that distinguish
    records with the same id and day. It needs the table `memory.answers`.

    :param condition: SQL condition of :func:`validate_answers`, which joins a record with its answer
    :param read: number of records
    :param columns: further columns of `source`, each after a comma
    """
    records = f"""
        SELECT record_id, response_date, answer, text_key, {_REASON} AS reason{columns}
        FROM {{rows}} LEFT JOIN {_ANSWERS} ON {condition}
    """  # noqa: S608
    engine.execute(
        f"CREATE TEMP VIEW hashed_source AS SELECT *, {ID_HASH} AS id_hash"  # noqa: S608
        " FROM (SELECT * REPLACE (coalesce(record_id, '') AS record_id) FROM source)"
    )
    _find_repeated_ids(engine, _count_passes(read))
    # Stored before the others are written, so that the engine needs memory for one join with the answers at a time,
    # and before they are joined, because these are usually few.
    execute_within_memory(
        engine,
        f"CREATE TABLE repeated_rows AS SELECT record_id, response_date, occp_text, tasks_text{columns}"  # noqa: S608
        " FROM hashed_source SEMI JOIN repeated_ids USING (id_hash)",
    )
    execute_within_memory(
        engine,
        "CREATE TABLE repeated_records AS SELECT *,"  # noqa: S608
        " row_number() OVER (PARTITION BY response_date, record_id ORDER BY text_key, reason) AS occurrence"
        f" FROM ({records.format(rows='repeated_rows')})",
    )
    engine.execute("DROP TABLE repeated_rows")
    other_rows = "hashed_source ANTI JOIN repeated_ids USING (id_hash)"
    return f"SELECT *, 1 AS occurrence FROM ({records.format(rows=other_rows)}) UNION ALL FROM repeated_records"  # noqa: S608


def _find_repeated_ids(engine: Engine, passes: int) -> None:
    """Create the table `repeated_ids`: the hashes of the ids that more than one record of a day has.

    Two ids with the same hash are in it too. Their records are numbered like those with the same id, each from 1.

    :param passes: how many parts of the ids are counted one after the other
    """
    engine.execute("CREATE TABLE repeated_ids (id_hash UBIGINT)")
    for number in range(passes):
        execute_within_memory(
            engine,
            f"""
            INSERT INTO repeated_ids SELECT id_hash FROM hashed_source
            WHERE {passes} = 1 OR id_hash % {passes} = {number}
            GROUP BY id_hash HAVING count(*) > 1
            """,  # noqa: S608
        )


def _count_passes(read: int) -> int:
    """Return how many passes find the distinct answers, or ids, of this many records."""
    return max(1, -(-read // RECORDS_PER_PASS))


def write_answers(engine: Engine, path: Path) -> None:
    """Write the keys of the texts of the answers that are not rejected, by the numbers of the answers."""
    select = "SELECT answer, text_key FROM memory.answers WHERE reason IS NULL"
    copy_to_file(engine, select, path, "FORMAT parquet, COMPRESSION zstd")


#: SQL of the numbers of records by response date and reason (NULL: not rejected), from the Parquet file $path.
_COUNTS_BY_DATE_AND_REASON = """
    SELECT response_date, reason, count(*) FROM read_parquet($path)
    GROUP BY response_date, reason ORDER BY 1, 3 DESC, 2
"""


def _check_limits(
    engine: Engine, plan: Plan, warehouse: Warehouse, records: Path, answers: Path
) -> tuple[dict[str, int], dict[str, str], tuple[str, ...]]:
    """Check the share of rejected records before anything is sent: that of the run, or with `changed_only` that of
    each date. Return the rejected records by reason, the dates over a limit, and warnings.

    :param records, answers: the run's records and answers, Parquet
    :raises LimitError: the run, or its last date, exceeds the limit; that date is recorded
    """
    run: Counter[str | None] = Counter()
    dates: dict[date, Counter[str | None]] = {}
    for day, reason, count in engine.execute(_COUNTS_BY_DATE_AND_REASON, {"path": escape_glob(records)}).fetchall():
        run[reason] += count
        dates.setdefault(day, Counter())[reason] += count
    reasons = {reason: count for reason, count in run.most_common() if reason}
    if not plan.changed_only:
        limits, unchecked = _describe_limits(plan, run)
        return reasons, {}, tuple(filter(None, [_refuse(plan, limits) if limits else "", unchecked]))
    over_limit = {day: limits for day, counts in dates.items() if (limits := _describe_limits(plan, counts)[0])}
    if over_limit:
        for day in _find_published_dates(engine, plan, warehouse, records, answers, set(over_limit)):
            del over_limit[day]
    last, warnings = plan.dates[1], []
    if last in over_limit:
        if not plan.dry_run:
            with warehouse.session() as session, session.transaction(lock=table(plan.schema, "coding_runs")):
                record_dates_over_limit(session, plan, {last: over_limit[last]})
        warnings.append(_refuse(plan, f"{last}: {over_limit[last]}", {last: over_limit[last]}))
    warnings += [f"The texts of {day} are not sent: {limits}" for day, limits in over_limit.items()]
    warnings += [f"{day}: {text}" for day, counts in dates.items() if (text := _describe_limits(plan, counts)[1])]
    return reasons, {day.isoformat(): limits for day, limits in over_limit.items()}, tuple(warnings)


def _describe_limits(plan: Plan, counts: Counter[str | None]) -> tuple[str, str]:
    """Return the limits that records exceed, and those that they would exceed if there were more of them.

    :param counts: numbers of records by the reason why they are rejected; None if they are not
    """
    reasons = {reason: count for reason, count in counts.most_common() if reason}
    read, rejected = counts.total(), sum(reasons.values())
    return (
        describe_exceeded_limits(plan, read, rejected, rejected_by_reason=reasons),
        describe_unchecked_limits(plan, read, rejected),
    )


def _find_published_dates(
    engine: Engine, plan: Plan, warehouse: Warehouse, records: Path, answers: Path, days: set[date]
) -> set[date]:
    """Return which of these dates are published with exactly the run's records, so that no limit matters any more."""
    with (
        warehouse.session(read_only=True) as session,
        stage_records(engine, session, records, answers, days),
        look_up_results(session, plan),
    ):
        return find_unchanged_dates(session, plan, days)


def find_new_texts(
    engine: Engine,
    plan: Plan,
    warehouse: Warehouse | None,
    path: Path | None = None,
    dates_over_limit: Iterable[str] = (),
) -> tuple[int, int]:
    """Create the table `memory.new_texts`, ordered by key; return the numbers of all texts and of the coded ones.

    :param warehouse: None: no text is coded already
    :param path: the run's records, Parquet; None if no date is over a limit
    :param dates_over_limit: dates whose texts are not sent, unless other dates have them too
    """
    days = [date.fromisoformat(day) for day in dates_over_limit]
    texts = "memory.answers WHERE reason IS NULL"
    if days and path:
        list_days = ", ".join(map(quote_date, days))
        records = f"read_parquet({quote_literal(escape_glob(path))})"
        texts += f" AND answer IN (SELECT answer FROM {records} WHERE response_date NOT IN ({list_days}))"  # noqa: S608
    engine.execute("CREATE TABLE known_texts (text_key VARCHAR)")
    if plan.selection == "uncoded" and warehouse is not None:
        coded_texts = table(plan.schema, "coded_texts")
        with (
            warehouse.session(read_only=True) as session,
            session.staged("run_texts", Query(engine, f"SELECT text_key FROM {texts}")),  # noqa: S608
        ):
            # The keys go to the warehouse, not the reverse, because a night usually has few of them.
            query = f"SELECT DISTINCT text_key FROM {coded_texts} WHERE {OF_RUN_TEXTS}"  # noqa: S608
            create_table(engine, "known_texts", session.read(query, [plan.topic, plan.model_id]))
    execute_within_memory(
        engine,
        "CREATE TABLE memory.new_texts AS SELECT DISTINCT text_key, occp_text, tasks_text"  # noqa: S608
        f" FROM (SELECT * FROM {texts}) ANTI JOIN known_texts USING (text_key) ORDER BY text_key",
    )
    ((new_texts, known_texts),) = engine.execute(
        "SELECT (SELECT count(*) FROM memory.new_texts), (SELECT count(*) FROM known_texts)"
    ).fetchall()
    return new_texts + known_texts, known_texts


def _write_awaited_texts(engine: Engine, staging: Staging) -> tuple[int, str | None]:
    """Write the texts that other runs in progress send; return their number and the URI of their file."""
    ((awaited,),) = engine.execute("SELECT count(*) FROM awaited_texts").fetchall()
    if not awaited:
        return 0, None
    log.info("%s of these texts are left to other runs, which send them now", f"{awaited:,}")
    select = SELECT_INPUT_LINES.format(texts="awaited_texts")
    return awaited, write_input_file(engine, f"{select} ORDER BY text_key", staging)[0]


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
        """,  # noqa: S608
        [plan.topic, float(records)],
    )
    return median(seconds for (seconds,) in rows) if rows else None
