"""The time of the service: the machine's time plus all jumps so far."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime


class Clock:
    """A clock that can jump forward, so that a test need not wait for an hour.

    :param offset: seconds ahead of the machine's time.
    :param source: returns the machine's time in seconds since 1970 (UTC).
    """

    def __init__(self, offset: float = 0.0, source: Callable[[], float] = time.time) -> None:
        self.offset = offset
        self._source = source

    def now(self) -> float:
        """Return the time in seconds since 1970 (UTC)."""
        return self._source() + self.offset

    def jump(self, seconds: float) -> None:
        """Move the clock forward.

        :param seconds: zero or more; the clock never goes back, so that an expired deadline stays expired.
        :raises ValueError: if `seconds` is negative.
        """
        if seconds < 0:
            raise ValueError(f"clock jump must be 0 seconds or more, not {seconds!r}")
        self.offset += seconds


def iso_time(seconds: float) -> str:
    """Return a time as ISO 8601 in UTC with milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
