"""Where records come from: a table or view of the warehouse, or a file."""

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
import pandas as pd
import pyarrow as pa

from include.coding.errors import SourceError
from include.coding.files import path_of, pattern_of
from include.coding.plan import COLUMNS, Plan
from include.warehouse.errors import NoSuchTableError, WarehouseError
from include.warehouse.warehouse import Session, Warehouse, quote_column, quote_literal, quote_table, utc_now

#: Kinds of files.
KINDS = (".parquet", ".csv", ".jsonl", ".ndjson", ".xlsx")
#: What may stand between the values of a CSV file.
DELIMITERS = ",;\t|"
#: Bytes above which a text is too long, however much of it may be white space.
HUGE = 100_000
#: Bytes of a line of CSV that the engine takes.
MAX_LINE = 2_000_000
CHANGED = "run again when it is loaded"
_MEND = "write the file anew, whole, and as UTF-8 if it is text"


def needed(plan: Plan) -> tuple[str, ...]:
    """Those of `COLUMNS` that the source must have."""
    return tuple(name for name in COLUMNS if not (name == "response_date" and plan.response_date))


@dataclass(frozen=True)
class Opened:
    """A source that can be read.

    :param read_at: the moment whose records it has, ISO 8601, UTC
    :param undated: records without a date: they belong to no day and so to no run
    """

    read_at: str
    undated: int


@contextmanager
def open_source(plan: Plan, engine: duckdb.DuckDBPyConnection, warehouse: Warehouse) -> Iterator[Opened]:
    """Make `source` in the engine: the records of the plan's dates, with the columns `COLUMNS` (strings and a DATE).

    :raises SourceError: no such table or file, an unreadable file, a needed column missing or of another type, or a
        date that is none
    """
    path = _file(plan.source)
    opened = _open_table(plan, engine, warehouse) if path is None else _open_file(plan, engine, path)
    try:
        with opened as source:
            yield source
    except duckdb.ConversionException as error:
        raise SourceError(
            f"source {plan.source!r} has a {plan.column('response_date')!r} that is no date: {_first(error)}"
        ) from None  # what is chained is logged, and the engine quotes rows
    except duckdb.NotImplementedException:  # the engine's word for a line longer than what it reads at once
        raise SourceError(
            f"source {plan.source!r} cannot be read: a line of it is above {MAX_LINE} bytes; is a quote left open?"
        ) from None
    except duckdb.Error as error:
        if path is None or not (isinstance(error, duckdb.InvalidInputException) or str(path) in str(error)):
            raise  # not about the file: the disk is full, say
        raise SourceError(f"source {plan.source!r} cannot be read: {_first(error)}; {_MEND}") from None


@contextmanager
def _open_file(plan: Plan, engine: duckdb.DuckDBPyConnection, path: Path) -> Iterator[Opened]:
    scan, schema = _scan(path, plan, engine)
    _check_columns(plan, schema)
    read_at, before = utc_now(), _state(path)
    undated = _make_view(plan, engine, scan, {name: plan.column(name) for name in needed(plan)}, schema)
    yield Opened(read_at.isoformat(), _count(engine.execute(undated).fetchall()))
    if _state(path) != before:
        raise SourceError(f"source {plan.source!r} changed while it was read: {CHANGED}")


@contextmanager
def _open_table(plan: Plan, engine: duckdb.DuckDBPyConnection, warehouse: Warehouse) -> Iterator[Opened]:
    table = quote_table(plan.source)
    with warehouse.session(read_only=True) as session:
        try:
            if not all(plan.source.split(".")):
                raise NoSuchTableError("a part of the name is empty")
            read_at, schema = session.lock_and_timestamp(table), session.columns(table)
        except (NoSuchTableError, duckdb.ParserException, duckdb.BinderException) as error:
            raise SourceError(
                f"source {plan.source!r} is no table or view of warehouse {warehouse.name!r}, and no file URI"
                f" (file:///....parquet, .csv, .jsonl, .xlsx): {str(error).splitlines()[0]}"
            ) from None
        _check_columns(plan, schema)
        try:
            yield Opened(read_at.isoformat(), _make_table_view(plan, engine, session, schema))
        except duckdb.InvalidInputException as error:
            if "table_rows" not in str(error):
                raise
            if not session.is_open():
                raise WarehouseError(
                    f"warehouse {warehouse.name!r} broke off while {plan.source!r} was read"
                ) from None
            said = _first(error).partition('"')[0]  # from there on it may quote a value
            raise SourceError(f"source {plan.source!r} cannot be read: {said}; look at the view") from None


