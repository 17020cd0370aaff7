"""From margins to probabilities: scales fitted on texts that the models had not seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from include.local_service.features import KINDS, Columns, Floats
from include.local_service.hierarchy import Hierarchy, Level

Scales: TypeAlias = NDArray[np.float32]  # kinds of texts (see Writing.kinds) x levels


def to_probabilities(margins: Floats, kinds: Columns, hierarchy: Hierarchy, scales: Scales) -> Floats:
    """Probability of each category: its share among its siblings times its parent's probability.

    :param margins: texts x categories.
    :param kinds: of the texts.
    """
    result = np.empty_like(margins)
    for level, scale in zip(hierarchy.levels, scales[kinds].T, strict=True):
        shares = _shares(margins[:, level.columns] * scale[:, np.newaxis], level)
        result[:, level.columns] = shares if level.parents[0] < 0 else shares * result[:, level.parents]
    return result


def _shares(scaled: Floats, level: Level) -> Floats:
    """Probability of each category of a level among its siblings: texts x categories of the level."""
    highest = np.maximum.reduceat(scaled, level.families, axis=1)
    raised = np.exp(scaled - np.repeat(highest, level.sizes, axis=1))
    raised /= np.repeat(np.add.reduceat(raised, level.families, axis=1), level.sizes, axis=1)
    return raised


def measure_gaps(margins: Floats, level: Level, true: Columns) -> Floats:
    """Texts x siblings: margin of each sibling of the true category above that category's own margin."""
    rows = np.arange(len(true))
    family = np.searchsorted(level.families, true - level.columns.start, side="right") - 1
    offsets = np.arange(level.sizes.max())
    columns = level.columns.start + level.families[family, np.newaxis] + offsets
    siblings = margins[rows[:, np.newaxis], np.minimum(columns, level.columns.stop - 1)]
    siblings[offsets >= level.sizes[family, np.newaxis]] = -np.inf
    return siblings - margins[rows, true][:, np.newaxis]


def fit_scales(gaps: Sequence[Floats], kinds: Columns) -> Scales:
    """The scales of the margins that make the true categories of unseen texts likeliest.

    Each level has its own, and each kind of text a factor for all levels: a title with tasks leaves less doubt
    than the same margins on a title alone. A scale for each level of each kind would fit better, and carry over
    worse to texts that are put in other words.

    :param gaps: for each level, those of the unseen texts.
    :param kinds: of these texts; one that no text has gets the factor 1.
    """
    scales = np.array([_fit_factor([level]) for level in gaps], dtype=np.float32)
    scaled = [level * scale for level, scale in zip(gaps, scales, strict=True)]
    rows = (np.flatnonzero(kinds == kind) for kind in range(KINDS))
    return np.array([scales * (_fit_factor([level[at] for level in scaled]) if len(at) else 1) for at in rows])


def _fit_factor(gaps: Sequence[Floats]) -> np.float32:
    def total_surprise(log_factor: float) -> float:
        return sum(_surprise(log_factor, level) for level in gaps)

    return np.float32(np.exp(minimize_scalar(total_surprise, bounds=(-2, 4), method="bounded").x))


def _surprise(log_scale: float, gaps: Floats) -> float:
    """Mean negative log likelihood of the true categories among their siblings."""
    return float(logsumexp(np.exp(log_scale) * gaps, axis=1).mean())


class Bucket(NamedTuple):
    """A slice of the calibration curve: texts whose stated confidence is about the same."""

    stated: float  # mean confidence
    right: float  # share that was right
    texts: int


def draw_curve(confidences: Sequence[float], right: Sequence[bool], buckets: int = 10) -> list[Bucket]:
    """Return the calibration curve, one bucket for each tenth (or other share) of the confidences from 0 to 1.

    :param confidences: as stated, 0 to 1.
    :param right: whether each was right.
    :return: the buckets that hold anything, the least confident first.
    """
    stated, true = np.asarray(confidences, dtype=float), np.asarray(right, dtype=float)
    places = np.minimum((stated * buckets).astype(int), buckets - 1)
    held = [np.flatnonzero(places == place) for place in range(buckets)]
    return [Bucket(float(stated[at].mean()), float(true[at].mean()), len(at)) for at in held if len(at)]
