"""Collecting results: the usable results of every part are kept, even if other parts failed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime

import duckdb

from include.coding.engine import Engine, execute_within_memory
from include.coding.errors import IncompleteError
from include.coding.parts import Part
from include.coding.plan import Plan
from include.coding.results import RESULTS, PartResult, PartSummary, read_model_id, read_results
from include.coding.staging import Staging
from include.coding.tables import table
from include.warehouse.duckdb_warehouse import Query
from include.warehouse.warehouse import Dialect, Session

#: Maximum number of discarded lines that a message lists.
MAX_LISTED_LINES = 5

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CollectedPart:
    """A part, how its operation ended, what its output file contained, and the text of its metadata file."""

    part: Part
    result: PartResult
    summary: PartSummary
    metadata: str | None

    @property
    def is_complete(self) -> bool:
        """Whether every text of the part has a result."""
        return self.summary.problem is None and self.summary.usable >= self.part.records


def read_parts(
    engine: Engine, plan: Plan, parts: Sequence[Part], part_results: Sequence[PartResult], staging: Staging
) -> list[CollectedPart]:
    """Read the results of every part into the engine's table `results`."""
    engine.execute(RESULTS)
    collected = []
    for part, result in zip(parts, part_results, strict=True):
        metadata = staging.read_text(result.metadata_uri) if result.metadata_uri else None
        if metadata is not None:
            metadata = metadata.replace("\0", "\ufffd")  # PostgreSQL stores no NUL
        model_id = read_model_id(metadata or "") or plan.model_id
        summary = _read_output(engine, plan, part, result, model_id, staging)
        collected.append(CollectedPart(part, result, summary, metadata))
    return collected


def _read_output(
    engine: Engine, plan: Plan, part: Part, result: PartResult, model_id: str, staging: Staging
) -> PartSummary:
    """Read the results of one part, unless another model coded it.

    If `prepare` has written another input file since, the results are used but the part counts as incomplete.

    :param model_id: model that the metadata file names
    """
    coded = result.fingerprint
    if result.output_uri is None or coded is None:
        return PartSummary(problem=result.message or "it has no output; see the logs of its tasks")
    if (coded.topic, coded.model_id, model_id.lower()) != (plan.topic, plan.model_id, plan.model_id.lower()):
        other = coded.model_id if coded.model_id != plan.model_id else model_id
        return PartSummary(
            problem=f"it was coded by topic {coded.topic!r}, model {other!r}, but the run is pinned to topic"
            f" {plan.topic!r}, model {plan.model_id!r}"
        )
    try:
        summary = _read_files(engine, result, staging)
    except duckdb.OperationalError:  # not about the file: the disk is full, for example
        raise
    except duckdb.Error as error:  # one part must not cost the results of the others
        return PartSummary(problem=f"its output or input file cannot be read ({type(error).__name__})")
    if summary.problem is None and coded != part.fingerprint:
        problem = "its input was prepared again after it was sent: clear its `create` with downstream"
        return replace(summary, problem=problem)
    return summary


def _read_files(engine: Engine, result: PartResult, staging: Staging) -> PartSummary:
    with ExitStack() as files:
        paths = {}
        for kind, uri in (("output", result.output_uri), ("input", result.input_uri)):
            try:
                paths[kind] = files.enter_context(staging.open_local(str(uri)))
            except FileNotFoundError:
                return PartSummary(problem=f"its {kind} file {uri!r} does not exist any more")
        return read_results(engine, result.part, str(result.operation_id), paths["input"], paths["output"])


