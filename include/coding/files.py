"""Local files: their paths as URIs and as glob patterns, atomic writing, and who can access them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from include.coding.errors import PlanError

#: The umask with which only the owner can access new files and folders.
OWNER_ONLY_UMASK = 0o077


@contextmanager
def create_files_for_owner_only() -> Iterator[None]:
    """Let only the owner access the files and folders that this process and its new children create in the block."""
    previous = os.umask(OWNER_ONLY_UMASK)
    try:
        yield
    finally:
        os.umask(previous)


def escape_glob(path: Path) -> str:
    """Return the path as a pattern that only matches itself: 'answers[1].csv' would match 'answers1.csv'."""
    return re.sub(r"[*?[]", r"[\g<0>]", str(path))


def path_from_uri(uri: str) -> Path:
    """Return the path that a `file:///...` URI names; `Path.as_uri` is the reverse.

    :raises PlanError: another kind of URI, or one with a host (as `file://data` has)
    """
    parts = urlsplit(uri)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise PlanError(f"{uri!r} is not the URI of a local file; expected one such as 'file:///data/staging'")
    return Path(unquote(parts.path))


def find_long_line(path: Path, max_bytes: int, line_end: bytes = b"\n") -> int | None:
    """Return the number of the first line above a length, None if there is none. No more than the length is read at
    once, so this can be asked about any file.

    :param max_bytes: without the end of the line
    """
    length = position = 0
    with path.open("rb") as file:
        while block := file.read(max_bytes):
            first, last = block.find(line_end), block.rfind(line_end)
            longest = length + (len(block) if first < 0 else first)
            if longest > max_bytes + 1:  # the line can end in \r\n
                return _count_line_ends(path, line_end, position) + 1
            length = longest if first < 0 else len(block) - last - 1
            position += len(block)
    return None


def _count_line_ends(path: Path, line_end: bytes, end: int) -> int:
    """Return how many lines end before a position."""
    block_bytes = 1 << 20
    with path.open("rb") as file:
        sizes = (min(block_bytes, end - start) for start in range(0, end, block_bytes))
        return sum(file.read(size).count(line_end) for size in sizes)


def write_atomically(path: Path, text: str) -> None:
    """Write a file that appears complete or not at all, and that only its owner can access."""
    partial = path.with_name(path.name + ".partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    partial.replace(path)
