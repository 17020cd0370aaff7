"""Publishing a run's dates in `coded_records`: write, audit, and only then let anybody see it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import duckdb

from include.coding.errors import AuditError, IncompleteError
from include.coding.files import pattern_of
from include.coding.ledger import OF_RUN, Published, find_later, find_other_sources, find_published, of_run
from include.coding.plan import Plan
from include.coding.tables import table
from include.warehouse.duckdb_warehouse import Query
from include.warehouse.warehouse import Session

_LEFT = "Left as they are, since another run read these dates later: %s"

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
    sendable = published.read - published.rejected
    _check_share("max_uncoded_share", plan.max_uncoded_share, "uncoded", published.uncoded, sendable)
    _check_share("max_rejected_share", plan.max_rejected_share, "rejected", published.rejected, published.read)
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
    """Replace the run's dates with its records and their codes.

    Left as they are: dates that another run read later, dates of which the source has no record any more, and, if
    the plan is for changes only, dates of which just these records stand published with just these codes.
    """
    if plan.response_date and (sources := find_other_sources(session, plan)):
        raise AuditError(
            f"nothing was changed: {plan.response_date} is published from {sources}, and a run replaces its date:"
            f" give source {plan.source!r} another `response_date`"
        )
    if not prepared["read"] and (count := _count_published(session, plan)):
        raise AuditError(
            f"nothing was changed: source {plan.source!r} has no records of {plan.from_date} to {plan.to_date}, but"
            f" {count} are published: is the source loaded? If they should go, delete them from coded_records"
        )
    later = find_later(session, plan, prepared["read_at"])
    if later:
        log.warning(_LEFT, ", ".join(f"{first} to {last}" for first, last in later))
    records = table(plan.schema, "coded_records")
    model, text = [plan.topic, plan.model_id], session.dialect.text
    read, rejected = prepared["read"], prepared["rejected"]
    with session.staged("staged_records", _staged_records(engine, staged)):
        left = [*later, *((day, day) for day in _find_vanished(session, plan))]
        if plan.changed_only:
            left += [(day, day) for day in _find_unchanged(session, plan)]
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


def _find_vanished(session: Session, plan: Plan) -> list[date]:
    """Published dates of which the run read no record. A source may keep its records for a while only."""
    days = session.execute(
        f"SELECT DISTINCT response_date FROM {table(plan.schema, 'coded_records')} WHERE {OF_RUN}"
        " AND response_date NOT IN (SELECT response_date FROM staged_records) ORDER BY 1",
        of_run(plan),
    )
    if days:
        named = ", ".join(str(day) for (day,) in days)
        log.warning(
            "Left as they are, since source %r has no record of them: %s. If they should go, delete them from"
            " coded_records",
            plan.source, named,
        )  # fmt: skip
    return [day for (day,) in days]


def _find_unchanged(session: Session, plan: Plan) -> list[date]:
    """Dates of which just what would be written stands published."""
    columns = "record_id, occurrence, response_date, {0}text_key, reason, operation_id"
    days = session.execute(
        f"""
        WITH fresh AS (
            SELECT {columns.format("staged_records.")}
            FROM staged_records LEFT JOIN {table(plan.schema, "coded_texts")} AS texts
                ON texts.text_key = staged_records.text_key AND texts.topic = ? AND texts.model_id = ?
        ), standing AS (
            SELECT {columns.format("")} FROM {table(plan.schema, "coded_records")} WHERE {OF_RUN}
        ), differing AS (
            (SELECT * FROM fresh EXCEPT SELECT * FROM standing)
            UNION ALL
            (SELECT * FROM standing EXCEPT SELECT * FROM fresh)
        )
        SELECT DISTINCT response_date FROM staged_records
        WHERE response_date NOT IN (SELECT response_date FROM differing) ORDER BY 1
        """,
        [plan.topic, plan.model_id, *of_run(plan)],
    )
    return [day for (day,) in days]


def _staged_records(engine: duckdb.DuckDBPyConnection, path: Path) -> Query:
    columns = "record_id, CAST(occurrence AS INTEGER) AS occurrence, response_date, text_key, reason"
    return Query(engine, f"SELECT {columns} FROM read_parquet($path)", {"path": pattern_of(path)})


def _count_published(session: Session, plan: Plan) -> int:
    records = table(plan.schema, "coded_records")
    ((count,),) = session.execute(f"SELECT count(*) FROM {records} WHERE {OF_RUN}", of_run(plan))
    return int(count)


def _audit(
    session: Session, plan: Plan, where: tuple[str, list[Any]], read: int, rejected: int
) -> tuple[int, int, int]:
    """Reconcile every count with what stands in the table; return the records coded, uncoded and rejected.

    :param where: what stands there of the run's dates, and its values
    :param read, rejected: records that should stand there
    """
    records = table(plan.schema, "coded_records")
    found = dict(
        session.execute(f"SELECT outcome, count(*) FROM {records} WHERE {where[0]} GROUP BY outcome", where[1])
    )
    lost = found.pop("lost", 0)
    counts = {name: found.get(name, 0) for name in ("coded", "uncoded", "rejected")}
    if lost or sum(counts.values()) != read or counts["rejected"] != rejected:
        raise AuditError(
            f"nothing was published: {read} records were read ({rejected} rejected), but {counts} came to"
            f" {sum(counts.values())}; {lost} have a text without a result: run again"
        )
    return counts["coded"], counts["uncoded"], counts["rejected"]


def _check_share(name: str, limit: float, outcome: str, count: int, of: int) -> None:
    if of and count / of > limit:
        raise AuditError(
            f"nothing was published: {count} of {of} records are {outcome} ({count / of:.1%}), above {name} ="
            f" {limit}: look at the source, or raise the limit if this is right"
        )
