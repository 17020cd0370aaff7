"""Files as sources: how the engine reads each type, and where in a file a problem is.

The engine's messages quote rows, so nothing of them is passed on. A message names a line and a kind of problem.
"""

from __future__ import annotations

import codecs
import csv
import json
import os
import re
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from include.coding.engine import Engine
from include.coding.errors import SourceError
from include.coding.files import escape_glob
from include.coding.plan import Plan
from include.coding.source_access import SourceAccess, SourceFile, find_path, open_source_file
from include.warehouse.warehouse import quote_column, quote_literal

#: Supported types of files.
FILE_TYPES = (".parquet", ".csv", ".jsonl", ".ndjson", ".xlsx")
#: Characters that can separate the values of a CSV file.
DELIMITERS = ",;\t|"
#: Longest line of CSV that the engine reads.
MAX_LINE_BYTES = 2_000_000
#: Number of characters of a value by which it is found again.
VALUE_CHARACTERS = 64
REWRITE_HINT = "write the file again, completely, and in UTF-8 if it is a text file"
#: What the engine's messages about CSV files contain, and what is said instead. The line comes first.
_CSV_PROBLEMS = {
    "Expected Number of Columns": "has {1} values, but the header has {0}",
    "unterminated quote": "has a quote that is not closed, or text after a closing quote",
    "Maximum line size": f"is above {MAX_LINE_BYTES} bytes; check that every quote is closed",
    "Invalid unicode": "is not in UTF-8",
}

#: Errors of the engine that the content of a file can cause; others name the file if they are about it.
_FILE_ERRORS = (
    duckdb.InvalidInputException,
    duckdb.DataError,
    duckdb.NotSupportedError,
    duckdb.InternalError,
)

# The module's own limit is below that of the engine; it only matters where a line is looked for.
csv.field_size_limit(MAX_LINE_BYTES)


@dataclass(frozen=True)
class FileScan:
    """How the engine reads a file.

    :param relation: SQL expression, to follow FROM
    :param schema: columns of the file under the names that they have there; the engine can have other names for them
    :param names: the engine's names of the plan's columns
    :param row: SQL expression of the number of a row as a person sees it; None if only :func:`find_lines` knows it
    """

    relation: str
    schema: pa.Schema
    names: dict[str, str]
    row: str | None = None


def find_file(source: str, access: SourceAccess) -> SourceFile | None:
    """Return the file that `source` names, None if it names a table.

    :raises SourceError: runs may not read it, there is no such file, or its type is not supported
    """
    path = find_path(source, access)
    if path is None:
        if source.lower().endswith(FILE_TYPES):
            raise SourceError(
                f"source {source!r} is a relative path: use a full one, such as 'file:///data/{source}'"
            )
        return None
    if not path.is_file():
        raise SourceError(f"source {source!r}: there is no file {path}; check its path, as the worker sees it")
    if not os.access(path, os.R_OK):
        raise SourceError(f"source {source!r}: the worker may not read {path}; check its permissions")
    if path.suffix.lower() not in FILE_TYPES:
        raise SourceError(f"source {source!r} ends in {path.suffix!r}; supported: {list(FILE_TYPES)}")
    return open_source_file(source, path)


def scan_file(path: Path, plan: Plan, engine: Engine) -> FileScan:
    """Return how the engine reads the file.

    :raises SourceError: it cannot be read
    """
    match path.suffix.lower():
        case ".csv":
            return _scan_csv(path, plan)
        case ".xlsx":
            return _scan_sheet(path, plan, engine)
        case ".parquet":
            return _scan_parquet(path, plan, engine)
        case _:
            return _scan_json(path, plan, engine)


def find_lines(path: Path, column: str, values: Sequence[str]) -> list[tuple[int, str]]:
    """Return the first lines of a CSV or JSONL file with one of these values in a column, with the value of each.

    :param values: the beginnings of the values; as many lines are looked for
    """
    cells = _read_csv_cells(path, column) if path.suffix.lower() == ".csv" else _read_json_cells(path, column)
    lines = []
    for line, cell in cells:
        if cell[:VALUE_CHARACTERS] in values:
            lines.append((line, cell[:VALUE_CHARACTERS]))
            if len(lines) == len(values):
                break
    return lines


def describe_error(path: Path, error: duckdb.Error) -> str | None:
    """Return what is wrong with the file, in our words; None if the error is about the machine: its disk is full."""
    text = str(error)
    is_about_file = isinstance(error, _FILE_ERRORS) or type(error) is duckdb.Error  # raised by its Thrift reader
    if not is_about_file and str(path) not in text:
        return None
    match path.suffix.lower():
        case ".csv":
            return _describe_csv_error(path, error)
        case ".parquet" if isinstance(error, duckdb.ConversionException):
            return "it has a time that is outside the engine's range"
        case ".parquet":
            has_bad_text = "not valid UTF8" in text
            return "it has a text that is not in UTF-8" if has_bad_text else "it is not a complete Parquet file"
        case ".xlsx":
            return "its rows cannot be read"
        case _:
            return _describe_json_error(path)


