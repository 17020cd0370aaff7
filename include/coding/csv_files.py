"""Text files with columns: how the engine reads them, and where in them a problem is.

Every value is read as text, so that '007' stays '007'. Only the delimiter is counted, in the row with the names; the
engine's own detection would drop rows that begin with '#' as comments. The engine ignores the case of names, so it
knows the columns by their positions.
"""

from __future__ import annotations

import csv
import io
import re
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

import duckdb
import pyarrow as pa

from include.coding.engine import Engine
from include.coding.file_scan import (
    MAX_TITLE_ROWS,
    REWRITE_HINT,
    FileScan,
    LocalFile,
    check_width,
    define_text_columns,
    find_header_row,
    match_columns,
    path_literal,
    refuse,
)
from include.coding.plan import Plan
from include.coding.text_files import MAX_LINE_BYTES, check_text, describe_encoding, find_undecodable_line
from include.warehouse.warehouse import quote_literal

#: Characters that can separate values, unless `read_options` names another one.
DELIMITERS = ",;\t|"
#: Largest beginning of a file in which the names of the columns are looked for.
_START_CHARACTERS = 4 << 20
_SEPARATOR_LINE = re.compile('"?sep=(.)"?\r?\n?', re.IGNORECASE)
#: What the engine's messages contain, and what is said instead. The line comes first.
_PROBLEMS = {
    "Expected Number of Columns": "has {1} values, but the header has {0}",
    "unterminated quote": "has a quote that is not closed, or text after a closing quote",
    "Maximum line size": f"begins a row above {MAX_LINE_BYTES} bytes; check that every quote is closed",
    "Invalid unicode": "is not in UTF-8",
}

# The module's own limit is below that of the engine; it only matters where a line is looked for.
csv.field_size_limit(MAX_LINE_BYTES)


@dataclass(frozen=True)
class Layout:
    """How the values of a file are separated, and where its columns have their names.

    :param skipped_rows: rows above the names
    :param line: of the file, in which the row with the names begins
    :param separator_rows: 1 if the file begins with a line such as `sep=;`, else 0
    """

    delimiter: str
    names: tuple[str, ...]
    skipped_rows: int
    line: int
    separator_rows: int


def scan_csv(file: LocalFile, plan: Plan, engine: Engine, all_columns: bool = False) -> FileScan:
    """Return how the engine reads a text file with columns.

    :raises SourceError: it cannot be read
    """
    check_text(plan, file.path)
    try:
        layout = read_layout(file.path, plan)
    except (UnicodeDecodeError, csv.Error):
        line = find_undecodable_line(file.path)
        if line is not None:
            raise refuse(plan, *describe_encoding(plan, line)) from None
        raise refuse(plan, "its header cannot be read") from None
    check_width(plan, layout.names)
    positions = [f"column{position}" for position in range(len(layout.names))]
    _check_skipped_rows(plan, engine, file, layout, positions)
    relation = _relation(file.path, layout, positions, layout.skipped_rows)
    names = match_columns(plan, layout.names, positions)
    header_row = None
    if len(names) < len(plan.required_columns):
        header_row = _find_header_row(file.path, plan, layout)
    return FileScan(
        relation, pa.schema([(name, pa.string()) for name in layout.names]), names, tuple(positions),
        place=f"line {layout.line}", header_row=header_row,
    )  # fmt: skip


def _relation(
    path: Path, layout: Layout, positions: Sequence[str], skipped_rows: int, has_header: bool = True
) -> str:
    return (
        f"read_csv({path_literal(path)}, auto_detect=false, header={str(has_header).lower()},"
        f" delim={quote_literal(layout.delimiter)}, quote='\"', escape='\"', skip={skipped_rows},"
        f" max_line_size={MAX_LINE_BYTES + 2}, compression='none',"
        f" columns={define_text_columns(positions or ['column0'])})"
    )


def _check_skipped_rows(plan: Plan, engine: Engine, file: LocalFile, layout: Layout, positions: list[str]) -> None:
    """Check that the engine skips the same rows above the names as this module: titles can have quotes."""
    if layout.skipped_rows == 0 or not layout.names:
        return
    relation = _relation(file.path, layout, positions, layout.skipped_rows, has_header=False)
    try:
        rows = engine.execute(f"SELECT * FROM {relation} LIMIT 1").fetchall()  # noqa: S608
    except duckdb.InvalidInputException:
        rows = []
    names = tuple(name or "" for name in rows[0]) if rows else ()
    if names != layout.names:
        raise refuse(
            plan,
            f"the rows above the names in line {layout.line} have quotes that are not closed",
            "remove these rows",
        )


