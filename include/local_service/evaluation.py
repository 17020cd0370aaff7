"""How good a coder is: titles that it never saw, slips of the finger, what its confidence is worth, its speed."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import mean, pstdev
from typing import NamedTuple, TypeAlias

import numpy as np

from include.local_service.coder import Coder, Progress, be_silent
from include.local_service.features import Pair
from include.local_service.hierarchy import Category

#: Share right in per cent, by the digits that are looked at.
Shares: TypeAlias = dict[int, float]

#: The confidence of a text's most detailed code, and whether that code is right.
Judged: TypeAlias = tuple[float, bool]

_FEWEST_TASKS = 4  # an occupation with less loses none: what is left would not describe it
_TIMED = 10_000  # texts


class Answer(NamedTuple):
    """A text and the code that it should get."""

    code: str
    title: str
    tasks: str = ""


class Split(NamedTuple):
    """A classification without some of its titles, and these as texts to code."""

    kept: list[Category]
    titles: list[Answer]  # the title alone
    with_tasks: list[Answer]  # with a task that was held out too, where the occupation could spare one
    labels: frozenset[str]  # those of the held-out titles that are an occupation's label, in small letters


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    :param titles: on held-out titles, the title alone.
    :param unlike_labels: the same without the titles that are an occupation's label, which resemble the
        label of their group and each other.
    :param with_tasks: on held-out titles with a held-out task.
    :param misspelt: on the held-out titles, each with a slip of the finger.
    :param taught: on titles the coder was taught.
    :param taught_misspelt: on these, each with a slip.
    :param judged: the held-out texts of both kinds, each with its confidence.
    :param held: number of held-out titles.
    :param rate: distinct texts coded in a second of processor time, on one core.
    :param training_seconds: processor time of training.
    """

    titles: Shares
    unlike_labels: Shares
    with_tasks: Shares
    misspelt: Shares
    taught: Shares
    taught_misspelt: Shares
    judged: list[Judged]
    held: int
    rate: float
    training_seconds: float

    @property
    def spelling_costs(self) -> tuple[Shares, Shares]:
        """Points that a slip costs: on held-out titles, and on titles the coder was taught."""
        pairs = (self.titles, self.misspelt), (self.taught, self.taught_misspelt)
        unseen, taught = ({digits: clean[digits] - slip[digits] for digits in clean} for clean, slip in pairs)
        return unseen, taught


def hold_out(categories: Sequence[Category], share: float = 0.2, seed: int = 0) -> Split:
    """Take a random share of the titles out of a classification, whatever occupations have them.

    A title is drawn by its text: no occupation keeps it, neither among its titles nor as its label.

    :param share: of the distinct titles, labels of occupations included (0 to 1).
    :param seed: another seed draws other titles.
    """
    chance = random.Random(seed)
    digits = max(len(category.code) for category in categories)
    occupations = [category for category in categories if len(category.code) == digits]
    titles = sorted({title.casefold() for one in occupations for title in _titles_of(one)})
    drawn = set(chance.sample(titles, round(len(titles) * share)))
    split = Split([c for c in categories if len(c.code) < digits], [], [], frozenset(drawn & _labels_of(occupations)))
    for occupation in occupations:
        _divide(occupation, drawn, chance, split)
    return split


def _titles_of(occupation: Category) -> tuple[str, ...]:
    return tuple({title.casefold(): title for title in (occupation.label, *occupation.titles)}.values())


def _labels_of(occupations: Sequence[Category]) -> set[str]:
    return {occupation.label.casefold() for occupation in occupations}


def _divide(occupation: Category, drawn: set[str], chance: random.Random, split: Split) -> None:
    held = [title for title in _titles_of(occupation) if title.casefold() in drawn]
    tasks = list(occupation.tasks)
    if held and len(tasks) >= _FEWEST_TASKS:
        task = tasks.pop(chance.randrange(1, len(tasks)))  # the first is the lead statement
        split.with_tasks.extend(Answer(occupation.code, title, task) for title in held)
    split.titles.extend(Answer(occupation.code, title) for title in held)
    label = "" if occupation.label.casefold() in drawn else occupation.label
    titles = tuple(title for title in occupation.titles if title.casefold() not in drawn)
    split.kept.append(replace(occupation, label=label, titles=titles, tasks=tuple(tasks)))


