"""The run log, table `coding_runs`: which dates each run published, and when it read its source."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import pairwise
from typing import Any

from include.coding.errors import AuditError
from include.coding.handoff import Count, Day, Handoff, Text
from include.coding.plan import Plan
from include.coding.staged_records import RECORDS_WITH_RESULTS
from include.coding.tables import table
from include.warehouse.warehouse import Session

#: First and last date of a span.
Span = tuple[date, date]
#: Maximum number of spans of dates that a message lists.
MAX_LISTED_SPANS = 10


def run_filter(plan: Plan) -> tuple[str, list[Any]]:
    """Return the condition that selects the rows of `coded_records` that a run replaces, and its values."""
    condition, values = exclude_dates(map(date.fromisoformat, plan.excluded_dates))
    return "topic = ? AND model_id = ? AND response_date BETWEEN ? AND ?" + condition, [
        *_list_values(plan),
        *values,
    ]


def exclude_dates(days: Iterable[date]) -> tuple[str, list[Any]]:
    """Return the end of a condition that excludes rows of these dates, and its values."""
    spans = merge_into_spans(days)
    return " AND NOT response_date BETWEEN ? AND ?" * len(spans), [day for span in spans for day in span]


def merge_into_spans(days: Iterable[date]) -> list[Span]:
    """Merge dates into spans, because an engine takes minutes to plan a statement with a thousand conditions."""
    spans: list[Span] = []
    for day in sorted(days):
        if spans and (day - spans[-1][1]).days == 1:
            spans[-1] = (spans[-1][0], day)
        else:
            spans.append((day, day))
    return spans


def format_dates(days: Iterable[date]) -> str:
    """Return the dates as spans for a message."""
    spans = merge_into_spans(days)
    names = [str(first) if first == last else f"{first} to {last}" for first, last in spans[:MAX_LISTED_SPANS]]
    return ", ".join(names) + (f" and {len(spans) - MAX_LISTED_SPANS} more" if len(spans) > MAX_LISTED_SPANS else "")


def _list_values(plan: Plan) -> list[Any]:
    return [plan.topic, plan.model_id, *plan.dates]


@dataclass(frozen=True)
class PublishedRun:
    """What is published for a run's dates: the run that wrote the rows, its number of records by outcome, and the
    number of distinct texts of those that were not rejected."""

    run_id: str
    read: int
    coded: int
    uncoded: int
    rejected: int
    texts: int


@dataclass(frozen=True)
class DateCounts(Handoff):
    """Numbers of records of a response date, ISO 8601, by outcome."""

    day: Day
    read: Count
    coded: Count
    uncoded: Count
    rejected: Count


@dataclass(frozen=True)
class DateOverLimit(Handoff):
    """A response date that runs leave as it is, because it exceeds limits for publishing.

    :param day, since: the date, and the day on which a run left it first (UTC), ISO 8601
    :param limits: the limits that it exceeds, with its counts
    """

    day: Day
    since: Day
    limits: Text

    def __str__(self) -> str:
        return f"{self.day} (since {self.since}): {self.limits}"


def find_published_run(session: Session, plan: Plan, checksum: str, records: int) -> PublishedRun | None:
    """Return the run that published exactly the records with this checksum for the plan's dates; None if
    there is none."""
    rows = session.execute(
        f"""
        SELECT published_by_run, records, coded, uncoded, rejected, texts FROM {table(plan.schema, "coding_runs")}
        WHERE topic = ? AND model_id = ? AND from_date = ? AND to_date = ? AND checksum = ?
        ORDER BY read_at DESC LIMIT 1
        """,  # noqa: S608
        [*_list_values(plan), checksum],
    )
    if not rows:
        return None
    run = PublishedRun(*rows[0])
    condition, values = run_filter(plan)
    ((published, by_others),) = session.execute(
        f"SELECT count(*), count(CASE WHEN run_id <> ? THEN 1 END) FROM {table(plan.schema, 'coded_records')}"  # noqa: S608
        f" WHERE {condition}",
        [run.run_id, *values],
    )
    return run if (published, by_others, run.read) == (records, 0, records) else None


def find_published_file(session: Session, plan: Plan, file_checksum: str) -> tuple[PublishedRun, str] | None:
    """Return the run that published exactly the records of a file for the plan's dates, and their checksum; None
    without one, or if texts were coded again since.

    :param file_checksum: of the file (:func:`include.coding.checksums.compute_file_checksum`)
    """
    rows = session.execute(
        f"""
        SELECT checksum, records FROM {table(plan.schema, "coding_runs")}
        WHERE topic = ? AND model_id = ? AND from_date = ? AND to_date = ? AND file_checksum = ?
            AND checksum IS NOT NULL
        ORDER BY read_at DESC LIMIT 1
        """,  # noqa: S608
        [*_list_values(plan), file_checksum],
    )
    if not rows:
        return None
    checksum, records = rows[0]
    run = find_published_run(session, plan, checksum, records)
    return None if run is None else (run, checksum)


def find_later_spans(session: Session, plan: Plan, read_at: str) -> list[Span]:
    """Return the spans of dates that overlap the plan's and that other runs read after `read_at`."""
    rows = session.execute(
        f"""
        SELECT DISTINCT from_date, to_date, excluded_dates FROM {table(plan.schema, "coding_runs")}
        WHERE topic = ? AND model_id = ? AND to_date >= ? AND from_date <= ?
            AND run_id <> ? AND read_at > ?
        ORDER BY 1, 2
        """,  # noqa: S608
        [*_list_values(plan), plan.run_id, datetime.fromisoformat(read_at)],
    )
    return [span for row in rows for span in _split_span(*row)]


