"""The time as the service sees it: the machine's time plus every jump so far."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime


class Clock:
    """A clock that can jump forward, so that an hour's wait takes no time in a test.

    :param offset: seconds ahead of the machine's time.
    :param source: gives the machine's time in seconds since 1970 (UTC).
    """

    def __init__(self, offset: float = 0.0, source: Callable[[], float] = time.time) -> None:
        self.offset = offset
        self._source = source

    def now(self) -> float:
        """Return the time in seconds since 1970 (UTC)."""
        return self._source() + self.offset

    def jump(self, seconds: float) -> None:
        """Go forward at once.

        :param seconds: how far; never negative, since a deadline that has passed cannot come back.
        :raises ValueError: when `seconds` is negative.
        """
        if seconds < 0:
            raise ValueError(f"the clock only jumps forward, not by {seconds!r} seconds")
        self.offset += seconds


def iso_time(seconds: float) -> str:
    """Write a time as ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
