"""The source of a run's records: a table or view of the warehouse, or a file."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import duckdb
import pyarrow as pa

from include.coding.engine import Engine
from include.coding.errors import SourceError
from include.coding.files import escape_glob, path_from_uri
from include.coding.plan import Plan
from include.warehouse.errors import NoSuchTableError, WarehouseError
from include.warehouse.warehouse import Session, Warehouse, quote_column, quote_literal, quote_table, utc_now

#: Supported types of files.
FILE_TYPES = (".parquet", ".csv", ".jsonl", ".ndjson", ".xlsx")
#: Characters that can separate the values of a CSV file.
DELIMITERS = ",;\t|"
#: A longer text is rejected, however much white space it contains.
MAX_TEXT_BYTES = 100_000
#: Longest line of CSV that the engine reads.
MAX_LINE_BYTES = 2_000_000
RELOAD_HINT = "start another run when it is loaded completely"
_REWRITE_HINT = "write the file again, completely, and in UTF-8 if it is a text file"


@dataclass(frozen=True)
class SourceSnapshot:
    """When a source was read (ISO 8601, UTC), and how many of its records no run codes, because they have no date."""

    read_at: str
    undated: int


@contextmanager
def open_source(plan: Plan, engine: Engine, warehouse: Warehouse) -> Iterator[SourceSnapshot]:
    """Create the view `source` in the engine: the records of the plan's dates, with a DATE and three text columns.

    :raises SourceError: the source cannot be read, a needed column is missing or unsuitable, or a date is not a date
    """
    path = _find_file(plan.source)
    source = _open_table(plan, engine, warehouse) if path is None else _open_file(plan, engine, path)
    try:
        with source as snapshot:
            yield snapshot
    except duckdb.ConversionException as error:
        raise SourceError(
            f"source {plan.source!r} has a {plan.source_column('response_date')!r} that is not a date:"
            f" {_summarize_error(error)}"
        ) from None  # a chained error would be logged, and the engine quotes rows
    except duckdb.NotImplementedException:  # raised for a line longer than the buffer of the engine
        raise SourceError(
            f"source {plan.source!r} cannot be read: it has a line above {MAX_LINE_BYTES} bytes; check that every"
            " quote is closed"
        ) from None
    except duckdb.Error as error:
        if path is None or not (isinstance(error, duckdb.InvalidInputException) or str(path) in str(error)):
            raise  # not about the file: the disk is full, for example
        detail = _summarize_error(error)
        raise SourceError(f"source {plan.source!r} cannot be read: {detail}; {_REWRITE_HINT}") from None


@contextmanager
def _open_file(plan: Plan, engine: Engine, path: Path) -> Iterator[SourceSnapshot]:
    scan, schema = _scan_file(path, plan, engine)
    _check_columns(plan, schema)
    read_at, before = utc_now(), _identify_content(path)
    columns = {name: plan.source_column(name) for name in plan.required_columns}
    count_undated = _create_view(plan, engine, scan, columns, schema)
    yield SourceSnapshot(read_at.isoformat(), _read_count(engine.execute(count_undated).fetchall()))
    if _identify_content(path) != before:
        raise SourceError(f"source {plan.source!r} changed while it was read: {RELOAD_HINT}")


@contextmanager
def _open_table(plan: Plan, engine: Engine, warehouse: Warehouse) -> Iterator[SourceSnapshot]:
    table = quote_table(plan.source)
    with warehouse.session(read_only=True) as session:
        try:
            if not all(plan.source.split(".")):
                raise NoSuchTableError("a part of the name is empty")
            read_at, schema = session.lock_and_timestamp(table), session.columns(table)
        except (NoSuchTableError, duckdb.ParserException, duckdb.BinderException) as error:
            raise SourceError(
                f"source {plan.source!r} is neither a table or view of warehouse {warehouse.name!r} nor a file URI"
                f" (file:///....parquet, .csv, .jsonl, .xlsx): {str(error).splitlines()[0]}"
            ) from None
        _check_columns(plan, schema)
        try:
            yield SourceSnapshot(read_at.isoformat(), _create_table_view(plan, engine, session, schema))
        except duckdb.InvalidInputException as error:
            if "table_rows" not in str(error):
                raise
            if not session.is_open():
                raise WarehouseError(
                    f"warehouse {warehouse.name!r} lost the connection while {plan.source!r} was read"
                ) from None
            detail = _summarize_error(error).partition('"')[0]  # a value can follow the first quote
            raise SourceError(f"source {plan.source!r} cannot be read: {detail}; check the view") from None


def materialize_source(plan: Plan, engine: Engine) -> None:
    """Copy `source` into a table of the engine, except a Parquet file, which is faster to read again than to copy."""
    if not plan.source.lower().endswith(".parquet"):
        engine.execute("CREATE TABLE source_copy AS FROM source")
        engine.execute("CREATE OR REPLACE TEMP VIEW source AS FROM source_copy")


def _identify_content(path: Path) -> tuple[int, int, int]:
    """Return values that change when the file is replaced or written to."""
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _summarize_error(error: Exception) -> str:
    """Return the engine's message on one line, without the row that it quotes, because answers must not be logged."""
    return " ".join(re.sub(r"Original Line:.*", "", str(error)).split())[:400]


