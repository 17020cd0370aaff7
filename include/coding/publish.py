"""Publishing a run's dates in `coded_records`: its rows are written, audited, and only then committed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

from include.coding.collect import REFUSED_BY_SERVICE
from include.coding.errors import AuditError, IncompleteError
from include.coding.limits import describe_exceeded_limits, describe_unchecked_limits, make_limit_error
from include.coding.plan import Plan
from include.coding.prepare import Prepared
from include.coding.run_log import (
    PublishedRun,
    Span,
    exclude_dates,
    find_unchanged_dates,
    format_dates,
    record_dates_over_limit,
    run_filter,
    select_dates,
)
from include.coding.staged_records import RECORDS_WITH_RESULTS, split_join
from include.coding.tables import table
from include.warehouse.warehouse import Session

_SKIPPED_FOR_LATER_RUN = "Skipped these dates, because another run read them later: %s"

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
        " coded again: clear `prepare` with downstream tasks, or start another run"
    )


def publish(
    session: Session, plan: Plan, prepared: Prepared, staged_dates: set[date], later_spans: Sequence[Span]
) -> PublishedRun:
    """Replace the published rows of the run's dates with its records, within a transaction of `session`.

    Dates that :func:`_find_skipped_dates` returns stay as they are. Those of them that exceed a limit are recorded in
    `dates_over_limit`; the rows there of other dates that this run has read are removed.

    :param session: has the staged records of the run, and the results of their texts
    :param staged_dates: response dates of the staged records
    :param later_spans: spans of dates that other runs read later
    :raises AuditError: the counts do not add up; the caller rolls back
    :raises LimitError: a limit is exceeded; the caller rolls back
    """
    if not (prepared.read or plan.changed_only) and (count := _count_published(session, plan)):
        raise AuditError(
            f"nothing was changed: source {plan.source!r} has no records of {plan.from_date} to {plan.to_date}, but"
            f" {count} are published: check that the source is loaded. To remove them, delete them from coded_records"
        )
    records = table(plan.schema, "coded_records")
    text = session.dialect.text
    read, rejected = prepared.read, prepared.rejected
    skipped, over_limit = _find_skipped_dates(session, plan, prepared, staged_dates, later_spans)
    condition, values = exclude_dates(skipped)
    if skipped:
        query = f"SELECT count(*), count(reason) FROM staged_records WHERE true{condition}"  # noqa: S608
        ((read, rejected),) = session.execute(query, values)
    dates, date_values = run_filter(plan)
    session.execute(f"DELETE FROM {records} WHERE {dates}{condition}", [*date_values, *values])  # noqa: S608
    now = session.now()
    for joined_records, part in split_join(session, plan):
        session.execute(
            f"""
            INSERT INTO {records}
            SELECT record_id, occurrence, response_date,
                CAST(? AS {text}), CAST(? AS {text}), CAST(? AS DOUBLE PRECISION),
                CASE WHEN staged_records.reason IS NOT NULL THEN 'rejected' ELSE coalesce(outcome, 'lost') END,
                code, label, confidence, level, suggestions, coalesce(staged_records.reason, answer_results.reason),
                text_key, nullif(operation_id, ''), CAST(? AS {text}), coalesce(coded_at, CAST(? AS TIMESTAMP))
            FROM {joined_records} WHERE {part}{condition}
            """,  # noqa: S608
            [plan.topic, plan.model_id, plan.model_version, plan.run_id, now, *values],
        )
    where = (dates + condition, [*date_values, *values])
    run = PublishedRun(plan.run_id, read, *_audit(session, plan, where, read, rejected), prepared.texts)
    _check_run_shares(plan, run, prepared.rejected_by_reason if run.rejected == prepared.rejected else None)
    record_dates_over_limit(session, plan, over_limit, list_read_dates(plan, later_spans))
    return run


def list_read_dates(plan: Plan, later_spans: Sequence[Span]) -> list[date]:
    """Return the plan's dates of which this run has the last reading."""
    first, last = plan.dates
    days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
    return [
        day for day in days
        if day.isoformat() not in plan.excluded_dates and not any(begin <= day <= end for begin, end in later_spans)
    ]  # fmt: skip


