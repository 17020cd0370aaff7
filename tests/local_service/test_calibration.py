"""Probabilities, choices and calibrated confidences."""

import numpy as np
import pytest

from include.local_service.coder.calibration import Choice, choose, fit_lines, to_confidences, to_probabilities
from include.local_service.coder.hierarchy import Category, Hierarchy

TITLE_ONLY = 2  # a kind of text
CODES = ("1", "11", "12", "2", "21", "22")


@pytest.fixture
def hierarchy() -> Hierarchy:
    return Hierarchy.from_categories([Category(code, f"job {code}") for code in CODES])


def title_kinds(probabilities: np.ndarray) -> np.ndarray:
    return np.full(len(probabilities), TITLE_ONLY)


def test_children_share_the_probability_of_their_parent(hierarchy: Hierarchy) -> None:
    margins = np.random.default_rng(1).normal(size=(50, 6)).astype(np.float32)
    probabilities = to_probabilities(margins, hierarchy)
    assert probabilities[:, :2].sum(axis=1) == pytest.approx(1)
    assert probabilities[:, 2:].reshape(-1, 2, 2).sum(axis=2) == pytest.approx(probabilities[:, :2])


def test_a_good_occupation_outweighs_a_slightly_worse_parent(hierarchy: Hierarchy) -> None:
    # columns: 1, 2, 11, 12, 21, 22; the choice at the top is close, and 1 cannot tell its children apart
    margins = np.array([[0.1, 0.0, 0.0, 0.0, 1.0, -1.0]], dtype=np.float32)
    choice = choose(to_probabilities(margins, hierarchy), hierarchy)
    assert [hierarchy.codes[column] for column in choice.columns[0]] == ["1", "21"]


def test_a_child_is_never_more_confident_than_its_parent() -> None:
    lines = np.tile([[1.0, -2.0], [1.0, 1.0]], (4, 1, 1))  # the upper level is trusted less than the lower
    probabilities = np.array([[0.6, 0.5], [0.99, 0.1]], dtype=np.float32)
    confidences = to_confidences(
        Choice(np.zeros((2, 2), dtype=int), probabilities), title_kinds(probabilities), lines
    )
    assert confidences[0] == pytest.approx([0.731, 0.731], abs=0.001)
    assert confidences[1] == pytest.approx([0.931, 0.232], abs=0.001)


def test_choices_that_were_right_half_of_the_time_get_a_confidence_of_a_half() -> None:
    probabilities = np.array([[0.95], [0.6]] * 200, dtype=np.float32)
    right = np.array([[True], [False], [False], [False]] * 100)  # 0.95: a half; 0.6: never
    lines = fit_lines(probabilities, right, title_kinds(probabilities))
    confidences = to_confidences(
        Choice(np.zeros((400, 1), dtype=int), probabilities), title_kinds(probabilities), lines
    )
    assert confidences[0, 0] == pytest.approx(0.5, abs=0.05)
    assert confidences[1, 0] == pytest.approx(0, abs=0.05)


def test_a_kind_without_texts_keeps_its_probabilities() -> None:
    probabilities = np.array([[0.3], [0.9]], dtype=np.float32)
    lines = fit_lines(probabilities, np.array([[True], [False]]), np.array([0, 0]))
    confidences = to_confidences(
        Choice(np.zeros((2, 1), dtype=int), probabilities), title_kinds(probabilities), lines
    )
    assert confidences == pytest.approx(probabilities)


def test_a_few_texts_change_the_confidence_little() -> None:
    probabilities = np.full((3, 1), 0.5, dtype=np.float32)
    lines = fit_lines(probabilities, np.array([[True]] * 3), title_kinds(probabilities))
    confidences = to_confidences(
        Choice(np.zeros((3, 1), dtype=int), probabilities), title_kinds(probabilities), lines
    )
    assert 0.6 < confidences[0, 0] < 0.8


@pytest.mark.parametrize(
    "right",
    [
        pytest.param([True] * 6, id="all right"),
        pytest.param([False] * 6, id="all wrong"),
        pytest.param([True, True, True, False, False, False], id="the less probable the better"),
    ],
)
def test_a_higher_probability_always_gives_a_higher_confidence(right: list[bool]) -> None:
    training = np.linspace(0.1, 0.9, 6, dtype=np.float32)[:, np.newaxis]
    lines = fit_lines(training, np.array(right)[:, np.newaxis], title_kinds(training))
    probabilities = np.array([[0.0], [0.2], [0.5], [0.8], [1.0]], dtype=np.float32)
    confidences = to_confidences(
        Choice(np.zeros((5, 1), dtype=int), probabilities), title_kinds(probabilities), lines
    )
    assert np.all(np.diff(confidences, axis=0) > 0)
    assert confidences.min() > 0
    assert confidences.max() < 1