def _find_file(source: str) -> Path | None:
    """Return the file that `source` names, None if it names a table."""
    parts = urlsplit(source)
    if parts.scheme == "file":
        path = path_from_uri(source)
    elif parts.scheme:
        raise SourceError(f"source {source!r} is not supported: use a file:// URI or a table of the warehouse")
    elif source.startswith("/"):
        path = Path(source)
    elif source.lower().endswith(FILE_TYPES):
        raise SourceError(f"source {source!r} is a relative path: use a full one, such as 'file:///data/{source}'")
    else:
        return None
    if not path.is_file():
        raise SourceError(f"source {source!r}: there is no file {path}; check its path, as the worker sees it")
    if path.suffix.lower() not in FILE_TYPES:
        raise SourceError(f"source {source!r} ends in {path.suffix!r}; supported: {list(FILE_TYPES)}")
    return path


def _scan_file(path: Path, plan: Plan, engine: Engine) -> tuple[str, pa.Schema]:
    """Return the SQL expression that reads the file, to follow FROM, and the columns of the file."""
    match path.suffix.lower():
        case ".csv":
            scan = _scan_csv(path, plan)
        case ".xlsx":
            scan = _scan_sheet(path, plan, engine)
        case ".parquet":
            scan = f"read_parquet({_path_literal(path)})"
        case _:
            return _scan_json(path, plan, engine)
    return scan, _read_schema(engine, scan)


def _read_schema(engine: Engine, scan: str) -> pa.Schema:
    return engine.sql(f"SELECT * FROM {scan} LIMIT 0").to_arrow_reader().schema


def _path_literal(path: Path) -> str:
    return quote_literal(escape_glob(path))


def _define_text_columns(names: Iterable[str]) -> str:
    return "{" + ", ".join(f"{quote_literal(name)}: 'VARCHAR'" for name in names) + "}"


def _scan_csv(path: Path, plan: Plan) -> str:
    """Return the expression that reads every value as text, so that '007' stays '007'. Only the delimiter is
    detected, from the header; the engine's own detection would drop rows that begin with '#' as comments."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            line = file.readline()
            delimiter = max(DELIMITERS, key=line.count)
            file.seek(0)
            header = next(csv.reader(file, delimiter=delimiter), [])
    except (UnicodeDecodeError, csv.Error) as error:
        detail = _summarize_error(error)
        raise SourceError(f"source {plan.source!r} cannot be read: {detail}; {_REWRITE_HINT}") from error
    columns: dict[str, None] = {}
    for position, name in enumerate(header):
        columns[f"{name}_{position}" if not name or name in columns else name] = None
    _check_last_line(path, plan)
    return (
        f"read_csv({_path_literal(path)}, auto_detect=false, header=true, delim={quote_literal(delimiter)},"
        f" quote='\"', escape='\"', max_line_size={MAX_LINE_BYTES},"
        f" columns={_define_text_columns(columns or ['(none)'])})"
    )


def _check_last_line(path: Path, plan: Plan) -> None:
    """Refuse a last line that is too long, because the engine would silently drop it; it refuses any other."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - MAX_LINE_BYTES - 2))
        end = file.read().rstrip(b"\r\n")
    if len(end) > MAX_LINE_BYTES - 2 and not (b"\n" in end or b"\r" in end):
        raise SourceError(
            f"source {plan.source!r} cannot be read: its last line is above {MAX_LINE_BYTES} bytes; {_REWRITE_HINT}"
        )


