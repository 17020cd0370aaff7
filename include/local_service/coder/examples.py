"""The training texts of the coder: titles, tasks, and titles combined with tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple
from zlib import crc32

from include.local_service.coder.hierarchy import Category

FOLDS = 4


class Example(NamedTuple):
    """One training text."""

    leaf: int  # position of its occupation among the occupations
    fold: int  # the fold of cross-validation in which its title and tasks are held out
    title: str
    tasks: str


def make_examples(occupations: Sequence[Category]) -> list[Example]:
    """Return the training texts. No title and no task is in two folds, so that a held-out text really is unseen."""
    examples = (
        Example(leaf, fold, title, tasks)
        for leaf, occupation in enumerate(occupations)
        for fold in range(FOLDS)
        for title, tasks in _fold_texts(occupation, fold)
    )
    return list(dict.fromkeys(examples))


def _fold_texts(occupation: Category, fold: int) -> Iterator[tuple[str, str]]:
    titles = _select_fold((occupation.label, *occupation.titles), fold)
    tasks = _select_fold(occupation.tasks, fold)
    for index, title in enumerate(titles):
        yield title, ""
        yield title, ", ".join(tasks)
        yield title, tasks[index % len(tasks)] if tasks else ""
    yield from (("", task) for task in tasks)


def _select_fold(texts: Sequence[str], fold: int) -> list[str]:
    # The fold depends on the text and not on its position: a title that two occupations share is in one fold.
    distinct = {text.casefold(): text for text in texts if text}
    return [text for key, text in distinct.items() if crc32(key.encode()) % FOLDS == fold]
