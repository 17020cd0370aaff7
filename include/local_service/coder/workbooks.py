"""Converts the Australian Bureau of Statistics' workbooks of a classification to a classification file.

Supports the released workbooks of OSCA (structure and category descriptions) and ANZSCO (structure and index of
titles), or the same tables as CSV. Sheets are recognised by the content of their cells, because the names of
sheets differ between releases: the structure is the sheet with codes of every level, the descriptions and the
index are the first sheets with the required columns.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TypeAlias
from zipfile import BadZipFile

from openpyxl import load_workbook
from openpyxl.utils.exceptions import InvalidFileException

from include.local_service.coder.classifications import IMPORT_FOLDER
from include.local_service.coder.files import write_atomically
from include.local_service.coder.hierarchy import Category, Hierarchy, write_categories

CODE_LENGTHS = (1, 2, 3, 4, 6)

#: Required column -> its possible headings, in lower case.
_CODE = ("identifier", "occupation code", "code")
_DESCRIPTIONS = {
    "code": _CODE,
    "alternative": ("alternative title",),
    "lead": ("lead statement",),
    "tasks": ("main tasks",),
    "specialisations": ("specialisations",),
    "nec": ("occupation in nec category",),
}
_INDEX = {"code": _CODE, "title": ("description", "title"), "category": ("category",)}

Cells: TypeAlias = tuple[str, ...]
Texts: TypeAlias = dict[str, list[str]]  # by code


class WorkbookError(ValueError):
    """A workbook lacks the required content; the message names the file, the sheet and the content."""


class TopicNameError(ValueError):
    """The topic name is invalid: it must fit into a URL and into a file name."""


class _Sheet(NamedTuple):
    name: str
    rows: list[Cells]


def import_workbooks(structure: Path, descriptions: Path | None = None, index: Path | None = None) -> list[Category]:
    """Return the categories of a classification, ordered by code.

    :param structure: workbook or CSV with codes of 1, 2, 3, 4 and 6 digits and a label beside each.
    :param descriptions: workbook or CSV with alternative titles, specialisations, lead statements and main tasks.
    :param index: workbook or CSV with a code, a title and a category in each row.
    :raises WorkbookError: if a file lacks these, or has codes that the structure lacks.
    :raises ClassificationError: if the codes do not form a hierarchy.
    """
    labels = _read_structure(structure)
    titles: Texts = {code: [label] for code, label in labels.items() if len(code) == CODE_LENGTHS[-1]}
    tasks: Texts = defaultdict(list)
    if descriptions:
        _add_descriptions(_read_table(descriptions, _DESCRIPTIONS, labels), labels, titles, tasks)
    for row in _read_table(index, _INDEX, labels) if index else ():
        titles[row["code"]].append(row["title"])
    categories = [
        Category(code, label, _drop_duplicates(titles.get(code, [])), tuple(tasks[code]))
        for code, label in sorted(labels.items())
    ]
    Hierarchy.from_categories(categories)  # raises an error if there is a gap
    return categories


def count_levels(categories: Iterable[Category]) -> dict[int, int]:
    """Return the number of categories of each level, by the length of their codes."""
    return dict(sorted(Counter(len(category.code) for category in categories).items()))


def import_classification(
    data_dir: Path,
    topic: str,
    structure: Path,
    descriptions: Path | None = None,
    index: Path | None = None,
    full_name: str = "",
    topic_version: str = "",
) -> Path:
    """Import workbooks as the classification of a topic.

    Writes ``classifications/{topic}.jsonl`` and ``classifications/{topic}.json`` with ``fullName``,
    ``topicVersion`` and ``occupations`` (their number). Each file is replaced as a whole.

    :param data_dir: the service's data folder.
    :param topic: the name in URLs: lower-case letters, digits and hyphens.
    :param full_name: the classification's full name; by default the topic in upper case.
    :param topic_version: the classification's edition; by default ``imported``.
    :return: the classification file.
    :raises TopicNameError: if the topic name is invalid.
    :raises WorkbookError, ClassificationError: see :func:`import_workbooks`; nothing is written then.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", topic):
        raise TopicNameError(f"invalid topic name: {topic!r}. Use only lower-case letters, digits and hyphens.")
    categories = import_workbooks(structure, descriptions, index)
    names = {
        "fullName": full_name or topic.upper(),
        "topicVersion": topic_version or "imported",
        "occupations": count_levels(categories)[CODE_LENGTHS[-1]],
    }
    path = data_dir / IMPORT_FOLDER / f"{topic}.jsonl"
    write_atomically(path, write_categories(categories))
    write_atomically(path.with_suffix(".json"), json.dumps(names, indent=2, ensure_ascii=False).encode() + b"\n")
    return path


# ---------------------------------------------------------------- content of the tables


