"""Reading results and storing them: the usable results of every operation are kept, even if others failed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import duckdb

from include.coding.engine import Engine, use_one_thread
from include.coding.files import escape_glob
from include.coding.isolation import FAILED, TIMED_OUT
from include.coding.parts import Part
from include.coding.plan import Plan
from include.coding.results import (
    INPUT_LINES,
    TABLES,
    PartResult,
    PartSummary,
    discard_part,
    find_unanswered,
    read_model_id,
    read_results,
)
from include.coding.staging import Staging
from include.coding.tables import table
from include.warehouse.duckdb_warehouse import Query, is_out_of_memory
from include.warehouse.warehouse import Dialect, Session, inline_values

#: Maximum number of discarded lines that the log lists.
MAX_LISTED_LINES = 20
#: Largest metadata file that is read. Those of the service have a few hundred bytes.
MAX_METADATA_BYTES = 1 << 20
#: Maximum length of what a failed operation says, as it is stored.
MAX_ERROR_CHARACTERS = 2000
#: Reasons of texts that have no result.
NO_RESULT, REFUSED_BY_SERVICE = "no_result", "refused_by_service"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CollectedPart:
    """A part, how its operation ended, what its output file contained, and the text of its metadata file."""

    part: Part
    result: PartResult
    summary: PartSummary
    metadata: str | None

    @property
    def unanswered(self) -> int:
        """Number of texts without a result in a complete operation."""
        return self.part.records - self.summary.usable if self.summary.problem is None else 0


def read_part(engine: Engine, plan: Plan, part: Part, result: PartResult, staging: Staging) -> CollectedPart:
    """Read the results of a part for the engine's view `results`, and add its texts without one to `unanswered`."""
    engine.execute(TABLES)
    metadata = staging.read_text(result.metadata_uri, MAX_METADATA_BYTES) if result.metadata_uri else None
    if metadata is not None:
        metadata = metadata.replace("\0", "\ufffd")  # PostgreSQL stores no NUL
    model_id = read_model_id(metadata or "") or plan.model_id
    summary = _read_output(engine, plan, part, result, model_id, staging)
    return CollectedPart(part, result, summary, metadata)


def log_discarded_lines(engine: Engine) -> None:
    """Log the first lines that could not be used: their parts, their numbers and their problems."""
    engine.execute(TABLES)
    lines = "SELECT * FROM discarded_lines ORDER BY part, line LIMIT ?"
    for number, line, problem in engine.execute(lines, [MAX_LISTED_LINES]).fetchall():
        log.warning("Part %d: output line %d was discarded: %s", number + 1, line, problem)


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
        summary = _read_files(engine, part, result, staging)
    except duckdb.Error as error:  # one part must not cost the results of the others
        if not is_out_of_memory(error) and isinstance(error, duckdb.OperationalError):
            raise  # not about the file: the disk is full, for example
        discard_part(engine, result.part)
        remedy = ": raise CODING_MEMORY_MB, and clear `collect`" if is_out_of_memory(error) else ""
        return PartSummary(problem=f"its output or input file cannot be read ({type(error).__name__}){remedy}")
    if summary.problem is None and coded != part.fingerprint:
        problem = "its input was prepared again after it was sent: clear its `create` with downstream tasks"
        return replace(summary, problem=problem)
    return summary


def _read_files(engine: Engine, part: Part, result: PartResult, staging: Staging) -> PartSummary:
    with ExitStack() as files:
        paths = {}
        for kind, uri in (("output", result.output_uri), ("input", result.input_uri)):
            try:
                paths[kind] = files.enter_context(staging.open_local(str(uri)))
            except FileNotFoundError:
                return PartSummary(problem=f"its {kind} file {uri!r} does not exist any more")
        summary = read_results(engine, result.part, paths["input"], paths["output"])
        if summary.usable < part.records:
            find_unanswered(engine, result.part, paths["input"])
        return summary


@contextmanager
def stage_results(engine: Engine, session: Session) -> Iterator[None]:
    """Make the results of the part that was read last available to `session` for :func:`store_results`."""
    with session.staged("new_results", Query(engine, "FROM results")):
        yield


def store_results(session: Session, plan: Plan, operation_id: str, read_at: str) -> None:
    """Add the staged results of an operation to `coded_texts`.

    A text that is stored already keeps its result, unless it was set aside without one. With the selection `all`,
    results that were stored before this run read the source are replaced. If any are, the checksums of earlier runs
    are removed, so that the next run of any dates publishes its records again with the new results.

    :param read_at: when this run read the source, ISO 8601, UTC
    """
    texts, text = table(plan.schema, "coded_texts"), session.dialect.text
    create_table = f"""
        CREATE TEMPORARY TABLE stored_texts AS
        SELECT text_key, reason, coded_at FROM {texts}
        WHERE topic = ? AND model_id = ? AND text_key IN (SELECT text_key FROM new_results)
    """  # noqa: S608
    session.execute(inline_values(create_table, [plan.topic, plan.model_id]))
    replaced, values = "reason IS NOT NULL", []
    if plan.selection == "all":
        replaced, values = "(reason IS NOT NULL OR coded_at <= ?)", [datetime.fromisoformat(read_at)]
    if session.execute(f"SELECT 1 FROM stored_texts WHERE {replaced} LIMIT 1", values):  # noqa: S608
        session.execute(
            f"DELETE FROM {texts} WHERE topic = ? AND model_id = ?"  # noqa: S608
            f" AND text_key IN (SELECT text_key FROM stored_texts WHERE {replaced})",
            [plan.topic, plan.model_id, *values],
        )
        session.execute(f"DELETE FROM stored_texts WHERE {replaced}", values)  # noqa: S608
        session.execute(
            f"UPDATE {table(plan.schema, 'coding_runs')} SET checksum = NULL WHERE topic = ? AND model_id = ?",  # noqa: S608
            [plan.topic, plan.model_id],
        )
    session.execute(
        f"""
        INSERT INTO {texts}
        SELECT text_key, CAST(? AS {text}), CAST(? AS {text}), CAST(? AS DOUBLE PRECISION), occp_text,
            tasks_text, outcome, code, label, confidence, level, suggestions, CAST(? AS {text}),
            CAST(? AS {text}), CAST(? AS TIMESTAMP), CAST(NULL AS {text})
        FROM new_results
        WHERE NOT EXISTS (SELECT 1 FROM stored_texts WHERE stored_texts.text_key = new_results.text_key)
        """,  # noqa: S608
        [plan.topic, plan.model_id, plan.model_version, operation_id, plan.run_id, session.now()],
    )
    session.execute("DROP TABLE stored_texts")


