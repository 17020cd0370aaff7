"""When to ask next: late enough to be few calls, early enough to see the end soon."""

import random
from itertools import pairwise

import pytest

from coding_service.errors import (
    AuthorizationError,
    BudgetError,
    ProtocolError,
    QuotaExceededError,
    ServiceUnavailableError,
    TooManyRequestsError,
)
from coding_service.polling import JITTER_SHARE, MAX_FIRST_WAIT_S, MAX_INTERVAL_S, next_wait, seconds_or_none

MINUTE, HOUR, DAY = 60, 3600, 86400


def never():
    return 0.0


def looks(takes, expected, start=10, chance=never):
    """Seconds after its begin at which somebody looks for the end of an operation that takes so long."""
    moments = [0.0]
    while moments[-1] < takes:
        moments.append(moments[-1] + next_wait(start, expected, moments[-1], None, chance))
    return moments[1:]


@pytest.mark.parametrize(
    ("takes", "unexpected", "ten_percent_late", "expected"),
    [(MINUTE, 5, 3, 2), (10 * MINUTE, 13, 6, 2), (HOUR, 21, 12, 2), (DAY, 113, 37, 13)],
    ids=["1 min", "10 min", "1 h", "24 h"],
)
def test_calls_of_an_operation(takes, unexpected, ten_percent_late, expected):
    assert len(looks(takes, None)) == unexpected
    assert len(looks(takes, takes / 1.1)) == ten_percent_late
    assert len(looks(takes, takes)) == expected


def test_forty_operations_of_a_whole_day_stay_within_half_of_the_day_s_calls():
    assert 40 * len(looks(DAY, None)) < 10_000 / 2


@pytest.mark.parametrize("takes", [1, 7, MINUTE, 17 * MINUTE, HOUR, 9 * HOUR, DAY])
@pytest.mark.parametrize("expected", [None, 0, 30, HOUR / 2])
def test_an_end_is_seen_late_by_a_quarter_of_the_wait_for_it_at_most(takes, expected):
    seen = looks(takes, expected, chance=lambda: 1.0)[-1]
    waited = max(0.0, takes - (expected or 0.0))
    early = max(0.0, (expected or 0.0) - takes)
    assert seen - takes <= early + (1 + JITTER_SHARE) * min(10 + 0.25 * waited, MAX_INTERVAL_S)


def test_the_first_look_is_a_little_before_the_operation_is_expected_to_be_done_and_the_second_when_it_is():
    assert next_wait(10, 3600, 0, None, never) == 2880
    assert next_wait(10, 3600, 2880, None, never) == 720
    assert next_wait(10, 3600, 3000, None, never) == 600
    assert next_wait(10, None, 0, None, never) == 10


def test_a_long_expectation_does_not_keep_anybody_from_looking_for_longer_than_two_hours():
    moments = [0.0, *looks(DAY, 1.5 * DAY)]
    assert max(later - earlier for earlier, later in pairwise(moments)) == MAX_FIRST_WAIT_S


def test_an_expectation_that_has_become_too_long_shrinks_by_itself():
    expected = float(HOUR)
    for _ in range(20):
        expected = looks(takes=60, expected=expected)[-1]
    assert expected <= 75


def test_nobody_looks_again_at_once_where_a_look_came_a_moment_too_early():
    assert next_wait(10, 3600, 2879.999, None, never) == pytest.approx(720, abs=0.01)
    assert next_wait(10, 3600, 3599.999, None, never) == 10


def test_after_that_the_intervals_grow_up_to_the_longest():
    moments = looks(DAY, 600)[1:]
    waits = [later - earlier for earlier, later in pairwise(moments)]
    assert waits[:3] == [10, 12.5, 15.625]
    assert all(later >= earlier - 1e-6 for earlier, later in pairwise(waits))
    assert waits[-1] == pytest.approx(MAX_INTERVAL_S)


def test_a_start_above_the_longest_interval_stays():
    assert next_wait(3600, None, DAY, None, never) == 3600


def test_chance_lengthens_an_interval_by_a_tenth_at_most_and_never_shortens_it():
    chance = random.Random(1).random
    waits = [next_wait(10, None, 120, None, chance) for _ in range(1000)]
    assert 40 <= min(waits) < 40.1
    assert 43.9 < max(waits) <= 44


def test_chance_does_not_delay_an_expected_end_by_more_than_a_tenth_of_the_first_interval():
    assert next_wait(10, HOUR, 0.8 * HOUR, None, lambda: 1.0) == pytest.approx(0.2 * HOUR + 1)


@pytest.mark.parametrize("kind", [ServiceUnavailableError, TooManyRequestsError, QuotaExceededError, BudgetError])
def test_nobody_asks_sooner_than_the_service_wants(kind):
    assert next_wait(10, None, 0, kind("no", retry_after=5000.0), never) == 5000
    assert next_wait(10, None, 2000, kind("no", retry_after=1.0), never) >= 510


def test_an_error_that_may_pass_does_not_change_the_interval():
    assert next_wait(10, None, 40, ServiceUnavailableError("busy"), never) == 20


def test_too_many_requests_double_the_interval():
    assert next_wait(10, None, 40, TooManyRequestsError("slower"), never) == 40


@pytest.mark.parametrize("error", [AuthorizationError("no"), ProtocolError("what?")])
def test_an_error_that_a_repetition_hardly_mends_has_the_longest_interval(error):
    assert next_wait(10, None, 0, error, never) == MAX_INTERVAL_S


@pytest.mark.parametrize(("value", "seconds"), [(None, None), ("None", None), ("", None), ("1.5", 1.5), (2, 2.0)])
def test_a_rendered_expectation_is_a_number_or_none(value, seconds):
    assert seconds_or_none(value) == seconds
