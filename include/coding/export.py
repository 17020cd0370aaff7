"""The export of a run: its records with all columns of the source, and with their codes, in one file.

The source is read again, and the codes are those that are published. If the two do not belong together any more,
because the source has changed, nothing is written.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
from botocore.exceptions import BotoCoreError, ClientError

from include.coding.engine import Engine, execute_within_memory, open_engine
from include.coding.errors import PlanError, SourceError, StagingError
from include.coding.export_access import ExportAccess, ExportTarget, find_target
from include.coding.export_files import (
    ADDED_COLUMNS,
    EXACT_DIGITS,
    FORMULA,
    PLAIN_NUMBER,
    check_size,
    write_csv,
    write_excel,
    write_parquet,
)
from include.coding.handoff import Count, Handoff, SourceName
from include.coding.plan import Plan
from include.coding.prepare import number_records, validate_answers
from include.coding.run_log import run_filter
from include.coding.source import NUMERIC_TYPES, measure_longest_text, open_source, shorten_texts
from include.coding.source_files import find_file
from include.coding.staging import BLOCK_BYTES, CONCURRENT_BLOCKS, Staging
from include.coding.tables import table
from include.warehouse.warehouse import Warehouse, inline_values, quote_column, quote_literal

#: What the added columns begin with if the source has one of their names.
PREFIX = "coding_"
#: Rows that are in memory at once, and their longest texts.
BATCH_ROWS, BATCH_BYTES = 2048, 16 << 20
#: Kinds of columns, beside `number`, `moment` and `text`, and types of the engine to which texts are converted back.
_KINDS: dict[str, Callable[[pa.DataType], bool]] = {
    "float": pa.types.is_floating, "boolean": pa.types.is_boolean, "date": pa.types.is_date,
    "timestamp": pa.types.is_timestamp,
}  # fmt: skip
_SQL_TYPES: tuple[tuple[Callable[[pa.DataType], bool], str], ...] = (
    (pa.types.is_integer, "BIGINT"), (pa.types.is_floating, "DOUBLE"), (pa.types.is_boolean, "BOOLEAN"),
    (pa.types.is_date, "DATE"), (pa.types.is_timestamp, "TIMESTAMP"),
)  # fmt: skip

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportSummary(Handoff):
    """What was exported: the URI of the file, and its records."""

    uri: SourceName
    records: Count


@dataclass(frozen=True)
class _Column:
    """A column of the file.

    :param name: in the file
    :param expression: SQL expression of its value in the engine's table `export_rows`
    :param kind: `number`, `float`, `boolean`, `date`, `timestamp`, `moment` (with a time zone) or `text`
    :param type: of the values in the engine
    """

    name: str
    expression: str
    kind: str
    type: pa.DataType


def name_added_columns(names: Sequence[str]) -> list[str]:
    """Return the names of the added columns, with a prefix if the source has one of them. The case of names does not
    count, because some programs do not distinguish it."""
    added, lower = list(ADDED_COLUMNS), {name.lower() for name in names}
    while lower & set(added):
        added = [PREFIX + name for name in added]
    return added


def export_records(
    plan: Plan, export: str, read: int, warehouse: Warehouse, staging: Staging, access: ExportAccess
) -> ExportSummary:
    """Write the records of a published run to a file.

    Another attempt writes the same records in the same order. The file appears complete or not at all.

    :param export: URI of the file
    :param read: number of records that the run has read
    :raises PlanError: runs may not write there, or it does not fit into a sheet of Excel
    :raises SourceError: the source cannot be read, or has changed since the run read it
    :raises StagingError: the disk or the object storage refuses the file
    """
    target = find_target(export, access)
    file = find_file(plan.source, access.sources)
    with open_engine(staging.scratch, "export", plan.engine_memory_mb, file.paths if file else ()) as engine:
        with open_source(plan, engine, warehouse, access.sources, file, all_columns=True) as snapshot:
            shorten_texts(engine, plan, measure_longest_text(engine))
            _copy_source(engine, len(snapshot.columns))
        check_size(export, read, len(snapshot.columns) + len(ADDED_COLUMNS))
        _copy_codes(engine, plan, warehouse)
        _join_codes(engine, plan, read, has_order=file is not None)
        columns = _list_columns(engine, plan, snapshot.columns)
        with open_target(target, plan, staging, access) as output:
            _write(engine, export, output, columns, read, staging)
    log.info(
        "Exported %s records of %s to %s with all columns of %r and their codes to %s",
        f"{read:,}", plan.from_date, plan.to_date, plan.source, target.uri,
    )  # fmt: skip
    return ExportSummary(target.uri, read)


def _copy_source(engine: Engine, columns: int) -> None:
    """Copy the records with all columns into the engine, and a hash of all values, by which equal ids are ordered."""
    names = ", ".join(f"source_{position}" for position in range(columns))
    execute_within_memory(engine, f"CREATE TABLE source_copy AS SELECT *, hash({names}) AS row_hash FROM source")  # noqa: S608
    engine.execute("CREATE OR REPLACE TEMP VIEW source AS FROM source_copy")


def _copy_codes(engine: Engine, plan: Plan, warehouse: Warehouse) -> None:
    """Copy what is published for the dates of the run into the engine."""
    condition, values = run_filter(plan)
    query = (
        "SELECT response_date, record_id, occurrence, text_key AS published_key, code, label, confidence, level,"  # noqa: S608
        f" outcome, reason AS published_reason, model_id AS model FROM {table(plan.schema, 'coded_records')}"
        f" WHERE {condition}"
    )
    with warehouse.session(read_only=True) as session:
        engine.register("published_rows", session.query(inline_values(query, values)))
        execute_within_memory(engine, "CREATE OR REPLACE TABLE published AS FROM published_rows")
        engine.unregister("published_rows")


def _join_codes(engine: Engine, plan: Plan, read: int, *, has_order: bool) -> None:
    """Create the table `export_rows`: each record with what is published for it, and with its position in the file.

    :param has_order: whether the rows of the source have an order; those of a table do not
    :raises SourceError: the source has other records than the run has read
    """
    records = number_records(engine, validate_answers(engine, plan, read), read, ", record_number, row_hash")
    order = "record_number" if has_order else "response_date, record_id, text_key, records.reason, row_hash"
    execute_within_memory(
        engine,
        f"""
        CREATE TABLE codes AS
        SELECT record_number, row_number() OVER (ORDER BY {order}) AS position,
            outcome IS NOT NULL AND published_key IS NOT DISTINCT FROM text_key
                AND (records.reason IS NULL OR records.reason IS NOT DISTINCT FROM published_reason) AS is_same,
            code, label, confidence, level, outcome, published_reason AS reason, model
        FROM ({records}) AS records LEFT JOIN published USING (response_date, record_id, occurrence)
        """,  # noqa: S608
    )
    ((rows, same),) = engine.execute("SELECT count(*), count(*) FILTER (is_same) FROM codes").fetchall()
    if not rows == same == read:
        raise SourceError(
            f"source {plan.source!r} has changed since the run read it: the run read {read} records, the"
            f" source now has {rows} of its dates, and {same} of those are what is published. Nothing was exported:"
            " start another run, which sends only the new texts"
        )
    execute_within_memory(
        engine,
        "CREATE TABLE export_rows AS SELECT * EXCLUDE (is_same) FROM source_copy JOIN codes USING (record_number)"
        " ORDER BY position",
    )
    engine.execute("DROP TABLE source_copy")


def _list_columns(engine: Engine, plan: Plan, source: pa.Schema) -> list[_Column]:
    """Return the columns of the file: those of the source with the types that they have there, and the added ones."""
    stored = engine.sql("SELECT * FROM export_rows LIMIT 0").to_arrow_reader().schema
    columns = []
    for position, column in enumerate(source):
        name, kind = f"source_{position}", column.type
        expression = quote_column(name)
        if pa.types.is_string(stored.field(name).type) and not pa.types.is_string(kind):
            expression, kind = _restore_type(engine, expression, kind)
        columns.append(_Column(column.name, expression, _find_kind(kind), kind))
    added = zip(name_added_columns(source.names), ADDED_COLUMNS.items(), strict=True)
    return columns + [_Column(name, quote_column(column), _find_kind(kind), kind) for name, (column, kind) in added]


def _restore_type(engine: Engine, column: str, kind: pa.DataType) -> tuple[str, pa.DataType]:
    """Return the expression and the type of a column that a reader has made a text: the type that its values have in
    the source, if all of them can be converted without a loss."""
    sql_type = next((sql for check, sql in _SQL_TYPES if check(kind)), None)
    if sql_type is None:
        is_numeric = isinstance(kind, pa.OpaqueType) and kind.type_name in NUMERIC_TYPES
        return column, kind if is_numeric else pa.string()
    cast = f"TRY_CAST({column} AS {sql_type})"
    is_exact = f"{cast} IS NOT NULL"
    if pa.types.is_floating(kind):  # any number of up to 15 digits, and those that are printed as they are
        digits = f"length(trim(regexp_replace({column}, '[eE].*|[^0-9]', '', 'g'), '0'))"
        is_exact += f" AND ({digits} <= {EXACT_DIGITS} OR CAST({cast} AS VARCHAR) = {column})"
    ((is_complete,),) = engine.execute(
        f"SELECT coalesce(bool_and({column} IS NULL OR ({is_exact})), true) FROM export_rows"  # noqa: S608
    ).fetchall()
    return (cast, kind) if is_complete else (column, pa.string())


def _find_kind(kind: pa.DataType) -> str:
    is_numeric = isinstance(kind, pa.OpaqueType) and kind.type_name in NUMERIC_TYPES
    if is_numeric or pa.types.is_integer(kind) or pa.types.is_decimal(kind):
        return "number"
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return "moment"
    return next((name for name, check in _KINDS.items() if check(kind)), "text")


def _write(
    engine: Engine, export: str, file: BinaryIO, columns: Sequence[_Column], rows: int, staging: Staging
) -> None:
    names = [column.name for column in columns]
    batch_rows = _choose_batch_rows(engine, columns)
    ending = export.lower().rpartition(".")[2]
    expressions = [_EXPRESSIONS[ending](column) for column in columns]
    batches = _read_batches(engine, expressions, rows, batch_rows)
    if ending == "parquet":
        write_parquet(file, names, batches)
    elif ending == "csv":
        write_csv(file, names, batches)
    else:
        write_excel(file, names, batches, [column.kind for column in columns], staging.scratch)


def _choose_batch_rows(engine: Engine, columns: Sequence[_Column]) -> int:
    """Return how many rows can be in memory at once, by the longest row."""
    sizes = " + ".join(f"coalesce(strlen(CAST({column.expression} AS VARCHAR)), 0)" for column in columns)
    ((longest,),) = engine.execute(f"SELECT max({sizes}) FROM export_rows").fetchall()  # noqa: S608
    return min(BATCH_ROWS, max(1, BATCH_BYTES // max(1, longest or 0)))


def _read_batches(engine: Engine, expressions: Sequence[str], rows: int, batch_rows: int) -> Iterator[pa.Table]:
    """Yield the rows in their order, the first batch even if there are none."""
    select = ", ".join(f"{expression} AS column_{number}" for number, expression in enumerate(expressions))
    for start in range(1, rows + 1, batch_rows) or [1]:
        query = f"SELECT {select} FROM export_rows WHERE position >= ? AND position < ? ORDER BY position"  # noqa: S608
        yield engine.sql(query, params=[start, start + batch_rows]).to_arrow_table()


def _express_value(column: _Column) -> str:
    """Return the SQL expression of a value with its type, for Parquet, which has no intervals."""
    return f"CAST({column.expression} AS VARCHAR)" if pa.types.is_interval(column.type) else column.expression


def _express_text(column: _Column) -> str:
    """Return the SQL expression of a value as text."""
    if column.kind == "moment":
        return f"CAST({column.expression} AT TIME ZONE 'UTC' AS VARCHAR) || '+00'"
    if pa.types.is_nested(column.type):
        return f"CAST(to_json({column.expression}) AS VARCHAR)"
    return f"CAST({column.expression} AS VARCHAR)"


def _express_cell(column: _Column) -> str:
    """Return the SQL expression of a value as text that no spreadsheet takes for a formula."""
    text = _express_text(column)
    if column.kind != "text":
        return text
    is_formula = f"regexp_matches({text}, {quote_literal(FORMULA)})"
    is_number = f"regexp_full_match({text}, {quote_literal(PLAIN_NUMBER)})"
    return f"CASE WHEN {is_formula} AND NOT {is_number} THEN chr(39) || {text} ELSE {text} END"


_EXPRESSIONS = {"parquet": _express_value, "csv": _express_cell, "xlsx": _express_text}


@contextmanager
def open_target(target: ExportTarget, plan: Plan, staging: Staging, access: ExportAccess) -> Iterator[BinaryIO]:
    """Yield a file for its owner only that appears as the target when it is complete."""
    run = hashlib.sha256(plan.run_id.encode()).hexdigest()[:8]
    folder = staging.scratch if target.path is None else target.path.parent
    partial = folder / f".export-{run}-{secrets.token_hex(4)}.partial"
    try:
        for other in folder.glob(f".export-{run}-*.partial"):  # of an attempt that was killed, or is given up
            other.unlink(missing_ok=True)
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if target.path is None:
                _store_object(target, partial, access)
            else:
                find_target(target.uri, access)  # nobody has replaced the folder by a link
                partial.replace(target.path)
        finally:
            partial.unlink(missing_ok=True)
    except (OSError, pa.ArrowException, BotoCoreError, ClientError) as error:  # not chained: it can quote a value
        raise StagingError(
            f"the export {target.uri!r} cannot be written ({type(error).__name__}): check the free space, and the"
            " permissions of the worker or of the connection 'staging_default'"
        ) from None


def _store_object(target: ExportTarget, path: Path, access: ExportAccess) -> None:
    if access.open_storage is None:
        raise PlanError(f"`export` {target.uri!r}: this deployment has no object storage; use a file:// URI")
    fs = access.open_storage(target.uri, None)
    fs.put_file(str(path), target.uri, chunksize=BLOCK_BYTES, max_concurrency=CONCURRENT_BLOCKS)
