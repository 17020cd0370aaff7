"""Files that an export writes: Parquet, CSV and Excel, in batches.

Cells of CSV and Excel that a spreadsheet would take for a formula stay texts. In Excel they are text cells. In CSV,
which has no types, they begin with a quote, as OWASP recommends; a text that is a plain number does not.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from openpyxl import Workbook
from openpyxl.cell import WriteOnlyCell

from include.coding.errors import PlanError
from include.coding.workbook import MAX_EXACT_NUMBER

#: Columns that are added to those of the source, and their types.
ADDED_COLUMNS = {
    "code": pa.string(), "label": pa.string(), "confidence": pa.float64(), "level": pa.int32(),
    "outcome": pa.string(), "reason": pa.string(), "model": pa.string(),
}  # fmt: skip
#: Rows and columns of a sheet of Excel, and characters of a cell.
MAX_SHEET_ROWS, MAX_SHEET_COLUMNS, MAX_CELL_CHARACTERS = 1_048_576, 16_384, 32_767
#: What a group of rows of a Parquet file has at most before it is written.
_GROUP_ROWS, _GROUP_BYTES = 20_480, 16 << 20
#: Beginnings of cells that spreadsheets take for formulas, and numbers, which are none.
FORMULA, PLAIN_NUMBER = "^[=+\\-@\t\r\n＝＋－＠]", r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"
#: Characters that XML cannot have or changes, and texts that Excel would take for their spelling.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\ufffe\uffff]|_(?=x[0-9A-Fa-f]{4}_)")
#: Digits of a number that Excel and a DOUBLE keep, and the first date that all spreadsheets count alike.
EXACT_DIGITS, _FIRST_DATE = 15, date(1900, 3, 1)
_EXCEL_HINT = "start another run with an `export` that ends in .csv or .parquet; no text is sent again"


def check_size(export: str, rows: int, columns: int) -> None:
    """Refuse what does not fit into a sheet of Excel.

    :raises PlanError: there are too many rows or columns
    """
    if not export.lower().endswith(".xlsx"):
        return
    if rows > MAX_SHEET_ROWS - 1:
        raise PlanError(
            f"`export` {export!r}: the run has {rows} records, and a sheet of Excel has {MAX_SHEET_ROWS - 1} below"
            " the names of the columns: name a file that ends in .csv or .parquet, or select fewer dates"
        )
    if columns > MAX_SHEET_COLUMNS:
        raise PlanError(
            f"`export` {export!r}: there would be {columns} columns, and a sheet of Excel has {MAX_SHEET_COLUMNS}:"
            " name a file that ends in .csv or .parquet"
        )


def write_parquet(file: BinaryIO, names: Sequence[str], batches: Iterable[pa.Table]) -> None:
    """Write batches with their types. A name that other columns have too gets a number, because readers need it."""
    writer: pq.ParquetWriter | None = None
    group: list[pa.Table] = []
    try:
        for batch in batches:
            table = batch.rename_columns(_number_names(names))
            writer = writer or pq.ParquetWriter(file, table.schema, compression="zstd")
            group.append(table)
            if sum(part.num_rows for part in group) >= _GROUP_ROWS or sum(p.nbytes for p in group) >= _GROUP_BYTES:
                writer.write_table(pa.concat_tables(group))
                group = []
        if writer is not None and group:
            writer.write_table(pa.concat_tables(group))
    finally:
        if writer is not None:
            writer.close()


def _number_names(names: Sequence[str]) -> list[str]:
    counts: Counter[str] = Counter()
    used, numbered = set(names), []
    for name in names:
        counts[name] += 1
        new = name
        while counts[name] > 1 and new in used:
            new = f"{name}_{counts[name]}"
            counts[name] += new in used
        used.add(new)
        numbered.append(new)
    return numbered


def write_csv(file: BinaryIO, names: Sequence[str], batches: Iterable[pa.Table]) -> None:
    """Write batches of texts in UTF-8, separated by commas, with quotes where they are needed."""
    schema = pa.schema([(escape_formula(name), pa.string()) for name in names])
    with pa_csv.CSVWriter(file, schema) as writer:
        for batch in batches:
            writer.write_table(batch.rename_columns(schema.names).cast(schema))


def escape_formula(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula."""
    return f"'{text}" if re.match(FORMULA, text) and not re.fullmatch(PLAIN_NUMBER, text) else text


def write_excel(
    file: BinaryIO, names: Sequence[str], batches: Iterable[pa.Table], kinds: Sequence[str], folder: Path
) -> None:
    """Write batches of texts as cells of their kinds, in one sheet.

    :param kinds: `number`, `float`, `boolean`, `date`, `timestamp` or `text`, for each column
    :param folder: for temporary files, which hold the rows
    :raises PlanError: a text is longer than a cell can be
    """
    book = Workbook(write_only=True)
    sheet = book.create_sheet("coded")
    make_text = _make_text_cells(sheet)
    converters = [_CONVERTERS.get(kind) for kind in kinds]

    def make_cell(converter: Callable[[str], Any] | None, text: str | None, row: int, name: str) -> Any:
        if text is None:
            return None
        value = None if converter is None else converter(text)
        return make_text(text, row, name) if value is None else value

    with _temporary_files_in(folder):
        try:
            sheet.append([make_text(name, 1, name) for name in names])
            row = 1
            for batch in batches:
                for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    row += 1
                    cells = zip(converters, values, names, strict=True)
                    sheet.append([make_cell(converter, value, row, name) for converter, value, name in cells])
            book.save(file)
        finally:
            if not sheet.closed:
                sheet.close()


def _make_text_cells(sheet: Any) -> Callable[[str, int, str], Any]:
    def make_cell(text: str, row: int, name: str) -> Any:
        spelling = _UNSAFE.sub(lambda match: f"_x{ord(match[0]):04X}_", text)
        if len(spelling) > MAX_CELL_CHARACTERS:
            raise PlanError(
                f"the export cannot be written: row {row} has a text of {len(text)} characters in {name!r}, and a"
                f" cell of Excel has {MAX_CELL_CHARACTERS}: {_EXCEL_HINT}"
            )
        cell = WriteOnlyCell(sheet, spelling)
        cell.data_type = "s"  # whatever it looks like: a formula, an error, a number
        return cell

    return make_cell


@contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Let the temporary files of the block be in a folder that is removed at its end."""
    previous, temporary = tempfile.tempdir, folder / "export-sheet"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(mode=0o700)
    tempfile.tempdir = str(temporary)
    try:
        yield
    finally:
        tempfile.tempdir = previous
        shutil.rmtree(temporary, ignore_errors=True)


def _convert_number(text: str) -> Decimal | int | None:
    """Return a number that Excel keeps with all of its digits, else None."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    if not number.is_finite() or len(number.normalize().as_tuple().digits) > EXACT_DIGITS:
        return None
    return number if abs(number) < MAX_EXACT_NUMBER else None


def _convert_float(text: str) -> float | None:
    number = float(text)
    return number if number - number == 0 else None  # neither infinite nor "not a number"


def _convert_date(text: str) -> date | None:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return None
    return day if day >= _FIRST_DATE else None


def _convert_timestamp(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.date() >= _FIRST_DATE else None


_CONVERTERS: dict[str, Callable[[str], Any]] = {
    "number": _convert_number,
    "float": _convert_float,
    "boolean": lambda text: text == "true",
    "date": _convert_date,
    "timestamp": _convert_timestamp,
}