def _split_span(first: date, last: date, excluded_dates: str | None) -> list[Span]:
    """Return the spans of the dates that a run has read."""
    one = timedelta(days=1)
    excluded = [date.fromisoformat(day) for day in (excluded_dates or "").split(",") if day]
    ends = [first - one, *sorted(day for day in excluded if first <= day <= last), last + one]
    return [(before + one, after - one) for before, after in pairwise(ends) if (after - before).days > 1]


def count_dates(session: Session, plan: Plan) -> tuple[DateCounts, ...]:
    """Return the plan's dates whose published rows were written by its run, in order, with their records."""
    condition, values = run_filter(plan)
    outcomes = ", ".join(
        f"count(CASE WHEN outcome = '{name}' THEN 1 END)" for name in ("coded", "uncoded", "rejected")
    )
    rows = session.execute(
        f"SELECT response_date, count(*), {outcomes} FROM {table(plan.schema, 'coded_records')}"  # noqa: S608
        f" WHERE {condition} AND run_id = ? GROUP BY response_date ORDER BY 1",
        [*values, plan.run_id],
    )
    return tuple(DateCounts(day.isoformat(), *counts) for day, *counts in rows)


def find_unchanged_dates(session: Session, plan: Plan, days: set[date]) -> set[date]:
    """Return which of these dates other runs have published with exactly the rows that this run would write.

    :param session: has the staged records of these dates, and the results of their texts
    """
    condition, values = run_filter(plan)
    columns = "record_id, occurrence, response_date, text_key"
    changed_dates = f"""
        WITH fresh AS (
            SELECT {columns}, coalesce(staged_records.reason, answer_results.reason), nullif(operation_id, '')
            FROM {RECORDS_WITH_RESULTS}
        ), published AS (
            SELECT {columns}, reason, operation_id
            FROM {table(plan.schema, "coded_records")} WHERE {condition} AND run_id <> ?
        ), differences AS (
            (SELECT * FROM fresh EXCEPT SELECT * FROM published)
            UNION ALL
            (SELECT * FROM published EXCEPT SELECT * FROM fresh)
        )
        SELECT DISTINCT response_date FROM differences
    """  # noqa: S608
    return days - select_dates(session, changed_dates, [*values, plan.run_id])


def select_dates(session: Session, query: str, values: Sequence[Any] = ()) -> set[date]:
    """Return the dates in the only column of a query's rows."""
    return {day for (day,) in session.execute(query, values)}


def find_dates_over_limit(session: Session, schema: str, topic: str) -> list[DateOverLimit]:
    """Return the dates of a topic that exceed limits, in order."""
    rows = session.execute(
        f"SELECT response_date, since, limits FROM {table(schema, 'dates_over_limit')} WHERE topic = ? ORDER BY 1",  # noqa: S608
        [topic],
    )
    return [DateOverLimit(day.isoformat(), since.date().isoformat(), limits) for day, since, limits in rows]


def record_dates_over_limit(
    session: Session, plan: Plan, dates: Mapping[date, str], other_dates: Iterable[date] = ()
) -> None:
    """Remember that these dates exceed limits. A date that does so already keeps the time since when.

    :param dates: the dates, each with the limits that it exceeds
    :param other_dates: dates that no longer exceed any
    """
    dates_over_limit = table(plan.schema, "dates_over_limit")
    query = f"SELECT response_date, since FROM {dates_over_limit} WHERE topic = ?"  # noqa: S608
    since = dict(session.execute(query, [plan.topic]))
    for day in (*dates, *other_dates):
        if day in since:
            session.execute(
                f"DELETE FROM {dates_over_limit} WHERE topic = ? AND response_date = ?",  # noqa: S608
                [plan.topic, day],
            )
    for day, limits in dates.items():
        values = [plan.topic, day, since.get(day) or session.now(), plan.run_id, limits]
        session.execute(f"INSERT INTO {dates_over_limit} VALUES (?, ?, ?, ?, ?)", values)  # noqa: S608


