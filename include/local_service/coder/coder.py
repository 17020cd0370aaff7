"""The coder of the local service: maps an occupation text to a code with a calibrated confidence.

It is a hierarchical linear support vector machine. Every category that has children has one linear model that
chooses among them; all models use the same TF-IDF features of words and character n-grams. The probability of
a category is the product of the probabilities on the path down to it. The coder chooses the most probable
category of each level. Its confidence is how often a choice of that probability was right on texts that the
models had not seen. A text gets the most detailed code whose confidence reaches the threshold.

    coder = Coder.load(Path("cache"))
    coder.code([("sparky", "wire houses")])[0].result    # Candidate(code='...', label='Electrician', ...)

The score of a text is a sum over its words. The models are therefore applied once to each distinct word of a
batch and not to each record, which makes a million records cheap.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from include.local_service.coder.calibration import Flags, Lines, choose, fit_lines, to_confidences, to_probabilities
from include.local_service.coder.classifications import SHIPPED_CLASSIFICATION
from include.local_service.coder.coding import Candidate, Coding
from include.local_service.coder.examples import FOLDS, make_examples
from include.local_service.coder.features import Columns, Features, Floats, Matrix, Pair, TextWords, read_pairs
from include.local_service.coder.hierarchy import Category, Hierarchy, read_categories
from include.local_service.coder.model_file import TrainedModel, model_path, read_model, write_model
from include.local_service.coder.models import Models, fit_models

DEFAULT_THRESHOLD: Final = 0.5
MAX_SUGGESTIONS: Final = 3

_BATCH_TEXTS = 1024  # scored at once: limits memory
_CACHED_WORDS = 8192  # each takes about 7 KB with a classification of 1,156 occupations
_MIN_SUGGESTION_SHARE = 0.2  # a suggestion must be at least this likely in relation to the best one
_CONFIDENCE_DECIMALS = 4

#: Called with what is being trained, the number of finished models and the number of all models.
Progress: TypeAlias = Callable[[str, int, int], None]
Report: TypeAlias = Callable[[str, int], None]


def ignore_progress(what: str, done: int, total: int) -> None:
    """Show no progress."""


class Coder:
    """Codes occupation texts. Create one with :meth:`train` or :meth:`load`."""

    def __init__(
        self,
        hierarchy: Hierarchy,
        model: TrainedModel,
        threshold: float = DEFAULT_THRESHOLD,
        word_scores: _WordScores | None = None,
    ) -> None:
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must be from 0 to 1, not {threshold!r}")
        self._hierarchy = hierarchy
        self._model = model
        self._word_scores = word_scores or _WordScores(model.features, model.models)
        self.threshold = threshold

    @classmethod
    def train(
        cls, classification_path: Path = SHIPPED_CLASSIFICATION, on_progress: Progress = ignore_progress
    ) -> Coder:
        """Train a coder; the same file always gives the same coder.

        :param classification_path: JSONL, one category a line: ``code`` (digits; the parent's code is a prefix)
            and ``label``. The longest codes are the occupations; they can also have ``titles`` and ``tasks``,
            lists of texts as people write them.
        :param on_progress: called after every linear model, some thousand times.
        :raises ClassificationError: if the codes of the file do not form a hierarchy.
        """
        return cls.train_on(read_categories(classification_path.read_bytes()), on_progress)

    @classmethod
    def train_on(cls, categories: Sequence[Category], on_progress: Progress = ignore_progress) -> Coder:
        """Train a coder on categories in memory; otherwise like :meth:`train`."""
        hierarchy = Hierarchy.from_categories(categories)
        return cls(hierarchy, _train(hierarchy, on_progress))

    @classmethod
    def load(
        cls,
        cache_dir: Path,
        classification_path: Path = SHIPPED_CLASSIFICATION,
        on_progress: Progress = ignore_progress,
    ) -> Coder:
        """Return the coder from its model file, or train it now if there is no valid one.

        :param cache_dir: folder of model files, created if missing. If the model file cannot be read, is damaged,
            or was written by another version of the program, the coder is trained again.
        :param classification_path: see :meth:`train`.
        :param on_progress: see :meth:`train`; not called if nothing has to be trained.
        :raises ClassificationError: if the codes of the file do not form a hierarchy.
        """
        content = classification_path.read_bytes()
        hierarchy = Hierarchy.from_categories(read_categories(content))
        path = model_path(cache_dir, content)
        model = read_model(path)
        if model is None:
            logging.getLogger("local_service").info("no valid model file %s: training the coder", path)
            model = _train(hierarchy, on_progress)
            write_model(path, model)
        return cls(hierarchy, model)

    @property
    def levels(self) -> tuple[int, ...]:
        """The lengths of codes, from the top down."""
        return tuple(level.digits for level in self._hierarchy.levels)

    def with_threshold(self, threshold: float) -> Coder:
        """Return the same coder with another threshold; they share the trained model.

        :param threshold: minimum confidence (0 to 1) of a result.
        :raises ValueError: if it is not from 0 to 1.
        """
        return Coder(self._hierarchy, self._model, threshold, self._word_scores)

    def code(self, pairs: Sequence[Pair]) -> list[Coding]:
        """Code texts.

        :param pairs: (occp_text, tasks_text); either can be empty.
        :return: one coding for each pair, in the same order.
        """
        batches = (pairs[start : start + _BATCH_TEXTS] for start in range(0, len(pairs), _BATCH_TEXTS))
        return list(chain.from_iterable(map(self._code_batch, batches)))

    def _code_batch(self, pairs: Sequence[Pair]) -> list[Coding]:
        texts = read_pairs(pairs)
        probabilities = to_probabilities(self._margins(texts), self._hierarchy)
        choice = choose(probabilities, self._hierarchy)
        confidences = to_confidences(choice, texts.kinds, self._model.lines).round(_CONFIDENCE_DECIMALS)
        return list(map(self._make_coding, probabilities, choice.columns, confidences))

    def _margins(self, texts: TextWords) -> Floats:
        """Return texts x categories."""
        lengths, scores = self._word_scores.look_up(texts.words)
        return np.asarray(texts.to_weights(lengths) @ scores + self._model.models.intercepts)

    def _make_coding(self, probabilities: Floats, columns: Columns, confidences: Floats) -> Coding:
        """Return the most detailed code that reaches the threshold; confidences never increase with detail."""
        levels = np.count_nonzero(confidences >= self.threshold)
        if levels:
            return Coding(self._candidate(columns[levels - 1], confidences[levels - 1]))
        likelihoods = probabilities[self._hierarchy.leaves]
        places = min(MAX_SUGGESTIONS, len(likelihoods))
        top = np.flatnonzero(likelihoods >= np.partition(likelihoods, -places)[-places])
        ranking = top[np.argsort(-likelihoods[top], kind="stable")][:MAX_SUGGESTIONS]
        suggestions = ranking[likelihoods[ranking] >= likelihoods[ranking[0]] * _MIN_SUGGESTION_SHARE]
        # The confidence of the second and third falls in proportion to their probability.
        shares = likelihoods[suggestions] / likelihoods[ranking[0]]
        rounded = (confidences[-1] * shares).round(_CONFIDENCE_DECIMALS)
        return Coding(None, tuple(map(self._candidate, suggestions + self._hierarchy.leaves.start, rounded)))

    def _candidate(self, column: int, confidence: float) -> Candidate:
        return Candidate(self._hierarchy.codes[column], self._hierarchy.labels[column], float(confidence))


class _WordScores:
    """A cache of the scores of words: most words of a batch occurred in an earlier one."""

    def __init__(self, features: Features, models: Models) -> None:
        self._features = features
        self._models = models
        self._cache: dict[str, tuple[float, Floats]] = {}

    def look_up(self, words: Sequence[str]) -> tuple[NDArray[np.float64], Floats]:
        """Return the lengths of the words' vectors, and words x categories."""
        cache = self._cache  # shared with other threads: the dict is replaced and never changed
        new_words = [word for word in words if word not in cache]
        vectors, lengths = self._features.to_vectors(new_words)
        scores = self._models.score(vectors)
        new_entries = dict(zip(new_words, zip(lengths.tolist(), scores, strict=True), strict=True))
        entries = {**cache, **new_entries}
        self._cache = new_entries if len(entries) > _CACHED_WORDS else entries
        word_lengths = np.array([entries[word][0] for word in words])
        shape = (len(words), scores.shape[1])
        return word_lengths, np.array([entries[word][1] for word in words], dtype=np.float32).reshape(shape)


class _TrainingSet(NamedTuple):
    """The training texts as numbers."""

    vectors: Matrix  # texts x features
    kinds: Columns  # the kind of each text (see `TextWords.kinds`)
    categories: Columns  # the column of each text
    folds: Columns  # the fold in which each text is held out; -1 if in none


def _train(hierarchy: Hierarchy, on_progress: Progress) -> TrainedModel:
    features, training_set = _make_training_set(hierarchy)
    report = _make_reporter(on_progress, (FOLDS + 1) * sum(len(level.families) for level in hierarchy.levels))
    lines = _calibrate(hierarchy, training_set, report)
    models = fit_models(hierarchy, training_set.vectors, training_set.categories, partial(report, "all texts"))
    return TrainedModel(features, models, lines)


def _make_training_set(hierarchy: Hierarchy) -> tuple[Features, _TrainingSet]:
    """Return the texts of the occupations and the labels of the groups above them."""
    groups = hierarchy.leaves.start
    examples = make_examples(hierarchy.occupations)
    pairs = [(label, "") for label in hierarchy.labels[:groups]]
    pairs += [(example.title, example.tasks) for example in examples]
    categories = [*range(groups), *(groups + example.leaf for example in examples)]
    folds = [-1] * groups + [example.fold for example in examples]
    features = Features.from_texts(pairs)
    texts = read_pairs(pairs)
    words = features.to_vectors(texts.words)
    vectors = texts.to_weights(words.lengths) @ words.vectors
    return features, _TrainingSet(vectors, texts.kinds, np.array(categories), np.array(folds))


def _calibrate(hierarchy: Hierarchy, training_set: _TrainingSet, report: Report) -> Lines:
    """Fit the lines on the choices for each text by models that were trained without its fold."""
    parts = [part for fold in range(FOLDS) for part in _choose_for_fold(hierarchy, training_set, fold, report)]
    kinds = np.concatenate([training_set.kinds[training_set.folds == fold] for fold in range(FOLDS)])
    probabilities, is_right = map(np.concatenate, zip(*parts, strict=True))
    return fit_lines(probabilities, is_right, kinds)


def _choose_for_fold(
    hierarchy: Hierarchy, training_set: _TrainingSet, fold: int, report: Report
) -> Iterator[tuple[Floats, Flags]]:
    """Yield, for each batch of the fold's texts, the probabilities of the choices and whether they are right."""
    vectors, _, categories, folds = training_set
    test_rows, train_rows = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
    on_family = partial(report, f"fold {fold + 1} of {FOLDS}")
    models = fit_models(hierarchy, vectors[train_rows], categories[train_rows], on_family)
    for rows in np.array_split(test_rows, len(test_rows) // _BATCH_TEXTS + 1):
        margins = models.score(vectors[rows]) + models.intercepts
        choice = choose(to_probabilities(margins, hierarchy), hierarchy)
        yield choice.probabilities, choice.columns == hierarchy.paths[categories[rows]]


def _make_reporter(on_progress: Progress, total: int) -> Report:
    """Return the function to call after each model, with its training texts and the length of its codes."""
    done = count(1)

    def report(texts: str, digits: int) -> None:
        on_progress(f"{texts}, {digits} digit{'s' * (digits > 1)}", next(done), total)

    return report