def evaluate(
    categories: Sequence[Category], share: float = 0.2, seed: int = 0, on_progress: Progress = be_silent
) -> Evaluation:
    """Train a coder without a share of the titles and see what it makes of them.

    :param share: of the titles to hold out (0 to 1).
    :param seed: of the draw and of the slips.
    """
    split = hold_out(categories, share, seed)
    began = time.process_time()
    coder = Coder.teach(split.kept, on_progress).with_threshold(0)
    trained = time.process_time() - began
    taught = [Answer(one.code, title) for one in split.kept for title in one.titles]
    return Evaluation(
        titles=measure_shares(coder, split.titles),
        unlike_labels=measure_shares(coder, [a for a in split.titles if a.title.casefold() not in split.labels]),
        with_tasks=measure_shares(coder, split.with_tasks),
        misspelt=measure_shares(coder, misspell_titles(split.titles, seed)),
        taught=measure_shares(coder, taught),
        taught_misspelt=measure_shares(coder, misspell_titles(taught, seed)),
        judged=judge(coder, [*split.titles, *split.with_tasks]),
        held=len(split.titles),
        rate=measure_rate(coder, make_texts(categories, _TIMED, seed)),
        training_seconds=trained,
    )


def measure_shares(coder: Coder, answers: Sequence[Answer]) -> Shares:
    """Return how often the code agrees with the answer in its first digits, for every level; nothing without answers.

    :param coder: one with threshold 0, which gives every text its most detailed code.
    """
    pairs = [(code, answer.code) for (code, _), answer in zip(_code(coder, answers), answers, strict=True)]
    return {n: 100 * mean(given[:n] == true[:n] for given, true in pairs) for n in coder.levels if pairs}


def judge(coder: Coder, answers: Sequence[Answer]) -> list[Judged]:
    """Return the confidence of each most detailed code, and whether it is right.

    :param coder: one with threshold 0.
    """
    results = _code(coder, answers)
    return [(stated, code == answer.code) for (code, stated), answer in zip(results, answers, strict=True)]


def _code(coder: Coder, answers: Sequence[Answer]) -> list[tuple[str, float]]:
    codings = coder.code([(answer.title, answer.tasks) for answer in answers])
    return [(coding.result.code, coding.result.confidence) for coding in codings if coding.result]


def measure_rate(coder: Coder, pairs: Sequence[Pair]) -> float:
    """Return how many texts are coded in a second of processor time."""
    began = time.process_time()
    coder.code(pairs)
    return len(pairs) / (time.process_time() - began)


def make_texts(categories: Sequence[Category], count: int, seed: int = 0) -> list[Pair]:
    """Return distinct texts as a survey has them: a title, every eighth misspelt, and part of a task or none."""
    chance = random.Random(seed)
    occupations = [category for category in categories if category.titles or category.tasks]
    pairs: dict[Pair, None] = {}
    for _ in range(count * 20):  # a small classification may not have so many
        pairs[_make_text(chance.choice(occupations), chance)] = None
        if len(pairs) == count:
            break
    return list(pairs)


def _make_text(occupation: Category, chance: random.Random) -> Pair:
    title = chance.choice(_titles_of(occupation))
    words = chance.choice(occupation.tasks or ("",)).casefold().split()
    start = chance.randrange(max(1, len(words) - 3))
    task = " ".join(words[start : start + chance.randrange(12)])
    return (misspell(title, chance) if chance.random() < 1 / 8 else title), task


def misspell_titles(answers: Sequence[Answer], seed: int = 0) -> list[Answer]:
    """Return the same answers with one slip of the finger in every title."""
    chance = random.Random(seed)
    return [answer._replace(title=misspell(answer.title, chance)) for answer in answers]