def _match_columns(plan: Plan, names: Sequence[str], engine_names: Sequence[str]) -> dict[str, str]:
    """Return the engine's names of those of the plan's columns that the file has."""
    columns = dict(zip(reversed(names), reversed(engine_names), strict=True))
    return {
        name: columns[plan.source_column(name)]
        for name in plan.required_columns
        if plan.source_column(name) in columns
    }


def _path_literal(path: Path) -> str:
    return quote_literal(escape_glob(path))


def _read_schema(engine: Engine, relation: str) -> pa.Schema:
    return engine.sql(f"SELECT * FROM {relation} LIMIT 0").to_arrow_reader().schema  # noqa: S608


def _define_text_columns(names: Iterable[str]) -> str:
    return "{" + ", ".join(f"{quote_literal(name)}: 'VARCHAR'" for name in names) + "}"


def _scan_csv(path: Path, plan: Plan) -> FileScan:
    """Every value is read as text, so that '007' stays '007'. Only the delimiter is detected, from the header; the
    engine's own detection would drop rows that begin with '#' as comments. The engine ignores the case of names, so
    it knows the columns by their positions."""
    try:
        delimiter, header = _read_header(path)
    except (UnicodeDecodeError, csv.Error):
        line = _find_undecodable_line(path)
        problem = "its header cannot be read" if line is None else f"line {line} is not in UTF-8"
        raise SourceError(f"source {plan.source!r} cannot be read: {problem}; {REWRITE_HINT}") from None
    _check_last_line(path, plan)
    positions = [f"column{position}" for position in range(len(header))]
    relation = (
        f"read_csv({_path_literal(path)}, auto_detect=false, header=true, delim={quote_literal(delimiter)},"
        f" quote='\"', escape='\"', max_line_size={MAX_LINE_BYTES},"
        f" columns={_define_text_columns(positions or ['column0'])})"
    )
    schema = pa.schema([(name, pa.string()) for name in header])
    return FileScan(relation, schema, _match_columns(plan, header, positions))


def _read_header(path: Path) -> tuple[str, list[str]]:
    """Return the delimiter of a CSV file and the names in its first line."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        line = file.readline(MAX_LINE_BYTES)
        delimiter = max(DELIMITERS, key=line.count)
        file.seek(0)
        return delimiter, next(csv.reader(file, delimiter=delimiter), [])


def _check_last_line(path: Path, plan: Plan) -> None:
    """Refuse a last line that is too long, because the engine would silently drop it; it refuses any other."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - MAX_LINE_BYTES - 2))
        end = file.read().rstrip(b"\r\n")
    if len(end) > MAX_LINE_BYTES - 2 and not (b"\n" in end or b"\r" in end):
        raise SourceError(
            f"source {plan.source!r} cannot be read: its last line is above {MAX_LINE_BYTES} bytes; {REWRITE_HINT}"
        )


