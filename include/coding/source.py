"""The source of a run's records: a table or view of the warehouse, or a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Any

import duckdb
import pyarrow as pa

from include.coding.column_names import describe_missing_columns
from include.coding.engine import Engine, execute_within_memory
from include.coding.errors import SourceError
from include.coding.file_scan import FileScan, LocalFile
from include.coding.plan import Plan
from include.coding.read_options import FORMATS
from include.coding.response_dates import (
    MAX_DATE,
    MIN_DATE,
    convert_to_date,
    describe_value,
    is_not_a_date,
    parse_date,
)
from include.coding.source_access import SourceAccess, SourceFile, find_table
from include.coding.source_files import VALUE_CHARACTERS, describe_error, find_lines, open_local_file, scan_file
from include.coding.texts import install_rules
from include.warehouse.errors import NoSuchTableError, WarehouseError, WarehouseSettingsError
from include.warehouse.warehouse import Session, Warehouse, quote_column, quote_date, quote_literal, utc_now

#: A longer text is rejected, however much white space it contains.
MAX_TEXT_BYTES = 100_000
#: Texts of more than this many times `max_characters` are shortened, because a set of many of them needs much memory.
LONG_TEXT_FACTOR = 10
#: SQL of the bytes of the longest text.
LONGEST_TEXT = "coalesce(max(greatest(strlen(occp_text), strlen(tasks_text))), 0)"
#: Number of unreadable dates that a message describes.
MAX_EXAMPLES = 5
#: Types of numbers that are ids as the warehouse writes them: of PostgreSQL, and of DuckDB.
NUMERIC_TYPES = ("numeric", "bignum")


@dataclass(frozen=True)
class SourceSnapshot:
    """When a source was read (ISO 8601, UTC), and which of its rows no run codes, whatever its dates.

    :param undated: records without a date
    :param unreadable_dates: records with a value that is not a date
    :param unreadable_examples: where some of these values are, and which shapes they have
    :param empty_rows: rows without any value in the needed columns, which are no records
    :param has_row_numbers: whether the record ids are the numbers of the rows
    :param columns: all columns of the source, in order
    :param find_dates: returns the first and the last date of the source and the number of its dates, while it is open
    """

    read_at: str
    undated: int = 0
    unreadable_dates: int = 0
    unreadable_examples: tuple[str, ...] = ()
    empty_rows: int = 0
    has_row_numbers: bool = False
    find_dates: Callable[[], tuple[date | None, date | None, int]] = lambda: (None, None, 0)
    columns: pa.Schema = field(default_factory=lambda: pa.schema([]))

    def describe(self, plan: Plan, read: int) -> list[str]:
        """Return sentences about what a person may not expect of the records that a run reads.

        :param read: number of them
        """
        sentences = []
        if self.has_row_numbers:
            sentences.append(
                "The record ids are the numbers of the rows below the names of the columns, because `columns` says"
                " that there is no record id: they stay the same only as long as the file does not change."
            )
        if not read and not plan.changed_only and not plan.response_date:
            first, last, count = self.find_dates()
            dates = "has no record with a date" if first is None else f"has {count} dates, from {first} to {last}"
            sentences.append(
                f"The source has no record from {plan.from_date} to {plan.to_date}: it {dates}. Set `from_date` and"
                " `to_date` to dates that it has."
            )
        return sentences


@contextmanager
def open_source(
    plan: Plan,
    engine: Engine,
    warehouse: Warehouse,
    access: SourceAccess,
    file: SourceFile | None,
    *,
    all_columns: bool = False,
) -> Iterator[SourceSnapshot]:
    """Create the view `source` in the engine: the records of the plan's dates, with a DATE and three text columns.

    :param access: what runs may read
    :param file: the file of the source, which the engine can read; None if it is a table
    :param all_columns: whether the view also has all columns of the source as they are, named `source_0` and so on,
        and `record_number`, which counts the rows of a file in their order
    :raises SourceError: the source cannot be read, a needed column is missing or unsuitable, or too many of its dates
        cannot be read
    """
    install_rules(engine)
    if file is None:
        source = _open_table(plan, engine, warehouse, access, all_columns)
    else:
        source = _open_file(plan, engine, file, access, all_columns)
    with source as snapshot:
        yield snapshot


@contextmanager
def _open_file(
    plan: Plan, engine: Engine, file: SourceFile, access: SourceAccess, all_columns: bool
) -> Iterator[SourceSnapshot]:
    with open_local_file(file, plan, engine, access) as local_file, explain_file_errors(local_file, plan):
        scan = scan_file(local_file, plan, engine, all_columns)
        yield create_file_view(plan, engine, local_file, scan, all_columns)


@contextmanager
def explain_file_errors(file: LocalFile, plan: Plan) -> Iterator[None]:
    """Raise what the engine says about a file in the block as our error."""
    try:
        yield
    except duckdb.Error as error:
        refusal = describe_error(file, plan, error)
        if refusal is None:
            raise
        # nothing of the engine's message is passed on or chained, because it quotes rows
        raise refusal from None


def create_file_view(
    plan: Plan, engine: Engine, file: LocalFile, scan: FileScan, all_columns: bool = False
) -> SourceSnapshot:
    """Create `source` from a file, and return when it was read and the numbers of rows that no run codes.

    :param all_columns: whether `source` has all columns of the file too, and the numbers of its rows
    :raises SourceError: a needed column is missing or unsuitable, or too many of its dates cannot be read
    """
    _check_columns(plan, scan.schema, scan)
    snapshot = SourceSnapshot(
        utc_now().isoformat(), has_row_numbers="record_id" not in plan.required_columns, columns=scan.columns
    )
    names, relation = scan.names, scan.relation
    is_empty = _is_empty(names)
    number = _find_unused_name("record_number", scan.engine_names)
    if "record_id" not in names or all_columns:
        # before any row is left out, so that the numbers do not depend on the dates
        selected = "*" if all_columns else ", ".join(map(quote_column, dict.fromkeys(names.values())))
        relation = f"(SELECT {selected}, row_number() OVER () AS {number} FROM {relation})"  # noqa: S608
    names = {"record_id": number, **names}
    columns = [f"{number} AS record_number", *_name_source_columns(scan.engine_names)] if all_columns else []
    if plan.response_date:
        _create_view(plan, engine, relation, names, quote_date(plan.dates[0]), f"NOT {is_empty}", columns)
        ((empty_rows,),) = execute_within_memory(
            engine,
            f"SELECT count(*) FROM {scan.relation} WHERE {is_empty}",  # noqa: S608
        ).fetchall()
        return replace(snapshot, empty_rows=empty_rows)
    column = plan.source_column("response_date")
    kind = scan.schema.field(column).type
    day = _date_expression(plan, names["response_date"], kind, scan.has_iso_dates)
    _create_view(plan, engine, relation, names, day, _select_dates(plan, day), columns)
    snapshot = replace(snapshot, find_dates=lambda: _find_dates(engine, scan.relation, day))
    condition = is_not_a_date(day, is_parsed=_is_text(kind))
    snapshot, values = _count_skipped_rows(
        engine, scan.relation, scan.names, condition, scan.row or "NULL", scan.part or "NULL", snapshot
    )
    if not values:
        return snapshot
    if scan.row:
        examples = [
            f"row {row}{f' of {part!r}' if part else ''}: {describe_value(value, plan.read_options.date_format)}"
            for part, row, value in values
        ]
    else:
        lines = find_lines(file, plan, column, [value for _, _, value in values])
        examples = [
            f"{file.place} {line}: {describe_value(value, plan.read_options.date_format)}" for line, value in lines
        ]
        examples = examples or _describe_values(plan, values)
    return _check_dates(plan, snapshot, examples, _count_dates(engine, scan.relation, scan.names))


def number_rows(scan: FileScan) -> str:
    """Return the rows of a file as SQL that follows FROM: the needed columns under our names for them, and where a
    row is, `source_part` and `source_row` (its number among all rows, if the reader knows no other one)."""
    columns = "".join(f"{quote_column(column)} AS {name}, " for name, column in scan.names.items())
    return (
        f"(SELECT {columns}row_number() OVER () AS record_number,"  # noqa: S608
        f" {scan.row or 'row_number() OVER ()'} AS source_row, {scan.part or 'NULL'} AS source_part"
        f" FROM {scan.relation})"
    )


def find_first_rows(engine: Engine, scan: FileScan, count: int) -> list[dict[str, Any]]:
    """Return the beginnings of the needed values of the first rows of a file, and where the rows are."""
    columns = "".join(f"left(CAST({name} AS VARCHAR), {VALUE_CHARACTERS}) AS {name}, " for name in scan.names)
    query = f"SELECT {columns}source_part, source_row FROM {number_rows(scan)} LIMIT {count}"  # noqa: S608
    rows = execute_within_memory(engine, query)
    names = [*scan.names, "source_part", "source_row"]
    return [dict(zip(names, row, strict=True)) for row in rows.fetchall()]


def find_undated_rows(engine: Engine, scan: FileScan, count: int) -> list[tuple[str | None, int]]:
    """Return where the first records without a date are: their parts and rows."""
    is_empty = _is_empty({name: name for name in scan.names})
    return execute_within_memory(
        engine,
        f"SELECT source_part, source_row FROM {number_rows(scan)}"  # noqa: S608
        f" WHERE NOT {_has_text('response_date')} AND NOT {is_empty} ORDER BY ALL LIMIT {count}",
    ).fetchall()


def create_numbered_view(plan: Plan, engine: Engine, scan: FileScan) -> None:
    """Create `numbered_source` from a file: `source`, and where each record is, as in :func:`number_rows`."""
    names = {name: name for name in scan.names}
    day, condition = quote_date(plan.dates[0]), f"NOT {_is_empty(names)}"
    if not plan.response_date:
        kind = scan.schema.field(plan.source_column("response_date")).type
        day = _date_expression(plan, "response_date", kind, scan.has_iso_dates)
        condition = _select_dates(plan, day)
    names.setdefault("record_id", "record_number")
    columns = ("source_row", "source_part")
    _create_view(plan, engine, number_rows(scan), names, day, condition, columns, "numbered_source")


@contextmanager
def _open_table(
    plan: Plan, engine: Engine, warehouse: Warehouse, access: SourceAccess, all_columns: bool
) -> Iterator[SourceSnapshot]:
    _check_table_options(plan)
    with warehouse.session(read_only=True) as session:  # the first statement of the next one has to be its lock
        table = find_table(plan.source, access, session)
    if table is None:
        raise _make_missing_table_error(plan, warehouse, access)
    with warehouse.session(read_only=True) as session:
        read_at, schema = _read_table_schema(plan, warehouse, session, table, access)
        _check_columns(plan, schema, None)
        try:
            snapshot = SourceSnapshot(read_at.isoformat(), columns=schema)
            snapshot = _create_table_view(plan, engine, session, table, schema, snapshot, all_columns)
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


def _check_table_options(plan: Plan) -> None:
    """Refuse what only a file can have."""
    if names := [name for name in plan.read_options.names if name in FORMATS or name == "connection"]:
        raise SourceError(
            f"source {plan.source!r} is a table, for which `{names[0]}` in `read_options` has no meaning: remove it"
        )
    if "record_id" not in plan.required_columns:
        raise SourceError(
            f"source {plan.source!r} is a table, whose rows have no order by which they could be numbered: name a"
            " column as `record_id` in `columns`"
        )


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
        columns = "record_id, occp_text, tasks_text, response_date"
        execute_within_memory(engine, f"CREATE TABLE source_copy AS SELECT {columns} FROM source")  # noqa: S608
        engine.execute("CREATE OR REPLACE TEMP VIEW source AS FROM source_copy")


def _check_columns(plan: Plan, schema: pa.Schema, scan: FileScan | None) -> None:
    """Check that the source has every needed column once, with a suitable type.

    :param scan: how the file is read; None for a table
    """
    if problem := describe_missing_columns(plan, schema.names, scan):
        raise SourceError(f"source {plan.source!r} {problem}")
    columns = {name: plan.source_column(name) for name in plan.required_columns}
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
        _check_type(plan.source, name, column, schema.field(column).type, is_file=scan is not None)


def _create_table_view(
    plan: Plan,
    engine: Engine,
    session: Session,
    table: str,
    schema: pa.Schema,
    snapshot: SourceSnapshot,
    all_columns: bool,
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
    for name in _find_text_columns(plan):
        column = columns[name]
        columns[name] = f"CASE WHEN length({column}) > {MAX_TEXT_BYTES} THEN repeat('x', 999) ELSE {column} END"
    names = {name: name for name in columns}
    zone = plan.zone
    if all_columns:
        columns |= {f"source_{position}": _select_value(session, column) for position, column in enumerate(schema)}
    extra = ["row_number() OVER () AS record_number", *(name for name in columns if name not in names)]
    extra = extra if all_columns else []
    if plan.response_date:
        _register_rows(engine, session, table, columns, f"NOT {is_empty}")
        _create_view(plan, engine, "table_rows", names, quote_date(plan.dates[0]), "true", extra)
        ((empty_rows,),) = session.execute(f"SELECT count(*) FROM {table} WHERE {is_empty}")  # noqa: S608
        return replace(snapshot, empty_rows=empty_rows)
    kind = schema.field(plan.source_column("response_date")).type
    if _is_text(kind):
        _register_rows(engine, session, table, columns, "1 = 1")
        parsed_day = _date_expression(plan, "response_date", kind)
        _create_view(plan, engine, "table_rows", names, parsed_day, _select_dates(plan, parsed_day), extra)
        snapshot = replace(snapshot, find_dates=lambda: _find_dates(engine, "table_rows", parsed_day))
        condition = is_not_a_date(parsed_day, is_parsed=True)
        snapshot, values = _count_skipped_rows(engine, "table_rows", names, condition, "NULL", "NULL", snapshot)
        records = _count_dates(engine, "table_rows", names) if values else 0
    else:  # compare the bare column, because it may have an index
        if pa.types.is_timestamp(kind) and kind.tz is not None:
            day = f"({day} AT TIME ZONE {quote_literal(zone)})"
        columns["response_date"] = day
        _register_rows(engine, session, table, columns, _select_dates_in_warehouse(plan, day))
        snapshot = replace(snapshot, find_dates=lambda: _find_dates_in_warehouse(session, table, day))
        _create_view(plan, engine, "table_rows", names, "CAST(response_date AS DATE)", "true", extra)
        snapshot, values = _count_skipped_rows_in_warehouse(session, table, day, is_empty, snapshot)
        records = int(session.execute(f"SELECT count({day}) FROM {table}")[0][0]) if values else 0  # noqa: S608
    return _check_dates(plan, snapshot, _describe_values(plan, values), records) if values else snapshot


def _register_rows(engine: Engine, session: Session, table: str, columns: dict[str, str], condition: str) -> None:
    """Make the rows of a table of the warehouse available in the engine as `table_rows`."""
    select = ", ".join(f"{column} AS {name}" for name, column in columns.items())
    engine.register("table_rows", session.query(f"SELECT {select} FROM {table} WHERE {condition}"))  # noqa: S608


def _find_unused_name(name: str, names: Sequence[str]) -> str:
    """Return a name for a column that no other column has; the engine ignores the case of names."""
    lower = {other.lower() for other in names}
    while name in lower:
        name += "_"
    return name


def _name_source_columns(names: Iterable[str]) -> list[str]:
    return [f"{quote_column(name)} AS source_{position}" for position, name in enumerate(names)]


def _select_value(session: Session, column: pa.Field) -> str:
    """Return the SQL expression of a value of a table: as text if Arrow has no type of its own for it."""
    name = quote_column(column.name)
    return f"CAST({name} AS {session.dialect.text})" if isinstance(column.type, pa.BaseExtensionType) else name


def _create_view(
    plan: Plan,
    engine: Engine,
    relation: str,
    names: dict[str, str],
    day: str,
    condition: str,
    columns: Sequence[str] = (),
    view: str = "source",
) -> None:
    """Create `source` from a relation of the engine.

    :param names: the relation's name for each needed column
    :param day: SQL expression of the date
    :param condition: SQL condition that selects the run's records
    :param columns: SQL expressions of further columns, with their names
    :param view: name of the view
    """
    texts = ", ".join(
        f"{_text_expression(quote_column(names[name]), plan) if name in names else 'CAST(NULL AS VARCHAR)'} AS {name}"
        for name in ("occp_text", "tasks_text")
    )
    # no server stores NUL
    record_id = f"replace(CAST({quote_column(names['record_id'])} AS VARCHAR), chr(0), '\ufffd')"
    excluded_dates = map(date.fromisoformat, plan.excluded_dates)  # only dates reach the statement
    condition += "".join(f" AND {day} <> {quote_date(excluded)}" for excluded in excluded_dates)
    further = ", ".join([f"{day} AS response_date", *columns])
    engine.execute(
        f"CREATE TEMP VIEW {view} AS SELECT {record_id} AS record_id, {texts}, {further}"  # noqa: S608
        f" FROM {relation} WHERE {condition}{_sample_clause(plan)}"
    )


def _count_skipped_rows(
    engine: Engine,
    relation: str,
    names: dict[str, str],
    condition: str,
    row: str,
    part: str,
    snapshot: SourceSnapshot,
) -> tuple[SourceSnapshot, list[tuple[str | None, int | None, str]]]:
    """Return the snapshot with the numbers of rows of a relation that no run codes, and the beginnings of some values
    that are not dates, with their files and the numbers of their rows.

    :param condition: SQL condition that a row has no date with a year of four digits
    :param row, part: SQL expressions of the number of a row, and of the name of its file
    """
    column = quote_column(names["response_date"])
    ((undated, empty_rows, unreadable, examples),) = execute_within_memory(
        engine,
        f"""
        SELECT count(*) FILTER (is_undated AND NOT is_empty), count(*) FILTER (is_undated AND is_empty),
            count(*) FILTER (NOT is_undated),
            min({{'part': part, 'row': row, 'value': value}}, {MAX_EXAMPLES}) FILTER (NOT is_undated)
        FROM (
            SELECT NOT {_has_text(column)} AS is_undated, {_is_empty(names)} AS is_empty, {row} AS row,
                {part} AS part,
                left(CAST({column} AS VARCHAR), {VALUE_CHARACTERS}) AS value
            FROM {relation} WHERE {condition}
        )
        """,  # noqa: S608
    ).fetchall()
    snapshot = replace(snapshot, undated=undated, unreadable_dates=unreadable, empty_rows=empty_rows)
    return snapshot, [(example["part"], example["row"], example["value"]) for example in examples or []]


def _count_skipped_rows_in_warehouse(
    session: Session, table: str, day: str, is_empty: str, snapshot: SourceSnapshot
) -> tuple[SourceSnapshot, list[tuple[str | None, int | None, str]]]:
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
    return snapshot, [(None, None, value) for (value,) in values]


def _find_dates(engine: Engine, relation: str, day: str) -> tuple[date | None, date | None, int]:
    """Return the first and the last date of a relation of the engine, and how many there are."""
    is_valid = f"NOT {is_not_a_date('day', is_parsed=True)}"
    (dates,) = execute_within_memory(
        engine,
        f"SELECT min(day), max(day), count(DISTINCT day) FROM (SELECT {day} AS day FROM {relation}) WHERE {is_valid}",  # noqa: S608
    ).fetchall()
    return dates


def _find_dates_in_warehouse(session: Session, table: str, day: str) -> tuple[date | None, date | None, int]:
    """Do the same for a table with a date type."""
    first, last = quote_date(MIN_DATE), quote_date(MAX_DATE)
    (dates,) = session.execute(
        f"SELECT min(CAST({day} AS DATE)), max(CAST({day} AS DATE)), count(DISTINCT CAST({day} AS DATE))"  # noqa: S608
        f" FROM {table} WHERE {day} >= {first} AND {day} <= {last}"
    )
    return dates[0], dates[1], int(dates[2])


def _count_dates(engine: Engine, relation: str, names: dict[str, str]) -> int:
    """Return how many rows have any value as their date."""
    has_value = _has_text(quote_column(names["response_date"]))
    query = f"SELECT count(*) FROM {relation} WHERE {has_value}"  # noqa: S608
    ((records,),) = execute_within_memory(engine, query).fetchall()
    return int(records)


def _describe_values(plan: Plan, values: Iterable[tuple[str | None, int | None, str]]) -> list[str]:
    """Return the different shapes of values whose places are not known."""
    return list(dict.fromkeys(describe_value(value, plan.read_options.date_format) for _, _, value in values))


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
            f" {plan.max_rejected_share:.1%}; such as {'; '.join(examples)} (9: a digit, a: a letter)."
            f" {_suggest_date_format(plan)}"
        )
    return replace(snapshot, unreadable_examples=tuple(examples))


def _suggest_date_format(plan: Plan) -> str:
    """Return what to do about dates that cannot be read."""
    if plan.read_options.date_format:
        return f"All dates need the form {plan.read_options.date_format!r} of `date_format` in `read_options`"
    if plan.source.lower().endswith(".xlsx"):
        return (
            "Format numbers as dates in Excel; if the dates are texts of one form, set `date_format` in"
            " `read_options`, such as '%d/%m/%Y'"
        )
    return (
        "Set `date_format` in `read_options`, such as '%d/%m/%Y', if all dates have one other form than 2026-10-31;"
        " else correct the values"
    )


def _date_expression(plan: Plan, column: str, kind: pa.DataType, has_iso_dates: bool = False) -> str:
    """Return the SQL expression of the date in a column of the engine.

    :param has_iso_dates: see :class:`FileScan`
    """
    column, date_format = quote_column(column), plan.read_options.date_format
    if _is_text(kind):
        day = parse_date(column, plan.zone, date_format)
        return f"coalesce({parse_date(column, plan.zone)}, {day})" if date_format and has_iso_dates else day
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return convert_to_date(column, plan.zone)
    return f"TRY_CAST({column} AS DATE)"


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
    conditions = (_has_text(quote_column(name)) for column, name in names.items() if column != "response_date")
    return f"(NOT ({' OR '.join(conditions)}))"


def _is_empty_in_warehouse(columns: dict[str, str]) -> str:
    """Return the same condition in SQL that all warehouses share."""
    spaces = "chr(9) || chr(10) || chr(13)"
    conditions = (
        f"coalesce(trim(translate({columns[name]}, {spaces}, '   ')), '') = ''"
        for name in columns
        if name != "response_date"
    )
    return f"({' AND '.join(conditions)})"


def _find_text_columns(plan: Plan) -> list[str]:
    return [name for name in plan.required_columns if name in ("occp_text", "tasks_text")]


def _sample_clause(plan: Plan) -> str:
    """Return the end of a query that samples the records of a trial: each time the same ones, from the whole source,
    because its first rows can be similar."""
    if plan.max_records is None:
        return ""
    return f" ORDER BY hash(record_id, response_date, occp_text, tasks_text), record_id LIMIT {plan.max_records}"


def measure_longest_text(engine: Engine) -> int:
    """Return the bytes of the longest text in `source`."""
    query = f"SELECT {LONGEST_TEXT} FROM source"  # noqa: S608
    ((longest_bytes,),) = execute_within_memory(engine, query).fetchall()
    return int(longest_bytes)


def shorten_texts(engine: Engine, plan: Plan, longest_bytes: int, view: str = "source") -> None:
    """Replace the long texts of a view by the shortest ones that are rejected for the same reasons.

    Without such texts, nothing is done, because every statement that reads the view would take longer.

    :param longest_bytes: bytes of the longest text
    """
    if longest_bytes <= LONG_TEXT_FACTOR * plan.max_characters:
        return
    texts = ", ".join(f"{_shorten_text(name, plan)} AS {name}" for name in ("occp_text", "tasks_text"))
    engine.execute(f"ALTER VIEW {view} RENAME TO long_{view}")
    engine.execute(f"CREATE TEMP VIEW {view} AS SELECT * REPLACE ({texts}) FROM long_{view}")  # noqa: S608


def _shorten_text(text: str, plan: Plan) -> str:
    """Return the SQL expression of a text that is shortened if it is long and remains too long when it is cleaned."""
    clean = f"clean_text({text})" if plan.clean else text
    letter = f"CASE WHEN is_printable({clean}) THEN 'x' ELSE '\u0436' END"
    return (
        f"CASE WHEN strlen({text}) > {LONG_TEXT_FACTOR * plan.max_characters}"
        f" AND length({clean}) > {plan.max_characters}"
        f" THEN repeat({letter}, {plan.max_characters + 1}) ELSE {text} END"
    )


def _text_expression(column: str, plan: Plan) -> str:
    """Return the column as text. A text that is far too long is replaced by the shortest one that is rejected."""
    text = f"CAST({column} AS VARCHAR)"
    return f"CASE WHEN strlen({text}) > {MAX_TEXT_BYTES} THEN repeat('x', {plan.max_characters + 1}) ELSE {text} END"


def _is_text(kind: pa.DataType) -> bool:
    """Return whether a column contains texts. The warehouse converts its other types of text, and those that Arrow
    does not know, such as ENUM and citext."""
    is_opaque = isinstance(kind, pa.OpaqueType) and kind.type_name not in NUMERIC_TYPES
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
        is_numeric = isinstance(kind, pa.OpaqueType) and kind.type_name in NUMERIC_TYPES
        is_valid = is_valid or is_number or is_numeric or isinstance(kind, pa.UuidType)
    if name == "response_date":
        is_valid = is_valid or pa.types.is_date(kind) or pa.types.is_timestamp(kind)
    if not is_valid:
        types = {
            "record_id": "text, UUID, or a number without decimal places",
            "response_date": "a date or a timestamp",
        }
        remedy = "cast it in a view"
        if is_file:
            remedy = f"write it as {'a date' if name == 'response_date' else 'text'} in the file"
        raise SourceError(
            f"source {source!r}: column {column!r} is {kind}; {name} must be {types.get(name, 'text')}: {remedy}"
        )
