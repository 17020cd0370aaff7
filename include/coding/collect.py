"""Collecting results: the usable results of every part are kept, whatever became of the others."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import duckdb

from include.coding.errors import IncompleteError
from include.coding.parts import Part
from include.coding.plan import Plan
from include.coding.results import RESULTS, PartResult, PartSummary, read_model_id, read_results
from include.coding.staging import Staging
from include.coding.tables import table
from include.warehouse.duckdb_warehouse import Query
from include.warehouse.warehouse import Dialect, Session

#: Discarded lines that a message lists at most.
MAX_LISTED_LINES = 5

log = logging.getLogger(__name__)


def read_parts(
    engine: duckdb.DuckDBPyConnection,
    plan: Plan,
    parts: Sequence[Part],
    part_results: Sequence[PartResult],
    staging: Staging,
) -> list[PartSummary]:
    """Read the results of every part into the engine's table `results`, and return a summary of each part."""
    engine.execute(RESULTS)
    return [_read_part(engine, plan, part, result, staging) for part, result in zip(parts, part_results, strict=True)]


def _read_part(
    engine: duckdb.DuckDBPyConnection, plan: Plan, part: Part, result: PartResult, staging: Staging
) -> PartSummary:
    metadata = staging.read_text(result.metadata_uri) if result.metadata_uri else None
    if metadata is not None:
        metadata = metadata.replace("\0", "\ufffd")  # PostgreSQL stores no NUL
    return replace(_read_output(engine, plan, part, result, metadata, staging), metadata=metadata)


def _read_output(
    engine: duckdb.DuckDBPyConnection,
    plan: Plan,
    part: Part,
    result: PartResult,
    metadata: str | None,
    staging: Staging,
) -> PartSummary:
    """Read the results of one part.

    Results of another model are not used. Results of an input file that `prepare` has replaced since are used, but
    the part counts as incomplete.
    """
    coded = result.fingerprint
    if result.output_uri is None or result.input_uri is None or result.operation_id is None or coded is None:
        return PartSummary(problem=result.message or "it has no output; see the logs of its tasks")
    model_id = coded.model_id
    if model_id == plan.model_id:  # the metadata can still name another one
        model_id = read_model_id(metadata or "") or model_id
    if (coded.topic, model_id.lower()) != (plan.topic, plan.model_id.lower()) or coded.model_id != plan.model_id:
        return PartSummary(
            problem=f"it was coded by topic {coded.topic!r}, model {model_id!r}, but the run is pinned to topic"
            f" {plan.topic!r}, model {plan.model_id!r}"
        )
    try:
        summary = _read_files(engine, result.part, result.operation_id, result.input_uri, result.output_uri, staging)
    except duckdb.OperationalError:  # not about the file: the disk is full, for example
        raise
    except duckdb.Error as error:  # one part must not cost the results of the others
        return PartSummary(problem=f"its output file cannot be read: {' '.join(str(error).split())[:200]}")
    if summary.problem is None and coded != part.fingerprint:
        return replace(
            summary, problem="its input was prepared again after it was sent: clear its `create` with downstream"
        )
    return summary


def _read_files(
    engine: duckdb.DuckDBPyConnection,
    part: int,
    operation_id: str,
    input_uri: str,
    output_uri: str,
    staging: Staging,
) -> PartSummary:
    with ExitStack() as files:
        paths: dict[str, Path] = {}
        for kind, uri in (("output", output_uri), ("input", input_uri)):
            try:
                paths[kind] = files.enter_context(staging.open_local(uri))
            except FileNotFoundError:
                return PartSummary(problem=f"its {kind} file {uri!r} does not exist any more")
        return read_results(engine, part, operation_id, paths["input"], paths["output"])


