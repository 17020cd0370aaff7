"""Tells the log how far the coding of an operation is: rarely, and nothing at all unless somebody listens."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

LOG = logging.getLogger("local_service")
PERIOD = 5.0
"""Seconds between two lines about one operation."""


class Progress:
    """One line when the operation ends, and before that at most one a period.

    :param operation_id: named in every line.
    :param size: bytes of the input.
    :param clock: seconds that only go forward.
    """

    def __init__(self, operation_id: str, size: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._operation_id = operation_id
        self._size = size
        self._clock = clock
        self._began = clock()
        self._due = self._began + PERIOD

    def advance(self, records: int, position: int) -> None:
        """Say how far it is, if that was not said just now.

        :param records: coded so far.
        :param position: bytes of the input read so far.
        """
        now = self._clock()
        if now < self._due:
            return
        self._due = now + PERIOD
        share = f"{position / self._size:.0%}" if self._size else "100%"
        LOG.info("operation %s: %s records, %s, %s/s", self._operation_id, f"{records:,}", share, self._rate(records))

    def end(self, records: int) -> None:
        """Say that it is done."""
        told = f"{records:,} records in {self._clock() - self._began:.1f} s, {self._rate(records)}/s"
        LOG.info("operation %s: coded %s", self._operation_id, told)

    def _rate(self, records: int) -> str:
        return f"{records / max(self._clock() - self._began, 1e-6):,.0f}"
