"""The background thread that codes operations, one after the other."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

Code = Callable[[str, Callable[[], bool]], None]


class Worker:
    """A thread that codes whatever operation it is given.

    :param code: codes the operation of an id; asks its second argument now and then whether to stop.
    """

    def __init__(self, code: Code) -> None:
        self._code = code
        self._waiting: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="local-service-worker", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop within a batch; the operation under way is coded again from the beginning at the next start."""
        self._stopping.set()
        self._waiting.put(None)
        self._thread.join()

    def take(self, operation_id: str) -> None:
        """Put an operation at the end of the queue."""
        self._waiting.put(operation_id)

    def _run(self) -> None:
        while (operation_id := self._waiting.get()) is not None:
            self._code(operation_id, self._stopping.is_set)
