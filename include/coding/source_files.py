"""Files as sources: how the engine reads each type, and where in a file a problem is.

The engine's messages quote rows, so nothing of them is passed on. A message names a line and a kind of problem.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from include.coding.engine import Engine, execute_within_memory
from include.coding.errors import SourceError
from include.coding.files import escape_glob, find_long_line
from include.coding.plan import Plan
from include.coding.source_access import SourceAccess, SourceFile, find_path, open_source_file
from include.coding.workbook import MAX_UNPACKED_BYTES, Cell, Workbook, WorkbookError, open_workbook
from include.warehouse.warehouse import quote_column, quote_literal

#: Supported types of files.
FILE_TYPES = (".parquet", ".csv", ".jsonl", ".ndjson", ".xlsx")
#: Characters that can separate the values of a CSV file.
DELIMITERS = ",;\t|"
#: Longest line of a text file: ten times the longest text that is looked at, so that no record that could be coded is
#: longer. Readers of lines keep a whole line in memory.
MAX_LINE_BYTES = 1 << 20
#: Largest number of columns of a file; that of a sheet of Excel.
MAX_COLUMNS = 16_384
#: Largest description of a Parquet file, which is read as a whole. One of ten thousand row groups has about 10 MB.
MAX_FOOTER_BYTES = 32 << 20
#: Largest number of rows in each byte of a Parquet file. Equal values need next to nothing, but records have ids.
MAX_ROWS_PER_BYTE = 100
#: Number of rows that the engine has in memory at once, beside its limit, and the largest size of their texts. A text
#: that is stored once for all rows, in a dictionary of a Parquet file, has a copy for each of them.
BLOCK_ROWS, MAX_BLOCK_BYTES = 2048, 64 << 20
#: Number of lines of JSONL in which the names of the columns are looked for, for a message.
_SAMPLE_LINES = 20
#: Number of characters of a value by which it is found again.
VALUE_CHARACTERS = 64
#: Rows that are read at once from a workbook, and their longest texts.
_BATCH_ROWS, _BATCH_CHARACTERS = 10_000, 8 << 20
REWRITE_HINT = "write the file again, completely, and in UTF-8 if it is a text file"
#: What the engine's messages about CSV files contain, and what is said instead. The line comes first.
_CSV_PROBLEMS = {
    "Expected Number of Columns": "has {1} values, but the header has {0}",
    "unterminated quote": "has a quote that is not closed, or text after a closing quote",
    "Maximum line size": f"begins a row above {MAX_LINE_BYTES} bytes; check that every quote is closed",
    "Invalid unicode": "is not in UTF-8",
}

#: Errors of the engine that the content of a file can cause; others name the file if they are about it.
_FILE_ERRORS = (
    duckdb.InvalidInputException,
    duckdb.DataError,
    duckdb.NotSupportedError,
    duckdb.InternalError,
)

_Item = TypeVar("_Item")

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


def _refuse(plan: Plan, problem: str) -> SourceError:
    return SourceError(f"source {plan.source!r} cannot be read: {problem}; {REWRITE_HINT}")


def _check_width(plan: Plan, names: Sequence[str]) -> None:
    if len(names) > MAX_COLUMNS:
        raise _refuse(plan, f"it has {len(names)} columns, above {MAX_COLUMNS}")


def _scan_csv(path: Path, plan: Plan) -> FileScan:
    """Every value is read as text, so that '007' stays '007'. Only the delimiter is detected, from the header; the
    engine's own detection would drop rows that begin with '#' as comments. The engine ignores the case of names, so
    it knows the columns by their positions."""
    _check_lines(path, plan, _find_line_end(path))
    try:
        delimiter, header = _read_header(path)
    except (UnicodeDecodeError, csv.Error):
        line = _find_undecodable_line(path)
        problem = "its header cannot be read" if line is None else f"line {line} is not in UTF-8"
        raise _refuse(plan, problem) from None
    _check_width(plan, header)
    positions = [f"column{position}" for position in range(len(header))]
    relation = (
        f"read_csv({_path_literal(path)}, auto_detect=false, header=true, delim={quote_literal(delimiter)},"
        f" quote='\"', escape='\"', max_line_size={MAX_LINE_BYTES + 2}, compression='none',"
        f" columns={_define_text_columns(positions or ['column0'])})"
    )
    schema = pa.schema([(name, pa.string()) for name in header])
    return FileScan(relation, schema, _match_columns(plan, header, positions))


def _read_header(path: Path) -> tuple[str, list[str]]:
    """Return the delimiter of a CSV file and the names in its first row."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        line = file.readline(MAX_LINE_BYTES)
        delimiter = max(DELIMITERS, key=line.count)
        file.seek(0)
        rows = csv.reader(io.StringIO(file.read(MAX_LINE_BYTES), newline=""), delimiter=delimiter)
        return delimiter, next(rows, [])


