"""The linear models: every category that has children has a support vector machine that chooses among them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.sparse import csc_matrix, csr_matrix, hstack
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from include.local_service.coder.features import Columns, Floats, Matrix
from include.local_service.coder.hierarchy import Hierarchy

_SVM_PENALTY = 1.0  # the parameter C
_THREADS = 2  # more would not be faster, because a few large families dominate, and each thread needs memory
_MIN_WEIGHT = 0.03  # smaller weights do not change results; without them memory and time fall by 40 %


class Models(NamedTuple):
    """All linear models side by side: one column for each category, which is scored against its siblings."""

    weights: Matrix  # features x categories
    intercepts: Floats

    def score(self, vectors: Matrix) -> Floats:
        """Return vectors x categories, without the intercepts: they count once for a text, not for every word."""
        return np.asarray((vectors @ self.weights).toarray())


class _Family(NamedTuple):
    """The training data of one parent: the rows below it, and the child that each row belongs to."""

    digits: int
    rows: Columns
    children: Columns
    size: int


def fit_models(
    hierarchy: Hierarchy, vectors: Matrix, categories: Columns, on_family: Callable[[int], None] = lambda digits: None
) -> Models:
    """Train the model of every parent.

    :param vectors: training texts x features.
    :param categories: the column of each training text. The label of a group trains the levels down to the group.
    :param on_family: called with the length of the children's codes after each model.
    """
    families = list(_make_families(hierarchy, categories))
    models = []
    # One BLAS thread: more would compete with our threads, and their order of summation would vary.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(_THREADS) as pool:
        for family, model in zip(families, pool.map(partial(_fit_family, vectors), families), strict=True):
            models.append(model)
            on_family(family.digits)
    weights = hstack([weights for weights, _ in models], format="csr", dtype=np.float32)
    return Models(weights, np.concatenate([intercepts for _, intercepts in models]))


def _make_families(hierarchy: Hierarchy, categories: Columns) -> Iterator[_Family]:
    """Yield every parent's family in the order of the columns."""
    for level, columns in zip(hierarchy.levels, hierarchy.paths[categories].T, strict=True):
        bounds = [*(level.families + level.columns.start), level.columns.stop]
        for first, end in pairwise(bounds):
            rows = np.flatnonzero((columns >= first) & (columns < end))
            yield _Family(level.digits, rows, columns[rows] - first, end - first)


def _fit_family(vectors: Matrix, family: _Family) -> tuple[Matrix, Floats]:
    """Return features x children, and an intercept for each child."""
    present = np.unique(family.children)
    # A child whose texts are all in the held-out fold keeps the intercept -1.
    intercepts = np.full(family.size, -1.0, dtype=np.float32)
    if len(present) < 2:
        intercepts[present] = 1.0
        return csc_matrix((vectors.shape[1], family.size), dtype=np.float32), intercepts
    # Imported here because scikit-learn loads pandas: 140 MB that a coder from a model file does not need.
    from sklearn.svm import LinearSVC

    features, rows = _drop_unused_features(vectors[family.rows])
    # The primal solver uses no random numbers: the same file gives the same coder, with threads too.
    svm = LinearSVC(C=_SVM_PENALTY, dual=False).fit(rows, family.children)
    signs = (-1, 1) if len(present) == 2 else (1,)  # scikit-learn stores one row for two classes
    intercepts[present] = np.concatenate([sign * svm.intercept_ for sign in signs])
    weights = np.vstack([sign * svm.coef_ for sign in signs]).astype(np.float32)
    child, feature = np.nonzero(np.abs(weights) > _MIN_WEIGHT)
    positions = features[feature], present[child]
    return csc_matrix((weights[child, feature], positions), shape=(vectors.shape[1], family.size)), intercepts


def _drop_unused_features(rows: Matrix) -> tuple[Columns, Matrix]:
    """Return the features that occur in the rows, and the rows with only these features."""
    features, columns = np.unique(rows.indices, return_inverse=True)
    return features, csr_matrix((rows.data, columns, rows.indptr), shape=(rows.shape[0], len(features)))