def _find_skipped_dates(
    session: Session, plan: Plan, prepared: Prepared, staged_dates: set[date], later_spans: Sequence[Span]
) -> tuple[set[date], dict[date, str]]:
    """Return the dates whose published rows stay unchanged, and which of them exceed limits; log why.

    These are the dates that another run read later, and those of which the source has no record any more, because it
    may keep records only for some time. With `changed_only`, they are also the dates on which nothing changed, and
    those before the last that exceed a limit, because an old date must not block the night.
    """
    condition, values = run_filter(plan)
    published_dates = f"SELECT DISTINCT response_date FROM {table(plan.schema, 'coded_records')} WHERE {condition}"  # noqa: S608
    published = select_dates(session, published_dates, values)
    later = {day for day in published if any(first <= day <= last for first, last in later_spans)}
    vanished = set() if plan.max_records else published - staged_dates
    if later:
        log.warning(_SKIPPED_FOR_LATER_RUN, format_dates(later))
    if vanished:
        log.warning(
            "Skipped these dates, because source %r has no record of them: %s. To remove their rows, delete them from"
            " coded_records",
            plan.source, format_dates(vanished),
        )  # fmt: skip
    skipped, over_limit = later | vanished, {}
    if plan.changed_only:
        skipped |= find_unchanged_dates(session, plan, staged_dates)
        over_limit = _find_dates_over_limit(session, plan, prepared, staged_dates - skipped)
    return skipped | set(over_limit), over_limit


def _find_dates_over_limit(session: Session, plan: Plan, prepared: Prepared, days: set[date]) -> dict[date, str]:
    """Return which of these dates have too many uncoded or rejected records, with the limits that they exceed.

    The dates that `prepare` found over a limit are among them: it has not sent their texts.

    :raises LimitError: the plan's last date has too many
    """
    counts = session.execute(
        f"""
        SELECT response_date, count(*),
            count(CASE WHEN staged_records.reason IS NOT NULL OR outcome = 'rejected' THEN 1 END),
            count(CASE WHEN outcome = 'uncoded' THEN 1 END)
        FROM {RECORDS_WITH_RESULTS} GROUP BY response_date ORDER BY response_date
        """  # noqa: S608
    )
    over_limit = {}
    for day, read, rejected, uncoded in counts:
        if day not in days:
            continue
        unsent = prepared.dates_over_limit.get(day.isoformat())
        limits = unsent or describe_exceeded_limits(plan, read, rejected, uncoded)
        if limits and day.isoformat() == plan.to_date:
            raise make_limit_error("nothing was published", f"{day}: {limits}", {day: limits})
        if limits:
            log.warning(
                "Skipped %s: %s; correct the source, or start a manual run of this date with another limit",
                day,
                limits,
            )
            over_limit[day] = limits
        elif unchecked := describe_unchecked_limits(plan, read, rejected, uncoded):
            log.warning("%s: %s", day, unchecked)
    return over_limit


def _count_published(session: Session, plan: Plan) -> int:
    condition, values = run_filter(plan)
    ((count,),) = session.execute(
        f"SELECT count(*) FROM {table(plan.schema, 'coded_records')} WHERE {condition}",  # noqa: S608
        values,
    )
    return int(count)


def _audit(
    session: Session, plan: Plan, where: tuple[str, list[Any]], read: int, rejected: int
) -> tuple[int, int, int]:
    """Check the rows that `where` (a condition and its values) selects against the expected counts, and return the
    numbers of coded, uncoded and rejected records.

    :param rejected: records that were rejected before sending; those that the service refused come on top
    """
    query = (
        f"SELECT outcome, count(*), count(CASE WHEN reason = '{REFUSED_BY_SERVICE}' THEN 1 END)"  # noqa: S608
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


def _check_run_shares(plan: Plan, run: PublishedRun, rejected_by_reason: Mapping[str, int] | None = None) -> None:
    if plan.changed_only:  # each date was checked by itself
        return
    if limits := describe_exceeded_limits(plan, run.read, run.rejected, run.uncoded, rejected_by_reason):
        raise make_limit_error("nothing was published", limits)
    if unchecked := describe_unchecked_limits(plan, run.read, run.rejected, run.uncoded):
        log.warning("%s", unchecked)