def _find_line_end(path: Path) -> bytes:
    """Return the character that ends the lines of a text file: of old Macs, it is a carriage return."""
    with path.open("rb") as file:
        start = file.read(MAX_LINE_BYTES + 1)
    return b"\r" if b"\r" in start and b"\n" not in start else b"\n"


def _check_lines(path: Path, plan: Plan, line_end: bytes) -> None:
    """Refuse a file with a line that is too long. This is the first look at a text file, because all others read
    whole lines. The engine would also silently drop a last line that is too long for it."""
    if line := find_long_line(path, MAX_LINE_BYTES, line_end):
        raise _refuse(plan, f"line {line} is above {MAX_LINE_BYTES} bytes; check that every line ends")


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
        return f"a line {_CSV_PROBLEMS['Maximum line size']}"
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
    line_end, line = _find_line_end(path).decode(), 1
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        try:
            while block := file.read(MAX_LINE_BYTES):
                line += decoder.decode(block).count(line_end)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            return line + error.object[: error.start].count(line_end.encode())
    return None


def _scan_parquet(path: Path, plan: Plan, engine: Engine) -> FileScan:
    """The engine ignores the case of names and changes those that it cannot distinguish; positions stay the same.
    Texts that old versions of Spark wrote lack the mark that they are texts."""
    try:
        names = _read_parquet_names(path, plan)
    except (pa.ArrowException, OSError):
        raise _refuse(plan, "it is not a complete Parquet file") from None
    _check_width(plan, names)
    relation = f"read_parquet({_path_literal(path)}, binary_as_string=true)"
    columns = _read_schema(engine, relation)
    schema = pa.schema([(name, columns.field(position).type) for position, name in enumerate(names)])
    matches = _match_columns(plan, names, columns.names[: len(names)])
    _check_blocks(plan, engine, relation, list(dict.fromkeys(matches.values())))
    return FileScan(relation, schema, matches, "file_row_number + 1")


def _check_blocks(plan: Plan, engine: Engine, relation: str, columns: Sequence[str]) -> None:
    """Refuse a Parquet file whose texts would not fit into memory once they are copied. Counting copies none."""
    sizes = " + ".join(f"coalesce(sum(strlen(CAST({quote_column(column)} AS VARCHAR))), 0)" for column in columns)
    ((row, size),) = engine.execute(
        f"""
        SELECT max_by(block, bytes) * {BLOCK_ROWS} + 1, max(bytes) FROM (
            SELECT file_row_number // {BLOCK_ROWS} AS block, {sizes or 0} AS bytes FROM {relation} GROUP BY block
        )
        """  # noqa: S608
    ).fetchall()
    if size is not None and size > MAX_BLOCK_BYTES:
        problem = f"the texts in {BLOCK_ROWS} rows from row {row} have {size} bytes, above {MAX_BLOCK_BYTES}"
        raise _refuse(plan, f"{problem}: shorten them")


def _read_parquet_names(path: Path, plan: Plan) -> list[str]:
    """Return the names of the columns of a Parquet file. Its description stands at its end, before its size. It is
    read as a whole, so its size is checked first."""
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - 8))
        footer_bytes, mark = int.from_bytes(file.read(4), "little"), file.read(4)
    if footer_bytes > MAX_FOOTER_BYTES and mark == b"PAR1":
        raise _refuse(plan, f"its description has {footer_bytes} bytes, above {MAX_FOOTER_BYTES}")
    metadata = pq.read_metadata(path)
    if metadata.num_rows > MAX_ROWS_PER_BYTE * size:
        raise _refuse(plan, f"it says that it has {metadata.num_rows} rows in {size} bytes")
    return list(metadata.schema.to_arrow_schema().names)


