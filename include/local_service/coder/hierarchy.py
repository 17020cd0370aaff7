"""A classification: its categories as a JSONL file, and the hierarchy that their codes form."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Columns: TypeAlias = NDArray[np.intp]


class ClassificationError(ValueError):
    """The codes of a classification do not form a hierarchy; the message names the line or the code."""


@dataclass(frozen=True)
class Category:
    """A line of a classification file.

    :param code: digits; their number is the level, and the parent's code is a prefix of them.
    :param label: the category's name.
    :param titles: of an occupation: job titles as people write them.
    :param tasks: of an occupation: what people in it do.
    """

    code: str
    label: str
    titles: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()


def read_categories(content: bytes) -> list[Category]:
    """Return the categories of a classification file, ordered by code.

    :raises ClassificationError: for a line that is not a category, or for a duplicate code.
    """
    lines = enumerate(content.splitlines(), start=1)
    categories = [_parse_category(number, line) for number, line in lines if line.strip()]
    counts = Counter(category.code for category in categories)
    if duplicates := sorted(code for code, count in counts.items() if count > 1):
        raise ClassificationError(f"duplicate codes: {duplicates[:5]}")
    return sorted(categories, key=lambda category: category.code)


def write_categories(categories: Iterable[Category]) -> bytes:
    """Return the content of a classification file with these categories."""
    rows = ({name: value for name, value in vars(category).items() if value} for category in categories)
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def _parse_category(number: int, line: bytes) -> Category:
    try:
        row = json.loads(line)
        texts = tuple(row.get("titles", [])), tuple(row.get("tasks", []))
        category = Category(row["code"], row["label"], *texts)
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise ClassificationError(f"line {number}: not an object with code and label: {line[:80]!r}") from exc
    if not (isinstance(category.code, str) and category.code.isdecimal()):
        raise ClassificationError(f"line {number}: code must be a string of digits, not {category.code!r}")
    if not all(isinstance(text, str) for text in chain([category.label], *texts)):
        raise ClassificationError(f"line {number}: label, titles and tasks must be strings: {line[:80]!r}")
    return category


@dataclass(frozen=True)
class Level:
    """The categories of one level, which are adjacent columns."""

    digits: int  # the length of the codes
    columns: slice
    parents: Columns  # for each category the column of its parent, -1 at the top
    families: Columns  # for each parent the index of its first child within the level; siblings are adjacent
    sizes: Columns  # for each parent the number of its children


@dataclass(frozen=True)
class Hierarchy:
    """The categories as columns: level by level from the top, ordered by code within a level."""

    codes: tuple[str, ...]
    labels: tuple[str, ...]
    levels: tuple[Level, ...]
    occupations: tuple[Category, ...]

    @classmethod
    def from_categories(cls, categories: Sequence[Category]) -> Hierarchy:
        """Return the hierarchy of the occupations (the longest codes) and of the categories above them.

        :raises ClassificationError: for fewer than two occupations, or for an occupation without a parent category.
        """
        by_code = {category.code: category for category in categories}
        lengths = sorted({len(code) for code in by_code})
        occupations = [c for c in categories if len(c.code) == lengths[-1]] if lengths else []
        if len(occupations) < 2:
            raise ClassificationError("a classification needs at least two occupations")
        codes = [sorted({o.code[:length] for o in occupations}) for length in lengths]
        if missing := sorted(set(chain(*codes)) - by_code.keys()):
            raise ClassificationError(f"missing categories of codes that have longer codes below: {missing[:5]}")
        flat = tuple(chain(*codes))
        labels = tuple(by_code[code].label for code in flat)
        return cls(flat, labels, tuple(_make_levels(codes)), tuple(occupations))

    @property
    def leaves(self) -> slice:
        """The columns of the occupations."""
        return self.levels[-1].columns

    @property
    def paths(self) -> Columns:
        """Categories x levels: the columns from the top down to each category, -1 below it."""
        paths = np.full((len(self.codes), len(self.levels)), -1, dtype=np.intp)
        for depth, level in enumerate(self.levels):
            paths[level.columns, :depth] = paths[level.parents, :depth]
            paths[level.columns, depth] = np.arange(level.columns.start, level.columns.stop)
        return paths


def _make_levels(codes: Sequence[Sequence[str]]) -> Iterator[Level]:
    start, columns_above = 0, {"": -1}
    for level in codes:
        width = len(next(iter(columns_above)))
        parents = np.array([columns_above[code[:width]] for code in level], dtype=np.intp)
        families = np.flatnonzero(np.diff(parents, prepend=-2))
        sizes = np.diff(families, append=len(level))
        yield Level(len(level[0]), slice(start, start + len(level)), parents, families, sizes)
        columns_above = {code: start + index for index, code in enumerate(level)}
        start += len(level)
