"""What the coder learns from: titles, tasks, and titles with tasks of the occupations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple
from zlib import crc32

from include.local_service.hierarchy import Category

FOLDS = 4


class Example(NamedTuple):
    """One training text: its occupation, and the fold that holds its title and tasks back."""

    leaf: int
    fold: int
    title: str
    tasks: str


def make_examples(occupations: Sequence[Category]) -> list[Example]:
    """Return the training texts; no title and no task stands in two folds, so holding one out is honest."""
    examples = (
        Example(leaf, fold, title, tasks)
        for leaf, occupation in enumerate(occupations)
        for fold in range(FOLDS)
        for title, tasks in _fold_texts(occupation, fold)
    )
    return list(dict.fromkeys(examples))


def _fold_texts(occupation: Category, fold: int) -> Iterator[tuple[str, str]]:
    titles = _pick_fold((occupation.label, *occupation.titles), fold)
    tasks = _pick_fold(occupation.tasks, fold)
    for place, title in enumerate(titles):
        yield title, ""
        yield title, ", ".join(tasks)
        yield title, tasks[place % len(tasks)] if tasks else ""
    yield from (("", task) for task in tasks)


def _pick_fold(texts: Sequence[str], fold: int) -> list[str]:
    # By the text and not by its place: the same title in another occupation is in the same fold.
    distinct = {text.casefold(): text for text in texts if text}
    return [text for key, text in distinct.items() if crc32(key.encode()) % FOLDS == fold]
