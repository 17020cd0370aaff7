"""A file that is coming down, until it is whole: on this machine, or in object storage."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

from botocore.exceptions import BotoCoreError

from coding_service.errors import StagingError

#: Bytes read at once of a local file.
BLOCK = 1 << 20
#: Bytes of a part of an object, read or sent at once; 10,000 of them are the most, so 5 GB fit well.
OBJECT_BLOCK = 8 << 20


class StoragePath(Protocol):
    """A `pathlib.Path`, or a path of object storage (Airflow's ObjectStoragePath, universal_pathlib's UPath)."""

    @property
    def path(self) -> str: ...
    @property
    def fs(self) -> Any: ...
    def is_file(self) -> bool: ...
    def exists(self) -> bool: ...


@contextmanager
def staging_errors(path: Any, what: str) -> Iterator[None]:
    """Errors of the disk or the object storage, told with the place they are about.

    :raises StagingError: anything that went wrong there
    """
    try:
        yield
    except (OSError, BotoCoreError) as error:
        raise StagingError(
            f"{path} cannot be {what} ({type(error).__name__}: {error}): is there room, and may this worker?"
        ) from error


def size_of(path: StoragePath | Path) -> int:
    """Size of a file in bytes.

    :raises FileNotFoundError: there is none
    """
    return path.stat().st_size if isinstance(path, Path) else int(path.fs.info(path.path)["size"])


def open_to_read(path: StoragePath | Path) -> IO[bytes]:
    """Open a file to be read from its start to its end; of an object, two blocks at most are held."""
    if isinstance(path, Path):
        return path.open("rb")
    opened: IO[bytes] = path.fs.open(path.path, "rb", block_size=OBJECT_BLOCK)
    return opened


class Partial:
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

    def start(self, etag: str) -> None:
        """Begin anew, with another file."""
        raise NotImplementedError

    def append(self, blocks: Iterator[bytes]) -> Iterator[int]:
        """Take in the blocks, and yield the size of each."""
        raise NotImplementedError

    def finish(self) -> None:
        """It is whole: let it appear."""
        raise NotImplementedError

    def abandon(self) -> None:
        """It will not be whole in this try."""
        raise NotImplementedError


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
        """Have the storage forget the parts that it has."""
        if self._file is None or self._file.closed:
            return
        with staging_errors(self.path, "given up"):
            self._file.discard()
        self._file.closed = True  # so that nobody completes it


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
