"""From results to tables: keep what came back; then, if that is all, write, audit and publish in one transaction."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from include.coding.engine import open_engine
from include.coding.errors import AuditError, IncompleteError
from include.coding.files import path_of
from include.coding.plan import Plan
from include.coding.results import RESULTS, Read, Returned, model_of, read_results
from include.coding.tables import table
from include.warehouse.duckdb_warehouse import DuckDBWarehouse, Session

BATCH_ROWS = 100_000
#: Lines that were set aside and are named in a message.
NAMED_LINES = 5

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Landed:
    """What was published: counts of records by outcome, of texts and of operations of the run."""

    read: int
    coded: int
    uncoded: int
    rejected: int
    texts: int
    texts_sent: int
    operations: int
    from_date: str
    to_date: str


def land(
    plan: Plan,
    prepared: Mapping[str, Any],
    parts: Sequence[Mapping[str, Any]],
    returned: Sequence[Returned],
    warehouse: DuckDBWarehouse,
    folder: Path,
) -> Landed:
    """Keep the results of every part that came back, then publish the run's dates.

    :param prepared: what `prepare` counted (:meth:`include.coding.prepare.Prepared.as_dict`)
    :param parts: what was to be sent (fields of :class:`include.coding.prepare.Part`)
    :param returned: what came back, one for each part
    :raises IncompleteError: a part did not come back, or not whole; nothing was published, what came back is kept
    :raises AuditError: counts do not add up, or a threshold is passed; nothing was published
    """
    with open_engine(folder, "land") as engine:
        engine.execute(RESULTS)
        read = [_read(engine, plan, part, back) for part, back in zip(parts, returned, strict=True)]
        with warehouse.session() as session:
            with session.transaction():
                _keep_results(engine, session, plan)
                _keep_operations(session, plan, parts, returned, read)
            _check_complete(engine, plan, parts, returned, read)
            with session.transaction():
                _write(engine, session, plan, prepared)
                counts = _audit(session, plan, prepared)
                _publish(session, plan, prepared)
    log.info("Published %s to %s: %s", plan.from_date, plan.to_date, counts)
    return Landed(
        **counts,
        texts=prepared["texts"],
        texts_sent=sum(part["records"] for part in parts),
        operations=len(parts),
        from_date=plan.from_date,
        to_date=plan.to_date,
    )


def _read(engine: duckdb.DuckDBPyConnection, plan: Plan, part: Mapping[str, Any], back: Returned) -> Read:
    """Read the results of one part.

    They are not taken if another model gave them. They are taken, but the part counts as not come back, if they are
    those of an input file that `prepare` has replaced since.
    """
    if back.output is None or back.sent is None or back.operation_id is None:
        return Read(problem=back.message or "it did not come back; see the logs of its tasks")
    topic_and_model, _, sha256 = (back.fingerprint or "").rpartition("/")
    model_id = model_of(_text(back.metadata) or "") or plan.model_id
    if topic_and_model != f"{plan.topic}/{plan.model_id}" or model_id.lower() != plan.model_id.lower():
        coder = topic_and_model if model_id.lower() == plan.model_id.lower() else f"{plan.topic}/{model_id}"
        return Read(problem=f"{coder!r} coded it, the run is pinned to {plan.topic!r}, {plan.model_id!r}")
    try:
        read = read_results(engine, back.part, back.operation_id, back.sent, back.output)
    except duckdb.Error as error:  # one part must not cost the results of the others
        return Read(problem=f"its output file cannot be read: {' '.join(str(error).split())[:200]}")
    if read.problem is None and sha256 != part["sha256"]:
        return replace(read, problem="it was prepared anew after it was sent: clear its `create` with downstream")
    return read


def _text(path: Path | None) -> str | None:
    if path is None or not path.is_file():
        return None
    return path.read_text(encoding="utf-8", errors="replace")


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def _keep_results(engine: duckdb.DuckDBPyConnection, session: Session, plan: Plan) -> None:
    """Add the results to `coded_texts`. A text that another run kept first stays as it is, unless all is recoded."""
    texts = table(plan.schema, "coded_texts")
    session.execute(f"CREATE TEMP TABLE returned_texts AS SELECT * FROM {texts} LIMIT 0")
    constants = {
        "topic": plan.topic,
        "model_id": plan.model_id,
        "model_version": plan.model_version,
        "run_id": plan.run_id,
        "coded_at": _now(),
    }
    columns = ", ".join(f"${name} AS {name}" for name in constants)
    rows = engine.sql(f"SELECT * EXCLUDE (part), {columns} FROM results", params=constants).to_arrow_reader(
        BATCH_ROWS
    )
    session.write("returned_texts", rows)
    same = "kept.text_key = returned_texts.text_key AND kept.topic = ? AND kept.model_id = ?"
    values = [plan.topic, plan.model_id]
    if plan.selection == "all":
        session.execute(
            f"DELETE FROM {texts} AS kept WHERE kept.topic = ? AND kept.model_id = ?"
            " AND kept.text_key IN (SELECT text_key FROM returned_texts)",
            values,
        )
    session.execute(
        f"INSERT INTO {texts} SELECT * FROM returned_texts"
        f" WHERE NOT EXISTS (SELECT 1 FROM {texts} AS kept WHERE {same})",
        values,
    )
    session.execute("DROP TABLE returned_texts")


def _keep_operations(
    session: Session,
    plan: Plan,
    parts: Sequence[Mapping[str, Any]],
    returned: Sequence[Returned],
    read: Sequence[Read],
) -> None:
    operations = table(plan.schema, "coding_operations")
    for part, back, seen in zip(parts, returned, read, strict=True):
        if back.operation_id is None:
            continue
        session.execute(f"DELETE FROM {operations} WHERE operation_id = ?", [back.operation_id])
        row = (
            back.operation_id, plan.run_id, back.part, plan.topic, plan.model_id, part["records"], part["bytes"],
            back.state, seen.problem, seen.usable, seen.set_aside, _text(back.metadata), _now(),
        )  # fmt: skip
        session.execute(f"INSERT INTO {operations} VALUES ({', '.join('?' * len(row))})", row)


def _remedy(plan: Plan) -> str:
    if plan.selection == "uncoded":
        return "the next run of these dates sends the rest"
    return (
        "to code the rest, clear `create` of these parts with downstream (a new run of `all` sends every text again)"
    )


def _check_complete(
    engine: duckdb.DuckDBPyConnection,
    plan: Plan,
    parts: Sequence[Mapping[str, Any]],
    returned: Sequence[Returned],
    read: Sequence[Read],
) -> None:
    problems = [
        f"part {back.part} (operation {back.operation_id}): {_problem(engine, part, back, seen)}"
        for part, back, seen in zip(parts, returned, read, strict=True)
        if seen.problem or seen.usable < part["records"]
    ]
    if problems:
        kept = sum(seen.usable for seen in read)
        sent = sum(part["records"] for part in parts)
        raise IncompleteError(
            f"nothing was published, {len(problems)} of {len(parts)} parts did not come back whole; the results of"
            f" {kept} of {sent} texts are kept, and {_remedy(plan)}. {'; '.join(problems)}"
        )
    for part, line, problem in engine.execute("SELECT * FROM set_aside ORDER BY part, line LIMIT 20").fetchall():
        log.warning("Part %d, output line %d was set aside: %s", part, line, problem)


def _problem(engine: duckdb.DuckDBPyConnection, part: Mapping[str, Any], back: Returned, seen: Read) -> str:
    if seen.problem:
        return seen.problem
    lines = engine.execute(
        "SELECT line, problem FROM set_aside WHERE part = ? ORDER BY line LIMIT ?", [back.part, NAMED_LINES]
    ).fetchall()
    named = "".join(f"; line {line} was set aside: {problem}" for line, problem in lines)
    return f"{part['records'] - seen.usable} of {part['records']} texts have no usable result{named}"


def _write(engine: duckdb.DuckDBPyConnection, session: Session, plan: Plan, prepared: Mapping[str, Any]) -> None:
    """Stage the run's records with their codes in the temporary table `run_records`."""
    path = str(path_of(prepared["records_uri"]))
    session.execute(
        "CREATE TEMP TABLE staged_records (record_id VARCHAR, occurrence INTEGER, response_date DATE,"
        " text_key VARCHAR, reason VARCHAR)"
    )
    rows = engine.sql("SELECT * FROM read_parquet(?)", params=[path]).to_arrow_reader(BATCH_ROWS)
    session.write("staged_records", rows)
    session.execute(
        f"""
        CREATE TEMP TABLE run_records AS
        SELECT record_id, occurrence, response_date,
            CAST(? AS VARCHAR) AS topic, CAST(? AS VARCHAR) AS model_id, CAST(? AS DOUBLE PRECISION) AS model_version,
            CASE WHEN reason IS NOT NULL THEN 'rejected' ELSE outcome END AS outcome,
            code, label, confidence, level, suggestions, reason, staged_records.text_key, operation_id,
            CAST(? AS VARCHAR) AS run_id, coalesce(coded_at, CAST(? AS TIMESTAMP)) AS coded_at,
            CAST(? AS TIMESTAMP) AS read_at
        FROM staged_records LEFT JOIN {table(plan.schema, "coded_texts")} AS texts
            ON texts.text_key = staged_records.text_key AND texts.topic = ? AND texts.model_id = ?
        """,
        [
            plan.topic,
            plan.model_id,
            plan.model_version,
            plan.run_id,
            _now(),
            prepared["read_at"],
            plan.topic,
            plan.model_id,
        ],
    )


