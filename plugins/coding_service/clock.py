"""The time, as something that a test can replace."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Clock:
    """Tells the time and pauses.

    :param now: returns the seconds since the epoch
    :param sleep: waits for a number of seconds
    """

    now: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep


SYSTEM_CLOCK = Clock()