def _read_csv_rows(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a CSV file, each with the number of its last line; a blank line is a row without values."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file, suppress(csv.Error):
        rows = csv.reader(file, delimiter=delimiter)
        for row in rows:
            yield rows.line_num, row


def _read_csv_cells(path: Path, column: str) -> Iterator[tuple[int, str]]:
    delimiter, header = _read_header(path)
    position = header.index(column)
    rows = pairwise(_read_csv_rows(path, delimiter))
    return ((last_line + 1, row[position]) for (last_line, _), (_, row) in rows if position < len(row))


def _describe_csv_error(path: Path, error: duckdb.Error) -> str:
    text = str(error)
    if isinstance(error, duckdb.NotImplementedException):  # raised for a line longer than the buffer of the engine
        return f"it has a line {_CSV_PROBLEMS['Maximum line size'].removeprefix('is ')}"
    match = re.match(r"[A-Za-z ]*: CSV Error on Line: ([0-9]+)\n", text)
    # The row that the message quotes comes before the problem.
    marker, problem = max(_CSV_PROBLEMS.items(), key=lambda item: text.rfind(item[0]))
    if counts := re.findall(r"Expected Number of Columns: ([0-9]+) Found: ([0-9]+)", text):
        problem = problem.format(*counts[-1])
    if not match or marker not in text:
        return "its lines do not all end in the same way, or a value with a line break is not quoted"
    line = _find_undecodable_line(path) if marker == "Invalid unicode" else None
    return f"line {line or _find_line_of_row(path, int(match[1]))} {problem}"


def _find_line_of_row(path: Path, row: int) -> int:
    """Return the first line of a row of a CSV file. The engine counts rows, which can have several lines each."""
    delimiter, _ = _read_header(path)
    rows = islice(_read_csv_rows(path, delimiter), row - 1)  # the row itself can be unreadable
    return sum(line for line, _ in deque(rows, maxlen=1)) + 1


def _find_undecodable_line(path: Path) -> int | None:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return None


def _scan_parquet(path: Path, plan: Plan, engine: Engine) -> FileScan:
    """The engine ignores the case of names and changes those that it cannot distinguish; positions stay the same.
    Texts that old versions of Spark wrote lack the mark that they are texts."""
    try:
        names = pq.read_schema(path).names
    except (pa.ArrowException, OSError):
        raise SourceError(
            f"source {plan.source!r} cannot be read: it is not a complete Parquet file; {REWRITE_HINT}"
        ) from None
    relation = f"read_parquet({_path_literal(path)}, binary_as_string=true)"
    columns = _read_schema(engine, relation)
    schema = pa.schema([(name, columns.field(position).type) for position, name in enumerate(names)])
    matches = _match_columns(plan, names, columns.names[: len(names)])
    return FileScan(relation, schema, matches, "file_row_number + 1")


def _scan_json(path: Path, plan: Plan, engine: Engine) -> FileScan:
    """Every value is read as text, and the detected types are only checked. With these types, the engine would turn a
    record id such as '2026-10-01' into a date, and quote strings in a column with numbers."""
    options = f"{_path_literal(path)}, format='newline_delimited'"
    detected = _read_schema(engine, f"read_json({options}, sample_size=-1, convert_strings_to_integers=false)")
    if detected.names == ["json"]:  # one of the lines is not an object, or there are none
        if (line := _find_broken_json_line(path)) is not None:
            problem = _describe_json_line(line)
            raise SourceError(f"source {plan.source!r} cannot be read: {problem}; {REWRITE_HINT}")
        detected = detected if any(_read_json_lines(path)) else pa.schema([])
    columns = list(dict.fromkeys(plan.source_column(name) for name in plan.required_columns))
    _check_case(plan, columns)
    fields = {name: detected.field(position).type for position, name in enumerate(_restore_names(detected, columns))}
    schema = pa.schema([(name, pa.string() if pa.types.is_temporal(kind) else kind) for name, kind in fields.items()])
    names = {name: plan.source_column(name) for name in plan.required_columns}
    return FileScan(f"read_json({options}, columns={_define_text_columns(columns)})", schema, names)


def _check_case(plan: Plan, columns: Sequence[str]) -> None:
    for first, second in zip(sorted(columns, key=str.lower), sorted(columns, key=str.lower)[1:], strict=False):
        if first.lower() == second.lower():
            raise SourceError(
                f"source {plan.source!r}: the names of {first!r} and {second!r} differ in case only, which the engine"
                " cannot distinguish in JSONL: rename one of them in the file"
            )


def _restore_names(detected: pa.Schema, columns: Sequence[str]) -> list[str]:
    """Return the names of the members of a JSONL file. The engine appends a number to a name that differs from
    another one in case only."""
    names = list(detected.names)
    for column in columns:
        if column not in names:
            pattern = re.compile(re.escape(column) + "_[0-9]+")
            names = [column if pattern.fullmatch(name) and column not in names else name for name in names]
    return names


def _read_json_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            content = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if content.strip():
                yield number, content


def _read_json_cells(path: Path, column: str) -> Iterator[tuple[int, str]]:
    for number, line in _read_json_lines(path):
        value = (_parse_json_object(line) or {}).get(column)
        if value is not None:
            yield number, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _describe_json_error(path: Path) -> str:
    line = _find_broken_json_line(path)
    return "one of its lines is above 16 MB" if line is None else _describe_json_line(line)


def _describe_json_line(line: int) -> str:
    return f"line {line} is not one complete JSON object in UTF-8 with different names"


def _find_broken_json_line(path: Path) -> int | None:
    return next((number for number, line in _read_json_lines(path) if _parse_json_object(line) is None), None)


def _parse_json_object(line: bytes) -> dict[str, Any] | None:
    """Return the JSON object in a line; None if there is anything else, or an object that the engine refuses."""

    def make_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) < len(pairs):
            raise ValueError("a name stands twice")
        return members

    try:
        value = json.loads(line.decode("utf-8"), object_pairs_hook=make_dict)
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # fails for half of a surrogate pair
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _scan_sheet(path: Path, plan: Plan, engine: Engine) -> FileScan:
    """Register the needed columns of the first sheet as texts. A cell with a number that is formatted as a date is
    the text of its date and time."""
    import pandas as pd  # imported here, because only Excel files need it

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they can quote a cell
            # 'None' and 'N/A' are answers like any other, so only empty cells count as missing
            sheet = pd.read_excel(path, dtype=str, engine="openpyxl", keep_default_na=False, na_values=[""])
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - openpyxl raises the errors of its zip and XML readers
        raise SourceError(
            f"source {plan.source!r} cannot be read as Excel: it is not a complete workbook (.xlsx) whose first sheet"
            " is a table; open it in Excel and save it again, with the table first"
        ) from None
    labels = [str(label) for label in sheet.columns]
    names = _match_columns(plan, labels, labels)
    columns = {
        name: pa.array(sheet.iloc[:, labels.index(label)], pa.string(), from_pandas=True)
        for name, label in names.items()
    }
    # the header is row 1
    engine.register("sheet", pa.table({"row": pa.array(range(2, len(sheet) + 2), pa.int64()), **columns}))
    schema = pa.schema([(label, pa.string()) for label in labels])
    return FileScan("sheet", schema, {name: name for name in columns}, quote_column("row"))
