"""Converts SVM margins to probabilities, and probabilities to confidences: how often such a choice is right."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit

from include.local_service.coder.features import TEXT_KINDS, Columns, Floats
from include.local_service.coder.hierarchy import Hierarchy, Level

Flags: TypeAlias = NDArray[np.bool_]
Lines: TypeAlias = NDArray[np.float64]  # kinds of texts (see TextWords.kinds) x levels x (slope, intercept)

# Lower than the 3 or more that would fit the margins of a level best: a wrong choice near the top can then be
# corrected further down. Of the values from 1.5 to 4 this one codes the most held-out OSCA texts correctly.
_SHARPNESS = 2.4
_MIN_DOUBT = 1e-6  # the log-odds of the probabilities 0 and 1 would be infinite


def to_probabilities(margins: Floats, hierarchy: Hierarchy) -> Floats:
    """Return the probability of each category: its share among its siblings times its parent's probability.

    :param margins: texts x categories.
    """
    result = np.empty_like(margins)
    for level in hierarchy.levels:
        shares = _softmax_of_siblings(margins[:, level.columns] * _SHARPNESS, level)
        result[:, level.columns] = shares if level.parents[0] < 0 else shares * result[:, level.parents]
    return result


def _softmax_of_siblings(margins: Floats, level: Level) -> Floats:
    """Return the share of each category among its siblings: texts x categories of the level."""
    highest = np.maximum.reduceat(margins, level.families, axis=1)
    exponentials = np.exp(margins - np.repeat(highest, level.sizes, axis=1))
    exponentials /= np.repeat(np.add.reduceat(exponentials, level.families, axis=1), level.sizes, axis=1)
    return exponentials


class Choice(NamedTuple):
    """The most probable category of each level: texts x levels."""

    columns: Columns
    probabilities: Floats


def choose(probabilities: Floats, hierarchy: Hierarchy) -> Choice:
    """Return the most probable category of each level on its own; in a tie the lowest code."""
    best = [probabilities[:, level.columns].argmax(axis=1) + level.columns.start for level in hierarchy.levels]
    columns = np.stack(best, axis=1)
    return Choice(columns, np.take_along_axis(probabilities, columns, axis=1))


def to_confidences(choice: Choice, kinds: Columns, lines: Lines) -> NDArray[np.float64]:
    """Return how often a choice of that probability is right: texts x levels, never increasing with detail."""
    slopes, intercepts = np.moveaxis(lines[kinds], -1, 0)
    confidences = expit(slopes * _log_odds(choice.probabilities) + intercepts)
    # A code that is right to six digits is right to four, whatever the line of the four digits says.
    return np.asarray(np.maximum.accumulate(confidences[:, ::-1], axis=1)[:, ::-1])


def fit_lines(probabilities: Floats, is_right: Flags, kinds: Columns) -> Lines:
    """Fit the lines from the log-odds of a choice to the log-odds that it is right (Platt scaling).

    :param probabilities: of the choices for unseen texts, texts x levels.
    :param is_right: for each choice, whether it is right.
    :param kinds: of the texts. A kind without texts keeps its probabilities unchanged.
    """
    odds = _log_odds(probabilities)
    masks = [kinds == kind for kind in range(TEXT_KINDS)]
    return np.array([[_fit_line(*level) for level in zip(odds[at].T, is_right[at].T, strict=True)] for at in masks])


def _fit_line(log_odds: Floats, is_right: Flags) -> tuple[float, float]:
    """Return slope and intercept of maximum likelihood, regularised to 1 and 0 so that a few texts prove little."""
    signs = np.where(is_right, -1, 1)

    def loss(line: NDArray[np.float64]) -> float:
        log_slope, intercept = line  # the logarithm keeps the slope positive: more probable is more confident
        return float(np.logaddexp(0, signs * (np.exp(log_slope) * log_odds + intercept)).sum() + line @ line / 2)

    log_slope, intercept = minimize(loss, np.zeros(2)).x
    return float(np.exp(log_slope)), float(intercept)


def _log_odds(probabilities: Floats) -> Floats:
    return np.asarray(logit(np.clip(probabilities, _MIN_DOUBT, 1 - _MIN_DOUBT)))
