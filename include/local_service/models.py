"""The linear models: every category that has children owns a support vector machine that chooses among them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.sparse import csc_matrix, csr_matrix, hstack
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from include.local_service.features import Columns, Floats, Matrix
from include.local_service.hierarchy import Hierarchy

_PENALTY = 1.0  # the C of the SVM
_THREADS = 2  # the largest families take most of the time, and each that is in training its room
_NOTHING = 0.03  # a weight nearer to 0 than this decides nothing, and most are: 40 % of the room and of the time


class Models(NamedTuple):
    """All linear models side by side: one column a category, scored against its siblings."""

    weights: Matrix  # features x categories
    intercepts: Floats

    def score(self, points: Matrix) -> Floats:
        """Return points x categories without the intercepts, which a text has once and not with every word."""
        return np.asarray((points @ self.weights).toarray())


class _Family(NamedTuple):
    """The training of one parent: the rows below it, and which child each belongs to."""

    digits: int
    rows: Columns
    children: Columns
    size: int


def fit_models(
    hierarchy: Hierarchy, points: Matrix, categories: Columns, on_family: Callable[[int], None] = lambda digits: None
) -> Models:
    """Train the model of every parent.

    :param points: training texts x features.
    :param categories: the column of each training text; one above the occupations teaches nothing below it.
    :param on_family: called with the digits of its children whenever a parent's model is done.
    """

    families = list(_families(hierarchy, categories))
    fitted = []
    # One BLAS thread: more would fight with ours over the cores, and sum in an order of their own.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(_THREADS) as pool:
        for family, model in zip(families, pool.map(partial(_fit_family, points), families), strict=True):
            fitted.append(model)
            on_family(family.digits)
    weights = hstack([weights for weights, _ in fitted], format="csr", dtype=np.float32)
    return Models(weights, np.concatenate([intercepts for _, intercepts in fitted]))


def _families(hierarchy: Hierarchy, categories: Columns) -> Iterator[_Family]:
    """Every parent's family in the order of the columns."""
    for level, columns in zip(hierarchy.levels, hierarchy.paths[categories].T, strict=True):
        bounds = [*(level.families + level.columns.start), level.columns.stop]
        for first, end in pairwise(bounds):
            rows = np.flatnonzero((columns >= first) & (columns < end))
            yield _Family(level.digits, rows, columns[rows] - first, end - first)


def _fit_family(points: Matrix, family: _Family) -> tuple[Matrix, Floats]:
    """Return features x children, and an intercept for each child."""
    present = np.unique(family.children)
    intercepts = np.full(family.size, -1.0, dtype=np.float32)  # where a held-out fold had all the texts of a child
    if len(present) < 2:
        intercepts[present] = 1.0
        return csc_matrix((points.shape[1], family.size), dtype=np.float32), intercepts
    # Only now: scikit-learn brings pandas with it, 140 MB that a coder from a file has no use for.
    from sklearn.svm import LinearSVC

    used, rows = _drop_unused(points[family.rows])
    # The primal solver draws no random numbers: the same file gives the same coder, in threads too.
    svm = LinearSVC(C=_PENALTY, dual=False).fit(rows, family.children)
    sides = (-1, 1) if len(present) == 2 else (1,)  # scikit-learn keeps one column for two classes
    intercepts[present] = np.concatenate([side * svm.intercept_ for side in sides])
    weights = np.vstack([side * svm.coef_ for side in sides]).astype(np.float32)
    child, feature = np.nonzero(np.abs(weights) > _NOTHING)
    places = used[feature], present[child]
    return csc_matrix((weights[child, feature], places), shape=(points.shape[1], family.size)), intercepts


def _drop_unused(rows: Matrix) -> tuple[Columns, Matrix]:
    """Return the features that the rows use, and the rows with these only."""
    used, columns = np.unique(rows.indices, return_inverse=True)
    return used, csr_matrix((rows.data, columns, rows.indptr), shape=(rows.shape[0], len(used)))
