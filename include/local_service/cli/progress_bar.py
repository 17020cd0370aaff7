"""Shows the progress of a training: as a bar on a terminal, as a few lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

_UPDATE_INTERVAL_S = 0.25
_WIDTH = 30


class ProgressBar:
    """A function to call with the current activity, the number of finished steps and the number of all steps.

    :param stream: a terminal gets a growing bar, anything else a line for each activity.
    :param clock: a monotonic clock, in seconds.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._due = clock()
        self._last_activity = ""

    def __call__(self, activity: str, done: int, total: int) -> None:
        """Show the progress if an update is due; the end is always shown."""
        is_bar = self._stream.isatty()
        if done < total and (self._clock() < self._due or (activity == self._last_activity and not is_bar)):
            return
        self._due, self._last_activity = self._clock() + _UPDATE_INTERVAL_S, activity
        share = done / total
        bar = "#" * int(_WIDTH * share)
        end = "\n" if done >= total or not is_bar else ""
        text = f"\r[{bar:{_WIDTH}}] {share:4.0%}  {activity:32}" if is_bar else f"{share:4.0%}  {activity}"
        print(text, end=end, file=self._stream, flush=True)
