"""Publishing a run's dates in `coded_records`: write, audit, and commit only then."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import duckdb

from include.coding.errors import AuditError, IncompleteError
from include.coding.files import escape_glob
from include.coding.plan import Plan
from include.coding.prepare import Prepared
from include.coding.run_log import (
    RUN_FILTER,
    PublishedRun,
    check_sources,
    find_later_spans,
    find_published_run,
    run_filter_values,
)
from include.coding.tables import table
from include.warehouse.duckdb_warehouse import Query
from include.warehouse.warehouse import Session

_SKIPPED_FOR_LATER_RUN = "Skipped these dates, because another run read them later: %s"
#: Spans of dates that a message lists at most.
MAX_LISTED_SPANS = 10

log = logging.getLogger(__name__)


def publish(
    engine: duckdb.DuckDBPyConnection, session: Session, plan: Plan, prepared: Prepared, records: Path | None
) -> PublishedRun:
    """Replace the published rows of the run's dates with its records, within a transaction of `session`.

    :param records: the run's records, Parquet; None if `prepare` found that exactly these are published already
    :raises AuditError: the counts do not add up, or a threshold is exceeded; the caller rolls back
    :raises IncompleteError: what `prepare` found published has changed since
    """
    if records is None:
        run = _confirm_published(session, plan, prepared)
    else:
        run = _replace_records(engine, session, plan, prepared, records)
    if not plan.changed_only:  # otherwise each date has been checked by itself
        _check_shares(plan, run.read, run.rejected, run.uncoded)
    return run


def _confirm_published(session: Session, plan: Plan, prepared: Prepared) -> PublishedRun:
    run = find_published_run(session, plan, prepared.checksum, prepared.read)
    if run is None:
        first, last = plan.dates
        spans = find_later_spans(session, plan, prepared.read_at)
        if any(begin <= first and end >= last for begin, end in spans):
            log.warning(_SKIPPED_FOR_LATER_RUN, ", ".join(f"{begin} to {end}" for begin, end in spans))
            return PublishedRun(plan.run_id, 0, 0, 0, 0, 0)
        raise IncompleteError(
            f"what was published for {plan.from_date} to {plan.to_date} has changed since `prepare`, or texts were"
            " coded again: clear `prepare` with downstream, or start another run"
        )
    return run


def _replace_records(
    engine: duckdb.DuckDBPyConnection, session: Session, plan: Plan, prepared: Prepared, path: Path
) -> PublishedRun:
    """Replace all of the run's dates, except those that :func:`_find_skipped_dates` returns."""
    check_sources(session, plan)
    if not (prepared.read or plan.changed_only) and (count := _count_published(session, plan)):
        raise AuditError(
            f"nothing was changed: source {plan.source!r} has no records of {plan.from_date} to {plan.to_date}, but"
            f" {count} are published: check that the source is loaded. To remove them, delete them from coded_records"
        )
    records = _records_table(plan)
    model, text = [plan.topic, plan.model_id], session.dialect.text
    read, rejected = prepared.read, prepared.rejected
    with session.staged("staged_records", _query_records(engine, path)):
        skipped = _merge_into_spans(_find_skipped_dates(session, plan, prepared))
        condition = "".join(" AND NOT response_date BETWEEN ? AND ?" for _ in skipped)
        values = [day for span in skipped for day in span]
        if skipped:
            query = f"SELECT count(*), count(reason) FROM staged_records WHERE true{condition}"
            ((read, rejected),) = session.execute(query, values)
        session.execute(f"DELETE FROM {records} WHERE {RUN_FILTER}{condition}", [*run_filter_values(plan), *values])
        session.execute(
            f"""
            INSERT INTO {records}
            SELECT record_id, occurrence, response_date,
                CAST(? AS {text}), CAST(? AS {text}), CAST(? AS DOUBLE PRECISION),
                CASE WHEN reason IS NOT NULL THEN 'rejected' ELSE coalesce(outcome, 'lost') END,
                code, label, confidence, level, suggestions, reason, staged_records.text_key, operation_id,
                CAST(? AS {text}), coalesce(coded_at, CAST(? AS TIMESTAMP))
            FROM staged_records LEFT JOIN {table(plan.schema, "coded_texts")} AS texts
                ON texts.text_key = staged_records.text_key AND texts.topic = ? AND texts.model_id = ?
            WHERE true{condition}
            """,
            [*model, plan.model_version, plan.run_id, session.now(), *model, *values],
        )
    where = (RUN_FILTER + condition, [*run_filter_values(plan), *values])
    return PublishedRun(plan.run_id, read, *_audit(session, plan, where, read, rejected), prepared.texts)


def _find_skipped_dates(session: Session, plan: Plan, prepared: Prepared) -> set[date]:
    """Return the dates whose published rows stay unchanged, and log why.

    These are the dates that another run read later, and those of which the source has no record any more, because it
    may keep records only for some time. A plan for changes only also skips the dates on which nothing changed, and
    dates before its last that exceed a limit, because they must not block the night.
    """
    published_dates = f"SELECT DISTINCT response_date FROM {_records_table(plan)} WHERE {RUN_FILTER}"
    published = _select_dates(session, published_dates, run_filter_values(plan))
    staged = _select_dates(session, "SELECT DISTINCT response_date FROM staged_records")
    spans = find_later_spans(session, plan, prepared.read_at)
    later = {day for day in published if any(first <= day <= last for first, last in spans)}
    vanished = set() if plan.max_records else published - staged
    if later:
        log.warning(_SKIPPED_FOR_LATER_RUN, _format_dates(later))
    if vanished:
        log.warning(
            "Skipped these dates, because source %r has no record of them: %s. To remove their rows, delete them from"
            " coded_records",
            plan.source, _format_dates(vanished),
        )  # fmt: skip
    skipped = later | vanished
    if plan.changed_only:
        skipped |= _find_unchanged_dates(session, plan, staged)
        skipped |= _find_dates_over_limit(session, plan, staged - skipped)
    return skipped


