"""The ledger of runs, `coding_runs`: which reading of a source stands published for which dates."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import duckdb

from include.coding import texts
from include.coding.errors import AuditError
from include.coding.plan import Plan
from include.coding.tables import table
from include.warehouse.warehouse import Session

#: The rows of `coded_records` that a run replaces.
OF_RUN = "topic = ? AND model_id = ? AND response_date BETWEEN ? AND ?"


def of_run(plan: Plan) -> list[Any]:
    """The values of `OF_RUN`."""
    return [plan.topic, plan.model_id, *_dates(plan)]


def _dates(plan: Plan) -> tuple[date, date]:
    return date.fromisoformat(plan.from_date), date.fromisoformat(plan.to_date)


@dataclass(frozen=True)
class Published:
    """What stands published for a run's dates.

    :param rows_of: run that wrote the rows
    :param read, coded, uncoded, rejected: records
    :param texts: distinct texts of the records that were not rejected
    """

    rows_of: str
    read: int
    coded: int
    uncoded: int
    rejected: int
    texts: int


def take_checksum(engine: duckdb.DuckDBPyConnection, plan: Plan) -> tuple[int, str]:
    """Return the number of records of the engine's `source`, and a checksum: equal records judged by equal rules,
    in whatever order, give the same."""
    ((records, total),) = engine.execute(
        "SELECT count(*), sum(hash(record_id, response_date, occp_text, tasks_text)) FROM source"
    ).fetchall()
    # the engine's hash is its own: another version may give another one, and then all is done anew
    rules = f"{texts.MACROS} {plan.clean} {plan.max_characters} {plan.model_version}"
    told = f"{records} {total} {duckdb.__version__} {rules}"
    return records, hashlib.sha256(told.encode()).hexdigest()


def find_published(session: Session, plan: Plan, checksum: str, records: int) -> Published | None:
    """Return what stands published for the plan's dates, if it is all `records` of a reading with this checksum."""
    rows = session.execute(
        f"""
        SELECT rows_of, records, coded, uncoded, rejected, texts FROM {table(plan.schema, "coding_runs")}
        WHERE topic = ? AND model_id = ? AND from_date = ? AND to_date = ? AND checksum = ?
        ORDER BY read_at DESC LIMIT 1
        """,
        [*of_run(plan), checksum],
    )
    if not rows:
        return None
    published = Published(*rows[0])
    ((standing, of_others),) = session.execute(
        f"SELECT count(*), count(CASE WHEN run_id <> ? THEN 1 END) FROM {table(plan.schema, 'coded_records')}"
        f" WHERE {OF_RUN}",
        [published.rows_of, *of_run(plan)],
    )
    return published if (standing, of_others, published.read) == (records, 0, records) else None


def find_later(session: Session, plan: Plan, read_at: str) -> list[tuple[date, date]]:
    """Return the spans of dates (first and last) among the plan's that other runs read later."""
    rows = session.execute(
        f"""
        SELECT DISTINCT from_date, to_date FROM {table(plan.schema, "coding_runs")}
        WHERE topic = ? AND model_id = ? AND to_date >= ? AND from_date <= ?
            AND run_id <> ? AND read_at > ?
        ORDER BY 1, 2
        """,
        [*of_run(plan), plan.run_id, datetime.fromisoformat(read_at)],
    )
    return [(first, last) for first, last in rows]


def check_sources(session: Session, plan: Plan) -> None:
    """Refuse to replace records of another source by those of one that has no dates.

    :raises AuditError: its date is published from another source
    """
    if plan.response_date is None:
        return
    others = session.execute(
        f"""
        SELECT DISTINCT source FROM {table(plan.schema, "coding_runs")}
        WHERE source <> ? AND run_id IN (SELECT run_id FROM {table(plan.schema, "coded_records")} WHERE {OF_RUN})
        ORDER BY 1
        """,
        [plan.source, *of_run(plan)],
    )
    if others:
        named = [source for (source,) in others]
        raise AuditError(
            f"nothing was changed: {plan.response_date} is published from {named}, and a run replaces its date: give"
            f" source {plan.source!r} another `response_date`, or delete the rows of this one from coded_records"
        )


def find_days(session: Session, plan: Plan, run_id: str) -> list[date]:
    """Return the plan's dates whose published rows the run with this id wrote."""
    rows = session.execute(
        f"SELECT DISTINCT response_date FROM {table(plan.schema, 'coded_records')} WHERE {OF_RUN} AND run_id = ?"
        " ORDER BY 1",
        [*of_run(plan), run_id],
    )
    return [day for (day,) in rows]


def enter(
    session: Session, plan: Plan, prepared: Mapping[str, Any], published: Published, sent: int, operations: int
) -> None:
    """Enter a run whose dates stand published.

    :param sent: texts that it sent
    """
    runs = table(plan.schema, "coding_runs")
    earlier = session.execute(f"SELECT texts_sent, operations FROM {runs} WHERE run_id = ?", [plan.run_id])
    if earlier and not operations:  # it was cleared, and found all that it had sent before
        sent, operations = earlier[0]
    session.execute(f"DELETE FROM {runs} WHERE run_id = ?", [plan.run_id])
    if published.rows_of == plan.run_id:  # it wrote rows: those that others found of an earlier try of it are gone
        session.execute(f"UPDATE {runs} SET checksum = NULL WHERE rows_of = ?", [plan.run_id])
    # what was left to another run's later reading is not all that was read
    checksum = prepared["checksum"] if published.read == prepared["read"] else None
    row = (
        plan.run_id, plan.topic, plan.model_id, plan.model_version, plan.source, plan.selection, *_dates(plan),
        datetime.fromisoformat(prepared["read_at"]), checksum, published.rows_of, published.read, published.coded,
        published.uncoded, published.rejected, published.texts, sent, operations,
        session.now(),
    )  # fmt: skip
    session.execute(f"INSERT INTO {runs} VALUES ({', '.join('?' * len(row))})", row)


def forget_checksums(session: Session, plan: Plan) -> None:
    """Have the next run of any dates join its records with their texts anew, since texts were coded again."""
    session.execute(
        f"UPDATE {table(plan.schema, 'coding_runs')} SET checksum = NULL WHERE topic = ? AND model_id = ?",
        [plan.topic, plan.model_id],
    )
