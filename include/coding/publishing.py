"""Publishing a run's dates in `coded_records`: write, audit, and only then let anybody see it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import duckdb

from include.coding.errors import AuditError, IncompleteError
from include.coding.files import pattern_of
from include.coding.ledger import OF_RUN, Published, check_sources, find_later, find_published, of_run
from include.coding.plan import Plan
from include.coding.tables import table
from include.warehouse.duckdb_warehouse import Query
from include.warehouse.warehouse import Session

_LEFT = "Left as they are, since another run read these dates later: %s"
#: Spans of dates that a message names.
NAMED_SPANS = 10

log = logging.getLogger(__name__)


def publish(
    engine: duckdb.DuckDBPyConnection,
    session: Session,
    plan: Plan,
    prepared: Mapping[str, Any],
    records: Path | None,
) -> Published:
    """Have just the records that the run read stand published for its dates, within a transaction of `session`.

    :param prepared: what `prepare` counted (:meth:`include.coding.prepare.Prepared.as_dict`)
    :param records: what it staged, Parquet; None if it found that just this stands published
    :raises AuditError: the counts do not add up, or a threshold is passed: roll back
    :raises IncompleteError: what `prepare` found published has changed since
    """
    if records is None:
        published = _confirm(session, plan, prepared)
    else:
        published = _replace(engine, session, plan, prepared, records)
    if not plan.changed_only:  # which has looked at each date for itself
        _check_shares(plan, published.read, published.rejected, published.uncoded)
    return published


def _confirm(session: Session, plan: Plan, prepared: Mapping[str, Any]) -> Published:
    published = find_published(session, plan, prepared["checksum"], prepared["read"])
    if published is None:
        later = find_later(session, plan, prepared["read_at"])
        if any(first.isoformat() <= plan.from_date and last.isoformat() >= plan.to_date for first, last in later):
            log.warning(_LEFT, ", ".join(f"{first} to {last}" for first, last in later))
            return Published(plan.run_id, 0, 0, 0, 0, 0)
        raise IncompleteError(
            f"what stood published for {plan.from_date} to {plan.to_date} has changed since `prepare`, or texts"
            " were coded again: clear `prepare` with downstream, or run again"
        )
    return published


def _replace(
    engine: duckdb.DuckDBPyConnection, session: Session, plan: Plan, prepared: Mapping[str, Any], staged: Path
) -> Published:
    """Replace the run's dates with its records and their codes, all but those that :func:`_find_left` finds."""
    check_sources(session, plan)
    if not (prepared["read"] or plan.changed_only) and (count := _count_published(session, plan)):
        raise AuditError(
            f"nothing was changed: source {plan.source!r} has no records of {plan.from_date} to {plan.to_date}, but"
            f" {count} are published: is the source loaded? If they should go, delete them from coded_records"
        )
    records = _records(plan)
    model, text = [plan.topic, plan.model_id], session.dialect.text
    read, rejected = prepared["read"], prepared["rejected"]
    with session.staged("staged_records", _staged_records(engine, staged)):
        left = _spans(_find_left(session, plan, prepared))
        ours = "".join(" AND NOT response_date BETWEEN ? AND ?" for _ in left)
        values = [day for span in left for day in span]
        if left:
            counted = f"SELECT count(*), count(reason) FROM staged_records WHERE true{ours}"
            ((read, rejected),) = session.execute(counted, values)
        session.execute(f"DELETE FROM {records} WHERE {OF_RUN}{ours}", [*of_run(plan), *values])
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
            WHERE true{ours}
            """,
            [*model, plan.model_version, plan.run_id, session.now(), *model, *values],
        )
    counts = _audit(session, plan, (OF_RUN + ours, [*of_run(plan), *values]), read, rejected)
    return Published(plan.run_id, read, *counts, prepared["texts"])


def _find_left(session: Session, plan: Plan, prepared: Mapping[str, Any]) -> set[date]:
    """Return the dates that stay as they stand published, and say why.

    Those are dates that another run read later, and dates of which the source has no record any more: it may keep
    them for a while only. If the plan is for changes only, also those of which nothing is new, and those before its
    last that break a limit: that must not hold up the night.
    """
    standing = _days(session, f"SELECT DISTINCT response_date FROM {_records(plan)} WHERE {OF_RUN}", of_run(plan))
    staged = _days(session, "SELECT DISTINCT response_date FROM staged_records")
    spans = find_later(session, plan, prepared["read_at"])
    later = {day for day in standing if any(first <= day <= last for first, last in spans)}
    vanished = set() if plan.max_records else standing - staged
    if later:
        log.warning(_LEFT, _named(later))
    if vanished:
        log.warning(
            "Left as they are, since source %r has no record of them: %s. If they should go, delete them from"
            " coded_records",
            plan.source, _named(vanished),
        )  # fmt: skip
    left = later | vanished
    if plan.changed_only:
        left |= _find_unchanged(session, plan, staged)
        left |= _find_over_limit(session, plan, staged - left)
    return left


def _find_unchanged(session: Session, plan: Plan, staged: set[date]) -> set[date]:
    """Dates of which just what would be written stands published, by other runs than this one."""
    columns = "record_id, occurrence, response_date, {0}text_key, reason, operation_id"
    differing = f"""
        WITH fresh AS (
            SELECT {columns.format("staged_records.")}
            FROM staged_records LEFT JOIN {table(plan.schema, "coded_texts")} AS texts
                ON texts.text_key = staged_records.text_key AND texts.topic = ? AND texts.model_id = ?
        ), standing AS (
            SELECT {columns.format("")} FROM {_records(plan)} WHERE {OF_RUN} AND run_id <> ?
        ), differing AS (
            (SELECT * FROM fresh EXCEPT SELECT * FROM standing)
            UNION ALL
            (SELECT * FROM standing EXCEPT SELECT * FROM fresh)
        )
        SELECT DISTINCT response_date FROM differing
    """
    return staged - _days(session, differing, [plan.topic, plan.model_id, *of_run(plan), plan.run_id])


def _find_over_limit(session: Session, plan: Plan, days: set[date]) -> set[date]:
    """Of these dates, those before the plan's last of which too many records are uncoded or rejected.

    :raises AuditError: it is the last
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
    found = set()
    for day, read, rejected, uncoded in counts:
        if day not in days:
            continue
        try:
            _check_shares(plan, read, rejected, uncoded)
        except AuditError as error:
            if day.isoformat() == plan.to_date:
                raise
            log.warning("Left as it is: %s. %s; run it by hand", day, error)
            found.add(day)
    return found