def read_layout(path: Path, plan: Plan) -> Layout:
    """Return how the values of a file are separated, and its names.

    :raises SourceError: it is not clear what separates the values, or there is no such row
    :raises csv.Error: the row with the names cannot be read
    :raises UnicodeDecodeError: it is not in UTF-8
    """
    options, start = plan.read_options, _read_start(path)
    match = _SEPARATOR_LINE.match(start)
    separator_rows = 1 if match and match.end() == len(start.splitlines(keepends=True)[0]) else 0
    if options.delimiter:
        delimiters = options.delimiter
    elif match and separator_rows:
        delimiters = match[1]
    else:
        delimiters = "\t" if _is_tab_separated(plan) else DELIMITERS
    skipped_rows = separator_rows + (options.header_row or 1) - 1
    rows = {delimiter: _read_row(start, delimiter, skipped_rows) for delimiter in delimiters}
    counts = {delimiter: _count_outside_quotes(row[2], delimiter) if row else 0 for delimiter, row in rows.items()}
    best = max(delimiters, key=lambda delimiter: counts[delimiter])
    ties = [delimiter for delimiter in delimiters if counts[delimiter] == counts[best] > 0]
    if len(ties) > 1:
        raise refuse(
            plan,
            f"its header can be separated by {' or '.join(map(repr, ties))}",
            "set `delimiter` in `read_options`",
        )
    row = rows[best]
    if row is None:
        if options.header_row is not None:
            raise refuse(plan, f"it has no row {options.header_row}", "correct `header_row` in `read_options`")
        return Layout(best, (), 0, 1, separator_rows)
    return Layout(best, tuple(row[1]), skipped_rows, row[0], separator_rows)


def _is_tab_separated(plan: Plan) -> bool:
    return plan.source.lower().removesuffix(".gz").endswith(".tsv")


def _read_start(path: Path) -> str:
    with path.open(encoding="utf-8-sig", newline="") as file:
        line = file.readline(MAX_LINE_BYTES)
        file.seek(0)
        return file.read(max(_START_CHARACTERS, len(line)))


def _read_row(start: str, delimiter: str, position: int) -> tuple[int, list[str], str] | None:
    """Return a row of the beginning of a file, with the number of its first line before it and its text after it."""
    rows = csv.reader(io.StringIO(start, newline=""), delimiter=delimiter)
    line = 1
    for number, row in enumerate(rows):
        if number == position:
            lines = io.StringIO(start, newline="")
            return line, row, "".join(islice(lines, line - 1, rows.line_num))
        line = rows.line_num + 1
    return None


def _count_outside_quotes(text: str, delimiter: str) -> int:
    return sum(part.count(delimiter) for part in text.split('"')[::2])


def _find_header_row(path: Path, plan: Plan, layout: Layout) -> int | None:
    """Return the number of another row that has all needed names, with any delimiter."""
    start = _read_start(path)
    for delimiter in plan.read_options.delimiter or DELIMITERS:
        with suppress(csv.Error):
            rows = csv.reader(io.StringIO(start, newline=""), delimiter=delimiter)
            row = find_header_row(plan, islice(rows, layout.separator_rows, MAX_TITLE_ROWS), 1)
            if row not in (None, plan.read_options.header_row or 1):
                return row
    return None


def _read_rows(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a file, each with the number of its last line; a blank line is a row without values."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file, suppress(csv.Error):
        rows = csv.reader(file, delimiter=delimiter)
        for row in rows:
            yield rows.line_num, row


def read_csv_cells(file: LocalFile, plan: Plan, column: str) -> Iterator[tuple[int, str]]:
    """Yield the values of a column, each with the first line of its row."""
    layout = read_layout(file.path, plan)
    position = layout.names.index(column)
    rows = pairwise(islice(_read_rows(file.path, layout.delimiter), layout.skipped_rows, None))
    return ((last_line + 1, row[position]) for (last_line, _), (_, row) in rows if position < len(row))


def list_csv_lines(file: LocalFile, plan: Plan) -> Iterator[int]:
    """Yield the first line of each row below the names. The engine skips blank lines, unless there is one column."""
    layout = read_layout(file.path, plan)
    rows = pairwise(islice(_read_rows(file.path, layout.delimiter), layout.skipped_rows, None))
    return (last_line + 1 for (last_line, _), (_, row) in rows if row or len(layout.names) == 1)


def describe_csv_error(file: LocalFile, plan: Plan, error: duckdb.Error) -> tuple[str, str]:
    """Return what is wrong with a file that the engine cannot read, and what to do."""
    text = str(error)
    if isinstance(error, duckdb.NotImplementedException):  # raised for a line longer than the buffer of the engine
        return f"a line {_PROBLEMS['Maximum line size']}", REWRITE_HINT
    match = re.match(r"[A-Za-z ]*: CSV Error on Line: ([0-9]+)\n", text)
    # The row that the message quotes comes before the problem.
    marker, problem = max(_PROBLEMS.items(), key=lambda item: text.rfind(item[0]))
    if counts := re.findall(r"Expected Number of Columns: ([0-9]+) Found: ([0-9]+)", text):
        problem = problem.format(*counts[-1])
    if not match or marker not in text:
        problem = "its lines do not all end in the same way, or a value with a line break is not quoted"
        return problem, REWRITE_HINT
    if marker == "Invalid unicode":
        return describe_encoding(plan, find_undecodable_line(file.path))
    return f"line {_find_line_of_row(file.path, plan, int(match[1]))} {problem}", _find_action(marker)


def _find_action(marker: str) -> str:
    if marker == "Expected Number of Columns":
        return "put quotes around values that contain the delimiter, and write the file again"
    return "double every quote that belongs to a value, and write the file again"


def _find_line_of_row(path: Path, plan: Plan, row: int) -> int:
    """Return the first line of a row of a file. The engine counts rows, which can have several lines each."""
    layout = read_layout(path, plan)
    rows = islice(_read_rows(path, layout.delimiter), row - 1)  # the row itself can be unreadable
    return sum(line for line, _ in deque(rows, maxlen=1)) + 1
