"""Publishing a run's dates in `coded_records`: its rows are written, audited, and only then committed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from include.coding.collect import REFUSED_BY_SERVICE
from include.coding.engine import Engine
from include.coding.errors import AuditError, IncompleteError
from include.coding.files import escape_glob
from include.coding.plan import Plan
from include.coding.prepare import Prepared
from include.coding.run_log import RUN_FILTER, PublishedRun, run_filter_values
from include.coding.tables import table
from include.warehouse.duckdb_warehouse import Query
from include.warehouse.warehouse import Session

_SKIPPED_FOR_LATER_RUN = "Skipped these dates, because another run read them later: %s"
#: Maximum number of spans of dates that a message lists.
MAX_LISTED_SPANS = 10
#: First and last date of a span.
Span = tuple[date, date]

log = logging.getLogger(__name__)


def confirm_published(plan: Plan, published: PublishedRun | None, later_spans: Sequence[Span]) -> PublishedRun:
    """Return the run that published exactly the records of this one, which `prepare` found.

    :param published: that run; None if its rows are not there any more
    :param later_spans: spans of dates that other runs read later
    :raises AuditError: a threshold is exceeded
    :raises IncompleteError: what `prepare` found published has changed since
    """
    if published is not None:
        _check_run_shares(plan, published)
        return published
    first, last = plan.dates
    if any(begin <= first and end >= last for begin, end in later_spans):
        log.warning(_SKIPPED_FOR_LATER_RUN, ", ".join(f"{begin} to {end}" for begin, end in later_spans))
        return PublishedRun(plan.run_id, 0, 0, 0, 0, 0)
    raise IncompleteError(
        f"what was published for {plan.from_date} to {plan.to_date} has changed since `prepare`, or texts were"
        " coded again: clear `prepare` with downstream, or start another run"
    )


def publish(
    engine: Engine, session: Session, plan: Plan, prepared: Prepared, path: Path, later_spans: Sequence[Span]
) -> PublishedRun:
    """Replace the published rows of the run's dates with its records, within a transaction of `session`.

    Dates that :func:`_find_skipped_dates` returns stay as they are.

    :param path: the run's records, Parquet
    :param later_spans: spans of dates that other runs read later
    :raises AuditError: the counts do not add up, or a threshold is exceeded; the caller rolls back
    """
    if not (prepared.read or plan.changed_only) and (count := _count_published(session, plan)):
        raise AuditError(
            f"nothing was changed: source {plan.source!r} has no records of {plan.from_date} to {plan.to_date}, but"
            f" {count} are published: check that the source is loaded. To remove them, delete them from coded_records"
        )
    records = table(plan.schema, "coded_records")
    columns = "record_id, CAST(occurrence AS INTEGER) AS occurrence, response_date, text_key, reason"
    staged_records = Query(engine, f"SELECT {columns} FROM read_parquet($path)", {"path": escape_glob(path)})
    model, text = [plan.topic, plan.model_id], session.dialect.text
    read, rejected = prepared.read, prepared.rejected
    with session.staged("staged_records", staged_records):
        skipped = _merge_into_spans(_find_skipped_dates(session, plan, later_spans))
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
                CASE WHEN staged_records.reason IS NOT NULL THEN 'rejected' ELSE coalesce(outcome, 'lost') END,
                code, label, confidence, level, suggestions, coalesce(staged_records.reason, texts.reason),
                staged_records.text_key, nullif(operation_id, ''),
                CAST(? AS {text}), coalesce(coded_at, CAST(? AS TIMESTAMP))
            FROM staged_records LEFT JOIN {table(plan.schema, "coded_texts")} AS texts
                ON texts.text_key = staged_records.text_key AND texts.topic = ? AND texts.model_id = ?
            WHERE true{condition}
            """,
            [*model, plan.model_version, plan.run_id, session.now(), *model, *values],
        )
    where = (RUN_FILTER + condition, [*run_filter_values(plan), *values])
    run = PublishedRun(plan.run_id, read, *_audit(session, plan, where, read, rejected), prepared.texts)
    _check_run_shares(plan, run)
    return run


