"""A small JSON file that the processes of one machine share: readable by its owner only, changed under a lock."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class SharedFile:
    """State that the processes of one machine share.

    :param clock: seconds since the epoch; wall clock, since it is compared across processes
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = path, clock

    @contextmanager
    def held(self) -> Iterator[tuple[dict[str, Any], float]]:
        """Yield the state to change, and the time, while no other process may."""
        with locked(self._path) as state:
            assert state is not None
            yield state, self._clock()


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[dict[str, Any] | None]:
    """Yield the content of the file to change; it is written back when the block ends without an error.

    The lock ends with the process that holds it, however that dies. A file that is missing or damaged reads as
    empty: what stands in it can always be had again. Each file has a lock of its own: one may be held while another
    is waited for.

    :param wait: whether to wait for the lock; if not and another holds it, None is yielded
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield None
            return
        data = _read(path)
        before = json.dumps(data)
        yield data
        if json.dumps(data) != before:
            _write(path, data)
    finally:
        os.close(descriptor)


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _write(path: Path, data: dict[str, Any]) -> None:
    partial = path.with_name(path.name + ".partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(data, file)
    partial.replace(path)