def _find_unchanged_dates(session: Session, plan: Plan, staged: set[date]) -> set[date]:
    """Return the dates for which other runs have published exactly the rows that this run would write."""
    columns = "record_id, occurrence, response_date, {0}text_key, reason, operation_id"
    changed_dates = f"""
        WITH fresh AS (
            SELECT {columns.format("staged_records.")}
            FROM staged_records LEFT JOIN {table(plan.schema, "coded_texts")} AS texts
                ON texts.text_key = staged_records.text_key AND texts.topic = ? AND texts.model_id = ?
        ), published AS (
            SELECT {columns.format("")} FROM {_records_table(plan)} WHERE {RUN_FILTER} AND run_id <> ?
        ), differences AS (
            (SELECT * FROM fresh EXCEPT SELECT * FROM published)
            UNION ALL
            (SELECT * FROM published EXCEPT SELECT * FROM fresh)
        )
        SELECT DISTINCT response_date FROM differences
    """
    values = [plan.topic, plan.model_id, *run_filter_values(plan), plan.run_id]
    return staged - _select_dates(session, changed_dates, values)


def _find_dates_over_limit(session: Session, plan: Plan, days: set[date]) -> set[date]:
    """Return those of these dates, before the plan's last, that have too many uncoded or rejected records.

    :raises AuditError: the last date has too many
    """
    counts = session.execute(
        f"""
        SELECT response_date, count(*), count(reason), count(CASE WHEN outcome = 'uncoded' THEN 1 END)
        FROM staged_records LEFT JOIN {table(plan.schema, "coded_texts")} AS texts
            ON texts.text_key = staged_records.text_key AND texts.topic = ? AND texts.model_id = ?
        GROUP BY response_date ORDER BY response_date
        """,
        [plan.topic, plan.model_id],
    )
    over_limit = set()
    for day, read, rejected, uncoded in counts:
        if day not in days:
            continue
        try:
            _check_shares(plan, read, rejected, uncoded)
        except AuditError as error:
            if day.isoformat() == plan.to_date:
                raise
            log.warning("Skipped %s: %s; start a manual run of this date", day, error)
            over_limit.add(day)
    return over_limit


def _select_dates(session: Session, query: str, values: Sequence[Any] = ()) -> set[date]:
    return {day for (day,) in session.execute(query, values)}


def _merge_into_spans(days: Iterable[date]) -> list[tuple[date, date]]:
    """Merge dates into spans, because an engine takes minutes to plan a statement with a thousand conditions."""
    spans: list[tuple[date, date]] = []
    for day in sorted(days):
        if spans and (day - spans[-1][1]).days == 1:
            spans[-1] = (spans[-1][0], day)
        else:
            spans.append((day, day))
    return spans


def _format_dates(days: Iterable[date]) -> str:
    spans = _merge_into_spans(days)
    names = [str(first) if first == last else f"{first} to {last}" for first, last in spans[:MAX_LISTED_SPANS]]
    return ", ".join(names) + (f" and {len(spans) - MAX_LISTED_SPANS} more" if len(spans) > MAX_LISTED_SPANS else "")


def _records_table(plan: Plan) -> str:
    return table(plan.schema, "coded_records")


def _query_records(engine: duckdb.DuckDBPyConnection, path: Path) -> Query:
    columns = "record_id, CAST(occurrence AS INTEGER) AS occurrence, response_date, text_key, reason"
    return Query(engine, f"SELECT {columns} FROM read_parquet($path)", {"path": escape_glob(path)})


def _count_published(session: Session, plan: Plan) -> int:
    query = f"SELECT count(*) FROM {_records_table(plan)} WHERE {RUN_FILTER}"
    ((count,),) = session.execute(query, run_filter_values(plan))
    return int(count)


def _audit(
    session: Session, plan: Plan, where: tuple[str, list[Any]], read: int, rejected: int
) -> tuple[int, int, int]:
    """Check the rows in the table against every count; return the records coded, uncoded and rejected.

    :param where: condition that selects the run's rows, and its values
    :param read, rejected: expected numbers of records
    """
    query = f"SELECT outcome, count(*) FROM {_records_table(plan)} WHERE {where[0]} GROUP BY outcome"
    rows = dict(session.execute(query, where[1]))
    lost = rows.pop("lost", 0)
    counts = {name: rows.get(name, 0) for name in ("coded", "uncoded", "rejected")}
    if lost or sum(counts.values()) != read or counts["rejected"] != rejected:
        raise AuditError(
            f"nothing was published: {read} records were read ({rejected} rejected), but the table would have"
            f" {sum(counts.values())} ({counts}); {lost} have a text without a result: start another run"
        )
    return counts["coded"], counts["uncoded"], counts["rejected"]


def _check_shares(plan: Plan, read: int, rejected: int, uncoded: int) -> None:
    _check_share("max_uncoded_share", plan.max_uncoded_share, "uncoded", uncoded, read - rejected)
    _check_share("max_rejected_share", plan.max_rejected_share, "rejected", rejected, read)


def _check_share(name: str, limit: float, outcome: str, count: int, total: int) -> None:
    if total and count / total > limit:
        raise AuditError(
            f"nothing was published: {count} of {total} records are {outcome} ({count / total:.1%}), which exceeds"
            f" {name} = {limit}: check the source, or raise the limit if this is expected"
        )
