"""The coder behind the local service: occupation text to code, with a confidence that means something.

A hierarchical linear support vector machine. Every category that has children owns one linear model that
chooses among them; all models read the same TF-IDF of words and character n-grams. The probability of a
category is the product of the choices on the way down to it, and the most probable one of a level is
chosen. The confidence in it is how often a choice of that probability was right on texts that the models
had not seen. A text gets the most detailed code whose confidence passes the threshold.

    coder = Coder.load(Path("cache"))
    coder.code([("sparky", "wire houses")])[0].result    # Candidate(code='...', label='Electrician', ...)

A text's score is a sum over its words, so the models are applied once to each distinct word of a batch and
not to each record: that is what makes a million records cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from include.local_service.calibration import Flags, Lines, choose, fit_lines, to_confidences, to_probabilities
from include.local_service.examples import FOLDS, make_examples
from include.local_service.features import Columns, Features, Floats, Matrix, Pair, Writing, read_pairs
from include.local_service.hierarchy import Category, Hierarchy, read_categories
from include.local_service.model_file import Trained, model_path, read_model, write_model
from include.local_service.models import Models, fit_models

CLASSIFICATION: Final = Path(__file__).with_name("classification.jsonl")
DEFAULT_THRESHOLD: Final = 0.5
MAX_SUGGESTIONS: Final = 3

_BATCH = 1024  # records scored at once: bounds memory
_WORDS_KEPT = 8192  # words whose scores are kept, some 7 KB each with a classification of 1,156 occupations
_SUGGESTION_SHARE = 0.2  # a suggestion less than this share as likely as the best one only distracts
_DIGITS = 4  # of a confidence

#: Told what is being trained, and how many of how many models are done.
Progress: TypeAlias = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Candidate:
    """A code that a text may have.

    :param code: digits; their number is the level.
    :param label: the category's name in the classification.
    :param confidence: estimated probability (0 to 1) that the code is right.
    """

    code: str
    label: str
    confidence: float


@dataclass(frozen=True)
class Coding:
    """What became of one text: a result, or one to three suggestions, never both.

    :param result: the most detailed code that passed the threshold; None when not even one digit did.
    :param suggestions: the likeliest most detailed codes, best first; empty when there is a result.
    """

    result: Candidate | None
    suggestions: tuple[Candidate, ...] = ()


def be_silent(what: str, done: int, total: int) -> None:
    """Show no progress."""


class Coder:
    """Codes occupation texts; make one with :meth:`train` or :meth:`load`."""

    def __init__(
        self,
        hierarchy: Hierarchy,
        trained: Trained,
        threshold: float = DEFAULT_THRESHOLD,
        words: _WordScores | None = None,
    ) -> None:
        if not 0 <= threshold <= 1:
            raise ValueError(f"a threshold is a confidence from 0 to 1, not {threshold!r}")
        self._hierarchy = hierarchy
        self._trained = trained
        self._words = words or _WordScores(trained.features, trained.models)
        self.threshold = threshold

    @classmethod
    def train(cls, classification_path: Path = CLASSIFICATION, on_progress: Progress = be_silent) -> Coder:
        """Train a coder; the same file gives the same coder.

        :param classification_path: JSONL, one category a line: ``code`` (digits; it starts with its parent's
            code) and ``label``; the longest codes are the occupations and may also have ``titles`` and
            ``tasks``, lists of texts as people write them.
        :param on_progress: called after every linear model, some thousand times.
        :raises ClassificationError: when the file is no such hierarchy.
        """
        return cls.teach(read_categories(classification_path.read_bytes()), on_progress)

    @classmethod
    def teach(cls, categories: Sequence[Category], on_progress: Progress = be_silent) -> Coder:
        """Train a coder on categories that are in memory already; else as :meth:`train`."""
        hierarchy = Hierarchy.grow(categories)
        return cls(hierarchy, _train(hierarchy, on_progress))

    @classmethod
    def load(
        cls, cache_dir: Path, classification_path: Path = CLASSIFICATION, on_progress: Progress = be_silent
    ) -> Coder:
        """Return the coder trained earlier from the same file by the same program, else train it now.

        :param cache_dir: folder for trained coders; made if missing. When it cannot be read or written, or
            what lies there is damaged, the coder is trained again.
        :param classification_path: as for :meth:`train`; the shipped classification unless given.
        :param on_progress: as for :meth:`train`; not called when there is nothing to train.
        :raises ClassificationError: when the file is no hierarchy of codes.
        """
        content = classification_path.read_bytes()
        hierarchy = Hierarchy.grow(read_categories(content))
        path = model_path(cache_dir, content)
        trained = read_model(path)
        if trained is None:
            trained = _train(hierarchy, on_progress)
            write_model(path, trained)
        return cls(hierarchy, trained)

    @property
    def levels(self) -> tuple[int, ...]:
        """The lengths of codes, from the top down."""
        return tuple(level.digits for level in self._hierarchy.levels)

    def with_threshold(self, threshold: float) -> Coder:
        """Return the same coder with another threshold; nothing is copied.

        :param threshold: confidence (0 to 1) from which a code counts as found.
        :raises ValueError: when it is not from 0 to 1.
        """
        return Coder(self._hierarchy, self._trained, threshold, self._words)

    def code(self, pairs: Sequence[Pair]) -> list[Coding]:
        """Code texts.

        :param pairs: (occp_text, tasks_text); either may be empty.
        :return: one coding for each pair, in the same order.
        """
        batches = (pairs[start : start + _BATCH] for start in range(0, len(pairs), _BATCH))
        return list(chain.from_iterable(map(self._code_batch, batches)))

    def _code_batch(self, pairs: Sequence[Pair]) -> list[Coding]:
        writing = read_pairs(pairs)
        probabilities = to_probabilities(self._measure_margins(writing), self._hierarchy)
        choice = choose(probabilities, self._hierarchy)
        confidences = to_confidences(choice, writing.kinds, self._trained.lines).round(_DIGITS)
        return list(map(self._coding, probabilities, choice.columns, confidences))

    def _measure_margins(self, writing: Writing) -> Floats:
        """Texts x categories. The models are applied to the distinct words: there are far fewer than texts."""
        lengths, scores = self._words.look_up(writing.words)
        return np.asarray(writing.weigh(lengths) @ scores + self._trained.models.intercepts)

    def _coding(self, probabilities: Floats, chosen: Columns, confidences: Floats) -> Coding:
        """Climb to the most detailed level that passes; confidences never rise on the way down."""
        passing = np.count_nonzero(confidences >= self.threshold)
        if passing:
            return Coding(self._candidate(chosen[passing - 1], confidences[passing - 1]))
        likely = probabilities[self._hierarchy.leaves]
        places = min(MAX_SUGGESTIONS, len(likely))
        near = np.flatnonzero(likely >= np.partition(likely, -places)[-places])
        best = near[np.argsort(-likely[near], kind="stable")][:MAX_SUGGESTIONS]
        worth = best[likely[best] >= likely[best[0]] * _SUGGESTION_SHARE]
        # What comes after the best is as much less certain as it is less probable.
        stated = (confidences[-1] * likely[worth] / likely[best[0]]).round(_DIGITS)
        return Coding(None, tuple(map(self._candidate, worth + self._hierarchy.leaves.start, stated)))

    def _candidate(self, column: int, confidence: float) -> Candidate:
        return Candidate(self._hierarchy.codes[column], self._hierarchy.labels[column], float(confidence))


class _WordScores:
    """What each word adds to the margins, kept from batch to batch: most words of a text have come up before."""

    def __init__(self, features: Features, models: Models) -> None:
        self._features = features
        self._models = models
        self._kept: dict[str, tuple[float, Floats]] = {}

    def look_up(self, words: Sequence[str]) -> tuple[NDArray[np.float64], Floats]:
        """Return the lengths of the words, and words x categories."""
        kept = self._kept  # other threads use it too: it is replaced and never changed
        new = [word for word in words if word not in kept]
        lexicon = self._features.spell(new)
        scores = self._models.score(lexicon.points)
        added = dict(zip(new, zip(lexicon.lengths.tolist(), scores, strict=True), strict=True))
        self._kept = known = {**kept, **added}
        if len(known) > _WORDS_KEPT:
            self._kept = added
        lengths = np.array([known[word][0] for word in words])
        shape = (len(words), scores.shape[1])
        return lengths, np.array([known[word][1] for word in words], dtype=np.float32).reshape(shape)


class _Lesson(NamedTuple):
    """The training texts as numbers."""

    points: Matrix  # texts x features
    kinds: Columns  # of the texts, by which of their parts have words
    categories: Columns  # the column of each
    folds: Columns  # the fold that holds it back, -1: none


def _train(hierarchy: Hierarchy, on_progress: Progress) -> Trained:
    features, lesson = _prepare(hierarchy)
    steps = _Steps(on_progress, (FOLDS + 1) * sum(len(level.families) for level in hierarchy.levels))
    lines = _calibrate(hierarchy, lesson, steps)
    models = fit_models(hierarchy, lesson.points, lesson.categories, steps.named("all texts"))
    return Trained(features, models, lines)


def _prepare(hierarchy: Hierarchy) -> tuple[Features, _Lesson]:
    """Make the lesson of the occupations' texts and of the labels of the groups above them."""
    groups = hierarchy.leaves.start
    examples = make_examples(hierarchy.occupations)
    pairs = [(label, "") for label in hierarchy.labels[:groups]]
    pairs += [(example.title, example.tasks) for example in examples]
    categories = [*range(groups), *(groups + example.leaf for example in examples)]
    folds = [-1] * groups + [example.fold for example in examples]
    features = Features.learn(pairs)
    writing = read_pairs(pairs)
    lexicon = features.spell(writing.words)
    points = writing.weigh(lexicon.lengths) @ lexicon.points
    return features, _Lesson(points, writing.kinds, np.array(categories), np.array(folds))


