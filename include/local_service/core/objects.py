"""The files of the object storage. Each becomes visible as a whole or not at all."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self
from uuid import uuid4

BLOCK_BYTES = 1024 * 1024


@dataclass(frozen=True)
class StoredFile:
    """A file that is complete and on disk."""

    file: str
    size: int


class Writer:
    """Writes a temporary file that becomes visible with `commit`.

    :param objects: the folder of the file.
    :param hash_md5: whether `md5` is computed; it is None otherwise.
    """

    def __init__(self, objects: ObjectFiles, *, hash_md5: bool = False) -> None:
        self._objects = objects
        self.md5 = hashlib.md5(usedforsecurity=False) if hash_md5 else None
        self._file = uuid4().hex
        self._path = objects.incoming / self._file
        self._handle: BinaryIO = self._path.open("xb")
        self.size = 0

    def write(self, block: bytes | bytearray) -> None:
        """Append a block."""
        self._handle.write(block)
        self.size += len(block)
        if self.md5:
            self.md5.update(block)

    def commit(self) -> StoredFile:
        """Sync the file to disk and make it visible."""
        self._handle.flush()
        os.fsync(self._handle.fileno())
        self._handle.close()
        self._objects.adopt(self._path)
        return StoredFile(self._file, self.size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._handle.close()
        self._path.unlink(missing_ok=True)


class ObjectFiles:
    """The folder of the objects' files. The store maps keys to files.

    :param root: the folder, created if missing.
    """

    def __init__(self, root: Path) -> None:
        self.complete = root / "complete"
        self.incoming = root / "incoming"
        for folder in (self.complete, self.incoming):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def adopt(self, path: Path) -> None:
        """Move a complete file from `incoming` to `complete` and sync that to disk."""
        path.replace(self.complete / path.name)
        _sync_folder(self.complete)

    def path(self, file: str) -> Path:
        """Return the path of a complete file."""
        return self.complete / file

    def contains(self, file: str, text: str) -> bool:
        """Return whether the file contains the text."""
        with self.path(file).open("rb") as handle:
            if not os.fstat(handle.fileno()).st_size:
                return False
            with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return content.find(text.encode()) >= 0

    def delete(self, files: Set[str]) -> None:
        """Delete complete files; missing ones are ignored."""
        for file in files:
            self.path(file).unlink(missing_ok=True)

    def delete_unused(self, in_use: Set[str]) -> None:
        """Delete every file that is not in use, such as the partial file of an interrupted request.

        Call this at the start only: the files of a running request are not in use yet.
        """
        for path in self.incoming.iterdir():
            path.unlink()
        self.delete({path.name for path in self.complete.iterdir()} - in_use)


def _sync_folder(folder: Path) -> None:
    # A rename survives a power cut only after its folder is synced to disk.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
