"""The Australian Bureau of Statistics' workbooks of a classification, made into a classification file.

Read as released: OSCA (structure and category descriptions) and ANZSCO (structure and index of titles); or the
same tables as CSV. What is found where is told by what stands in the cells and not by the names of sheets,
which differ between releases: the structure is the sheet with codes of every level, descriptions and index are
the sheets that have the columns looked for.
"""

from __future__ import annotations

import csv
import json
import os
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TypeAlias
from zipfile import BadZipFile

from openpyxl import load_workbook
from openpyxl.utils.exceptions import InvalidFileException

from include.local_service.catalogue import CLASSIFICATIONS
from include.local_service.hierarchy import Category, Hierarchy, write_categories

LEVELS = (1, 2, 3, 4, 6)  # digits of a code

#: Column looked for -> the names that it goes by, in small letters.
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
    """A workbook does not hold what was looked for; the message names file, sheet and what that was."""


class TopicNameError(ValueError):
    """A topic cannot have this name: it would not fit into a URL, or into a file's name."""


class _Sheet(NamedTuple):
    name: str
    rows: list[Cells]


class _Described(NamedTuple):
    """What descriptions and index add to the structure."""

    titles: Texts
    tasks: Texts


def import_workbooks(structure: Path, descriptions: Path | None = None, index: Path | None = None) -> list[Category]:
    """Return the categories of a classification, by code.

    :param structure: workbook or CSV with codes of 1, 2, 3, 4 and 6 digits and a title beside each.
    :param descriptions: one with alternative titles, specialisations, lead statements and main tasks.
    :param index: one with a code, a title and a category in each row.
    :raises WorkbookError: when a file is not that, or speaks of codes that the structure lacks.
    :raises ClassificationError: when the codes are no hierarchy.
    """
    labels = _read_structure(structure)
    nothing = _Described({}, {})
    described = _read_descriptions(descriptions, labels) if descriptions else nothing
    indexed = _read_index(index, labels) if index else nothing
    categories = [
        Category(code, label, _merge_titles(code, label, described, indexed), tuple(described.tasks.get(code, ())))
        for code, label in sorted(labels.items())
    ]
    Hierarchy.grow(categories)
    return categories


