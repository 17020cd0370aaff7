"""The records of a run in the warehouse: staged beside its tables, and joined with the results of their texts."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

from include.coding.engine import Engine, execute_within_memory, use_one_thread
from include.coding.files import escape_glob
from include.coding.plan import Plan
from include.coding.tables import table
from include.warehouse.duckdb_warehouse import Query
from include.warehouse.warehouse import Session, inline_values

_JOIN = "staged_records LEFT JOIN {results} ON answer_results.answer = staged_records.answer"
#: The staged records with the results of their texts as SQL that follows FROM: see :func:`look_up_results`.
RECORDS_WITH_RESULTS = _JOIN.format(results="answer_results")
#: Bytes of memory that the result of an answer takes in a join, besides its label and its suggestions. If the results
#: do not fit into the memory of an embedded warehouse, it writes the records to disk before it joins them.
RESULT_BYTES = 450
#: Maximum number of parts of a join: with more, reading the records for each part takes longer than writing them to
#: disk once.
MAX_JOINS = 5


@contextmanager
def stage_records(
    engine: Engine, session: Session, records: Path, answers: Path, days: Collection[date] | None = None
) -> Iterator[None]:
    """Make the records of a run available to `session` as the relation `staged_records`, and the keys of their texts
    as `staged_answers`, for the statements of the block.

    :param records, answers: Parquet files that `prepare` has written
    :param days: response dates of the records; None for all of them
    """
    condition = "" if days is None else " WHERE response_date IN (SELECT unnest($days))"
    values = {"path": escape_glob(records)} | ({} if days is None else {"days": sorted(days)})
    record_rows = Query(engine, f"SELECT * FROM read_parquet($path){condition}", values)  # noqa: S608
    answer_rows = Query(engine, "SELECT * FROM read_parquet($path)", {"path": escape_glob(answers)})
    with (
        use_one_thread(engine),
        session.staged("staged_answers", answer_rows),
        session.staged("staged_records", record_rows, is_largest=True),
    ):
        yield


def read_dates(engine: Engine, records: Path) -> set[date]:
    """Return the response dates of the records in a file that `prepare` has written."""
    query = "SELECT DISTINCT response_date FROM read_parquet(?)"
    return {day for (day,) in execute_within_memory(engine, query, [escape_glob(records)]).fetchall()}


@contextmanager
def look_up_results(session: Session, plan: Plan) -> Iterator[None]:
    """Keep the results of the texts of the staged answers in the temporary table `answer_results` within the block.

    Its columns are the number of the answer, and those of `coded_texts` that a record has too. Without a result,
    `outcome` is NULL. It is a table of its own, so that the warehouse needs memory for one join at a time.
    """
    columns = "outcome, code, label, confidence, level, suggestions, reason, operation_id, coded_at"
    create_table = f"""
        CREATE TEMPORARY TABLE answer_results AS
        SELECT answer, staged_answers.text_key, {columns}
        FROM {table(plan.schema, "coded_texts")} AS texts
        RIGHT JOIN staged_answers
            ON texts.text_key = staged_answers.text_key AND texts.topic = ? AND texts.model_id = ?
    """  # noqa: S608
    session.execute(inline_values(create_table, [plan.topic, plan.model_id]))
    yield
    session.execute("DROP TABLE answer_results")


def split_join(session: Session, plan: Plan) -> list[tuple[str, str]]:
    """Return the parts in which records are joined with their results, so that the results of each fit into memory:
    what follows FROM, as in `RECORDS_WITH_RESULTS`, and the condition that selects the records of the part. A server
    joins all of them at once, and so does an embedded warehouse if there would be more than `MAX_JOINS` parts."""
    whole = [(RECORDS_WITH_RESULTS, "true")]
    if not session.dialect.is_embedded:
        return whole
    texts = "coalesce(strlen(label), 0) + coalesce(strlen(suggestions), 0)"
    ((size,),) = session.execute(f"SELECT coalesce(sum({RESULT_BYTES} + {texts}), 0) FROM answer_results")  # noqa: S608
    joins = math.ceil(size / (plan.landing_memory_mb * 1_000_000))
    if not 1 < joins <= MAX_JOINS:
        return whole
    return [
        (
            _JOIN.format(results=f"(FROM answer_results WHERE answer % {joins} = {number}) AS answer_results"),
            f"coalesce(staged_records.answer, 0) % {joins} = {number}",
        )
        for number in range(joins)
    ]
