"""When to make the next status call, and which errors end a wait. Pure: time and randomness are arguments.

If the duration of the operation can be estimated, the first call is made a little before its expected end and the
second at that end, at most two hours apart. Otherwise, the first call is made after the first interval. From then on,
each interval is the first interval plus a quarter of the time since the expected end, up to 15 minutes. So the end is
noticed late by at most about a quarter of that time, and the number of calls grows with the logarithm of the duration
until the maximum is reached. With a first interval of 10 s and without jitter:

| duration of the operation | 1 min | 10 min | 1 h | 24 h |
|---|---:|---:|---:|---:|
| calls, nothing expected | 5 | 13 | 21 | 113 |
| calls, 10 % longer than expected | 3 | 6 | 12 | 37 |
| calls, as expected | 2 | 2 | 2 | 13 |

So 40 operations of 24 hours make 4,520 of the 10,000 calls a day.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pendulum

from coding_service.errors import (
    CertificateError,
    CodingServiceError,
    NotFoundError,
    QuotaExceededError,
    RetryableError,
    SettingsError,
    TooManyRequestsError,
)
from coding_service.models import DictMixin

#: The first call is made after this share of the expected duration. Expectations come from earlier waits: without a
#: call before the expected end, an expectation that is too long would never be corrected.
FIRST_POLL_SHARE = 0.8
#: Maximum wait for the first call, because outputs are deleted after a day.
MAX_FIRST_WAIT_S = 7200.0
#: An interval is the first interval plus this share of the time since the expected end, up to a maximum.
INTERVAL_GROWTH, MAX_INTERVAL_S = 0.25, 900.0
#: Up to this share of an interval is added at random, so that waits that began together spread out.
JITTER_SHARE = 0.1
#: Factor for the interval after "Too Many Requests".
SLOW_DOWN_FACTOR = 2.0
#: An operation of our own is gone after this many 404 in a row, over at least this time: single ones come from copies
#: of the service's data that lag behind (docs/service-contract.md 10.1).
MIN_NOT_FOUND_COUNT, MIN_NOT_FOUND_SPAN_S = 5, 300.0
#: A wait ends after this many untrusted certificates in a row: a single one can come from a server that is being
#: changed (docs/service-contract.md 10.11).
MAX_CERTIFICATE_ERRORS = 3
#: Maximum interval between status calls that confirm such an error.
CONFIRMATION_INTERVAL_S = 75.0


def is_gone(count: int, seconds: float) -> bool:
    """Return whether an operation no longer exists, after status calls for it have been answered with 404.

    :param count: number of 404 in a row
    :param seconds: time from the first of them to the last
    """
    return count >= MIN_NOT_FOUND_COUNT and seconds >= MIN_NOT_FOUND_SPAN_S


@dataclass(frozen=True)
class ErrorSeries(DictMixin):
    """Status calls in a row that failed with the same class of error.

    :param error: name of the class
    :param count: number of these calls
    :param start: time of the first of them, in seconds since the epoch
    :param seconds: time from the first of them to the last
    """

    error: str
    count: int
    start: float
    seconds: float = 0.0

    def ends_wait(self, error: CodingServiceError) -> bool:
        """Return whether a wait ends with this error, the last of the series, because it cannot pass."""
        if isinstance(error, NotFoundError):
            return is_gone(self.count, self.seconds)
        if isinstance(error, CertificateError):
            return self.count >= MAX_CERTIFICATE_ERRORS
        # even a refused token can pass (docs/service-contract.md 4), and so can an unknown status (8.3)
        return isinstance(error, SettingsError)

    def describe(self, error: CodingServiceError) -> str:
        """Return the message of the last error, with the length of the series."""
        if self.count == 1:
            return str(error)
        return f"{error}; {self.count} status calls in a row failed like this, over {self.seconds:.0f} s"


def extend_series(series: ErrorSeries | None, error: CodingServiceError, now: float) -> ErrorSeries:
    """Return the series of errors that ends with `error`.

    :param series: the series that ends with the status call before; None if that call succeeded
    :param now: time of the error, in seconds since the epoch
    """
    name = type(error).__name__
    if series is None or series.error != name:
        return ErrorSeries(name, 1, now)
    return ErrorSeries(name, series.count + 1, series.start, max(0.0, now - series.start))


def next_wait(
    first_interval: float,
    expected: float | None,
    elapsed: float,
    error: CodingServiceError | None,
    random: Callable[[], float],
) -> float:
    """Return how many seconds to wait until the next status call.

    :param first_interval: seconds between the first two calls
    :param expected: seconds that the operation is expected to take; None if unknown
    :param elapsed: seconds since the wait began
    :param error: error of the last call, if it failed; its `retry_after` is respected
    :param random: returns a number from 0 to 1
    """
    due = expected or 0.0
    interval = min(first_interval + INTERVAL_GROWTH * max(0.0, elapsed - due), max(first_interval, MAX_INTERVAL_S))
    if isinstance(error, TooManyRequestsError):
        interval *= SLOW_DOWN_FACTOR
    if isinstance(error, NotFoundError | CertificateError):
        return min(interval, CONFIRMATION_INTERVAL_S) * (1 + JITTER_SHARE * random())
    # a call that is due in less than the interval is skipped, and the next one is made instead
    wait = next((poll - elapsed for poll in (FIRST_POLL_SHARE * due, due) if poll - elapsed > interval), interval)
    wait = min(wait, max(interval, MAX_FIRST_WAIT_S))
    return max(wait, _min_wait_after(error)) + interval * JITTER_SHARE * random()


def describe_seconds(seconds: float) -> str:
    """Return a duration in words, such as `about 2 minutes 5 seconds`; from an hour on, in whole minutes."""
    whole_seconds = round(seconds / 60) * 60 if seconds >= 3600 else round(seconds)
    return f"about {pendulum.duration(seconds=whole_seconds).in_words()}" if whole_seconds else "less than a second"


def describe_wait(elapsed: float, expected: float | None, wait: float) -> str:
    """Return how long a wait has taken, how long it should take, and when the next status call is made, in words.

    :param elapsed: seconds since the wait began
    :param expected: seconds that the operation is expected to take; None if unknown
    :param wait: seconds until the next status call
    """
    duration = "unknown duration" if expected is None else f"{describe_seconds(expected)} expected"
    return f"{describe_seconds(elapsed)} so far, {duration}, next look in {describe_seconds(wait)}"


def _min_wait_after(error: CodingServiceError | None) -> float:
    """Return the wait that the service asked for, or the maximum interval for an error that is not retryable."""
    if isinstance(error, QuotaExceededError):  # another process may find out earlier that calls are accepted again
        return min(error.retry_after or 0.0, MAX_INTERVAL_S)
    if isinstance(error, RetryableError):
        return error.retry_after or 0.0
    return MAX_INTERVAL_S if error else 0.0


def seconds_or_none(value: Any) -> float | None:
    """Return a number of seconds from the value of a rendered template, such as `'90.5'`, `'None'` or `''`.

    :raises ValueError: it is not a number of seconds
    """
    if value in (None, "", "None"):
        return None
    seconds = float(value)
    if not (seconds >= 0 and math.isfinite(seconds)):
        raise ValueError(f"expected a number of seconds or None, not {value!r}")
    return seconds
