"""When the next status call is made: rarely enough for the budget, often enough to notice the end soon."""

import random
from itertools import pairwise

import pytest

from coding_service.errors import (
    AccessDeniedError,
    AuthorizationError,
    BudgetError,
    CertificateError,
    LocalFaultError,
    NotFoundError,
    ProtocolError,
    QuotaExceededError,
    ServiceUnavailableError,
    SettingsError,
    TooManyRequestsError,
)
from coding_service.polling import (
    CONFIRMATION_INTERVAL_S,
    JITTER_SHARE,
    MAX_FIRST_WAIT_S,
    MAX_INTERVAL_S,
    describe_seconds,
    describe_wait,
    extend_series,
    is_gone,
    next_wait,
    seconds_or_none,
)

MINUTE, HOUR, DAY = 60, 3600, 86400


def no_jitter():
    return 0.0


def poll_times(duration, expected, first_interval=10, jitter=no_jitter):
    """Return when status calls are made for an operation of this duration, in seconds after its start."""
    moments = [0.0]
    while moments[-1] < duration:
        moments.append(moments[-1] + next_wait(first_interval, expected, moments[-1], None, jitter))
    return moments[1:]


@pytest.mark.parametrize(
    ("duration", "unexpected", "ten_percent_late", "expected"),
    [(MINUTE, 5, 3, 2), (10 * MINUTE, 13, 6, 2), (HOUR, 21, 12, 2), (DAY, 113, 37, 13)],
    ids=["1 min", "10 min", "1 h", "24 h"],
)
def test_the_number_of_calls_for_an_operation(duration, unexpected, ten_percent_late, expected):
    assert len(poll_times(duration, None)) == unexpected
    assert len(poll_times(duration, duration / 1.1)) == ten_percent_late
    assert len(poll_times(duration, duration)) == expected


def test_forty_operations_of_a_whole_day_need_less_than_half_of_the_daily_calls():
    assert 40 * len(poll_times(DAY, None)) < 10_000 / 2


@pytest.mark.parametrize("duration", [1, 7, MINUTE, 17 * MINUTE, HOUR, 9 * HOUR, DAY])
@pytest.mark.parametrize("expected", [None, 0, 30, HOUR / 2])
def test_the_end_is_noticed_late_by_at_most_a_quarter_of_the_wait(duration, expected):
    end = poll_times(duration, expected, jitter=lambda: 1.0)[-1]
    waited = max(0.0, duration - (expected or 0.0))
    early = max(0.0, (expected or 0.0) - duration)
    assert end - duration <= early + (1 + JITTER_SHARE) * min(10 + 0.25 * waited, MAX_INTERVAL_S)


def test_the_first_call_is_a_little_before_the_expected_end_and_the_second_at_the_expected_end():
    assert next_wait(10, 3600, 0, None, no_jitter) == 2880
    assert next_wait(10, 3600, 2880, None, no_jitter) == 720
    assert next_wait(10, 3600, 3000, None, no_jitter) == 600
    assert next_wait(10, None, 0, None, no_jitter) == 10


def test_a_long_expectation_delays_a_call_by_at_most_two_hours():
    moments = [0.0, *poll_times(DAY, 1.5 * DAY)]
    assert max(later - earlier for earlier, later in pairwise(moments)) == MAX_FIRST_WAIT_S


def test_an_expectation_that_is_too_long_corrects_itself():
    expected = float(HOUR)
    for _ in range(20):
        expected = poll_times(duration=60, expected=expected)[-1]
    assert expected <= 75


def test_a_call_that_came_a_moment_too_early_is_not_repeated_at_once():
    assert next_wait(10, 3600, 2879.999, None, no_jitter) == pytest.approx(720, abs=0.01)
    assert next_wait(10, 3600, 3599.999, None, no_jitter) == 10


def test_after_the_expected_end_the_intervals_grow_up_to_the_maximum():
    moments = poll_times(DAY, 600)[1:]
    waits = [later - earlier for earlier, later in pairwise(moments)]
    assert waits[:3] == [10, 12.5, 15.625]
    assert all(later >= earlier - 1e-6 for earlier, later in pairwise(waits))
    assert waits[-1] == pytest.approx(MAX_INTERVAL_S)


def test_a_first_interval_above_the_maximum_is_kept():
    assert next_wait(3600, None, DAY, None, no_jitter) == 3600


def test_jitter_adds_at_most_a_tenth_to_an_interval_and_never_shortens_it():
    chance = random.Random(1).random
    waits = [next_wait(10, None, 120, None, chance) for _ in range(1000)]
    assert 40 <= min(waits) < 40.1
    assert 43.9 < max(waits) <= 44


def test_jitter_delays_the_call_at_the_expected_end_by_at_most_a_tenth_of_the_first_interval():
    assert next_wait(10, HOUR, 0.8 * HOUR, None, lambda: 1.0) == pytest.approx(0.2 * HOUR + 1)


@pytest.mark.parametrize("kind", [ServiceUnavailableError, TooManyRequestsError, AccessDeniedError, BudgetError])
def test_no_call_is_made_before_the_retry_after_of_the_service(kind):
    assert next_wait(10, None, 0, kind("no", retry_after=5000.0), no_jitter) == 5000
    assert next_wait(10, None, 2000, kind("no", retry_after=1.0), no_jitter) >= 510


