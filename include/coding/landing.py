"""Landing a run: keep what came back; then, if that is all, publish the run's dates."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from include.coding.engine import open_engine
from include.coding.errors import IncompleteError
from include.coding.ledger import enter, find_days, forget_checksums
from include.coding.plan import Plan
from include.coding.publishing import publish
from include.coding.results import RESULTS, Read, Returned, model_of, read_results
from include.coding.staging import Staging
from include.coding.tables import table
from include.warehouse.duckdb_warehouse import Query
from include.warehouse.warehouse import Dialect, Session, Warehouse

#: Lines that were set aside and are named in a message.
NAMED_LINES = 5

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Landed:
    """What was published: counts of records by outcome, of texts and of operations of the run.

    :param rows_of: earlier run that had published just this, so that nothing was written; None if there was none
    :param days: response dates whose rows this run wrote, ISO 8601
    """

    read: int
    coded: int
    uncoded: int
    rejected: int
    texts: int
    texts_sent: int
    operations: int
    from_date: str
    to_date: str
    rows_of: str | None
    days: tuple[str, ...] = ()


def land(
    plan: Plan,
    prepared: Mapping[str, Any],
    parts: Sequence[Mapping[str, Any]],
    returned: Sequence[Returned],
    warehouse: Warehouse,
    staging: Staging,
) -> Landed:
    """Keep the results of every part that came back, then publish the run's dates.

    :param prepared: what `prepare` counted (:meth:`include.coding.prepare.Prepared.as_dict`)
    :param parts: what was to be sent (fields of :class:`include.coding.parts.Part`)
    :param returned: what came back, one for each part
    :raises IncompleteError: a part did not come back, or not whole; nothing was published, what came back is kept
    :raises AuditError: counts do not add up, or a threshold is passed; nothing was published
    """
    runs = table(plan.schema, "coding_runs")  # who writes results or codes holds its lock: one run at a time
    with open_engine(staging.scratch, "land", plan.engine_memory_mb) as engine:
        engine.execute(RESULTS)
        read = [_read(engine, plan, part, back, staging) for part, back in zip(parts, returned, strict=True)]
        with warehouse.session() as session:
            with session.transaction(lock=runs):
                _keep_results(engine, session, plan, prepared)
                _keep_operations(session, plan, parts, returned, read)
            _check_complete(engine, plan, parts, returned, read)
            sent = sum(part["records"] for part in parts)
            with _open_records(staging, prepared) as records, session.transaction(lock=runs):
                published = publish(engine, session, plan, prepared, records)
                enter(session, plan, prepared, published, sent, len(parts))
                days = find_days(session, plan, plan.run_id)
    log.info("Published %s to %s: %s", plan.from_date, plan.to_date, published)
    return Landed(
        read=published.read,
        coded=published.coded,
        uncoded=published.uncoded,
        rejected=published.rejected,
        texts=published.texts,
        texts_sent=sent,
        operations=len(parts),
        from_date=plan.from_date,
        to_date=plan.to_date,
        rows_of=None if published.rows_of == plan.run_id else published.rows_of,
        days=tuple(day.isoformat() for day in days),
    )


@contextmanager
def _open_records(staging: Staging, prepared: Mapping[str, Any]) -> Iterator[Path | None]:
    """The records that `prepare` staged, as a file of this machine; None if it found that nothing has changed."""
    if prepared["unchanged"]:
        yield None
        return
    with ExitStack() as files:
        try:
            path = files.enter_context(staging.open_local(prepared["records_uri"]))
        except FileNotFoundError:
            raise IncompleteError(
                f"nothing was published: the staged records {prepared['records_uri']!r} are gone: run again"
            ) from None
        yield path


def _read(
    engine: duckdb.DuckDBPyConnection, plan: Plan, part: Mapping[str, Any], back: Returned, staging: Staging
) -> Read:
    """Read the results and the metadata of one part."""
    metadata = staging.read_text(back.metadata) if back.metadata else None
    if metadata is not None:
        metadata = metadata.replace("\0", "\ufffd")  # PostgreSQL takes no NUL, and metadata must not lose the output
    return replace(_read_output(engine, plan, part, back, metadata, staging), metadata=metadata)


def _read_output(
    engine: duckdb.DuckDBPyConnection,
    plan: Plan,
    part: Mapping[str, Any],
    back: Returned,
    metadata: str | None,
    staging: Staging,
) -> Read:
    """Read the results of one part.

    They are not taken if another model gave them. They are taken, but the part counts as not come back, if they are
    those of an input file that `prepare` has replaced since.
    """
    if back.output is None or back.sent is None or back.operation_id is None:
        return Read(problem=back.message or "it did not come back; see the logs of its tasks")
    topic_and_model, _, sha256 = (back.fingerprint or "").rpartition("/")
    model_id = model_of(metadata or "") or plan.model_id
    if topic_and_model != f"{plan.topic}/{plan.model_id}" or model_id.lower() != plan.model_id.lower():
        coder = topic_and_model if model_id.lower() == plan.model_id.lower() else f"{plan.topic}/{model_id}"
        return Read(problem=f"{coder!r} coded it, the run is pinned to {plan.topic!r}, {plan.model_id!r}")
    try:
        read = _read_files(engine, back, staging)
    except duckdb.OperationalError:  # not about the file: the disk is full, say
        raise
    except duckdb.Error as error:  # one part must not cost the results of the others
        return Read(problem=f"its output file cannot be read: {' '.join(str(error).split())[:200]}")
    if read.problem is None and sha256 != part["sha256"]:
        return replace(read, problem="it was prepared anew after it was sent: clear its `create` with downstream")
    return read


def _read_files(engine: duckdb.DuckDBPyConnection, back: Returned, staging: Staging) -> Read:
    with ExitStack() as files:
        paths = {}
        for what, uri in (("output", str(back.output)), ("input", str(back.sent))):
            try:
                paths[what] = files.enter_context(staging.open_local(uri))
            except FileNotFoundError:
                return Read(problem=f"its {what} file {uri!r} is gone")
        return read_results(engine, back.part, str(back.operation_id), paths["input"], paths["output"])


def _keep_results(
    engine: duckdb.DuckDBPyConnection, session: Session, plan: Plan, prepared: Mapping[str, Any]
) -> None:
    """Add the results to `coded_texts`. A text that another run kept first stays as it is, unless all is recoded and
    that was before this run read."""
    texts, text = table(plan.schema, "coded_texts"), session.dialect.text
    ((returned,),) = engine.execute("SELECT count(*) FROM results").fetchall()
    if not returned:
        return
    # parts of two tries of `prepare` may share a text
    once = (
        "FROM results ANTI JOIN results AS earlier"
        " ON earlier.text_key = results.text_key AND earlier.part < results.part"
    )
    with session.staged("returned_texts", Query(engine, once)):
        if plan.selection == "all":
            session.execute(
                f"DELETE FROM {texts} WHERE topic = ? AND model_id = ? AND coded_at <= ?"
                " AND text_key IN (SELECT text_key FROM returned_texts)",
                [plan.topic, plan.model_id, datetime.fromisoformat(prepared["read_at"])],
            )
            forget_checksums(session, plan)
        session.execute(
            f"""
            INSERT INTO {texts}
            SELECT text_key, CAST(? AS {text}), CAST(? AS {text}), CAST(? AS DOUBLE PRECISION), occp_text,
                tasks_text, outcome, code, label, confidence, level, suggestions, operation_id,
                CAST(? AS {text}), CAST(? AS TIMESTAMP)
            FROM returned_texts
            WHERE NOT EXISTS (
                SELECT 1 FROM {texts} AS kept
                WHERE kept.text_key = returned_texts.text_key AND kept.topic = ? AND kept.model_id = ?
            )
            """,
            [plan.topic, plan.model_id, plan.model_version, plan.run_id, session.now(), plan.topic, plan.model_id],
        )


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
        kept = [back.operation_id, seen.usable]  # a later look at it may find its files removed
        session.execute(f"DELETE FROM {operations} WHERE operation_id = ? AND usable <= ?", kept)
        if session.execute(f"SELECT 1 FROM {operations} WHERE operation_id = ?", kept[:1]):
            continue
        row = (
            back.operation_id, plan.run_id, back.part, plan.topic, plan.model_id, part["records"], part["bytes"],
            back.state, seen.problem, seen.usable, seen.set_aside, _fitting(seen.metadata, back, session.dialect),
            session.now(), back.seconds,
        )  # fmt: skip
        session.execute(f"INSERT INTO {operations} VALUES ({', '.join('?' * len(row))})", row)


def _fitting(text: str | None, back: Returned, dialect: Dialect) -> str | None:
    """The metadata file of a part. A warehouse that cannot hold it must not lose the results."""
    if text is None or dialect.text_bytes is None or len(text.encode()) <= dialect.text_bytes:
        return text
    log.warning(
        "The metadata of operation %r is left out: %s holds no text above %d bytes",
        back.operation_id, dialect.name, dialect.text_bytes,
    )  # fmt: skip
    return None


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
