"""When to make the next status call. Pure arithmetic: time and randomness are arguments.

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
from typing import Any

from coding_service.errors import CodingServiceError, RetryableError, TooManyRequestsError

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


def is_gone(count: int, seconds: float) -> bool:
    """Return whether an operation no longer exists, after status calls for it have been answered with 404.

    :param count: number of 404 in a row
    :param seconds: time from the first of them to the last
    """
    return count >= MIN_NOT_FOUND_COUNT and seconds >= MIN_NOT_FOUND_SPAN_S


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
    # a call that is due in less than the interval is skipped, and the next one is made instead
    wait = next((poll - elapsed for poll in (FIRST_POLL_SHARE * due, due) if poll - elapsed > interval), interval)
    wait = min(wait, max(interval, MAX_FIRST_WAIT_S))
    return max(wait, _min_wait_after(error)) + interval * JITTER_SHARE * random()


def _min_wait_after(error: CodingServiceError | None) -> float:
    """Return the wait that the service asked for, or the maximum interval for an error that is not retryable."""
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
