"""Excel files: which sheet and row have the columns, and how the engine gets their values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, datetime
from itertools import islice
from typing import TypeVar

import pyarrow as pa

from include.coding.engine import Engine
from include.coding.errors import SourceError
from include.coding.file_scan import (
    MAX_TITLE_ROWS,
    FileScan,
    LocalFile,
    check_width,
    find_header_row,
    match_columns,
    refuse,
)
from include.coding.misspellings import suggest_names
from include.coding.plan import Plan
from include.coding.workbook import MAX_EXACT_NUMBER, Sheet, Workbook, format_cell, open_workbook
from include.coding.workbook_sizes import WorkbookError
from include.warehouse.warehouse import quote_column

#: Rows that are copied at once into the engine, and their longest texts.
_BATCH_ROWS, _BATCH_CHARACTERS = 10_000, 8 << 20
#: Types of columns by the types of their cells.
_TYPES: dict[frozenset[type], pa.DataType] = {
    frozenset([float]): pa.float64(), frozenset([int, float]): pa.float64(), frozenset([int]): pa.int64(),
    frozenset([bool]): pa.bool_(), frozenset([date]): pa.date32(), frozenset([datetime]): pa.timestamp("us"),
    frozenset([date, datetime]): pa.timestamp("us"),
}  # fmt: skip
_SIGNATURE_OLE = b"\xd0\xcf\x11\xe0"

_Item = TypeVar("_Item")


def scan_excel(file: LocalFile, plan: Plan, engine: Engine, all_columns: bool = False) -> FileScan:
    """Copy the needed columns of a sheet into the engine as texts, in batches, and return how the engine reads them.

    :raises SourceError: the workbook cannot be read, or it is not clear which sheet has the records
    """
    _check_signature(file, plan)
    try:
        # Three quarters: most of the memory of the engine is free until the sheet is copied.
        with open_workbook(file.path, (plan.memory_mb * 3 // 4) << 20) as workbook:
            return _scan_workbook(workbook, plan, engine, all_columns)
    except WorkbookError as error:
        problem, action = (*error.args, "open it in Excel and save it again as .xlsx")[:2]
        raise SourceError(f"source {plan.source!r} cannot be read as Excel: {problem}; {action}") from None


def _check_signature(file: LocalFile, plan: Plan) -> None:
    with file.path.open("rb") as content:
        start = content.read(4)
    if not start:
        raise refuse(plan, "it is empty", "check the program that writes it")
    if start == _SIGNATURE_OLE:
        raise refuse(
            plan,
            "it is an old workbook (.xls), or one that is protected by a password",
            "open it in Excel and save it as .xlsx without a password",
        )


def _scan_workbook(workbook: Workbook, plan: Plan, engine: Engine, all_columns: bool) -> FileScan:
    if not workbook.tables:
        raise WorkbookError("it has no sheet with cells")
    sheet_name = _find_sheet(workbook, plan)
    others = [] if plan.read_options.sheet is not None else [name for name in workbook.tables if name != sheet_name]
    header_rows = {name: _find_header_row(workbook, name, plan) for name in others}
    sheets = {name: number for name, number in header_rows.items() if number is not None}
    row = plan.read_options.header_row or 1
    with workbook.open_sheet(sheet_name) as sheet:
        labels = sheet.read_names(row)
        if not labels and next(sheet.read_rows(), None) is None and not sheets:
            raise refuse(plan, f"its sheet {sheet_name!r} is empty", _suggest_sheet(workbook, plan))
        check_width(plan, labels)
        positions = [f"column{position}" for position in range(len(labels))]
        names = match_columns(plan, labels, positions)
        is_complete = len(names) == len(plan.required_columns)
        if is_complete and sheets:
            listed = " and ".join(map(repr, [sheet_name, *sheets]))
            raise refuse(
                plan, f"its sheets {listed} all have the needed columns", "set `sheet` in `read_options` to one"
            )
        header_row = None
        types: dict[int, pa.DataType] = {}
        if is_complete:
            needed = range(len(labels)) if all_columns else [positions.index(name) for name in names.values()]
            types = _copy_cells(engine, plan, sheet, sorted(set(needed)), row, labels, all_columns)
        else:
            header_row = find_header_row(plan, _read_first_rows(sheet), 1)
    return FileScan(
        "sheet", pa.schema([(label, pa.string()) for label in labels]), names, tuple(positions), quote_column("row"),
        place=f"row {row} of the sheet {sheet_name!r}", header_row=header_row, sheets=sheets,
        cell_types=[types.get(position, pa.string()) for position in range(len(labels))], has_iso_dates=True,
    )  # fmt: skip


def _find_sheet(workbook: Workbook, plan: Plan) -> str:
    """Return the name of the sheet that the options name, or of the first one with cells."""
    sheet = plan.read_options.sheet
    if sheet is None:
        return workbook.tables[0]
    if isinstance(sheet, int):
        if sheet > len(workbook.names):
            raise refuse(plan, f"it has no sheet {sheet}", _list_sheets(workbook))
        sheet = workbook.names[sheet - 1]
    if sheet not in workbook.names:
        raise refuse(
            plan,
            f"it has no sheet {suggest_names([sheet], workbook.names)}",
            _list_sheets(workbook),
        )
    if sheet not in workbook.tables:
        raise refuse(plan, f"its sheet {sheet!r} is a chart, without cells", _list_sheets(workbook))
    return sheet


def _list_sheets(workbook: Workbook) -> str:
    return f"set `sheet` in `read_options` to one of {workbook.tables}"


def _suggest_sheet(workbook: Workbook, plan: Plan) -> str:
    if len(workbook.tables) > 1:
        return f"set `sheet` in `read_options` to the one with the records: {workbook.tables}"
    return "check the program that writes it"


def _find_header_row(workbook: Workbook, name: str, plan: Plan) -> int | None:
    """Return the number of the row of another sheet that has the needed columns."""
    with workbook.open_sheet(name) as sheet:
        if plan.read_options.header_row is None:
            return find_header_row(plan, _read_first_rows(sheet), 1)
        row = plan.read_options.header_row
        return find_header_row(plan, [sheet.read_names(row)], row)


def _read_first_rows(sheet: Sheet) -> Iterator[list[str]]:
    return ([format_cell(cell) or "" for cell in row] for _, row in islice(sheet.read_rows(), MAX_TITLE_ROWS))


def _copy_cells(
    engine: Engine,
    plan: Plan,
    sheet: Sheet,
    positions: Sequence[int],
    header_row: int,
    labels: Sequence[str],
    all_columns: bool,
) -> dict[int, pa.DataType]:
    """Copy the rows below the names into the engine's table `sheet` as texts, with their numbers. If all columns are
    needed, return, by their positions, the types of those whose values all have the same type, except texts."""
    columns = "".join(f", column{position} VARCHAR" for position in positions)
    engine.execute(f"CREATE OR REPLACE TABLE sheet (row BIGINT{columns})")
    record_id = _find_record_id(plan, labels)
    kinds: list[set[type]] = [set() for _ in positions]

    def read_rows() -> Iterator[tuple[int, list[str | None]]]:
        for number, row in islice(sheet.read_rows(), header_row, None):
            if record_id is not None and _is_inexact(row, record_id):
                raise WorkbookError(
                    f"row {number} has a number above {MAX_EXACT_NUMBER} as {labels[record_id]!r}, of which Excel"
                    " keeps only the first digits",
                    "format the column as text and enter the ids again",
                )
            cells = [row[position] if position < len(row) else "" for position in positions]
            if all_columns:
                if any(cell != "" for cell in row[len(labels) :]):
                    raise WorkbookError(
                        f"row {number} has a value in a column without a name, after {labels[-1]!r}",
                        "name the column, or remove the value",
                    )
                for kind, cell in zip(kinds, cells, strict=True):
                    if cell != "":
                        kind.add(int if isinstance(cell, float) and cell.is_integer() else type(cell))
            yield number, [format_cell(cell) for cell in cells]

    for batch in _split_into_batches(read_rows(), lambda row: sum(len(text) for text in row[1] if text)):
        arrays = {"row": pa.array([number for number, _ in batch], pa.int64())}
        for index, position in enumerate(positions):
            arrays[f"column{position}"] = pa.array([texts[index] for _, texts in batch], pa.string())
        _insert(engine, "INSERT INTO sheet SELECT *", **arrays)
    types = {position: _TYPES.get(frozenset(kind)) for position, kind in zip(positions, kinds, strict=True)}
    return {position: kind for position, kind in types.items() if kind is not None}


def _find_record_id(plan: Plan, labels: Sequence[str]) -> int | None:
    if "record_id" not in plan.required_columns:
        return None
    return labels.index(plan.source_column("record_id"))


def _is_inexact(row: Sequence[object], position: int) -> bool:
    value = row[position] if position < len(row) else None
    return isinstance(value, float) and value.is_integer() and abs(value) > MAX_EXACT_NUMBER


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