def _scan_json(path: Path, plan: Plan, engine: Engine) -> FileScan:
    """Every value is read as text, and its JSON type is only checked. With types that the engine detects, it would
    turn a record id such as '2026-10-01' into a date, and quote strings in a column with numbers. It would also keep
    every name of every line in memory."""
    _check_lines(path, plan, b"\n")
    columns = list(dict.fromkeys(plan.source_column(name) for name in plan.required_columns))
    _check_case(plan, columns)
    options = f"{_path_literal(path)}, format='newline_delimited', compression='none'"
    options += f", maximum_object_size={MAX_LINE_BYTES + 2}"
    kinds = _read_json_kinds(engine, f"read_json({options}, columns={{'line': 'JSON'}}, records=false)", columns)
    if kinds is None:
        line = _find_broken_json_line(path)
        raise _refuse(plan, "one of its lines is not an object" if line is None else _describe_json_line(line))
    lines = islice(_read_json_lines(path), _SAMPLE_LINES)
    names = (name for _, line in lines for name in _parse_json_object(line) or {})
    fields = dict.fromkeys(islice(names, MAX_COLUMNS), pa.string())
    fields |= {name: _find_type(kind) for name, kind in kinds.items() if kind}
    relation = f"read_json({options}, columns={_define_text_columns(columns)}, records=true)"
    sources = {name: plan.source_column(name) for name in plan.required_columns}
    return FileScan(relation, pa.schema(list(fields.items())), sources)


def _read_json_kinds(engine: Engine, relation: str, columns: Sequence[str]) -> dict[str, set[str]] | None:
    """Return the JSON types of the members of the lines with these names; None if a line is not an object.

    :param relation: a relation of the engine with one column `line`
    """
    pointers = ["/" + column.replace("~", "~0").replace("/", "~1") for column in columns]
    lists = ", ".join(f"list(DISTINCT json_type(line, {quote_literal(pointer)}))" for pointer in pointers)
    ((is_broken, *kinds),) = engine.execute(
        f"SELECT coalesce(bool_or(json_type(line) <> 'OBJECT'), false), {lists} FROM {relation}"  # noqa: S608
    ).fetchall()
    return None if is_broken else {name: set(kind or ()) - {None} for name, kind in zip(columns, kinds, strict=True)}


def _find_type(kinds: set[str]) -> pa.DataType:
    """Return the type of a column whose values have these JSON types. Different ones are read as text."""
    match sorted(kinds - {"NULL"}):
        case []:
            return pa.null()
        case ["ARRAY"]:
            return pa.list_(pa.null())
        case ["OBJECT"]:
            return pa.struct([])
        case ["BOOLEAN"]:
            return pa.bool_()
        case ["BIGINT"] | ["UBIGINT"] | ["BIGINT", "UBIGINT"]:
            return pa.int64()
        case [*numbers] if set(numbers) <= {"BIGINT", "DOUBLE", "UBIGINT"}:
            return pa.float64()
        case _:
            return pa.string()


def _check_case(plan: Plan, columns: Sequence[str]) -> None:
    for first, second in zip(sorted(columns, key=str.lower), sorted(columns, key=str.lower)[1:], strict=False):
        if first.lower() == second.lower():
            raise SourceError(
                f"source {plan.source!r}: the names of {first!r} and {second!r} differ in case only, which the engine"
                " cannot distinguish in JSONL: rename one of them in the file"
            )


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
    return "one of its lines cannot be read" if line is None else _describe_json_line(line)


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
    except ValueError:
        return None
    except RecursionError:  # nested too deeply for this parser, but not for the engine
        return {}
    return value if isinstance(value, dict) else None


def _scan_sheet(path: Path, plan: Plan, engine: Engine) -> FileScan:
    """Copy the needed columns of the first sheet into the engine as texts, in batches. A cell with a number that is
    formatted as a date is the text of its date and time. The header is row 1."""
    try:
        with open_workbook(path) as workbook:
            _copy_shared_texts(engine, workbook)
            labels = _read_labels(engine, workbook)
            _check_width(plan, labels)
            names = _match_columns(plan, labels, labels)
            _copy_cells(engine, workbook, {name: labels.index(label) for name, label in names.items()})
            _join_shared_texts(engine, list(names))
    except WorkbookError as error:
        raise SourceError(
            f"source {plan.source!r} cannot be read as Excel: {error}; open it in Excel and save it again, with the"
            " table first"
        ) from None
    schema = pa.schema([(label, pa.string()) for label in labels])
    return FileScan("sheet", schema, {name: name for name in names}, quote_column("row"))