def test_the_waits_in_numbers_with_and_without_an_error_and_with_the_largest_jitter():
    def wait(elapsed, error=None, expected=None, chance=1.0):
        return next_wait(10, expected, elapsed, error, lambda: chance)

    assert [wait(0), wait(100), wait(DAY)] == [pytest.approx(seconds) for seconds in (11, 38.5, 990)]
    assert wait(100, chance=0.5) == pytest.approx(36.75)
    assert wait(0, NotFoundError("no")) == pytest.approx(11)
    assert wait(DAY, NotFoundError("no")) == pytest.approx(82.5)
    assert wait(DAY, CertificateError("no"), chance=0.5) == pytest.approx(78.75)
    assert wait(0, TooManyRequestsError("no")) == pytest.approx(22)
    assert wait(100, ServiceUnavailableError("no", retry_after=500.0)) == pytest.approx(503.5)
    assert wait(0, expected=HOUR) == pytest.approx(0.8 * HOUR + 1)
    assert wait(0, expected=DAY) == pytest.approx(2 * HOUR + 1)
    assert wait(HOUR + 40, expected=HOUR) == pytest.approx(22)


def test_while_calls_are_stopped_a_wait_asks_every_quarter_of_an_hour_whether_they_are_accepted_again():
    stop = QuotaExceededError("no", retry_after=3600.0, ends_after=50_000.0)
    assert next_wait(10, None, 0, stop, no_jitter) == MAX_INTERVAL_S
    assert next_wait(10, None, 0, QuotaExceededError("no", retry_after=60.0), no_jitter) == 60


@pytest.mark.parametrize("kind", [NotFoundError, CertificateError])
def test_an_error_that_may_end_the_wait_is_confirmed_within_minutes_however_long_it_has_lasted(kind):
    assert next_wait(10, None, 0, kind("no"), no_jitter) == 10
    assert next_wait(10, None, DAY, kind("no"), no_jitter) == CONFIRMATION_INTERVAL_S
    assert next_wait(10, 2 * DAY, HOUR, kind("no"), no_jitter) == 10


@pytest.mark.parametrize(
    ("count", "seconds", "gone"), [(1, 0, False), (4, 9999, False), (5, 299, False), (5, 300, True), (50, 60, False)]
)
def test_an_operation_is_gone_after_several_404_in_a_row_over_minutes(count, seconds, gone):
    assert is_gone(count, seconds) is gone


def series_of(*errors, interval=100.0):
    series = None
    for number, error in enumerate(errors):
        series = extend_series(series, error, number * interval)
    return series


def test_errors_of_one_class_in_a_row_are_one_series():
    lost, down = NotFoundError("no"), ServiceUnavailableError("down")
    assert (series_of(lost, lost, lost).count, series_of(lost, lost, lost).seconds) == (3, 200)
    assert (series_of(lost, lost, down, lost).count, series_of(lost, lost, down, lost).seconds) == (1, 0)


@pytest.mark.parametrize(
    ("error", "count"),
    [(SettingsError("no"), 1), (CertificateError("no"), 3), (NotFoundError("no"), 5)],
)
def test_an_error_that_cannot_pass_ends_a_wait_after_so_many_calls(error, count):
    assert not any(series_of(*[error] * n).ends_wait(error) for n in range(1, count))
    assert series_of(*[error] * count).ends_wait(error)


@pytest.mark.parametrize(
    "kind",
    [ServiceUnavailableError, AccessDeniedError, AuthorizationError, ProtocolError, BudgetError, LocalFaultError],
)
def test_an_error_that_can_pass_never_ends_a_wait(kind):
    assert not series_of(*[kind("no")] * 1000).ends_wait(kind("no"))


def test_the_message_of_a_series_says_how_many_calls_failed_and_over_which_time():
    error = NotFoundError("there is no such operation")
    assert series_of(error).describe(error) == "there is no such operation"
    assert series_of(*[error] * 5).describe(error) == (
        "there is no such operation; 5 status calls in a row failed like this, over 400 s"
    )


def test_a_retryable_error_does_not_change_the_interval():
    assert next_wait(10, None, 40, ServiceUnavailableError("busy"), no_jitter) == 20


def test_too_many_requests_double_the_interval():
    assert next_wait(10, None, 40, TooManyRequestsError("slower"), no_jitter) == 40


@pytest.mark.parametrize("error", [AuthorizationError("no"), ProtocolError("what?")])
def test_an_error_that_is_not_retryable_uses_the_maximum_interval(error):
    assert next_wait(10, None, 0, error, no_jitter) == MAX_INTERVAL_S


@pytest.mark.parametrize(
    ("value", "seconds"), [(None, None), ("None", None), ("", None), ("1.5", 1.5), (2, 2.0), ("0", 0.0)]
)
def test_a_rendered_expectation_is_a_number_or_none(value, seconds):
    assert seconds_or_none(value) == seconds


@pytest.mark.parametrize("value", ["-0.5", "nan", "inf", "soon"])
def test_a_rendered_expectation_that_is_no_number_of_seconds_is_refused(value):
    with pytest.raises(ValueError, match=value):
        seconds_or_none(value)


@pytest.mark.parametrize("error", [QuotaExceededError("no"), ServiceUnavailableError("no")])
def test_an_error_without_a_retry_after_does_not_delay_the_next_call(error):
    assert next_wait(0.5, None, 0, error, no_jitter) == 0.5


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "less than a second"),
        (0.4, "less than a second"),
        (1.2, "about 1 second"),
        (11, "about 11 seconds"),
        (125, "about 2 minutes 5 seconds"),
        (3605, "about 1 hour"),
        (90_000, "about 1 day 1 hour"),
    ],
)
def test_a_duration_is_said_in_words(seconds, words):
    assert describe_seconds(seconds) == words


def test_a_wait_says_how_long_it_has_taken_how_long_it_should_take_and_when_it_looks_next():
    assert describe_wait(120, 180, 24) == (
        "about 2 minutes so far, about 3 minutes expected, next look in about 24 seconds"
    )
    assert describe_wait(0, None, 10) == (
        "less than a second so far, unknown duration, next look in about 10 seconds"
    )
