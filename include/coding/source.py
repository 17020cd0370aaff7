"""The source of a run's records: a table or view of the warehouse, or a file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa

from include.coding.engine import Engine
from include.coding.errors import SourceError
from include.coding.plan import Plan
from include.coding.response_dates import MAX_DATE, MIN_DATE, describe_value, is_not_a_date, parse_date
from include.coding.source_access import SourceAccess, SourceFile, find_table, identify_content
from include.coding.source_files import (
    REWRITE_HINT,
    VALUE_CHARACTERS,
    FileScan,
    describe_error,
    find_lines,
    scan_file,
)
from include.coding.texts import install_rules
from include.warehouse.errors import NoSuchTableError, WarehouseError, WarehouseSettingsError
from include.warehouse.warehouse import Session, Warehouse, quote_column, quote_date, utc_now

#: A longer text is rejected, however much white space it contains.
MAX_TEXT_BYTES = 100_000
#: Number of unreadable dates that a message describes.
MAX_EXAMPLES = 5
RELOAD_HINT = "start another run when it is loaded completely"
#: Types of numbers that are ids as the warehouse writes them: of PostgreSQL, and of DuckDB.
_NUMERIC_TYPES = ("numeric", "bignum")
#: Names of columns in a message: how many, and how long.
_MAX_NAMES, _MAX_NAME_CHARACTERS = 50, 60


@dataclass(frozen=True)
class SourceSnapshot:
    """When a source was read (ISO 8601, UTC), and which of its rows no run codes, whatever its dates.

    :param undated: records without a date
    :param unreadable_dates: records with a value that is not a date
    :param unreadable_examples: where some of these values are, and which shapes they have
    :param empty_rows: rows without any value in the needed columns, which are no records
    """

    read_at: str
    undated: int = 0
    unreadable_dates: int = 0
    unreadable_examples: tuple[str, ...] = ()
    empty_rows: int = 0


@contextmanager
def open_source(
    plan: Plan, engine: Engine, warehouse: Warehouse, access: SourceAccess, file: SourceFile | None
) -> Iterator[SourceSnapshot]:
    """Create the view `source` in the engine: the records of the plan's dates, with a DATE and three text columns.

    :param access: what runs may read
    :param file: the file of the source, which the engine can read; None if it is a table
    :raises SourceError: the source cannot be read, a needed column is missing or unsuitable, or too many of its dates
        cannot be read
    """
    install_rules(engine)
    source = _open_table(plan, engine, warehouse, access) if file is None else _open_file(plan, engine, file)
    with source as snapshot:
        yield snapshot


@contextmanager
def _open_file(plan: Plan, engine: Engine, file: SourceFile) -> Iterator[SourceSnapshot]:
    read_at, path = utc_now(), file.path
    try:
        scan = scan_file(path, plan, engine)
        _check_columns(plan, scan.schema, is_file=True)
        yield _create_file_view(plan, engine, path, scan, SourceSnapshot(read_at.isoformat()))
    except duckdb.Error as error:
        problem = describe_error(path, error)
        if problem is None:
            raise
        # nothing of the engine's message is passed on or chained, because it quotes rows
        raise SourceError(f"source {plan.source!r} cannot be read: {problem}; {REWRITE_HINT}") from None
    if identify_content(path) != file.content:
        raise SourceError(f"source {plan.source!r} changed while it was read: {RELOAD_HINT}")


def _create_file_view(
    plan: Plan, engine: Engine, path: Path, scan: FileScan, snapshot: SourceSnapshot
) -> SourceSnapshot:
    """Create `source` from a file, and return the snapshot with the numbers of rows that no run codes."""
    if plan.response_date:
        is_empty = _is_empty(scan.names)
        _create_view(plan, engine, scan.relation, scan.names, quote_date(plan.dates[0]), f"NOT {is_empty}")
        ((empty_rows,),) = engine.execute(f"SELECT count(*) FROM {scan.relation} WHERE {is_empty}").fetchall()  # noqa: S608
        return replace(snapshot, empty_rows=empty_rows)
    column = plan.source_column("response_date")
    day = _date_expression(scan.names["response_date"], scan.schema.field(column).type)
    _create_view(plan, engine, scan.relation, scan.names, day, _select_dates(plan, day))
    condition = is_not_a_date(day, is_parsed=_is_text(scan.schema.field(column).type))
    snapshot, values = _count_skipped_rows(engine, scan.relation, scan.names, condition, scan.row or "NULL", snapshot)
    if not values:
        return snapshot
    if scan.row:
        examples = [f"row {row}: {describe_value(value)}" for row, value in values]
    else:
        lines = find_lines(path, column, [value for _, value in values])
        examples = [f"line {line}: {describe_value(value)}" for line, value in lines]
        examples = examples or _describe_values(values)
    return _check_dates(plan, snapshot, examples, _count_dates(engine, scan.relation, scan.names))


@contextmanager
def _open_table(plan: Plan, engine: Engine, warehouse: Warehouse, access: SourceAccess) -> Iterator[SourceSnapshot]:
    with warehouse.session(read_only=True) as session:  # the first statement of the next one has to be its lock
        table = find_table(plan.source, access, session)
    if table is None:
        raise _make_missing_table_error(plan, warehouse, access)
    with warehouse.session(read_only=True) as session:
        read_at, schema = _read_table_schema(plan, warehouse, session, table, access)
        _check_columns(plan, schema, is_file=False)
        try:
            snapshot = _create_table_view(plan, engine, session, table, schema, SourceSnapshot(read_at.isoformat()))
        except WarehouseSettingsError:
            raise
        except (WarehouseError, duckdb.ProgrammingError, duckdb.DataError) as error:
            raise _explain_table_error(plan, warehouse, session, error) from None
        try:
            yield snapshot
        except duckdb.InvalidInputException as error:
            if "table_rows" not in str(error):
                raise
            raise _explain_table_error(plan, warehouse, session, error) from None


def _make_missing_table_error(plan: Plan, warehouse: Warehouse, access: SourceAccess) -> SourceError:
    return SourceError(
        f"source {plan.source!r} is neither a table or view of warehouse {warehouse.name!r} that runs may read"
        f" ({access.describe_tables()}) nor a file URI (file:///....parquet, .csv, .jsonl, .xlsx). Check its name; if"
        " it is in another schema, have it added to CODING_SOURCE_TABLES; if it is a view, check that its tables and"
        " columns still exist, and that the user of the connection can see them"
    )


def _read_table_schema(
    plan: Plan, warehouse: Warehouse, session: Session, table: str, access: SourceAccess
) -> tuple[datetime, pa.Schema]:
    """Return the time as of which a table is read, and its columns.

    :param table: its SQL name
    """
    try:
        return session.lock_and_timestamp(table), session.columns(table)
    except (NoSuchTableError, duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException):
        raise _make_missing_table_error(plan, warehouse, access) from None
    except WarehouseSettingsError:
        raise
    except (WarehouseError, duckdb.Error) as error:
        raise _explain_table_error(plan, warehouse, session, error) from None


def _explain_table_error(
    plan: Plan, warehouse: Warehouse, session: Session, error: Exception
) -> SourceError | WarehouseError:
    """Return the error to raise instead of that of an engine or a server, which can quote a row."""
    if not session.is_open():
        return WarehouseError(f"warehouse {warehouse.name!r} lost the connection while {plan.source!r} was read")
    if "out of memory" in str(error).lower():
        return WarehouseError(
            f"warehouse {warehouse.name!r} ran out of memory while {plan.source!r} was read: if it is the embedded"
            " one, raise CODING_MEMORY_MB"
        )
    return SourceError(
        f"source {plan.source!r} cannot be read: a query of its rows fails, for example because a value of a row"
        " cannot be cast. Select all of its rows in the warehouse to see which one, and check the view"
    )


def materialize_source(plan: Plan, engine: Engine) -> None:
    """Copy `source` into a table of the engine, except a Parquet file, which is faster to read again than to copy."""
    if not plan.source.lower().endswith(".parquet"):
        engine.execute("CREATE TABLE source_copy AS FROM source")
        engine.execute("CREATE OR REPLACE TEMP VIEW source AS FROM source_copy")


def _check_columns(plan: Plan, schema: pa.Schema, *, is_file: bool) -> None:
    """Check that the source has every needed column once, with a suitable type."""
    columns = {name: plan.source_column(name) for name in plan.required_columns}
    if missing := [column for column in columns.values() if column not in schema.names]:
        raise SourceError(
            f"source {plan.source!r} lacks the columns {missing}; {_list_names(schema.names)}. Name the ones to use"
            ' in `columns`, such as {"occp_text": "job_title"}; if there are no dates, set one for all records in'
            " `response_date`"
        )
    if repeated := [column for column in columns.values() if schema.names.count(column) > 1]:
        raise SourceError(
            f"source {plan.source!r} has more than one column {repeated[0]!r}: rename all but one of them in the file"
        )
    if plan.response_date and (day := plan.source_column("response_date")) in schema.names:
        raise SourceError(
            f"source {plan.source!r} has a column {day!r}, but `response_date` would give all of its records the"
            f" date {plan.response_date!r}: leave it empty, and select dates with `from_date` and `to_date`"
        )
    for name, column in columns.items():
        _check_type(plan.source, name, column, schema.field(column).type, is_file=is_file)


def _list_names(names: Sequence[str]) -> str:
    """Return a clause with the names of the columns that a source has. In a file without a header, they would be the
    values of a person."""
    if any(re.match(r"\s*[0-9]{1,4}[-/.][0-9]{1,2}[-/.][0-9]", name) for name in names):
        return "its first row contains values, not names, so it is not shown here: add a row with names"
    short_names = [name[:_MAX_NAME_CHARACTERS] for name in names[:_MAX_NAMES]]
    return f"it has {short_names}" + (" and others" if len(names) > _MAX_NAMES else "")


def _create_table_view(
    plan: Plan, engine: Engine, session: Session, table: str, schema: pa.Schema, snapshot: SourceSnapshot
) -> SourceSnapshot:
    """Create `source` from a table, and return the snapshot with the numbers of rows that no run codes. If the dates
    have a date type, or if there are none, the warehouse selects and counts the rows, else the engine."""
    day = quote_column(plan.source_column("response_date"))
    # Cast to text, ids have no padding of CHAR(20), and special types of a server can be compared with texts.
    columns = {
        name: f"CAST({quote_column(plan.source_column(name))} AS {session.dialect.text})"
        for name in plan.required_columns
    }
    is_empty = _is_empty_in_warehouse(columns)
    for name in ("occp_text", "tasks_text"):
        column = columns[name]
        columns[name] = f"CASE WHEN length({column}) > {MAX_TEXT_BYTES} THEN repeat('x', 999) ELSE {column} END"
    names = {name: name for name in columns}
    if plan.response_date:
        _register_rows(engine, session, table, columns, f"NOT {is_empty}")
        _create_view(plan, engine, "table_rows", names, quote_date(plan.dates[0]), "true")
        ((empty_rows,),) = session.execute(f"SELECT count(*) FROM {table} WHERE {is_empty}")  # noqa: S608
        return replace(snapshot, empty_rows=empty_rows)
    kind = schema.field(plan.source_column("response_date")).type
    if _is_text(kind):
        _register_rows(engine, session, table, columns, "1 = 1")
        parsed_day = _date_expression("response_date", kind)
        _create_view(plan, engine, "table_rows", names, parsed_day, _select_dates(plan, parsed_day))
        condition = is_not_a_date(parsed_day, is_parsed=True)
        snapshot, values = _count_skipped_rows(engine, "table_rows", names, condition, "NULL", snapshot)
        records = _count_dates(engine, "table_rows", names) if values else 0
    else:  # compare the bare column, because it may have an index
        columns["response_date"] = day
        _register_rows(engine, session, table, columns, _select_dates_in_warehouse(plan, day))
        _create_view(plan, engine, "table_rows", names, "CAST(response_date AS DATE)", "true")
        snapshot, values = _count_skipped_rows_in_warehouse(session, table, day, is_empty, snapshot)
        records = int(session.execute(f"SELECT count({day}) FROM {table}")[0][0]) if values else 0  # noqa: S608
    return _check_dates(plan, snapshot, _describe_values(values), records) if values else snapshot


def _register_rows(engine: Engine, session: Session, table: str, columns: dict[str, str], condition: str) -> None:
    """Make the rows of a table of the warehouse available in the engine as `table_rows`."""
    select = ", ".join(f"{column} AS {name}" for name, column in columns.items())
    engine.register("table_rows", session.query(f"SELECT {select} FROM {table} WHERE {condition}"))  # noqa: S608


def _create_view(plan: Plan, engine: Engine, relation: str, names: dict[str, str], day: str, condition: str) -> None:
    """Create `source` from a relation of the engine.

    :param names: the relation's name for each needed column
    :param day: SQL expression of the date
    :param condition: SQL condition that selects the run's records
    """
    texts = ", ".join(
        f"{_text_expression(quote_column(names[name]), plan)} AS {name}" for name in ("occp_text", "tasks_text")
    )
    # no server stores NUL
    record_id = f"replace(CAST({quote_column(names['record_id'])} AS VARCHAR), chr(0), '\ufffd')"
    excluded_dates = map(date.fromisoformat, plan.excluded_dates)  # only dates reach the statement
    condition += "".join(f" AND {day} <> {quote_date(excluded)}" for excluded in excluded_dates)
    engine.execute(
        f"CREATE TEMP VIEW source AS SELECT {record_id} AS record_id, {texts}, {day} AS response_date"  # noqa: S608
        f" FROM {relation} WHERE {condition}{_sample_clause(plan)}"
    )


def _count_skipped_rows(
    engine: Engine, relation: str, names: dict[str, str], condition: str, row: str, snapshot: SourceSnapshot
) -> tuple[SourceSnapshot, list[tuple[int | None, str]]]:
    """Return the snapshot with the numbers of rows of a relation that no run codes, and the beginnings of some values
    that are not dates, with the numbers of their rows.

    :param condition: SQL condition that a row has no date with a year of four digits
    :param row: SQL expression of the number of a row
    """
    column = quote_column(names["response_date"])
    ((undated, empty_rows, unreadable, examples),) = engine.execute(
        f"""
        SELECT count(*) FILTER (is_undated AND NOT is_empty), count(*) FILTER (is_undated AND is_empty),
            count(*) FILTER (NOT is_undated),
            min({{'row': row, 'value': value}}, {MAX_EXAMPLES}) FILTER (NOT is_undated)
        FROM (
            SELECT NOT {_has_text(column)} AS is_undated, {_is_empty(names)} AS is_empty, {row} AS row,
                left(CAST({column} AS VARCHAR), {VALUE_CHARACTERS}) AS value
            FROM {relation} WHERE {condition}
        )
        """  # noqa: S608
    ).fetchall()
    snapshot = replace(snapshot, undated=undated, unreadable_dates=unreadable, empty_rows=empty_rows)
    return snapshot, [(example["row"], example["value"]) for example in examples or []]


def _count_skipped_rows_in_warehouse(
    session: Session, table: str, day: str, is_empty: str, snapshot: SourceSnapshot
) -> tuple[SourceSnapshot, list[tuple[int | None, str]]]:
    """Do the same for a table with a date type."""
    ((rows, unreadable, empty_rows),) = session.execute(
        f"SELECT count(*), count({day}), count(CASE WHEN {day} IS NULL AND {is_empty} THEN 1 END)"  # noqa: S608
        f" FROM {table} WHERE {is_not_a_date(day, is_parsed=False)}"
    )
    snapshot = replace(
        snapshot, undated=rows - unreadable - empty_rows, unreadable_dates=unreadable, empty_rows=empty_rows
    )
    if not unreadable:
        return snapshot, []
    values = session.execute(
        f"SELECT CAST({day} AS {session.dialect.text}) FROM {table} WHERE {day} IS NOT NULL"  # noqa: S608
        f" AND {is_not_a_date(day, is_parsed=False)} LIMIT {MAX_EXAMPLES}"
    )
    return snapshot, [(None, value) for (value,) in values]


def _count_dates(engine: Engine, relation: str, names: dict[str, str]) -> int:
    """Return how many rows have any value as their date."""
    has_value = _has_text(quote_column(names["response_date"]))
    ((records,),) = engine.execute(f"SELECT count(*) FROM {relation} WHERE {has_value}").fetchall()  # noqa: S608
    return int(records)


def _describe_values(values: Iterable[tuple[int | None, str]]) -> list[str]:
    """Return the different shapes of values whose places are not known."""
    return list(dict.fromkeys(describe_value(value) for _, value in values))


def _check_dates(plan: Plan, snapshot: SourceSnapshot, examples: list[str], records: int) -> SourceSnapshot:
    """Return the snapshot with examples of dates that cannot be read.

    :param records: number of records with a date, readable or not
    :raises SourceError: too many of them cannot be read
    """
    share = snapshot.unreadable_dates / records
    if share > plan.max_rejected_share:
        raise SourceError(
            f"source {plan.source!r}: {snapshot.unreadable_dates} of {records} values in"
            f" {plan.source_column('response_date')!r} ({share:.1%}) are not dates, but `max_rejected_share` is"
            f" {plan.max_rejected_share:.1%}; such as {'; '.join(examples)} (9: a digit, a: a letter). Correct the"
            " values: a date is written as 2026-10-31, with a year of four digits first, and a time after it has no"
            " time zone"
        )
    return replace(snapshot, unreadable_examples=tuple(examples))


def _date_expression(column: str, kind: pa.DataType) -> str:
    column = quote_column(column)
    return parse_date(column) if _is_text(kind) else f"TRY_CAST({column} AS DATE)"


def _select_dates(plan: Plan, day: str) -> str:
    first, last = plan.dates
    return f"{day} BETWEEN {quote_date(max(first, MIN_DATE))} AND {quote_date(last)}"


def _select_dates_in_warehouse(plan: Plan, day: str) -> str:
    first, last = plan.dates
    end = f"<= {quote_date(last)}" if last == MAX_DATE else f"< {quote_date(last + timedelta(days=1))}"
    return f"{day} >= {quote_date(max(first, MIN_DATE))} AND {day} {end}"


def _has_text(column: str) -> str:
    """Return the SQL condition that a column has a value with anything but white space."""
    return rf"coalesce(regexp_matches(CAST({column} AS VARCHAR), '[^\s\p{{Z}}]'), false)"


def _is_empty(names: dict[str, str]) -> str:
    """Return the SQL condition that a row of a relation of the engine has neither an id nor a text."""
    conditions = (_has_text(quote_column(names[name])) for name in ("record_id", "occp_text", "tasks_text"))
    return f"(NOT ({' OR '.join(conditions)}))"


def _is_empty_in_warehouse(columns: dict[str, str]) -> str:
    """Return the same condition in SQL that all warehouses share."""
    spaces = "chr(9) || chr(10) || chr(13)"
    conditions = (
        f"coalesce(trim(translate({columns[name]}, {spaces}, '   ')), '') = ''"
        for name in ("record_id", "occp_text", "tasks_text")
    )
    return f"({' AND '.join(conditions)})"


def _sample_clause(plan: Plan) -> str:
    """Return the end of a query that samples the records of a trial: each time the same ones, from the whole source,
    because its first rows can be similar."""
    if plan.max_records is None:
        return ""
    return f" ORDER BY hash(record_id, response_date, occp_text, tasks_text), record_id LIMIT {plan.max_records}"


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
    """Return whether a column contains texts. The warehouse converts its other types of text, and those that Arrow
    does not know, such as ENUM and citext."""
    is_opaque = isinstance(kind, pa.OpaqueType) and kind.type_name not in _NUMERIC_TYPES
    is_other_text = is_opaque or isinstance(kind, pa.JsonType) or _is_dictionary_of_texts(kind)
    return (
        is_other_text or pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _is_dictionary_of_texts(kind: pa.DataType) -> bool:
    return bool(pa.types.is_dictionary(kind)) and _is_text(kind.value_type)


def _check_type(source: str, name: str, column: str, kind: pa.DataType, *, is_file: bool) -> None:
    is_valid = _is_text(kind) or pa.types.is_null(kind)
    if name == "record_id":
        is_number = pa.types.is_integer(kind) or (pa.types.is_decimal(kind) and kind.scale == 0)
        is_numeric = isinstance(kind, pa.OpaqueType) and kind.type_name in _NUMERIC_TYPES
        is_valid = is_valid or is_number or is_numeric or isinstance(kind, pa.UuidType)
    if name == "response_date":
        is_valid = is_valid or pa.types.is_date(kind) or (pa.types.is_timestamp(kind) and kind.tz is None)
    if not is_valid:
        types = {
            "record_id": "text, UUID, or a number without decimal places",
            "response_date": "a date, or a timestamp without a time zone",
        }
        remedy = "cast it in a view"
        if is_file:
            remedy = f"write it as {'a date' if name == 'response_date' else 'text'} in the file"
        raise SourceError(
            f"source {source!r}: column {column!r} is {kind}; {name} must be {types.get(name, 'text')}: {remedy}"
        )