def _scan_json(path: Path, plan: Plan, engine: Engine) -> tuple[str, pa.Schema]:
    """Return the expression that reads every value as text, and the detected types, to be checked. With these types,
    the engine would turn a record id such as '2026-10-01' into a date, and quote strings in a column with numbers."""
    options = f"{_path_literal(path)}, format='newline_delimited'"
    detected = _read_schema(engine, f"read_json({options}, sample_size=-1, convert_strings_to_integers=false)")
    day = plan.source_column("response_date")
    schema = pa.schema(
        field.with_type(pa.string()) if pa.types.is_temporal(field.type) and field.name != day else field
        for field in detected
    )
    names = dict.fromkeys(plan.source_column(name) for name in plan.required_columns)
    return f"read_json({options}, columns={_define_text_columns(names)})", schema


def _scan_sheet(path: Path, plan: Plan, engine: Engine) -> str:
    import pandas as pd  # imported here, because only Excel files need it

    types = {plan.source_column(name): str for name in plan.required_columns if name != "response_date"}
    try:
        # 'None' and 'N/A' are answers like any other, so only empty cells count as missing
        sheet = pd.read_excel(path, dtype=types, engine="openpyxl", keep_default_na=False, na_values=[""])
        engine.register("sheet", sheet)
    except Exception as error:  # openpyxl raises the errors of its zip and XML readers
        raise SourceError(f"source {plan.source!r} cannot be read as Excel: {_summarize_error(error)}") from error
    return "sheet"


def _check_columns(plan: Plan, schema: pa.Schema) -> None:
    """Check that the source has every needed column, with a suitable type."""
    columns = {name: plan.source_column(name) for name in plan.required_columns}
    if missing := [column for column in columns.values() if column not in schema.names]:
        raise SourceError(
            f"source {plan.source!r} lacks the columns {missing}; it has {schema.names}. Name the ones to use in"
            ' `columns`, such as {"occp_text": "job_title"}; if there are no dates, set one for all records in'
            " `response_date`"
        )
    if plan.response_date and (day := plan.source_column("response_date")) in schema.names:
        raise SourceError(
            f"source {plan.source!r} has a column {day!r}, but `response_date` would give all of its records the"
            f" date {plan.response_date!r}: leave it empty, and select dates with `from_date` and `to_date`"
        )
    for name, column in columns.items():
        _check_type(plan.source, name, column, schema.field(column).type)


def _create_table_view(plan: Plan, engine: Engine, session: Session, schema: pa.Schema) -> int:
    """Create `source` from a table, and return how many of its records have no date. If the column has a date type,
    the warehouse selects the dates, else the engine."""
    table, day = quote_table(plan.source), quote_column(plan.source_column("response_date"))
    columns = {name: quote_column(plan.source_column(name)) for name in plan.required_columns}
    columns["record_id"] = f"CAST({columns['record_id']} AS {session.dialect.text})"  # without padding of CHAR(20)
    for name in ("occp_text", "tasks_text"):
        column = columns[name]
        columns[name] = f"CASE WHEN length({column}) > {MAX_TEXT_BYTES} THEN repeat('x', 999) ELSE {column} END"
    rows = f"SELECT {', '.join(f'{column} AS {name}' for name, column in columns.items())} FROM {table}"
    has_dates = plan.response_date is None
    has_date_type = has_dates and not _is_text(schema.field(plan.source_column("response_date")).type)
    if has_date_type:  # compare the bare column, because it may have an index
        after = date.fromisoformat(plan.to_date) + timedelta(days=1)
        rows += f" WHERE {day} >= DATE '{plan.from_date}' AND {day} < DATE '{after}'"
    engine.register("table_rows", session.query(rows))
    count_undated = _create_view(plan, engine, "table_rows", {name: name for name in columns}, schema)
    if not has_dates:
        return 0
    if not has_date_type:
        return _read_count(engine.execute(count_undated).fetchall())
    infinite = f"{day} < DATE '0001-01-01' OR {day} > DATE '9999-12-31'"
    return _read_count(session.execute(f"SELECT count(*) FROM {table} WHERE {day} IS NULL OR {infinite}"))