def _days(session: Session, query: str, values: Sequence[Any] = ()) -> set[date]:
    return {day for (day,) in session.execute(query, values)}


def _spans(days: Iterable[date]) -> list[tuple[date, date]]:
    """Days as spans, first and last: a statement of a thousand conditions takes an engine minutes to plan."""
    spans: list[tuple[date, date]] = []
    for day in sorted(days):
        if spans and (day - spans[-1][1]).days == 1:
            spans[-1] = (spans[-1][0], day)
        else:
            spans.append((day, day))
    return spans


def _named(days: Iterable[date]) -> str:
    spans = _spans(days)
    told = [str(first) if first == last else f"{first} to {last}" for first, last in spans[:NAMED_SPANS]]
    return ", ".join(told) + (f" and {len(spans) - NAMED_SPANS} more" if len(spans) > NAMED_SPANS else "")


def _records(plan: Plan) -> str:
    return table(plan.schema, "coded_records")


def _staged_records(engine: duckdb.DuckDBPyConnection, path: Path) -> Query:
    columns = "record_id, CAST(occurrence AS INTEGER) AS occurrence, response_date, text_key, reason"
    return Query(engine, f"SELECT {columns} FROM read_parquet($path)", {"path": pattern_of(path)})


def _count_published(session: Session, plan: Plan) -> int:
    ((count,),) = session.execute(f"SELECT count(*) FROM {_records(plan)} WHERE {OF_RUN}", of_run(plan))
    return int(count)


def _audit(
    session: Session, plan: Plan, where: tuple[str, list[Any]], read: int, rejected: int
) -> tuple[int, int, int]:
    """Reconcile every count with what stands in the table; return the records coded, uncoded and rejected.

    :param where: what stands there of the run's dates, and its values
    :param read, rejected: records that should stand there
    """
    found = dict(
        session.execute(f"SELECT outcome, count(*) FROM {_records(plan)} WHERE {where[0]} GROUP BY outcome", where[1])
    )
    lost = found.pop("lost", 0)
    counts = {name: found.get(name, 0) for name in ("coded", "uncoded", "rejected")}
    if lost or sum(counts.values()) != read or counts["rejected"] != rejected:
        raise AuditError(
            f"nothing was published: {read} records were read ({rejected} rejected), but {counts} came to"
            f" {sum(counts.values())}; {lost} have a text without a result: run again"
        )
    return counts["coded"], counts["uncoded"], counts["rejected"]


def _check_shares(plan: Plan, read: int, rejected: int, uncoded: int) -> None:
    _check_share("max_uncoded_share", plan.max_uncoded_share, "uncoded", uncoded, read - rejected)
    _check_share("max_rejected_share", plan.max_rejected_share, "rejected", rejected, read)


def _check_share(name: str, limit: float, outcome: str, count: int, of: int) -> None:
    if of and count / of > limit:
        raise AuditError(
            f"nothing was published: {count} of {of} records are {outcome} ({count / of:.1%}), above {name} ="
            f" {limit}: look at the source, or raise the limit if this is right"
        )