@contextmanager
def stage_texts(engine: Engine, session: Session, path: Path) -> Iterator[None]:
    """Make the texts of an input file available to `session` for :func:`set_texts_aside`."""
    lines = Query(
        engine,
        f"SELECT recordId AS text_key, occp_text, tasks_text FROM {INPUT_LINES}",  # noqa: S608
        {"input": escape_glob(path)},
    )
    with use_one_thread(engine), session.staged("texts_aside", lines):
        yield


def set_texts_aside(session: Session, plan: Plan, operation_id: str, outcome: str, reason: str) -> None:
    """Add the staged texts to `coded_texts` without a result. A text that is stored already stays as it is.

    :param operation_id: last operation that was to code them
    :param reason: why they have no result
    """
    texts, text = table(plan.schema, "coded_texts"), session.dialect.text
    session.execute(
        f"""
        INSERT INTO {texts} (
            text_key, topic, model_id, model_version, occp_text, tasks_text, outcome, operation_id, run_id,
            coded_at, reason
        )
        SELECT text_key, CAST(? AS {text}), CAST(? AS {text}), CAST(? AS DOUBLE PRECISION), occp_text, tasks_text,
            CAST(? AS {text}), CAST(? AS {text}), CAST(? AS {text}), CAST(? AS TIMESTAMP), CAST(? AS {text})
        FROM texts_aside
        WHERE NOT EXISTS (
            SELECT 1 FROM {texts} AS stored
            WHERE stored.text_key = texts_aside.text_key AND stored.topic = ? AND stored.model_id = ?
        )
        """,  # noqa: S608
        [
            plan.topic, plan.model_id, plan.model_version, outcome, operation_id, plan.run_id, session.now(),
            reason, plan.topic, plan.model_id,
        ],
    )  # fmt: skip


def find_control_text(session: Session, plan: Plan) -> tuple[str, str, str] | None:
    """Return key and texts of a text that the model has coded before; None if there is none."""
    rows = session.execute(
        f"SELECT text_key, occp_text, tasks_text FROM {table(plan.schema, 'coded_texts')}"  # noqa: S608
        " WHERE topic = ? AND model_id = ? AND outcome = 'coded' LIMIT 1",
        [plan.topic, plan.model_id],
    )
    return rows[0] if rows else None


def find_unexplained_operations(session: Session, plan: Plan, operation_ids: Sequence[str]) -> set[str]:
    """Return which of these operations `coding_operations` does not have yet."""
    if not operation_ids:
        return set()
    rows = session.execute(
        f"SELECT operation_id FROM {table(plan.schema, 'coding_operations')}"  # noqa: S608
        f" WHERE operation_id IN ({', '.join('?' * len(operation_ids))})",
        operation_ids,
    )
    return set(operation_ids) - {operation_id for (operation_id,) in rows}


def store_operations(
    session: Session, plan: Plan, collected: Iterable[CollectedPart], errors: Mapping[str, str] | None = None
) -> None:
    """Add operations to `coding_operations`.

    :param errors: what the service said about those that failed, by operation. A row that is stored already keeps
        what it has.
    """
    operations = table(plan.schema, "coding_operations")
    for entry in collected:
        part, result, summary = entry.part, entry.result, entry.summary
        if result.operation_id is None:
            continue
        replace_abandoned = f"DELETE FROM {operations} WHERE operation_id = ? AND state = 'abandoned'"  # noqa: S608
        session.execute(replace_abandoned, [result.operation_id])
        error = (errors or {}).get(result.operation_id)
        # A row with more usable results stays, because the files of the operation may have been removed since.
        if error is not None or result.state not in (FAILED, TIMED_OUT):
            session.execute(
                f"DELETE FROM {operations} WHERE operation_id = ? AND usable <= ?",  # noqa: S608
                [result.operation_id, summary.usable],
            )
        if session.execute(f"SELECT 1 FROM {operations} WHERE operation_id = ?", [result.operation_id]):  # noqa: S608
            continue
        row = (
            result.operation_id, plan.run_id, result.part, plan.topic, plan.model_id, part.records, part.bytes,
            result.state, error or summary.problem, summary.usable, summary.discarded,
            _fit_metadata(entry.metadata, result, session.dialect), session.now(), result.seconds,
        )  # fmt: skip
        session.execute(f"INSERT INTO {operations} VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608


def _fit_metadata(metadata: str | None, result: PartResult, dialect: Dialect) -> str | None:
    """Return the metadata; None if it is too long for the warehouse, because that must not cost the results."""
    if metadata is None or dialect.text_bytes is None or len(metadata.encode()) <= dialect.text_bytes:
        return metadata
    log.warning(
        "The metadata of operation %r is not stored: %s stores no text above %d bytes",
        result.operation_id, dialect.name, dialect.text_bytes,
    )  # fmt: skip
    return None
