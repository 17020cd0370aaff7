"""Files during their download, on this machine or in object storage."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coding_service.storage import BLOCK_BYTES, OBJECT_BLOCK_BYTES, STORAGE_ERRORS, FilePath, translate_storage_errors

#: Lines of the service are far shorter.
MAX_LINE_BYTES = 2_000_000

log = logging.getLogger(__name__)


class PartialDownload(ABC):
    """The bytes of a file that have been downloaded so far, and the ETag of that file."""

    def __init__(self, path: Any) -> None:
        self.path = path
        self._reset("")

    def _reset(self, etag: str) -> None:
        self.size, self.etag, self.lines, self._last_line = 0, etag, 0, b""
        self._hash = hashlib.sha256()

    def _count(self, block: bytes) -> None:
        self._hash.update(block)
        self.lines += block.count(b"\n")
        self.size += len(block)
        _, line_feed, rest = block.rpartition(b"\n")
        self._last_line = (rest if line_feed else self._last_line + rest)[: MAX_LINE_BYTES + 1]

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def has_whole_lines(self, expected: int | None) -> bool:
        """Return whether the file can be complete by its lines: the last one is whole, and no line is missing.

        :param expected: number of lines that it should have; None if unknown
        """
        last_line = self._last_line.strip()
        is_whole = not last_line or (len(last_line) <= MAX_LINE_BYTES and _is_json(last_line))
        return is_whole and self.lines + bool(last_line) >= (expected or 1)

    @abstractmethod
    def start(self, etag: str) -> None:
        """Discard everything and start with a new file."""

    @abstractmethod
    def append(self, blocks: Iterator[bytes]) -> Iterator[int]:
        """Write the blocks, and yield the size of each."""

    @abstractmethod
    def finish(self) -> None:
        """Make the complete file appear at its path."""

    @abstractmethod
    def abandon(self) -> None:
        """Clean up after an attempt that could not complete the file."""


class PartialFile(PartialDownload):
    """A local file beside its final path. Its ETag is kept as well, so that a later attempt can resume.

    :param name: part of the names of both, which distinguishes them from those of other downloads to this path
    """

    def __init__(self, path: Path, name: str = "") -> None:
        super().__init__(path)
        stem = f"{path.name}.{name}" if name else path.name
        self._data, self._etag_file = path.with_name(f"{stem}.partial"), path.with_name(f"{stem}.etag")
        if self._data.exists() and self._etag_file.exists():
            self.etag = _read_etag(self._etag_file)
            with self._data.open("rb") as file:
                while block := file.read(BLOCK_BYTES):
                    self._count(block)

    def start(self, etag: str) -> None:
        self._reset(etag)
        with translate_storage_errors(self._data, "written"):
            self._data.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write_for_owner_only(self._data, "")
            _write_for_owner_only(self._etag_file, json.dumps({"etag": etag}))

    def append(self, blocks: Iterator[bytes]) -> Iterator[int]:
        with translate_storage_errors(self._data, "written"), self._data.open("ab") as file:
            for block in blocks:
                file.write(block)
                file.flush()  # so that a full disk raises its error before the block is counted
                self._count(block)
                yield len(block)

    def finish(self) -> None:
        with translate_storage_errors(self.path, "written"):
            self._data.replace(self.path)
            self._etag_file.unlink()

    def abandon(self) -> None:
        """Keep the files for the next attempt."""


class PartialObject(PartialDownload):
    """An object that is uploaded in parts during the download, without a local copy. A later attempt starts over."""

    _file: Any = None

    def start(self, etag: str) -> None:
        self.abandon()
        self._reset(etag)
        with translate_storage_errors(self.path, "written"):
            self._file = self.path.fs.open(self.path.path, "wb", block_size=OBJECT_BLOCK_BYTES)

    def append(self, blocks: Iterator[bytes]) -> Iterator[int]:
        for block in blocks:
            with translate_storage_errors(self.path, "written"):
                self._file.write(block)
            self._count(block)
            yield len(block)

    def finish(self) -> None:
        with translate_storage_errors(self.path, "written"):
            self._file.close()

    def abandon(self) -> None:
        """Delete the parts that were uploaded. If that fails, they remain until something else removes them."""
        if self._file is None or self._file.closed:
            return
        try:
            self._file.discard()
        except STORAGE_ERRORS as error:
            log.warning("The incomplete upload to %s could not be aborted: %s", self.path, error)
        finally:
            self._file.closed = True  # otherwise garbage collection would complete the upload


def open_partial_download(path: FilePath, name: str = "") -> PartialDownload:
    """Return the download of this name to `path` that an earlier attempt began, or a new one."""
    return PartialFile(path, name) if isinstance(path, Path) else PartialObject(path)


def _write_for_owner_only(path: Path, text: str) -> None:
    """Write a new file, whose content or whose neighbour is people's texts."""
    path.unlink(missing_ok=True)  # one of an earlier version could be open to others
    with open(path, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(text)


def _read_etag(path: Path) -> str:
    """Return the ETag that an earlier attempt stored; "" if the file is damaged, so that the download starts over."""
    try:
        etag = json.loads(path.read_text())["etag"]
    except (ValueError, KeyError, TypeError):
        return ""
    return etag if isinstance(etag, str) else ""


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