def hold_source(plan: Plan, engine: duckdb.DuckDBPyConnection) -> None:
    """Have `source` read once more and then held by the engine, but for a Parquet file, which is read faster than it
    is written."""
    if not plan.source.lower().endswith(".parquet"):
        engine.execute("CREATE TABLE held AS FROM source")
        engine.execute("CREATE OR REPLACE TEMP VIEW source AS FROM held")


def _state(path: Path) -> tuple[int, int, int]:
    """What another file in this place, or another content, does not share."""
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _first(error: Exception) -> str:
    """The engine's words on one line, without the row that it quotes: a person's answer must not reach a log."""
    return " ".join(re.sub(r"Original Line:.*", "", str(error)).split())[:400]


def _file(source: str) -> Path | None:
    """The file that `source` names, None if it names a table."""
    parts = urlsplit(source)
    if parts.scheme == "file":
        path = path_of(source)
    elif parts.scheme:
        raise SourceError(f"source {source!r}: only file:// URIs are read, and tables of the warehouse")
    elif source.startswith("/"):
        path = Path(source)
    elif source.lower().endswith(KINDS):
        raise SourceError(f"source {source!r} is a relative path: write all of it, such as 'file:///data/{source}'")
    else:
        return None
    if not path.is_file():
        raise SourceError(f"source {source!r}: there is no file {path}; check its path, as the worker sees it")
    if path.suffix.lower() not in KINDS:
        raise SourceError(f"source {source!r} ends in {path.suffix!r}; known: {list(KINDS)}")
    return path


def _scan(path: Path, plan: Plan, engine: duckdb.DuckDBPyConnection) -> tuple[str, pa.Schema]:
    """What to write after FROM to read the file, and the columns it has."""
    match path.suffix.lower():
        case ".csv":
            scan = _scan_csv(path, plan)
        case ".xlsx":
            scan = _scan_sheet(path, plan, engine)
        case ".parquet":
            scan = f"read_parquet({_pattern(path)})"
        case _:
            return _scan_json(path, plan, engine)
    return scan, _schema(engine, scan)


def _schema(engine: duckdb.DuckDBPyConnection, scan: str) -> pa.Schema:
    return engine.sql(f"SELECT * FROM {scan} LIMIT 0").to_arrow_reader().schema


def _pattern(path: Path) -> str:
    return quote_literal(pattern_of(path))


def _text_columns(names: Iterable[str]) -> str:
    return "{" + ", ".join(f"{quote_literal(name)}: 'VARCHAR'" for name in names) + "}"


def _scan_csv(path: Path, plan: Plan) -> str:
    """Every value is text, so that '007' stays '007'. Nothing is guessed but the delimiter, from the header: the
    engine's own guess takes rows that begin with '#' for comments, and loses them."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            line = file.readline()
            delimiter = max(DELIMITERS, key=line.count)
            file.seek(0)
            header = next(csv.reader(file, delimiter=delimiter), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"source {plan.source!r} cannot be read: {_first(error)}; {_MEND}") from error
    named: dict[str, None] = {}
    for place, name in enumerate(header):
        named[f"{name}_{place}" if not name or name in named else name] = None
    _check_last_line(path, plan)
    return (
        f"read_csv({_pattern(path)}, auto_detect=false, header=true, delim={quote_literal(delimiter)}, quote='\"',"
        f" escape='\"', max_line_size={MAX_LINE}, columns={_text_columns(named or ['(none)'])})"
    )


def _check_last_line(path: Path, plan: Plan) -> None:
    """The engine refuses a line that is too long, but loses it without a word if it is the last of the file."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - MAX_LINE - 2))
        end = file.read().rstrip(b"\r\n")
    if len(end) > MAX_LINE - 2 and not (b"\n" in end or b"\r" in end):
        raise SourceError(f"source {plan.source!r} cannot be read: its last line is above {MAX_LINE} bytes; {_MEND}")