def _audit(session: Session, plan: Plan, prepared: Mapping[str, Any]) -> dict[str, int]:
    """Reconcile every count and hold the thresholds, before anything is visible."""
    if not prepared["read"] and (published := _count_published(session, plan)):
        raise AuditError(
            f"nothing was changed: source {plan.source!r} has no records of {plan.from_date} to {plan.to_date}, but"
            f" {published} are published: is the source loaded? If they should go, delete them from coded_records"
        )
    found = dict(session.execute("SELECT outcome, count(*) FROM run_records GROUP BY outcome"))
    ((elsewhere,),) = session.execute(
        "SELECT count(*) FROM run_records WHERE response_date NOT BETWEEN ? AND ?", [plan.from_date, plan.to_date]
    )
    counts = {name: found.get(name, 0) for name in ("coded", "uncoded", "rejected")}
    read, total = prepared["read"], sum(counts.values())
    if total != read or counts["rejected"] != prepared["rejected"] or None in found or elsewhere:
        raise AuditError(
            f"nothing was published: {read} records were read ({prepared['rejected']} rejected), but {counts} came to"
            f" {total}; {found.get(None, 0)} have a text without a result, {elsewhere} are of other dates: run again"
        )
    sendable = counts["coded"] + counts["uncoded"]
    _check_share("max_uncoded_share", plan.max_uncoded_share, "uncoded", counts["uncoded"], sendable)
    _check_share("max_rejected_share", plan.max_rejected_share, "rejected", counts["rejected"], read)
    return {"read": read, **counts}


