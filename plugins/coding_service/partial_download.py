"""A file that is coming down, until it is whole: on this machine, or in object storage."""

from __future__ import annotations

import hashlib
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError

from coding_service.storage import BLOCK, OBJECT_BLOCK, StoragePath, staging_errors

log = logging.getLogger(__name__)


class Partial(ABC):
    """A download under way: what is there of it, and of which file (its ETag)."""

    def __init__(self, path: Any) -> None:
        self.path = path
        self._reset("")

    def _reset(self, etag: str) -> None:
        self.size, self.etag, self.lines = 0, etag, 0
        self._hash = hashlib.sha256()

    def _count(self, block: bytes) -> None:
        self._hash.update(block)
        self.lines += block.count(b"\n")
        self.size += len(block)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    @abstractmethod
    def start(self, etag: str) -> None:
        """Begin anew, with another file."""

    @abstractmethod
    def append(self, blocks: Iterator[bytes]) -> Iterator[int]:
        """Take in the blocks, and yield the size of each."""

    @abstractmethod
    def finish(self) -> None:
        """It is whole: let it appear."""

    @abstractmethod
    def abandon(self) -> None:
        """It will not be whole in this try."""


class LocalPartial(Partial):
    """A file beside its place, with its ETag beside it, so that another try can go on."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._data, self._note = path.with_name(path.name + ".partial"), path.with_name(path.name + ".etag")
        if self._data.exists() and self._note.exists():
            self.etag = _read_note(self._note)
            with self._data.open("rb") as file:
                while block := file.read(BLOCK):
                    self._count(block)

    def start(self, etag: str) -> None:
        self._reset(etag)
        with staging_errors(self._data, "written"):
            self._data.parent.mkdir(parents=True, exist_ok=True)
            self._data.write_bytes(b"")
            self._note.write_text(json.dumps({"etag": etag}))

    def append(self, blocks: Iterator[bytes]) -> Iterator[int]:
        with staging_errors(self._data, "written"), self._data.open("ab") as file:
            for block in blocks:
                file.write(block)
                file.flush()  # so that a full disk shows before the block counts
                self._count(block)
                yield len(block)

    def finish(self) -> None:
        with staging_errors(self.path, "written"):
            self._data.replace(self.path)
            self._note.unlink()

    def abandon(self) -> None:
        """What is there stays for the next try."""


class ObjectPartial(Partial):
    """An object that is sent part by part as it comes down, with no copy on this machine; another try starts over."""

    _file: Any = None

    def start(self, etag: str) -> None:
        self.abandon()
        self._reset(etag)
        with staging_errors(self.path, "written"):
            self._file = self.path.fs.open(self.path.path, "wb", block_size=OBJECT_BLOCK)

    def append(self, blocks: Iterator[bytes]) -> Iterator[int]:
        for block in blocks:
            with staging_errors(self.path, "written"):
                self._file.write(block)
            self._count(block)
            yield len(block)

    def finish(self) -> None:
        with staging_errors(self.path, "written"):
            self._file.close()

    def abandon(self) -> None:
        """Have the storage forget the parts that it has; if it does not hear, the sweep does it."""
        if self._file is None or self._file.closed:
            return
        try:
            self._file.discard()
        except (OSError, BotoCoreError) as error:
            log.warning("The upload to %s could not be given up: %s", self.path, error)
        finally:
            self._file.closed = True  # so that nobody completes it, the collection of garbage neither


def partial_of(path: StoragePath | Path) -> Partial:
    """What holds the download to `path` until it is whole."""
    return LocalPartial(path) if isinstance(path, Path) else ObjectPartial(path)


def _read_note(path: Path) -> str:
    """The ETag in a note of an earlier try; "" (start over) if that try died while it wrote the note."""
    try:
        etag = json.loads(path.read_text())["etag"]
    except (ValueError, KeyError, TypeError):
        return ""
    return etag if isinstance(etag, str) else ""
