"""Logs the progress of coding an operation."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

LOG = logging.getLogger("local_service")
LOG_INTERVAL_S = 5.0


class Progress:
    """Logs one line when an operation is coded, and before that at most one line per interval.

    :param operation_id: named in every line.
    :param size: bytes of the input file.
    :param clock: a monotonic clock, in seconds.
    """

    def __init__(self, operation_id: str, size: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._operation_id = operation_id
        self._size = size
        self._clock = clock
        self._start = clock()
        self._due = self._start + LOG_INTERVAL_S

    def advance(self, records: int, position: int) -> None:
        """Log the progress if a line is due.

        :param records: number of coded records.
        :param position: bytes of the input file read so far.
        """
        now = self._clock()
        if now < self._due:
            return
        self._due = now + LOG_INTERVAL_S
        share = f"{position / self._size:.0%}" if self._size else "100%"
        LOG.info("operation %s: %s records, %s, %s/s", self._operation_id, f"{records:,}", share, self._rate(records))

    def end(self, records: int) -> None:
        """Log that the operation is coded."""
        summary = f"{records:,} records in {self._clock() - self._start:.1f} s, {self._rate(records)}/s"
        LOG.info("operation %s: coded %s", self._operation_id, summary)

    def _rate(self, records: int) -> str:
        return f"{records / max(self._clock() - self._start, 1e-6):,.0f}"