def _read_structure(path: Path) -> dict[str, str]:
    """Return the label of every code."""
    problems = []
    for sheet in _read_sheets(path):
        labels = dict(chain.from_iterable(map(_find_label, sheet.rows)))
        if {len(code) for code in labels} == set(CODE_LENGTHS):
            return labels
        lengths = sorted({len(code) for code in labels})
        problems.append(f"sheet {sheet.name!r} has {f'codes of {lengths} digits' if lengths else 'no codes'}")
    lengths_text = ", ".join(map(str, CODE_LENGTHS))
    raise WorkbookError(
        f"{path}: no sheet has codes of {lengths_text} digits with a label beside each; " + "; ".join(problems)
    )


def _find_label(cells: Cells) -> Iterator[tuple[str, str]]:
    """Yield code and label of a row, if it has them: its first value, and the next one that is not a number."""
    values = [cell for cell in cells if cell]
    label = next((cell for cell in values[1:] if not cell.isdecimal()), "")
    if label and values[0].isdecimal() and len(values[0]) in CODE_LENGTHS:
        yield values[0], label


def _add_descriptions(rows: list[dict[str, str]], labels: Mapping[str, str], titles: Texts, tasks: Texts) -> None:
    for row in rows:
        for column in ("alternative", "specialisations", "nec"):
            titles[row["code"]] += _split(row[column])
        # The lead statement of each "nec" group is the same phrase ("This occupation group covers ...").
        lead = [] if labels[row["code"]].endswith(" nec") else [row["lead"]]
        tasks[row["code"]] += filter(None, [*lead, *_split(row["tasks"])])


def _split(cell: str) -> list[str]:
    return [text.strip() for text in cell.split(";") if text.strip()]


def _drop_duplicates(titles: list[str]) -> tuple[str, ...]:
    """Return each title once; of titles that differ only in case, the first."""
    distinct: dict[str, str] = {}
    for title in titles:
        distinct.setdefault(title.casefold(), title)
    return tuple(distinct.values())


# ---------------------------------------------------------------- tables of a file


def _read_table(path: Path, columns: Mapping[str, Sequence[str]], labels: Mapping[str, str]) -> list[dict[str, str]]:
    """Return the rows of occupations from the first sheet with these columns."""
    sheets = list(_read_sheets(path))
    tables = (_extract_table(sheet, columns) for sheet in sheets)
    rows = next((table for table in tables if table is not None), None)
    if rows is None:
        headings = ", ".join(" or ".join(map(repr, names)) for names in columns.values())
        names = ", ".join(repr(sheet.name) for sheet in sheets)
        raise WorkbookError(f"{path}: no sheet has all of the columns {headings}; its sheets: {names}")
    if unknown := sorted({row["code"] for row in rows} - labels.keys()):
        raise WorkbookError(f"{path}: codes that are not in the structure: {unknown[:5]}. Use files of one edition.")
    return rows


def _extract_table(sheet: _Sheet, columns: Mapping[str, Sequence[str]]) -> list[dict[str, str]] | None:
    """Return the rows of a sheet below its heading, or None if it lacks one of the columns."""
    for start, cells in enumerate(sheet.rows, start=1):
        indexes = _find_columns(cells, columns)
        if indexes is not None:
            rows = ({column: row[index] for column, index in indexes.items()} for row in sheet.rows[start:])
            return [row for row in rows if row["code"].isdecimal() and len(row["code"]) == CODE_LENGTHS[-1]]
    return None


def _find_columns(cells: Cells, columns: Mapping[str, Sequence[str]]) -> dict[str, int] | None:
    headings = {cell.casefold(): index for index, cell in reversed(list(enumerate(cells)))}
    indexes = {column: headings[name] for column, names in columns.items() for name in names if name in headings}
    return indexes if len(indexes) == len(columns) else None


def _read_sheets(path: Path) -> Iterator[_Sheet]:
    """Yield every sheet of a workbook, or the table of a CSV file; all cells are text, all rows have one width."""
    try:
        yield from [_read_csv(path)] if path.suffix.lower() == ".csv" else _read_workbook(path)
    except (OSError, UnicodeDecodeError, csv.Error, BadZipFile, InvalidFileException, KeyError) as exc:
        raise WorkbookError(f"{path}: cannot be read as a workbook (.xlsx) or CSV: {exc}") from exc


def _read_csv(path: Path) -> _Sheet:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return _make_sheet(path.stem, csv.reader(file))


def _read_workbook(path: Path) -> list[_Sheet]:
    workbook = load_workbook(path, read_only=True, data_only=True)
    try:
        return [_make_sheet(sheet.title, sheet.iter_rows(values_only=True)) for sheet in workbook.worksheets]
    finally:
        workbook.close()


def _make_sheet(name: str, rows: Iterable[Sequence[object]]) -> _Sheet:
    cells = [tuple("" if cell is None else " ".join(str(cell).split()) for cell in row) for row in rows]
    width = max(map(len, cells), default=0)
    return _Sheet(name, [row + ("",) * (width - len(row)) for row in cells])