def count_levels(categories: Iterable[Category]) -> dict[int, int]:
    """Return how many categories each level has, by its digits."""
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
    """Import workbooks as the classification of a topic, each of its two files whole or not at all.

    Writes ``classifications/{topic}.jsonl`` and, beside it, ``{topic}.json`` with ``fullName``,
    ``topicVersion`` and ``occupations`` (their number).

    :param data_dir: the service's folder of state.
    :param topic: the name in URLs: small letters, digits and hyphens.
    :param full_name: the classification's name for people; the topic's unless given.
    :param topic_version: the classification's edition; ``imported`` unless given.
    :return: the classification file.
    :raises TopicNameError: when a topic cannot have that name.
    :raises WorkbookError, ClassificationError: as :func:`import_workbooks` does; nothing is written then.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", topic):
        raise TopicNameError(f"a topic's name is made of small letters, digits and hyphens, not {topic!r}")
    categories = import_workbooks(structure, descriptions, index)
    about = {
        "fullName": full_name or topic.upper(),
        "topicVersion": topic_version or "imported",
        "occupations": count_levels(categories)[LEVELS[-1]],
    }
    path = data_dir / CLASSIFICATIONS / f"{topic}.jsonl"
    _write_whole(path, write_categories(categories))
    _write_whole(path.with_suffix(".json"), json.dumps(about, indent=2, ensure_ascii=False).encode() + b"\n")
    return path


def _write_whole(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        whole = Path(folder) / path.name
        whole.write_bytes(content)
        with whole.open("rb") as file:
            os.fsync(file.fileno())
        whole.replace(path)


# ---------------------------------------------------------------- what the tables say


def _read_structure(path: Path) -> dict[str, str]:
    """Return the label of every code."""
    found = []
    for sheet in _read_sheets(path):
        labels = dict(chain.from_iterable(map(_find_label, sheet.rows)))
        if {len(code) for code in labels} == set(LEVELS):
            return labels
        found.append(f"sheet {sheet.name!r} has codes of {sorted({len(code) for code in labels}) or 'no'} digits")
    raise WorkbookError(
        f"{path}: looked for a sheet with codes of {', '.join(map(str, LEVELS))} digits and a title beside each; "
        + "; ".join(found)
    )


def _find_label(cells: Cells) -> Iterator[tuple[str, str]]:
    """The first cell that is filled is the code, and the next that is no number is the label."""
    filled = [cell for cell in cells if cell]
    label = next((cell for cell in filled[1:] if not cell.isdecimal()), "")
    if label and filled[0].isdecimal() and len(filled[0]) in LEVELS:
        yield filled[0], label


def _read_descriptions(path: Path, labels: Mapping[str, str]) -> _Described:
    titles: Texts = defaultdict(list)
    tasks: Texts = defaultdict(list)
    for row in _read_table(path, _DESCRIPTIONS, labels):
        for column in ("alternative", "specialisations", "nec"):
            titles[row["code"]] += _split(row[column])
        # "This occupation group covers ..." is said of every group that is not elsewhere classified.
        lead = [] if labels[row["code"]].endswith(" nec") else [row["lead"]]
        tasks[row["code"]] += filter(None, [*lead, *_split(row["tasks"])])
    return _Described(titles, tasks)


def _read_index(path: Path, labels: Mapping[str, str]) -> _Described:
    titles: Texts = defaultdict(list)
    for row in _read_table(path, _INDEX, labels):
        titles[row["code"]].append(row["title"])
    return _Described(titles, {})


def _split(cell: str) -> list[str]:
    return [text.strip() for text in cell.split(";") if text.strip()]


def _merge_titles(code: str, label: str, *sources: _Described) -> tuple[str, ...]:
    """The titles of an occupation, its label first; none for a group."""
    if len(code) != LEVELS[-1]:
        return ()
    distinct: dict[str, str] = {}
    for title in chain([label], *(source.titles.get(code, ()) for source in sources)):
        distinct.setdefault(title.casefold(), title)
    return tuple(distinct.values())


# ---------------------------------------------------------------- how tables are read


def _read_table(path: Path, columns: Mapping[str, Sequence[str]], labels: Mapping[str, str]) -> list[dict[str, str]]:
    """Return the rows that speak of an occupation, from the first sheet with these columns."""
    sheets = list(_read_sheets(path))
    tables = (_cut_table(sheet, columns) for sheet in sheets)
    rows = next((table for table in tables if table is not None), None)
    if rows is None:
        wanted = ", ".join(" or ".join(map(repr, names)) for names in columns.values())
        names = ", ".join(repr(sheet.name) for sheet in sheets)
        raise WorkbookError(f"{path}: looked for the columns {wanted}; none of the sheets has all of them: {names}")
    if strange := sorted({row["code"] for row in rows} - labels.keys()):
        raise WorkbookError(f"{path}: codes that the structure does not have: {strange[:5]}; is it another edition?")
    return rows


def _cut_table(sheet: _Sheet, columns: Mapping[str, Sequence[str]]) -> list[dict[str, str]] | None:
    """Return the rows of a sheet below its heading, or None when it has no such heading."""
    for start, cells in enumerate(sheet.rows, start=1):
        places = _find_columns(cells, columns)
        if places is not None:
            rows = ({column: row[place] for column, place in places.items()} for row in sheet.rows[start:])
            return [row for row in rows if row["code"].isdecimal() and len(row["code"]) == LEVELS[-1]]
    return None


def _find_columns(cells: Cells, columns: Mapping[str, Sequence[str]]) -> dict[str, int] | None:
    heading = {cell.casefold(): place for place, cell in reversed(list(enumerate(cells)))}
    found = {column: heading[name] for column, names in columns.items() for name in names if name in heading}
    return found if len(found) == len(columns) else None


def _read_sheets(path: Path) -> Iterator[_Sheet]:
    """Every sheet of a workbook, or the one table of a CSV; all cells as text, rows of one width."""
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