def find_unpublished_dates(session: Session, plan: Plan, days: Iterable[str]) -> list[str]:
    """Return which of these dates (ISO 8601) no run of the topic has published.

    A date without rows counts as published if a run that has landed has read it, because it can be without records.
    """
    unpublished = []
    for day in map(date.fromisoformat, days):
        query = f"SELECT 1 FROM {table(plan.schema, 'coded_records')} WHERE topic = ? AND response_date = ? LIMIT 1"  # noqa: S608
        rows = session.execute(
            f"SELECT from_date, to_date, excluded_dates FROM {table(plan.schema, 'coding_runs')}"  # noqa: S608
            " WHERE topic = ? AND from_date <= ? AND to_date >= ?",
            [plan.topic, day, day],
        )
        is_read = any(first <= day <= last for row in rows for first, last in _split_span(*row))
        if not is_read and not session.execute(query, [plan.topic, day]):
            unpublished.append(day.isoformat())
    return unpublished


def check_sources(session: Session, plan: Plan) -> None:
    """Check that a source without dates does not replace the records of another source.

    :raises AuditError: its single date is published from another source
    """
    if plan.response_date is None:
        return
    condition, values = run_filter(plan)
    rows = session.execute(
        f"""
        SELECT DISTINCT source FROM {table(plan.schema, "coding_runs")}
        WHERE source <> ? AND run_id IN (SELECT run_id FROM {table(plan.schema, "coded_records")} WHERE {condition})
        ORDER BY 1
        """,  # noqa: S608
        [plan.source_name, *values],
    )
    if rows:
        sources = [source for (source,) in rows]
        raise AuditError(
            f"nothing was changed: {plan.response_date} is published from {sources}, and this run would replace it:"
            f" give source {plan.source_name!r} another `response_date`, or delete the rows of this one from"
            " coded_records"
        )


def count_sent_texts(session: Session, plan: Plan) -> tuple[int, int]:
    """Return the numbers of texts that all attempts of the run have sent, and of their operations."""
    operations = table(plan.schema, "coding_operations")
    # An operation that timed out has received no input; one that is abandoned without input has no records.
    query = f"SELECT records FROM {operations} WHERE run_id = ? AND state <> 'timed_out' AND records > 0"  # noqa: S608
    records = [count for (count,) in session.execute(query, [plan.run_id])]
    return sum(records), len(records)


def is_published(session: Session, plan: Plan, read_at: str) -> bool:
    """Return whether the log has the run with this reading of its source.

    :param read_at: when the source was read, ISO 8601, UTC
    """
    query = f"SELECT 1 FROM {table(plan.schema, 'coding_runs')} WHERE run_id = ? AND read_at = ? LIMIT 1"  # noqa: S608
    return bool(session.execute(query, [plan.run_id, datetime.fromisoformat(read_at)]))


def record_run(
    session: Session, plan: Plan, read_at: str, checksum: str | None, file_checksum: str | None, run: PublishedRun
) -> None:
    """Add a run whose dates are published to the log.

    :param read_at: when the source was read, ISO 8601, UTC
    :param checksum: of the records; None if not all of them were published
    :param file_checksum: of the file that was read, by which later runs recognize it; None if they have to read it
    """
    runs = table(plan.schema, "coding_runs")
    session.execute(f"DELETE FROM {runs} WHERE run_id = ?", [plan.run_id])  # noqa: S608
    if run.run_id == plan.run_id:  # its rows have replaced those that other runs found unchanged
        session.execute(f"UPDATE {runs} SET checksum = NULL WHERE published_by_run = ?", [plan.run_id])  # noqa: S608
    row = (
        plan.run_id, plan.topic, plan.model_id, plan.model_version, plan.source_name, plan.selection, *plan.dates,
        datetime.fromisoformat(read_at), checksum, run.run_id, run.read, run.coded, run.uncoded, run.rejected,
        run.texts, *count_sent_texts(session, plan), session.now(), ",".join(plan.excluded_dates) or None,
        file_checksum,
    )  # fmt: skip
    session.execute(f"INSERT INTO {runs} VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608
