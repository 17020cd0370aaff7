"""From margins to the likeliest categories, and from their probability to how often such a choice is right."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit

from include.local_service.features import KINDS, Columns, Floats
from include.local_service.hierarchy import Hierarchy, Level

Flags: TypeAlias = NDArray[np.bool_]
Lines: TypeAlias = NDArray[np.float64]  # kinds of texts (see Writing.kinds) x levels x (slope, intercept)

# Less than the margins are worth, which would be 3 and more: a wrong turn near the top can then be made good
# further down. Of 1.5 to 4 this codes most of OSCA's held-out titles and tasks right to the last digit.
_SHARPNESS = 2.4
_DOUBT = 1e-6  # is left about everything: the log-odds of 0 and of 1 are infinite


def to_probabilities(margins: Floats, hierarchy: Hierarchy) -> Floats:
    """Probability of each category: its share among its siblings times its parent's probability.

    :param margins: texts x categories.
    """
    result = np.empty_like(margins)
    for level in hierarchy.levels:
        shares = _share_out(margins[:, level.columns] * _SHARPNESS, level)
        result[:, level.columns] = shares if level.parents[0] < 0 else shares * result[:, level.parents]
    return result


def _share_out(scaled: Floats, level: Level) -> Floats:
    """Share of each category of a level among its siblings: texts x categories of the level."""
    highest = np.maximum.reduceat(scaled, level.families, axis=1)
    raised = np.exp(scaled - np.repeat(highest, level.sizes, axis=1))
    raised /= np.repeat(np.add.reduceat(raised, level.families, axis=1), level.sizes, axis=1)
    return raised


class Choice(NamedTuple):
    """The most probable category of each level: texts x levels."""

    columns: Columns
    probabilities: Floats


def choose(probabilities: Floats, hierarchy: Hierarchy) -> Choice:
    """Choose at each level for itself; of equals the first, and columns are in the order of codes."""
    best = [probabilities[:, level.columns].argmax(axis=1) + level.columns.start for level in hierarchy.levels]
    columns = np.stack(best, axis=1)
    return Choice(columns, np.take_along_axis(probabilities, columns, axis=1))


def to_confidences(choice: Choice, kinds: Columns, lines: Lines) -> NDArray[np.float64]:
    """How often a choice of that probability is right: texts x levels, never rising on the way down."""
    slopes, intercepts = np.moveaxis(lines[kinds], -1, 0)
    stated = expit(slopes * _log_odds(choice.probabilities) + intercepts)
    # What is known to six digits is known to four, whatever the line of the four says.
    return np.asarray(np.maximum.accumulate(stated[:, ::-1], axis=1)[:, ::-1])


def fit_lines(probabilities: Floats, right: Flags, kinds: Columns) -> Lines:
    """The lines from the log-odds of a choice to the log-odds of its being right (Platt scaling).

    :param probabilities: of the choices for unseen texts, texts x levels.
    :param right: whether each was right.
    :param kinds: of these texts; one that no text has keeps the probability as it is.
    """
    odds = _log_odds(probabilities)
    rows = [kinds == kind for kind in range(KINDS)]
    return np.array([[_fit_line(*line) for line in zip(odds[at].T, right[at].T, strict=True)] for at in rows])


def _fit_line(log_odds: Floats, right: Flags) -> tuple[float, float]:
    """Slope and intercept: the likeliest, drawn a little to 1 and 0, so that a handful of texts proves nothing."""
    signs = np.where(right, -1, 1)

    def surprise(line: NDArray[np.float64]) -> float:
        log_slope, intercept = line  # of the slope, the logarithm: more probable is never less confident
        return float(np.logaddexp(0, signs * (np.exp(log_slope) * log_odds + intercept)).sum() + line @ line / 2)

    log_slope, intercept = minimize(surprise, np.zeros(2)).x
    return float(np.exp(log_slope)), float(intercept)


def _log_odds(probabilities: Floats) -> Floats:
    return np.asarray(logit(np.clip(probabilities, _DOUBT, 1 - _DOUBT)))