def _calibrate(hierarchy: Hierarchy, lesson: _Lesson, steps: _Steps) -> Lines:
    """Fit the lines on what is chosen for each text under models that saw no text of its fold."""
    parts = [part for fold in range(FOLDS) for part in _choose_unseen(hierarchy, lesson, fold, steps)]
    kinds = np.concatenate([lesson.kinds[lesson.folds == fold] for fold in range(FOLDS)])
    probabilities, right = map(np.concatenate, zip(*parts, strict=True))
    return fit_lines(probabilities, right, kinds)


def _choose_unseen(hierarchy: Hierarchy, lesson: _Lesson, fold: int, steps: _Steps) -> Iterator[tuple[Floats, Flags]]:
    """For each batch of the fold's texts, the probabilities of the choices and whether they are right."""
    points, _, categories, folds = lesson
    held, taught = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
    models = fit_models(hierarchy, points[taught], categories[taught], steps.named(f"fold {fold + 1} of {FOLDS}"))
    for rows in np.array_split(held, len(held) // _BATCH + 1):
        margins = models.score(points[rows]) + models.intercepts
        choice = choose(to_probabilities(margins, hierarchy), hierarchy)
        yield choice.probabilities, choice.columns == hierarchy.paths[categories[rows]]


class _Steps:
    """Counts the models of a training."""

    def __init__(self, on_progress: Progress, total: int) -> None:
        self._on_progress = on_progress
        self._total = total
        self._done = 0

    def named(self, texts: str) -> Callable[[int], None]:
        """Return what to call after each model, with the digits that it tells apart."""

        def step(digits: int) -> None:
            self._done += 1
            self._on_progress(f"{texts}, {digits} digit{'s' * (digits > 1)}", self._done, self._total)

        return step