def store_results(engine: duckdb.DuckDBPyConnection, session: Session, plan: Plan, read_at: str) -> bool:
    """Add the results to `coded_texts`, and return whether there were any.

    A text that another run stored first keeps its result, unless all texts are recoded and that run stored it before
    this one read the source.

    :param read_at: when this run read the source, ISO 8601, UTC
    """
    texts, text = table(plan.schema, "coded_texts"), session.dialect.text
    ((count,),) = engine.execute("SELECT count(*) FROM results").fetchall()
    if not count:
        return False
    # Parts of two attempts of `prepare` can share a text.
    distinct_results = (
        "FROM results ANTI JOIN results AS earlier"
        " ON earlier.text_key = results.text_key AND earlier.part < results.part"
    )
    with session.staged("new_results", Query(engine, distinct_results)):
        if plan.selection == "all":
            session.execute(
                f"DELETE FROM {texts} WHERE topic = ? AND model_id = ? AND coded_at <= ?"
                " AND text_key IN (SELECT text_key FROM new_results)",
                [plan.topic, plan.model_id, datetime.fromisoformat(read_at)],
            )
        session.execute(
            f"""
            INSERT INTO {texts}
            SELECT text_key, CAST(? AS {text}), CAST(? AS {text}), CAST(? AS DOUBLE PRECISION), occp_text,
                tasks_text, outcome, code, label, confidence, level, suggestions, operation_id,
                CAST(? AS {text}), CAST(? AS TIMESTAMP)
            FROM new_results
            WHERE NOT EXISTS (
                SELECT 1 FROM {texts} AS stored
                WHERE stored.text_key = new_results.text_key AND stored.topic = ? AND stored.model_id = ?
            )
            """,
            [plan.topic, plan.model_id, plan.model_version, plan.run_id, session.now(), plan.topic, plan.model_id],
        )
    return True


def store_operations(
    session: Session,
    plan: Plan,
    parts: Sequence[Part],
    part_results: Sequence[PartResult],
    summaries: Sequence[PartSummary],
) -> None:
    """Add the operations of the parts to `coding_operations`."""
    operations = table(plan.schema, "coding_operations")
    for part, result, summary in zip(parts, part_results, summaries, strict=True):
        if result.operation_id is None:
            continue
        # A row with more usable results stays: the files of the operation may have been removed since.
        session.execute(
            f"DELETE FROM {operations} WHERE operation_id = ? AND usable <= ?", [result.operation_id, summary.usable]
        )
        if session.execute(f"SELECT 1 FROM {operations} WHERE operation_id = ?", [result.operation_id]):
            continue
        row = (
            result.operation_id, plan.run_id, result.part, plan.topic, plan.model_id, part.records, part.bytes,
            result.state, summary.problem, summary.usable, summary.discarded,
            _fit_metadata(summary.metadata, result, session.dialect), session.now(), result.seconds,
        )  # fmt: skip
        session.execute(f"INSERT INTO {operations} VALUES ({', '.join('?' * len(row))})", row)


def _fit_metadata(metadata: str | None, result: PartResult, dialect: Dialect) -> str | None:
    """Return the metadata, or None if the warehouse cannot store it: that must not cost the results."""
    if metadata is None or dialect.text_bytes is None or len(metadata.encode()) <= dialect.text_bytes:
        return metadata
    log.warning(
        "The metadata of operation %r is not stored: %s stores no text above %d bytes",
        result.operation_id, dialect.name, dialect.text_bytes,
    )  # fmt: skip
    return None


def check_complete(
    engine: duckdb.DuckDBPyConnection,
    plan: Plan,
    parts: Sequence[Part],
    part_results: Sequence[PartResult],
    summaries: Sequence[PartSummary],
) -> None:
    """Check that every text of every part has a result.

    :raises IncompleteError: one has none
    """
    problems = [
        f"part {result.part} (operation {result.operation_id}): {_describe_problem(engine, part, summary)}"
        for part, result, summary in zip(parts, part_results, summaries, strict=True)
        if summary.problem or summary.usable < part.records
    ]
    if problems:
        usable = sum(summary.usable for summary in summaries)
        sent = sum(part.records for part in parts)
        raise IncompleteError(
            f"nothing was published, because {len(problems)} of {len(parts)} parts are incomplete; the results of"
            f" {usable} of {sent} texts are kept, and {_describe_next_step(plan)}. {'; '.join(problems)}"
        )
    for number, line, problem in engine.execute(
        "SELECT * FROM discarded_lines ORDER BY part, line LIMIT 20"
    ).fetchall():
        log.warning("Part %d: output line %d was discarded: %s", number, line, problem)


def _describe_problem(engine: duckdb.DuckDBPyConnection, part: Part, summary: PartSummary) -> str:
    if summary.problem:
        return summary.problem
    lines = engine.execute(
        "SELECT line, problem FROM discarded_lines WHERE part = ? ORDER BY line LIMIT ?",
        [part.part, MAX_LISTED_LINES],
    ).fetchall()
    details = "".join(f"; line {line} was discarded: {problem}" for line, problem in lines)
    return f"{part.records - summary.usable} of {part.records} texts have no usable result{details}"


def _describe_next_step(plan: Plan) -> str:
    if plan.selection == "uncoded":
        return "the next run of these dates sends the rest"
    return "to code the rest, clear `create` of these parts with downstream (another run of `all` sends every text)"