def _find_skipped_dates(session: Session, plan: Plan, later_spans: Sequence[Span]) -> set[date]:
    """Return the dates whose published rows stay unchanged, and log why.

    These are the dates that another run read later, and those of which the source has no record any more, because it
    may keep records only for some time. With `changed_only`, they are also the dates on which nothing changed, and
    those before the last that exceed a limit, because an old date must not block the night.
    """
    published_dates = f"SELECT DISTINCT response_date FROM {table(plan.schema, 'coded_records')} WHERE {RUN_FILTER}"
    published = _select_dates(session, published_dates, run_filter_values(plan))
    staged = _select_dates(session, "SELECT DISTINCT response_date FROM staged_records")
    later = {day for day in published if any(first <= day <= last for first, last in later_spans)}
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
    columns = "record_id, occurrence, response_date"
    changed_dates = f"""
        WITH fresh AS (
            SELECT {columns}, staged_records.text_key, coalesce(staged_records.reason, texts.reason),
                nullif(operation_id, '')
            FROM staged_records LEFT JOIN {table(plan.schema, "coded_texts")} AS texts
                ON texts.text_key = staged_records.text_key AND texts.topic = ? AND texts.model_id = ?
        ), published AS (
            SELECT {columns}, text_key, reason, operation_id
            FROM {table(plan.schema, "coded_records")} WHERE {RUN_FILTER} AND run_id <> ?
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
    """Return which of these dates have too many uncoded or rejected records.

    :raises AuditError: the plan's last date has too many
    """
    counts = session.execute(
        f"""
        SELECT response_date, count(*),
            count(CASE WHEN staged_records.reason IS NOT NULL OR outcome = 'rejected' THEN 1 END),
            count(CASE WHEN outcome = 'uncoded' THEN 1 END)
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


def _merge_into_spans(days: Iterable[date]) -> list[Span]:
    """Merge dates into spans, because an engine takes minutes to plan a statement with a thousand conditions."""
    spans: list[Span] = []
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


def _count_published(session: Session, plan: Plan) -> int:
    query = f"SELECT count(*) FROM {table(plan.schema, 'coded_records')} WHERE {RUN_FILTER}"
    ((count,),) = session.execute(query, run_filter_values(plan))
    return int(count)


def _audit(
    session: Session, plan: Plan, where: tuple[str, list[Any]], read: int, rejected: int
) -> tuple[int, int, int]:
    """Check the rows that `where` (a condition and its values) selects against the expected counts, and return the
    numbers of coded, uncoded and rejected records.

    :param rejected: records that were rejected before sending; those that the service refused come on top
    """
    query = (
        f"SELECT outcome, count(*), count(CASE WHEN reason = '{REFUSED_BY_SERVICE}' THEN 1 END)"
        f" FROM {table(plan.schema, 'coded_records')} WHERE {where[0]} GROUP BY outcome"
    )
    rows = session.execute(query, where[1])
    by_outcome = {outcome: count for outcome, count, _ in rows}
    refused, lost = sum(count for _, _, count in rows), by_outcome.pop("lost", 0)
    counts = {name: by_outcome.get(name, 0) for name in ("coded", "uncoded", "rejected")}
    if lost or sum(counts.values()) != read or counts["rejected"] != rejected + refused:
        raise AuditError(
            f"nothing was published: {read} records were read ({rejected} rejected), but the table would have"
            f" {sum(counts.values())} ({counts}); {lost} have a text without a result: start another run"
        )
    return counts["coded"], counts["uncoded"], counts["rejected"]


def _check_run_shares(plan: Plan, run: PublishedRun) -> None:
    if not plan.changed_only:  # otherwise each date was checked by itself
        _check_shares(plan, run.read, run.rejected, run.uncoded)


def _check_shares(plan: Plan, read: int, rejected: int, uncoded: int) -> None:
    _check_share("max_uncoded_share", plan.max_uncoded_share, "uncoded", uncoded, read - rejected)
    _check_share("max_rejected_share", plan.max_rejected_share, "rejected", rejected, read)


def _check_share(name: str, limit: float, outcome: str, count: int, total: int) -> None:
    if total and count / total > limit:
        raise AuditError(
            f"nothing was published: {count} of {total} records are {outcome} ({count / total:.1%}), which exceeds"
            f" {name} = {limit}: check the source, or raise the limit if this is expected"
        )
