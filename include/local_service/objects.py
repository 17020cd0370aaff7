"""The bytes of the object storage: files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import mmap
import os
from base64 import b64encode
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self
from uuid import uuid4

from include.local_service.errors import StorageError

BUCKET = "local-coding-service"
LARGEST_OBJECT = 5_000_000_000
"""Bytes in one PUT: the smaller of the two readings of "5 GB" (contract, open question 31)."""

BLOCK = 1024 * 1024


@dataclass(frozen=True)
class Written:
    """A file that is complete and on disk."""

    file: str
    size: int


class Writer:
    """Takes bytes into a temporary file; nothing is there to see before `commit`.

    :param objects: the folder that gets the file.
    :param content_md5: base64 MD5 that the bytes must have, or None.
    """

    def __init__(self, objects: ObjectFiles, content_md5: str | None = None) -> None:
        self._objects = objects
        self._content_md5 = content_md5
        self._md5 = hashlib.md5(usedforsecurity=False) if content_md5 else None
        self._file = uuid4().hex
        self._path = objects.incoming / self._file
        self._handle: BinaryIO = self._path.open("xb")
        self.size = 0

    def write(self, block: bytes | bytearray) -> None:
        """Append a block."""
        self._handle.write(block)
        self.size += len(block)
        if self._md5:
            self._md5.update(block)

    def commit(self, expected_size: int | None = None) -> Written:
        """Put the file in its place.

        :raises StorageError: when the bytes are not as many, or not those, that were announced.
        """
        if expected_size is not None and self.size != expected_size:
            raise StorageError(
                "IncompleteBody", "You did not provide the number of bytes specified by Content-Length"
            )
        if self._md5 and b64encode(self._md5.digest()).decode() != self._content_md5:
            raise StorageError("BadDigest", "The Content-MD5 you specified did not match what we received.")
        self._handle.flush()
        os.fsync(self._handle.fileno())
        self._handle.close()
        self._objects.adopt(self._path)
        return Written(self._file, self.size)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.close()
        self._path.unlink(missing_ok=True)


class ObjectFiles:
    """The folder of the objects' files; which file belongs to which key is the store's business.

    :param root: the folder; made when missing.
    """

    def __init__(self, root: Path) -> None:
        self.complete = root / "complete"
        self.incoming = root / "incoming"
        for folder in (self.complete, self.incoming):
            folder.mkdir(parents=True, exist_ok=True)

    def begin(self, content_md5: str | None = None) -> Writer:
        """Return a writer for a new file; use it in a ``with`` block."""
        return Writer(self, content_md5)

    def adopt(self, path: Path) -> None:
        """Give a complete file from `incoming` its place, for good."""
        path.replace(self.complete / path.name)
        _sync_folder(self.complete)

    def path(self, file: str) -> Path:
        """Return where a complete file is."""
        return self.complete / file

    def contains(self, file: str, text: str) -> bool:
        """Say whether the text stands anywhere in the file."""
        with self.path(file).open("rb") as handle:
            if not os.fstat(handle.fileno()).st_size:
                return False
            with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return content.find(text.encode()) >= 0

    def delete(self, files: Set[str]) -> None:
        """Delete complete files; those that are gone already do not matter."""
        for file in files:
            self.path(file).unlink(missing_ok=True)

    def sweep(self, in_use: Set[str]) -> None:
        """Delete what an interrupted request left behind: every file but those in use.

        Only for the start: a request under way has files that nothing uses yet.
        """
        for path in self.incoming.iterdir():
            path.unlink()
        self.delete({path.name for path in self.complete.iterdir()} - in_use)


def _sync_folder(folder: Path) -> None:
    # A rename survives a power cut only once its folder is on disk too.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