def _create_view(plan: Plan, engine: Engine, relation: str, names: dict[str, str], schema: pa.Schema) -> str:
    """Create `source` from a relation of the engine, and return the query that counts its records without a date.

    :param names: the relation's name for each needed column
    """
    day = _date_expression(plan, names, schema)
    texts = ", ".join(
        f"{_text_expression(quote_column(names[name]), plan)} AS {name}" for name in ("occp_text", "tasks_text")
    )
    # no server stores NUL
    record_id = f"replace(CAST({quote_column(names['record_id'])} AS VARCHAR), chr(0), '\ufffd')"
    dates = f"BETWEEN DATE '{plan.from_date}' AND DATE '{plan.to_date}'"
    dates += "".join(f" AND {day} <> DATE '{excluded}'" for excluded in plan.excluded_dates)
    engine.execute(
        f"CREATE TEMP VIEW source AS SELECT {record_id} AS record_id, {texts}, {day} AS response_date"
        f" FROM {relation} WHERE {day} {dates}{_sample_clause(plan)}"
    )
    # This query casts as well, so that it fails at once if a value is not a date.
    return f"SELECT count(*) FROM {relation} WHERE {day} IS NULL OR NOT isfinite({day})"


def _date_expression(plan: Plan, names: dict[str, str], schema: pa.Schema) -> str:
    if plan.response_date:
        return f"DATE '{plan.from_date}'"
    column = quote_column(names["response_date"])
    if not _is_text(schema.field(plan.source_column("response_date")).type):
        return f"CAST({column} AS DATE)"
    # A time with an offset can be on another day here, but a cast would ignore the offset.
    has_offset = f"length({column}) > 10 AND regexp_matches({column}, '([A-Za-z]|[+-][0-9]{{2}}(:?[0-9]{{2}})?)$')"
    return f"CAST(CASE WHEN {has_offset} THEN {column} || ' (has a time zone)' ELSE {column} END AS DATE)"


def _sample_clause(plan: Plan) -> str:
    """Return the end of a query that samples the records of a trial: each time the same ones, from the whole source,
    because its first rows can be similar."""
    if plan.max_records is None:
        return ""
    return f" ORDER BY hash(record_id, response_date, occp_text, tasks_text), record_id LIMIT {plan.max_records}"


def _read_count(rows: list[tuple[Any, ...]]) -> int:
    return int(rows[0][0])


def _text_expression(column: str, plan: Plan) -> str:
    """Return the column as text. To save memory, a text that is too long is replaced by the shortest one that is
    rejected for the same reason."""
    text = f"CAST({column} AS VARCHAR)"
    clean = f"clean_text({text})" if plan.clean else text
    letter = f"CASE WHEN is_printable({clean}) THEN 'x' ELSE '\u0436' END"
    return (
        f"CASE WHEN strlen({text}) > {MAX_TEXT_BYTES} THEN repeat('x', {plan.max_characters + 1})"
        f" WHEN length({text}) > {plan.max_characters} AND length({clean}) > {plan.max_characters}"
        f" THEN repeat({letter}, {plan.max_characters + 1}) ELSE {text} END"
    )


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _check_type(source: str, name: str, column: str, kind: pa.DataType) -> None:
    is_valid = _is_text(kind) or pa.types.is_null(kind)
    if name == "record_id":
        is_numeric = isinstance(kind, pa.OpaqueType) and kind.type_name == "numeric"  # type of PostgreSQL
        is_valid = is_valid or pa.types.is_integer(kind) or isinstance(kind, pa.UuidType) or is_numeric
    if name == "response_date":
        is_valid = is_valid or pa.types.is_date(kind) or (pa.types.is_timestamp(kind) and kind.tz is None)
    if not is_valid:
        types = {"record_id": "text, integer or UUID", "response_date": "a date, or a timestamp without a time zone"}
        raise SourceError(
            f"source {source!r}: column {column!r} is {kind}; {name} must be {types.get(name, 'text')}:"
            " cast it in a view"
        )
