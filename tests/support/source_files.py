"""Made-up minimal files, each with one trait of the files that people bring, and independent readers of them."""

import csv
import gzip
import io
import json
from datetime import date, datetime

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
from openpyxl.chart import BarChart
from openpyxl.utils.datetime import CALENDAR_MAC_1904
from openpyxl.worksheet.worksheet import Worksheet

NAMES = ("record_id", "response_date", "occp_text", "tasks_text")
HEADER = ",".join(NAMES)
DAY = "2026-10-05"
#: The date of the records as Excel stores it.
CELL_DAY = datetime(2026, 10, 5)
CHEF = ("1", DAY, "chef", "cooks")
NURSE = ("2", DAY, "nurse", "cares")


def text(*lines, encoding="utf-8", end="\n", start=b"", last=True):
    """Return a writer of a text file with these lines."""
    content = end.join(lines) + (end if last and lines else "")
    return lambda path: path.write_bytes(start + content.encode(encoding, "surrogateescape"))


def raw(data):
    return lambda path: path.write_bytes(data)


def packed(write):
    """Return a writer of what another writer writes, compressed with gzip."""

    def write_packed(path):
        write(path)
        path.write_bytes(gzip.compress(path.read_bytes(), mtime=0))

    write_packed.delimiter = getattr(write, "delimiter", ",")
    return write_packed


def rows(*records, names=NAMES, delimiter=",", above=(), encoding="utf-8", end="\n"):
    """Return a writer of a text file with columns, with lines above their names."""

    def write(path):
        buffer = io.StringIO(newline="")
        writer = csv.writer(buffer, delimiter=delimiter, lineterminator=end)
        writer.writerows([names, *records])
        path.write_bytes(("".join(line + end for line in above) + buffer.getvalue()).encode(encoding))

    write.delimiter, write.skipped_lines = delimiter, sum(line.startswith("sep=") for line in above)
    return write


def lines(*objects, encoding="utf-8"):
    """Return a writer of a JSONL file."""
    return text(*(item if isinstance(item, str) else json.dumps(item) for item in objects), encoding=encoding)


def record(*values, **changes):
    """Return a record as an object."""
    return {**dict(zip(NAMES, values or CHEF, strict=False)), **changes}


def table(*records, names=NAMES, **columns):
    """Return a writer of a Parquet file, with other Arrow arrays for some of its columns."""

    def write(path):
        arrays = {name: [values[index] for values in records] for index, name in enumerate(names)}
        path.parent.mkdir(exist_ok=True, parents=True)
        pq.write_table(pa.table({**arrays, **columns}), path)

    return write


def sheets(first, *others, edit=None):
    """Return a writer of a workbook. A sheet is a list of rows, or a pair of its name and a list of rows."""

    def write(path):
        workbook = openpyxl.Workbook()
        workbook.remove(workbook.active)
        for number, sheet in enumerate((first, *others), 1):
            title, content = sheet if isinstance(sheet, tuple) else (f"Sheet{number}", sheet)
            if content is None:
                workbook.create_chartsheet(title).add_chart(BarChart())
                continue
            worksheet = workbook.create_sheet(title)
            for row in content:
                worksheet.append(row)
        if edit:
            edit(workbook)
        workbook.save(path)

    return write


def excel(*records, names=NAMES, above=(), edit=None):
    """Return a writer of a workbook with one sheet."""
    return sheets([*above, names, *records], edit=edit)


def edit_cell(reference, value=None, number_format=None, data_type=None):
    """Return a function that changes a cell of the first sheet of a workbook."""

    def edit(workbook):
        cell = workbook.worksheets[0][reference]
        if value is not None:
            cell.value = value
        if number_format:
            cell.number_format = number_format
        if data_type:
            cell.data_type = data_type

    return edit


def count_days_from_1904(workbook):
    workbook.epoch = CALENDAR_MAC_1904


def hide_first_sheet(workbook):
    workbook.worksheets[0].sheet_state = "hidden"


def merge_title(workbook):
    workbook.worksheets[0].merge_cells("A1:D1")


def format_empty_rows(workbook):
    sheet: Worksheet = workbook.worksheets[0]
    for row in range(3, 40):
        sheet.cell(row, 2).number_format = "dd/mm/yyyy"


# ---- independent readers ---------------------------------------------------------------------------------------------


def read_csv_values(path, encoding, delimiter, header_row, skipped_lines=0):
    """Return the rows of a text file as dictionaries, read with the module csv."""
    data = path.read_bytes()
    content = (gzip.decompress(data) if path.suffix == ".gz" else data).decode(encoding).removeprefix("\ufeff")
    content = "".join(content.splitlines(keepends=True)[skipped_lines:])
    table = list(csv.reader(io.StringIO(content, newline=""), delimiter=delimiter))[header_row - 1 :]
    return [dict(zip(table[0], row, strict=False)) for row in table[1:] if row]


def read_excel_values(path, sheet, header_row):
    """Return the rows of a sheet as dictionaries of texts, read with openpyxl."""
    workbook = openpyxl.load_workbook(path, data_only=True)
    worksheet = workbook[sheet] if isinstance(sheet, str) else workbook.worksheets[(sheet or 1) - 1]
    table = list(worksheet.iter_rows(min_row=header_row))
    names = [format_cell(cell) for cell in table[0]]
    return [dict(zip(names, map(format_cell, row), strict=True)) for row in table[1:]]


def format_cell(cell):
    value = cell.value
    if value is None or cell.data_type == "e":
        return None
    if isinstance(value, datetime):
        return str(value.date()) if value.time() == datetime.min.time() else str(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if not isinstance(value, date) else value.isoformat()
