"""Excel workbooks (.xlsx): their sheets as rows of texts, read by python-calamine.

A cell with a number that is formatted as a date is the text of its date, whatever the format shows. Whole numbers
have no decimal places. A cell with an error, and a formula without a stored result, are empty.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, time
from pathlib import Path
from typing import Any, TypeAlias
from xml.etree import ElementTree

from python_calamine import CalamineError, CalamineSheet, CalamineWorkbook, SheetTypeEnum

from include.coding.workbook_sizes import BoundedFile, WorkbookError, WorkbookSizes

#: Largest whole number that a cell can hold exactly.
MAX_EXACT_NUMBER = 1 << 53

Row: TypeAlias = Sequence[Any]


class Workbook:
    """The sheets of a workbook. One of them is in memory at a time.

    :param max_bytes: that a sheet may need of memory
    """

    def __init__(self, book: CalamineWorkbook, sizes: WorkbookSizes, max_bytes: int) -> None:
        self._book, self._sizes, self._max_bytes = book, sizes, max_bytes
        self.names: list[str] = book.sheet_names
        self.tables = [sheet.name for sheet in book.sheets_metadata if sheet.typ == SheetTypeEnum.WorkSheet]

    @contextmanager
    def open_sheet(self, name: str) -> Iterator[Sheet]:
        """Yield a sheet.

        :raises WorkbookError: it would need too much memory
        """
        size = self._sizes.measure(name)
        if size.bytes > self._max_bytes:
            raise WorkbookError(
                f"its sheet {name!r} with {size.rows} rows and {size.columns} columns needs {size.bytes >> 20} MB of"
                f" memory, and {self._max_bytes >> 20} MB are there",
                "save the sheet as CSV, or raise CODING_MEMORY_MB",
            )
        yield Sheet(self._book.get_sheet_by_name(name))


class Sheet:
    """The rows of a sheet, each a sequence of values that :func:`format_cell` turns into texts."""

    def __init__(self, sheet: CalamineSheet) -> None:
        self._sheet = sheet
        self._offset = sheet.start[1] if sheet.start else 0

    def read_rows(self) -> Iterator[tuple[int, Row]]:
        """Yield each row with its number, from row 1 to the last one with a value."""
        blanks = [""] * self._offset
        return ((number, [*blanks, *row]) for number, row in enumerate(self._sheet.iter_rows(), 1))

    def read_names(self, row: int) -> list[str]:
        """Return the texts of a row without the empty ones at its end; none if there is no such row."""
        for number, cells in self.read_rows():
            if number == row:
                names = [format_cell(cell) or "" for cell in cells]
                while names and not names[-1]:
                    names.pop()
                return names
        return []

    def read_column(self, position: int, start: int) -> Iterator[Any]:
        """Yield the values of a column from a row on."""
        index = position - self._offset
        for number, row in enumerate(self._sheet.iter_rows(), 1):
            if number >= start:
                yield row[index] if 0 <= index < len(row) else ""


def format_cell(value: Any) -> str | None:
    """Return the value of a cell as text, a date in ISO form; None if it is empty."""
    if isinstance(value, str):
        return value or None
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else str(value)
    if isinstance(value, datetime) and value.time() == time.min:
        return str(value.date())
    return str(value)


@contextmanager
def open_workbook(path: Path, max_bytes: int) -> Iterator[Workbook]:
    """Yield a workbook, and raise what its readers raise in the block as our error.

    :param max_bytes: of memory that a sheet may need
    :raises WorkbookError: the file is no workbook, or too much would have to be unpacked
    """
    try:
        with BoundedFile(path, "rb") as file, zipfile.ZipFile(file) as archive:
            sizes = WorkbookSizes(archive)
            if sizes.shared_bytes > max_bytes:
                raise WorkbookError(
                    f"its texts need {sizes.shared_bytes >> 20} MB of memory, and {max_bytes >> 20} MB are there",
                    "save the sheet as CSV, or raise CODING_MEMORY_MB",
                )
            with CalamineWorkbook.from_path(path) as book:
                yield Workbook(book, sizes, max_bytes)
    except (CalamineError, zipfile.BadZipFile, zlib.error, ElementTree.ParseError, EOFError, LookupError, ValueError):
        # not chained, because it can quote a cell
        raise WorkbookError("it is not a complete workbook (.xlsx)") from None
    except OSError:
        raise WorkbookError("it is not a complete workbook (.xlsx), or its disk cannot be read") from None
    except BaseException as error:
        if type(error).__name__ == "PanicException":  # of the reader, derived from BaseException
            raise WorkbookError("it is not a complete workbook (.xlsx)") from None
        raise
