"""The evaluation: OSCA as released, the calibration curve, and the report."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from include.local_service.coder.evaluation import (
    Evaluation,
    calibration_curve,
    calibration_error,
    evaluate,
    report_lines,
)
from include.local_service.coder.hierarchy import Category

# ---------------------------------------------------------------- with OSCA as released


@pytest.fixture(scope="session")
def osca_evaluation(osca: list[Category], once_per_run: Callable[..., Evaluation]) -> Evaluation:
    """The evaluation on a fifth of OSCA's titles, held out of the training."""
    return once_per_run("osca_evaluation", lambda: evaluate(osca))


# Measured: 81, 73, 70, 64, 52 % right from one digit to six, and 77, 70, 66, 61, 50 % as the mean of five evaluations.
@pytest.mark.parametrize(("digits", "minimum"), [(1, 74.7), (2, 62.5), (3, 58.5), (4, 49.5), (6, 39.8)])
def test_unseen_osca_titles_are_coded_with_at_least_this_accuracy(
    osca_evaluation: Evaluation, digits: int, minimum: float
) -> None:
    assert osca_evaluation.held_out_titles > 600
    assert osca_evaluation.titles[digits] >= minimum


@pytest.mark.parametrize("digits", [1, 2, 3, 4, 6])
def test_a_typing_error_costs_less_than_ten_points_at_every_level_of_osca(
    osca_evaluation: Evaluation, digits: int
) -> None:
    assert all(costs[digits] < 10 for costs in osca_evaluation.spelling_costs)


def test_the_confidence_of_unseen_osca_titles_is_about_the_share_that_is_right(osca_evaluation: Evaluation) -> None:
    curve = calibration_curve(osca_evaluation.judgements)
    assert calibration_error(curve) < 0.05  # measured: 0.02
    assert len(curve) == 10


# ---------------------------------------------------------------- the curve


def test_a_calibration_curve_has_a_bucket_for_each_tenth_that_occurs() -> None:
    curve = calibration_curve([(0.02, False), (0.04, True), (0.55, True), (1.0, True)])
    assert [(round(bucket.confidence, 2), bucket.accuracy, bucket.texts) for bucket in curve] == [
        (0.03, 0.5, 2),
        (0.55, 1.0, 1),
        (1.0, 1.0, 1),
    ]


def test_the_calibration_error_of_a_curve_counts_every_text_once() -> None:
    curve = calibration_curve([(0.4, True), (0.8, True), (0.8, True), (0.8, False), (0.8, True)])
    assert calibration_error(curve) == pytest.approx((0.6 + 4 * 0.05) / 5)


# ---------------------------------------------------------------- the report


@pytest.fixture
def evaluation() -> Evaluation:
    shares = {1: 70.0, 2: 60.0}
    return Evaluation(
        shares, shares, {}, shares, shares, shares, [(0.9, True)], held_out_titles=30, rate=9000, training_seconds=4
    )


def test_one_evaluation_is_reported_without_a_deviation(evaluation: Evaluation) -> None:
    lines = report_lines(evaluation)
    assert lines[1].split() == ["unseen", "titles", "70.0", "60.0"]
    assert not any("with an unseen task" in line for line in lines)  # there was no title with tasks


def test_several_evaluations_are_reported_as_mean_and_deviation(evaluation: Evaluation) -> None:
    other = replace(evaluation, titles={1: 80.0, 2: 62.0}, judgements=[(0.95, False)], held_out_titles=20)
    lines = report_lines(evaluation, other)
    assert lines[1].split() == ["unseen", "titles", "75.0", "±5.0", "61.0", "±1.0"]
    assert any(line.split() == ["92", "%", "50", "%", "2"] for line in lines)
    assert "50 titles held out" in lines[-1]


def test_an_evaluation_without_held_out_titles_has_an_empty_curve(evaluation: Evaluation) -> None:
    lines = report_lines(replace(evaluation, judgements=[], held_out_titles=0))
    assert lines[-4:-1] == ["", "   confidence       right   texts", ""]
