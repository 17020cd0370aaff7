"""The background thread that codes operations one after the other."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

Code = Callable[[str, Callable[[], bool]], None]


class Worker:
    """A thread with a queue of operations.

    :param code: codes an operation; takes its id, and a function that it calls to find out whether to stop.
    """

    def __init__(self, code: Code) -> None:
        self._code = code
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="local-service-worker", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the current batch; the next start codes the current operation from the beginning."""
        self._stopping.set()
        self._queue.put(None)
        self._thread.join()

    def enqueue(self, operation_id: str) -> None:
        """Add an operation to the end of the queue."""
        self._queue.put(operation_id)

    def _run(self) -> None:
        while (operation_id := self._queue.get()) is not None:
            self._code(operation_id, self._stopping.is_set)