def _copy_shared_texts(engine: Engine, workbook: Workbook) -> None:
    """Copy the texts that cells share into the engine's table `shared_texts`."""
    engine.execute("CREATE OR REPLACE TABLE shared_texts (number BIGINT, text VARCHAR, bytes BIGINT)")
    texts = enumerate(workbook.read_shared_texts())
    for batch in _split_into_batches(texts, lambda item: len(item[1])):
        numbers, values = (list(column) for column in zip(*batch, strict=True))
        _insert(
            engine, "INSERT INTO shared_texts SELECT *, strlen(text)",
            number=pa.array(numbers, pa.int64()), text=pa.array(values, pa.string()),
        )  # fmt: skip


def _read_labels(engine: Engine, workbook: Workbook) -> list[str]:
    """Return the texts of the first row."""
    header = workbook.read_header()
    numbers = [cell for cell in header.values() if isinstance(cell, int)]
    rows = engine.execute(
        "SELECT number, text FROM shared_texts WHERE list_contains(?, number)", [numbers]
    ).fetchall()
    texts: dict[Cell | None, str] = dict(rows)
    cells = [header.get(position) for position in range(max(header, default=-1) + 1)]
    return [cell if isinstance(cell, str) else texts.get(cell, "") for cell in cells]


def _copy_cells(engine: Engine, workbook: Workbook, positions: dict[str, int]) -> None:
    """Copy the rows below the header into the engine's table `cells`: the text of a cell, or the number of a shared
    one."""
    columns = "".join(f", {name} VARCHAR, {name}_number BIGINT" for name in positions)
    engine.execute(f"CREATE OR REPLACE TABLE cells (row BIGINT{columns})")
    rows = workbook.read_rows(positions.values())
    for batch in _split_into_batches(rows, lambda row: sum(map(len, map(str, row[1].values())))):
        arrays = {"row": pa.array([row for row, _ in batch], pa.int64())}
        for name, position in positions.items():
            cells = [row.get(position) for _, row in batch]
            arrays[name] = pa.array([cell if isinstance(cell, str) else None for cell in cells], pa.string())
            numbers = [cell if isinstance(cell, int) else None for cell in cells]
            arrays[f"{name}_number"] = pa.array(numbers, pa.int64())
        _insert(engine, "INSERT INTO cells SELECT *", **arrays)


def _join_shared_texts(engine: Engine, names: Sequence[str]) -> None:
    """Make the engine's table `sheet` of the cells and the texts that they share.

    :raises WorkbookError: a text is missing, or the texts would be too large, because each cell has its own copy
    """
    copied_bytes = 0
    for name in names:
        ((missing, size),) = engine.execute(
            f"SELECT count(*) FILTER (number IS NULL), coalesce(sum(bytes), 0)"  # noqa: S608
            f" FROM (FROM cells WHERE {name}_number IS NOT NULL) AS cells"
            f" LEFT JOIN (SELECT number, bytes FROM shared_texts) ON number = {name}_number"
        ).fetchall()
        if missing:
            raise WorkbookError("it is not a complete workbook (.xlsx): cells share texts that it does not have")
        copied_bytes += size
    if copied_bytes > MAX_UNPACKED_BYTES:
        raise WorkbookError(f"its texts have {copied_bytes} bytes, above {MAX_UNPACKED_BYTES}")
    columns = "".join(f", coalesce({name}, {name}_shared.text) AS {name}" for name in names)
    joins = "".join(
        f" LEFT JOIN shared_texts AS {name}_shared ON {name}_shared.number = {name}_number" for name in names
    )
    execute_within_memory(engine, f"CREATE OR REPLACE TABLE sheet AS SELECT row{columns} FROM cells{joins}")  # noqa: S608
    engine.execute("DROP TABLE cells; DROP TABLE shared_texts")


def _split_into_batches(items: Iterable[_Item], count_characters: Callable[[_Item], int]) -> Iterator[list[_Item]]:
    batch: list[_Item] = []
    characters = 0
    for item in items:
        batch.append(item)
        characters += count_characters(item)
        if len(batch) == _BATCH_ROWS or characters > _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _insert(engine: Engine, statement: str, **columns: pa.Array) -> None:
    """Run an INSERT statement that selects from a batch with these columns."""
    engine.register("batch", pa.table(columns))
    engine.execute(f"{statement} FROM batch")
    engine.unregister("batch")
