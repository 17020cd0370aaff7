"""The run log, table `coding_runs`: which dates each run published, and when it read its source."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from include.coding.errors import AuditError
from include.coding.plan import Plan
from include.coding.tables import table
from include.warehouse.warehouse import Session

#: Selects the rows of `coded_records` that a run replaces; its values: :func:`run_filter_values`.
RUN_FILTER = "topic = ? AND model_id = ? AND response_date BETWEEN ? AND ?"


def run_filter_values(plan: Plan) -> list[Any]:
    """Return the values of `RUN_FILTER`."""
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


def find_published_run(session: Session, plan: Plan, checksum: str, records: int) -> PublishedRun | None:
    """Return the run that published exactly the records with this checksum for the plan's dates; None without one."""
    rows = session.execute(
        f"""
        SELECT published_by_run, records, coded, uncoded, rejected, texts FROM {table(plan.schema, "coding_runs")}
        WHERE topic = ? AND model_id = ? AND from_date = ? AND to_date = ? AND checksum = ?
        ORDER BY read_at DESC LIMIT 1
        """,
        [*run_filter_values(plan), checksum],
    )
    if not rows:
        return None
    run = PublishedRun(*rows[0])
    ((published, by_others),) = session.execute(
        f"SELECT count(*), count(CASE WHEN run_id <> ? THEN 1 END) FROM {table(plan.schema, 'coded_records')}"
        f" WHERE {RUN_FILTER}",
        [run.run_id, *run_filter_values(plan)],
    )
    return run if (published, by_others, run.read) == (records, 0, records) else None


def find_later_spans(session: Session, plan: Plan, read_at: str) -> list[tuple[date, date]]:
    """Return the spans of dates (first, last) that overlap the plan's and that other runs read after `read_at`."""
    rows = session.execute(
        f"""
        SELECT DISTINCT from_date, to_date FROM {table(plan.schema, "coding_runs")}
        WHERE topic = ? AND model_id = ? AND to_date >= ? AND from_date <= ?
            AND run_id <> ? AND read_at > ?
        ORDER BY 1, 2
        """,
        [*run_filter_values(plan), plan.run_id, datetime.fromisoformat(read_at)],
    )
    return [(first, last) for first, last in rows]


def find_dates(session: Session, plan: Plan) -> list[date]:
    """Return the plan's dates whose published rows were written by its run, in order."""
    rows = session.execute(
        f"SELECT DISTINCT response_date FROM {table(plan.schema, 'coded_records')}"
        f" WHERE {RUN_FILTER} AND run_id = ? ORDER BY 1",
        [*run_filter_values(plan), plan.run_id],
    )
    return [day for (day,) in rows]


def check_sources(session: Session, plan: Plan) -> None:
    """Check that a source without dates does not replace the records of another source.

    :raises AuditError: its single date is published from another source
    """
    if plan.response_date is None:
        return
    rows = session.execute(
        f"""
        SELECT DISTINCT source FROM {table(plan.schema, "coding_runs")}
        WHERE source <> ? AND run_id IN (SELECT run_id FROM {table(plan.schema, "coded_records")} WHERE {RUN_FILTER})
        ORDER BY 1
        """,
        [plan.source, *run_filter_values(plan)],
    )
    if rows:
        sources = [source for (source,) in rows]
        raise AuditError(
            f"nothing was changed: {plan.response_date} is published from {sources}, and this run would replace it:"
            f" give source {plan.source!r} another `response_date`, or delete the rows of this one from coded_records"
        )


def record_run(
    session: Session, plan: Plan, read_at: str, checksum: str | None, run: PublishedRun, sent: int, operations: int
) -> None:
    """Add a run whose dates are published to the log.

    :param read_at: when the source was read, ISO 8601, UTC
    :param checksum: of the records; None if not all of them were published
    :param sent, operations: numbers of texts that were sent, and of operations
    """
    runs = table(plan.schema, "coding_runs")
    earlier = session.execute(f"SELECT texts_sent, operations FROM {runs} WHERE run_id = ?", [plan.run_id])
    if earlier and not operations:  # the run was cleared and had nothing left to send
        sent, operations = earlier[0]
    session.execute(f"DELETE FROM {runs} WHERE run_id = ?", [plan.run_id])
    if run.run_id == plan.run_id:  # its rows have replaced those that other runs found unchanged
        session.execute(f"UPDATE {runs} SET checksum = NULL WHERE published_by_run = ?", [plan.run_id])
    row = (
        plan.run_id, plan.topic, plan.model_id, plan.model_version, plan.source, plan.selection, *plan.dates,
        datetime.fromisoformat(read_at), checksum, run.run_id, run.read, run.coded, run.uncoded, run.rejected,
        run.texts, sent, operations, session.now(),
    )  # fmt: skip
    session.execute(f"INSERT INTO {runs} VALUES ({', '.join('?' * len(row))})", row)
