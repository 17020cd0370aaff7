"""Measures a coder: accuracy on unseen titles and on typing errors, calibration of its confidence, and speed."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from statistics import fmean, mean, pstdev
from typing import NamedTuple, TypeAlias

import numpy as np

from include.local_service.coder.coder import Coder, Progress, ignore_progress
from include.local_service.coder.features import Pair
from include.local_service.coder.hierarchy import Category

#: Per cent of the codes that are right, by the number of leading digits compared.
Accuracy: TypeAlias = dict[int, float]

#: The confidence of a text's most detailed code, and whether that code is right.
Judgement: TypeAlias = tuple[float, bool]

_MIN_TASKS = 4  # an occupation with fewer tasks keeps them all: it would not be described without them
_SPEED_TEXTS = 10_000


class Answer(NamedTuple):
    """A text and its correct code."""

    code: str
    title: str
    tasks: str = ""


class Split(NamedTuple):
    """A classification without some of its titles, and these titles as test texts."""

    categories: list[Category]  # what remains for training
    titles: list[Answer]  # the held-out titles without tasks
    with_tasks: list[Answer]  # the held-out titles with a held-out task, for occupations with enough tasks
    labels: frozenset[str]  # the held-out titles that are the label of an occupation, in lower case


@dataclass(frozen=True)
class Evaluation:
    """The results of an evaluation.

    :param titles: accuracy on held-out titles without tasks.
    :param unlike_labels: the same without the titles that are an occupation's label, which resemble the
        label of their group and each other.
    :param with_tasks: accuracy on held-out titles with a held-out task.
    :param misspelt: accuracy on the held-out titles with one typing error each.
    :param trained: accuracy on titles that the coder was trained on.
    :param trained_misspelt: accuracy on these with one typing error each.
    :param judgements: the held-out texts of both kinds, each with its confidence.
    :param held_out_titles: number of held-out titles.
    :param rate: distinct texts coded in a second of processor time, on one core.
    :param training_seconds: processor time of the training.
    """

    titles: Accuracy
    unlike_labels: Accuracy
    with_tasks: Accuracy
    misspelt: Accuracy
    trained: Accuracy
    trained_misspelt: Accuracy
    judgements: list[Judgement]
    held_out_titles: int
    rate: float
    training_seconds: float

    @property
    def spelling_costs(self) -> tuple[Accuracy, Accuracy]:
        """Percentage points that a typing error costs: on held-out titles, and on titles of the training."""
        pairs = (self.titles, self.misspelt), (self.trained, self.trained_misspelt)
        unseen, trained = ({digits: right[digits] - typo[digits] for digits in right} for right, typo in pairs)
        return unseen, trained


def hold_out(categories: Sequence[Category], share: float = 0.2, seed: int = 0) -> Split:
    """Remove a random share of the titles from a classification, independently of their occupations.

    A title is selected by its text: no occupation keeps it, neither among its titles nor as its label.

    :param share: of the distinct titles, labels of occupations included (0 to 1).
    :param seed: another seed selects other titles.
    """
    rng = random.Random(seed)
    digits = max(len(category.code) for category in categories)
    occupations = [category for category in categories if len(category.code) == digits]
    titles = sorted({title.casefold() for occupation in occupations for title in _all_titles(occupation)})
    sample = set(rng.sample(titles, round(len(titles) * share)))
    labels = {occupation.label.casefold() for occupation in occupations}
    groups = [category for category in categories if len(category.code) < digits]
    split = Split(groups, [], [], frozenset(sample & labels))
    for occupation in occupations:
        _split_occupation(occupation, sample, rng, split)
    return split


def _all_titles(occupation: Category) -> tuple[str, ...]:
    return tuple({title.casefold(): title for title in (occupation.label, *occupation.titles)}.values())


def _split_occupation(occupation: Category, sample: set[str], rng: random.Random, split: Split) -> None:
    test_titles = [title for title in _all_titles(occupation) if title.casefold() in sample]
    tasks = list(occupation.tasks)
    if test_titles and len(tasks) >= _MIN_TASKS:
        task = tasks.pop(rng.randrange(1, len(tasks)))  # the first one is the lead statement
        split.with_tasks.extend(Answer(occupation.code, title, task) for title in test_titles)
    split.titles.extend(Answer(occupation.code, title) for title in test_titles)
    label = "" if occupation.label.casefold() in sample else occupation.label
    titles = tuple(title for title in occupation.titles if title.casefold() not in sample)
    split.categories.append(replace(occupation, label=label, titles=titles, tasks=tuple(tasks)))


def evaluate(
    categories: Sequence[Category], share: float = 0.2, seed: int = 0, on_progress: Progress = ignore_progress
) -> Evaluation:
    """Train a coder without a share of the titles and measure it on them.

    :param share: of the titles to hold out (0 to 1).
    :param seed: of the selection and of the typing errors.
    """
    split = hold_out(categories, share, seed)
    start = time.process_time()
    coder = Coder.train_on(split.categories, on_progress).with_threshold(0)
    training_seconds = time.process_time() - start
    trained = [Answer(category.code, title) for category in split.categories for title in category.titles]
    return Evaluation(
        titles=measure_accuracy(coder, split.titles),
        unlike_labels=measure_accuracy(coder, [a for a in split.titles if a.title.casefold() not in split.labels]),
        with_tasks=measure_accuracy(coder, split.with_tasks),
        misspelt=measure_accuracy(coder, misspell_titles(split.titles, seed)),
        trained=measure_accuracy(coder, trained),
        trained_misspelt=measure_accuracy(coder, misspell_titles(trained, seed)),
        judgements=judge(coder, [*split.titles, *split.with_tasks]),
        held_out_titles=len(split.titles),
        rate=measure_rate(coder, make_texts(categories, _SPEED_TEXTS, seed)),
        training_seconds=training_seconds,
    )


def measure_accuracy(coder: Coder, answers: Sequence[Answer]) -> Accuracy:
    """Return how often the leading digits of the code are right, for every level; empty without answers.

    :param coder: one with threshold 0, which gives every text its most detailed code.
    """
    pairs = [(code, answer.code) for (code, _), answer in zip(_code(coder, answers), answers, strict=True)]
    return {n: 100 * mean(code[:n] == correct[:n] for code, correct in pairs) for n in coder.levels if pairs}


def judge(coder: Coder, answers: Sequence[Answer]) -> list[Judgement]:
    """Return the confidence of each most detailed code, and whether the code is right.

    :param coder: one with threshold 0.
    """
    results = _code(coder, answers)
    return [(confidence, code == answer.code) for (code, confidence), answer in zip(results, answers, strict=True)]


def _code(coder: Coder, answers: Sequence[Answer]) -> list[tuple[str, float]]:
    codings = coder.code([(answer.title, answer.tasks) for answer in answers])
    return [(coding.result.code, coding.result.confidence) for coding in codings if coding.result]


def measure_rate(coder: Coder, pairs: Sequence[Pair]) -> float:
    """Return how many texts are coded in a second of processor time."""
    start = time.process_time()
    coder.code(pairs)
    return len(pairs) / (time.process_time() - start)


def make_texts(categories: Sequence[Category], count: int, seed: int = 0) -> list[Pair]:
    """Return distinct texts like those of a survey: a title, every eighth misspelt, and part of a task or none."""
    rng = random.Random(seed)
    occupations = [category for category in categories if category.titles or category.tasks]
    pairs: dict[Pair, None] = {}
    for _ in range(count * 20):  # a limit, because a small classification can have fewer distinct texts
        pairs[_make_text(rng.choice(occupations), rng)] = None
        if len(pairs) == count:
            break
    return list(pairs)


def _make_text(occupation: Category, rng: random.Random) -> Pair:
    title = rng.choice(_all_titles(occupation))
    words = rng.choice(occupation.tasks or ("",)).casefold().split()
    start = rng.randrange(max(1, len(words) - 3))
    task = " ".join(words[start : start + rng.randrange(12)])
    return (misspell(title, rng) if rng.random() < 1 / 8 else title), task


def misspell_titles(answers: Sequence[Answer], seed: int = 0) -> list[Answer]:
    """Return the same answers with one typing error in every title."""
    rng = random.Random(seed)
    return [answer._replace(title=misspell(answer.title, rng)) for answer in answers]


def misspell(text: str, rng: random.Random) -> str:
    """Return the text with one letter dropped, doubled, replaced, or swapped with the next one."""
    positions = [at for at in range(len(text) - 1) if text[at : at + 2].isalpha()]
    if not positions:
        return text
    at = rng.choice(positions)
    letter, following = text[at], text[at + 1]
    replacement = rng.choice("aeiorst") + following
    letters = rng.choice((following, letter * 2 + following, replacement, following + letter))
    return text[:at] + letters + text[at + 2 :]


# ---------------------------------------------------------------- calibration of the confidence


class Bucket(NamedTuple):
    """A point of the calibration curve: texts of similar confidence."""

    confidence: float  # mean
    accuracy: float  # share of right codes
    texts: int


def calibration_curve(judgements: Iterable[Judgement], buckets: int = 10) -> list[Bucket]:
    """Return the calibration curve, one bucket for each tenth (or other share) of the confidences from 0 to 1.

    :return: the buckets that are not empty, the lowest confidence first.
    """
    confidences, is_right = np.array(list(judgements), dtype=float).reshape(-1, 2).T
    numbers = np.minimum((confidences * buckets).astype(int), buckets - 1)
    members = [np.flatnonzero(numbers == number) for number in range(buckets)]
    return [Bucket(float(confidences[at].mean()), float(is_right[at].mean()), len(at)) for at in members if len(at)]


def calibration_error(curve: Sequence[Bucket]) -> float:
    """Return the mean difference between confidence and accuracy, weighted by the number of texts."""
    return fmean((abs(bucket.confidence - bucket.accuracy) for bucket in curve), [bucket.texts for bucket in curve])


# ---------------------------------------------------------------- the report

_ROWS: tuple[tuple[str, Callable[[Evaluation], Accuracy]], ...] = (
    ("unseen titles", lambda evaluation: evaluation.titles),
    ("  without occupation labels", lambda evaluation: evaluation.unlike_labels),
    ("  with an unseen task", lambda evaluation: evaluation.with_tasks),
    ("  with a typing error", lambda evaluation: evaluation.misspelt),
    ("  cost of the typing error", lambda evaluation: evaluation.spelling_costs[0]),
    ("titles of the training", lambda evaluation: evaluation.trained),
    ("  with a typing error", lambda evaluation: evaluation.trained_misspelt),
    ("  cost of the typing error", lambda evaluation: evaluation.spelling_costs[1]),
)


def report_lines(*evaluations: Evaluation) -> list[str]:
    """Return the report as lines of text; for several evaluations the means and the standard deviations."""
    rows = [(name, [accuracy(evaluation) for evaluation in evaluations]) for name, accuracy in _ROWS]
    titles = sum(evaluation.held_out_titles for evaluation in evaluations)
    seconds = mean(evaluation.training_seconds for evaluation in evaluations)
    rate = mean(evaluation.rate for evaluation in evaluations)
    return [
        f"{'per cent right':30}" + "".join(f"{_format_digits(digits):>13}" for digits in evaluations[0].titles),
        *(f"{name:30}" + "".join(map(_format_cell, _by_level(values))) for name, values in rows if any(values)),
        "",
        *curve_lines(calibration_curve(chain.from_iterable(evaluation.judgements for evaluation in evaluations))),
        "",
        f"{titles:,} titles held out; trained in {seconds:.0f} s of processor time; codes {rate:,.0f} texts a second",
    ]


def _by_level(values: Sequence[Accuracy]) -> Iterator[tuple[float, ...]]:
    return zip(*(accuracy.values() for accuracy in values), strict=True)


def _format_cell(values: Sequence[float]) -> str:
    deviation = f" ±{pstdev(values):.1f}" if len(values) > 1 else ""
    return f"{f'{mean(values):.1f}{deviation}':>13}"


def _format_digits(digits: int) -> str:
    return f"{digits} digit{'s' * (digits > 1)}"


def curve_lines(curve: Sequence[Bucket]) -> list[str]:
    """Return a calibration curve as lines of text."""
    rows = (f"{100 * confidence:11.0f} %{100 * accuracy:10.0f} %{texts:8,}" for confidence, accuracy, texts in curve)
    error = [f"mean difference: {100 * calibration_error(curve):.1f} percentage points"] if curve else []
    return [f"{'confidence':>13}{'right':>12}{'texts':>8}", *rows, *error]