def store_results(engine: Engine, session: Session, plan: Plan, read_at: str) -> None:
    """Add the results to `coded_texts`.

    A text that is stored already keeps its result. With the selection `all`, results that were stored before this run
    read the source are replaced, and the checksums of earlier runs are removed, so that the next run of any dates
    publishes its records again with the new results.

    :param read_at: when this run read the source, ISO 8601, UTC
    """
    texts, text = table(plan.schema, "coded_texts"), session.dialect.text
    ((count,),) = engine.execute("SELECT count(*) FROM results").fetchall()
    if not count:
        return
    # Parts of two attempts of `prepare` can share a text.
    distinct_results = (
        "FROM results ANTI JOIN results AS earlier"
        " ON earlier.text_key = results.text_key AND earlier.part < results.part"
    )
    execute_within_memory(engine, f"CREATE OR REPLACE TABLE distinct_results AS {distinct_results}")
    with session.staged("new_results", Query(engine, "FROM distinct_results")):
        if plan.selection == "all":
            session.execute(
                f"DELETE FROM {texts} WHERE topic = ? AND model_id = ? AND coded_at <= ?"
                " AND text_key IN (SELECT text_key FROM new_results)",
                [plan.topic, plan.model_id, datetime.fromisoformat(read_at)],
            )
            session.execute(
                f"UPDATE {table(plan.schema, 'coding_runs')} SET checksum = NULL WHERE topic = ? AND model_id = ?",
                [plan.topic, plan.model_id],
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


def store_operations(session: Session, plan: Plan, collected: Iterable[CollectedPart]) -> None:
    """Add the operations of the parts to `coding_operations`."""
    operations = table(plan.schema, "coding_operations")
    for entry in collected:
        part, result, summary = entry.part, entry.result, entry.summary
        if result.operation_id is None:
            continue
        # A row with more usable results stays, because the files of the operation may have been removed since.
        session.execute(
            f"DELETE FROM {operations} WHERE operation_id = ? AND usable <= ?", [result.operation_id, summary.usable]
        )
        if session.execute(f"SELECT 1 FROM {operations} WHERE operation_id = ?", [result.operation_id]):
            continue
        row = (
            result.operation_id, plan.run_id, result.part, plan.topic, plan.model_id, part.records, part.bytes,
            result.state, summary.problem, summary.usable, summary.discarded,
            _fit_metadata(entry.metadata, result, session.dialect), session.now(), result.seconds,
        )  # fmt: skip
        session.execute(f"INSERT INTO {operations} VALUES ({', '.join('?' * len(row))})", row)


def _fit_metadata(metadata: str | None, result: PartResult, dialect: Dialect) -> str | None:
    """Return the metadata; None if it is too long for the warehouse, because that must not cost the results."""
    if metadata is None or dialect.text_bytes is None or len(metadata.encode()) <= dialect.text_bytes:
        return metadata
    log.warning(
        "The metadata of operation %r is not stored: %s stores no text above %d bytes",
        result.operation_id, dialect.name, dialect.text_bytes,
    )  # fmt: skip
    return None


def check_complete(engine: Engine, plan: Plan, collected: Sequence[CollectedPart]) -> None:
    """Check that every text of every part has a result, and raise :class:`IncompleteError` if not."""
    problems = [
        f"part {entry.part.part} (operation {entry.result.operation_id}): {_describe_problem(engine, entry)}"
        for entry in collected
        if not entry.is_complete
    ]
    if problems:
        usable = sum(entry.summary.usable for entry in collected)
        sent = sum(entry.part.records for entry in collected)
        raise IncompleteError(
            f"nothing was published, because {len(problems)} of {len(collected)} parts are incomplete; the results of"
            f" {usable} of {sent} texts are kept, and {_describe_next_step(plan)}. {'; '.join(problems)}"
        )
    discarded = engine.execute("SELECT * FROM discarded_lines ORDER BY part, line LIMIT 20").fetchall()
    for number, line, problem in discarded:
        log.warning("Part %d: output line %d was discarded: %s", number, line, problem)


def _describe_problem(engine: Engine, entry: CollectedPart) -> str:
    if entry.summary.problem:
        return entry.summary.problem
    lines = engine.execute(
        "SELECT line, problem FROM discarded_lines WHERE part = ? ORDER BY line LIMIT ?",
        [entry.part.part, MAX_LISTED_LINES],
    ).fetchall()
    details = "".join(f"; line {line} was discarded: {problem}" for line, problem in lines)
    records = entry.part.records
    return f"{records - entry.summary.usable} of {records} texts have no usable result{details}"


def _describe_next_step(plan: Plan) -> str:
    if plan.selection == "uncoded":
        return "the next run of these dates sends the rest"
    return "to code the rest, clear `create` of these parts with downstream (another run of `all` sends every text)"