def _check_share(name: str, limit: float, outcome: str, count: int, of: int) -> None:
    if of and count / of > limit:
        raise AuditError(
            f"nothing was published: {count} of {of} records are {outcome} ({count / of:.1%}), above {name} ="
            f" {limit}: look at the source, or raise the limit if this is right"
        )


#: The rows that a run replaces.
_OF_RUN = "WHERE topic = ? AND model_id = ? AND response_date BETWEEN ? AND ?"


def _of_run(plan: Plan) -> list[str]:
    return [plan.topic, plan.model_id, plan.from_date, plan.to_date]


def _count_published(session: Session, plan: Plan) -> int:
    records = table(plan.schema, "coded_records")
    ((count,),) = session.execute(f"SELECT count(*) FROM {records} {_OF_RUN}", _of_run(plan))
    return int(count)


def _publish(session: Session, plan: Plan, prepared: Mapping[str, Any]) -> None:
    """Replace the run's dates, but for those that another run has published from a later reading of its source."""
    records, read_at = table(plan.schema, "coded_records"), "CAST(? AS TIMESTAMP)"
    values = [*_of_run(plan), prepared["read_at"]]
    newer = f"SELECT DISTINCT response_date FROM {records} {_OF_RUN} AND read_at > {read_at}"
    if dates := [str(day) for (day,) in session.execute(newer, values)]:
        log.warning("Left as they are, since another run published them from a later reading: %s", sorted(dates))
        session.execute(f"DELETE FROM run_records WHERE response_date IN ({newer})", values)
    session.execute(f"DELETE FROM {records} {_OF_RUN} AND read_at <= {read_at}", values)
    session.execute(f"INSERT INTO {records} SELECT * FROM run_records")