def _scan_json(path: Path, plan: Plan, engine: duckdb.DuckDBPyConnection) -> tuple[str, pa.Schema]:
    """Types are looked at, but values are read as text: the engine's types turn a record id such as '2026-10-01' into
    a date, and put quotes around strings in a column that holds numbers as well."""
    lines = f"{_pattern(path)}, format='newline_delimited'"
    found = _schema(engine, f"read_json({lines}, sample_size=-1, convert_strings_to_integers=false)")
    day = plan.column("response_date")
    schema = pa.schema(
        field.with_type(pa.string()) if pa.types.is_temporal(field.type) and field.name != day else field
        for field in found
    )
    names = dict.fromkeys(plan.column(name) for name in needed(plan))
    return f"read_json({lines}, columns={_text_columns(names)})", schema


def _scan_sheet(path: Path, plan: Plan, engine: duckdb.DuckDBPyConnection) -> str:
    as_text = {plan.column(name): str for name in needed(plan) if name != "response_date"}
    try:
        # 'None' and 'N/A' are answers like any other; only an empty cell is empty
        sheet = pd.read_excel(path, dtype=as_text, engine="openpyxl", keep_default_na=False, na_values=[""])
        engine.register("sheet", sheet)
    except Exception as error:  # openpyxl raises whatever its zip and XML readers do
        raise SourceError(f"source {plan.source!r} cannot be read as Excel: {_first(error)}") from error
    return "sheet"


def _check_columns(plan: Plan, schema: pa.Schema) -> None:
    """Whether the source has what is needed, in types that say what they mean."""
    if missing := [plan.column(name) for name in needed(plan) if plan.column(name) not in schema.names]:
        raise SourceError(
            f"source {plan.source!r} lacks the columns {missing}; it has {schema.names}. Name the ones to use in"
            ' `columns`, such as {"occp_text": "job_title"}; where there are no dates, give all records one by'
            " `response_date`"
        )
    if plan.response_date and (dated := plan.column("response_date")) in schema.names:
        raise SourceError(
            f"source {plan.source!r} has a column {dated!r}, but `response_date` would give all of its records the"
            f" date {plan.response_date!r}: leave that empty, and name dates by `from_date` and `to_date`"
        )
    for name in needed(plan):
        _check_type(plan.source, name, plan.column(name), schema.field(plan.column(name)).type)


def _make_table_view(plan: Plan, engine: duckdb.DuckDBPyConnection, session: Session, schema: pa.Schema) -> int:
    """Make `source` of a table: the warehouse takes out the dates, if it knows them for dates, the engine the rest.
    Return how many records have no date."""
    table, day = quote_table(plan.source), quote_column(plan.column("response_date"))
    columns = {name: quote_column(plan.column(name)) for name in needed(plan)}
    columns["record_id"] = f"CAST({columns['record_id']} AS {session.dialect.text})"  # a CHAR(20) loses its padding
    for name in ("occp_text", "tasks_text"):
        columns[name] = f"CASE WHEN length({columns[name]}) > {HUGE} THEN repeat('x', 999) ELSE {columns[name]} END"
    rows = f"SELECT {', '.join(f'{column} AS {name}' for name, column in columns.items())} FROM {table}"
    is_dated = plan.response_date is None
    is_typed = is_dated and not _is_text(schema.field(plan.column("response_date")).type)
    if is_typed:  # as bounds of the bare column, for which there may be an index
        after = date.fromisoformat(plan.to_date) + timedelta(days=1)
        rows += f" WHERE {day} >= DATE '{plan.from_date}' AND {day} < DATE '{after}'"
    engine.register("table_rows", session.query(rows))
    undated = _make_view(plan, engine, "table_rows", {name: name for name in needed(plan)}, schema)
    if not is_dated:
        return 0
    if not is_typed:
        return _count(engine.execute(undated).fetchall())
    infinite = f"{day} < DATE '0001-01-01' OR {day} > DATE '9999-12-31'"
    return _count(session.execute(f"SELECT count(*) FROM {table} WHERE {day} IS NULL OR {infinite}"))


