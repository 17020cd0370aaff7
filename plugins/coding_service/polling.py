"""When to ask next how an operation stands. Pure arithmetic: chance and time are arguments.

The first look is a little before the operation is expected to be done, the second when it is, with no more than two
hours between looks; without an expectation the first is after the start interval. From then on the interval is the
start interval plus a quarter of the time that has passed since, up to 15 minutes: the end is seen late by about a
quarter of the time that was spent waiting for it at most, and the calls of an operation grow with the logarithm of
its length until then. With a start interval of 10 s, jitter left out:

| the operation takes | 1 min | 10 min | 1 h | 24 h |
|---|---:|---:|---:|---:|
| calls, nothing expected | 5 | 13 | 21 | 113 |
| calls, 10 % more than expected | 3 | 6 | 12 | 37 |
| calls, expected exactly | 2 | 2 | 2 | 13 |

So 40 operations of 24 hours make 4,520 of the day's 10,000 calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from coding_service.errors import CodingServiceError, RetryableError, TooManyRequestsError

#: Share of the expected time after which the first look is. What is expected comes from when earlier ends were seen:
#: if nobody ever looked before, an expectation that has become too long would stay so for ever.
EARLY = 0.8
#: Nobody waits longer for the first look than so many seconds: outputs are deleted after a day.
LONGEST_FIRST = 7200.0
#: Each interval is the start interval and this share of the time since the first look was due, up to so many seconds.
GROWTH, LONGEST_WAIT = 0.25, 900.0
#: Up to this share of an interval is added by chance, so that those who began together do not ask together.
JITTER = 0.1
#: How much longer the interval is after "Too Many Requests".
SLOWER = 2.0


def next_wait(
    start: float,
    expected: float | None,
    elapsed: float,
    error: CodingServiceError | None,
    random: Callable[[], float],
) -> float:
    """Return how many seconds to wait until the next status call.

    :param start: seconds between the first two looks
    :param expected: seconds that the operation is expected to take, None if nobody knows
    :param elapsed: seconds since the wait began
    :param error: what the last status call ended with, if it failed: it is not asked sooner than the service wants
    :param random: gives a number from 0 to 1
    """
    due = expected or 0.0
    interval = min(start + GROWTH * max(0.0, elapsed - due), max(start, LONGEST_WAIT))
    if isinstance(error, TooManyRequestsError):
        interval *= SLOWER
    # a look that is due within the interval is left to the one after it
    wait = next((look - elapsed for look in (EARLY * due, due) if look - elapsed > interval), interval)
    wait = min(wait, max(interval, LONGEST_FIRST))
    return max(wait, _wish(error)) + interval * JITTER * random()


def _wish(error: CodingServiceError | None) -> float:
    """Seconds that the service wants, or that suit an error which a repetition hardly mends."""
    if isinstance(error, RetryableError):
        return error.retry_after or 0.0
    return LONGEST_WAIT if error else 0.0


def seconds_or_none(value: Any) -> float | None:
    """Read a number of seconds from what a rendered template gives: `'90.5'`, `'None'` and `''` as well.

    :raises ValueError: it is no number of seconds
    """
    if value in (None, "", "None"):
        return None
    seconds = float(value)
    if not (seconds >= 0 and math.isfinite(seconds)):
        raise ValueError(f"expected a number of seconds or None, not {value!r}")
    return seconds
