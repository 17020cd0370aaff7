"""Shows a person how far a training is: a bar on a terminal, a few lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

_PERIOD = 0.25  # seconds between two things shown
_WIDTH = 30


class ProgressBar:
    """Call it with what is being done, and how many steps of how many are.

    :param stream: where to show it; a terminal gets a bar that grows, anything else a line for each new thing.
    :param clock: seconds that only go forward.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._due = clock()
        self._last = ""

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show it, if nothing was shown just now; the end is always shown."""
        is_bar = self._stream.isatty()
        if done < total and (self._clock() < self._due or (what == self._last and not is_bar)):
            return
        self._due, self._last = self._clock() + _PERIOD, what
        share = done / total
        bar = "#" * int(_WIDTH * share)
        end = "\n" if done >= total or not is_bar else ""
        shown = f"\r[{bar:{_WIDTH}}] {share:4.0%}  {what:32}" if is_bar else f"{share:4.0%}  {what}"
        print(shown, end=end, file=self._stream, flush=True)