def misspell(text: str, chance: random.Random) -> str:
    """Return a text with one letter of a word dropped, doubled, wrong, or swapped with the next."""
    places = [at for at in range(len(text) - 1) if text[at : at + 2].isalpha()]
    if not places:
        return text
    at = chance.choice(places)
    letter, following = text[at], text[at + 1]
    wrong = chance.choice("aeiorst") + following
    written = chance.choice((following, letter * 2 + following, wrong, following + letter))
    return text[:at] + written + text[at + 2 :]


# ---------------------------------------------------------------- what the confidence is worth


class Bucket(NamedTuple):
    """A slice of the calibration curve: texts whose stated confidence is about the same."""

    stated: float  # mean confidence
    right: float  # share that was right
    texts: int


def draw_curve(judged: Iterable[Judged], buckets: int = 10) -> list[Bucket]:
    """Return the calibration curve, one bucket for each tenth (or other share) of the confidences from 0 to 1.

    :return: the buckets that hold anything, the least confident first.
    """
    stated, right = np.array(list(judged), dtype=float).reshape(-1, 2).T
    places = np.minimum((stated * buckets).astype(int), buckets - 1)
    held = [np.flatnonzero(places == place) for place in range(buckets)]
    return [Bucket(float(stated[at].mean()), float(right[at].mean()), len(at)) for at in held if len(at)]


def mean_error(curve: Sequence[Bucket]) -> float:
    """How far the stated confidence is from the share that is right, on average over the texts."""
    return sum(abs(one.stated - one.right) * one.texts for one in curve) / sum(one.texts for one in curve)


# ---------------------------------------------------------------- as a person reads it

_ROWS: tuple[tuple[str, Callable[[Evaluation], Shares]], ...] = (
    ("titles never seen", lambda found: found.titles),
    ("  no label of an occupation", lambda found: found.unlike_labels),
    ("  with a task never seen", lambda found: found.with_tasks),
    ("  with a slip", lambda found: found.misspelt),
    ("  what the slip costs", lambda found: found.spelling_costs[0]),
    ("titles taught", lambda found: found.taught),
    ("  with a slip", lambda found: found.taught_misspelt),
    ("  what the slip costs", lambda found: found.spelling_costs[1]),
)


def report_lines(*draws: Evaluation) -> list[str]:
    """Return an evaluation as lines of text; of several draws the means, with the spread of the shares."""
    rows = [(name, [pick(found) for found in draws]) for name, pick in _ROWS]
    held = sum(found.held for found in draws)
    seconds, rate = mean(found.training_seconds for found in draws), mean(found.rate for found in draws)
    return [
        f"{'per cent right':30}" + "".join(f"{_name_level(digits):>13}" for digits in draws[0].titles),
        *(f"{name:30}" + "".join(map(_format_cell, _by_level(shares))) for name, shares in rows if any(shares)),
        "",
        *curve_lines(draw_curve(judged for found in draws for judged in found.judged)),
        "",
        f"{held:,} titles held out; trained in {seconds:.0f} s of processor time; codes {rate:,.0f} texts a second",
    ]


def _by_level(draws: Sequence[Shares]) -> Iterator[tuple[float, ...]]:
    return zip(*(shares.values() for shares in draws), strict=True)


def _format_cell(shares: Sequence[float]) -> str:
    spread = f" ±{pstdev(shares):.1f}" if len(shares) > 1 else ""
    return f"{f'{mean(shares):.1f}{spread}':>13}"


def _name_level(digits: int) -> str:
    return f"{digits} digit{'s' * (digits > 1)}"


def curve_lines(curve: Sequence[Bucket]) -> list[str]:
    """Return a calibration curve as lines of text."""
    rows = (f"{100 * stated:11.0f} %{100 * right:10.0f} %{texts:8,}" for stated, right, texts in curve)
    apart = [f"on average {100 * mean_error(curve):.1f} points apart"] if curve else []
    return [f"{'confidence':>13}{'right':>12}{'texts':>8}", *rows, *apart]