def _make_view(
    plan: Plan, engine: duckdb.DuckDBPyConnection, relation: str, names: dict[str, str], schema: pa.Schema
) -> str:
    """Make `source` of a relation of the engine, and return the query that counts its records without a date.

    :param names: what the relation calls each of the columns that are needed
    """
    day = _day(plan, names, schema)
    texts = ", ".join(f"{_text(quote_column(names[name]), plan)} AS {name}" for name in ("occp_text", "tasks_text"))
    record_id = (
        f"replace(CAST({quote_column(names['record_id'])} AS VARCHAR), chr(0), '\ufffd')"  # no server takes NUL
    )
    engine.execute(
        f"CREATE TEMP VIEW source AS SELECT {record_id} AS record_id, {texts}, {day} AS response_date"
        f" FROM {relation} WHERE {day} BETWEEN DATE '{plan.from_date}' AND DATE '{plan.to_date}'{_drawn(plan)}"
    )
    # the cast stands in both, so that a value that is no date is found by this one, which the reader itself runs
    return f"SELECT count(*) FROM {relation} WHERE {day} IS NULL OR NOT isfinite({day})"


def _day(plan: Plan, names: dict[str, str], schema: pa.Schema) -> str:
    """The date of a record, as the engine reads it."""
    if plan.response_date:
        return f"DATE '{plan.from_date}'"
    dated = quote_column(names["response_date"])
    if not _is_text(schema.field(plan.column("response_date")).type):
        return f"CAST({dated} AS DATE)"
    # a moment with an offset may be another day here, but a cast would take the day as it is written
    zoned = f"length({dated}) > 10 AND regexp_matches({dated}, '([A-Za-z]|[+-][0-9]{{2}}(:?[0-9]{{2}})?)$')"
    return f"CAST(CASE WHEN {zoned} THEN {dated} || ' (has a time zone)' ELSE {dated} END AS DATE)"


def _drawn(plan: Plan) -> str:
    """The end of a query that takes the records of a trial: the same at each reading, and from all over the source,
    since first rows tend to be alike."""
    if plan.max_records is None:
        return ""
    return f" ORDER BY hash(record_id, response_date, occp_text, tasks_text), record_id LIMIT {plan.max_records}"


def _count(rows: list[tuple[Any, ...]]) -> int:
    return int(rows[0][0])


def _text(column: str, plan: Plan) -> str:
    """The column as text. In place of one that will be rejected as too long stands another that will be as well, and
    for no other reason: it need not go through the engine's memory, where each distinct text is held."""
    text = f"CAST({column} AS VARCHAR)"
    clean = f"cleaned({text})" if plan.clean else text
    letter = f"CASE WHEN is_printable({clean}) THEN 'x' ELSE '\u0436' END"
    return (
        f"CASE WHEN strlen({text}) > {HUGE} THEN repeat('x', {plan.max_characters + 1})"
        f" WHEN length({text}) > {plan.max_characters} AND length({clean}) > {plan.max_characters}"
        f" THEN repeat({letter}, {plan.max_characters + 1}) ELSE {text} END"
    )


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _check_type(source: str, name: str, column: str, kind: pa.DataType) -> None:
    fits = _is_text(kind) or pa.types.is_null(kind)
    if name == "record_id":
        is_numeric = isinstance(kind, pa.OpaqueType) and kind.type_name == "numeric"  # PostgreSQL's
        fits = fits or pa.types.is_integer(kind) or isinstance(kind, pa.UuidType) or is_numeric
    if name == "response_date":
        fits = fits or pa.types.is_date(kind) or (pa.types.is_timestamp(kind) and kind.tz is None)
    if not fits:
        wanted = {"record_id": "text, integer or UUID", "response_date": "a date, or a timestamp without a time zone"}
        raise SourceError(
            f"source {source!r}: column {column!r} is {kind}; {name} must be {wanted.get(name, 'text')}:"
            " cast it in a view"
        )
