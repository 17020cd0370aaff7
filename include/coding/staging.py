"""Where the files of a run lie between its tasks: in a folder of this machine, or in object storage."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from fsspec.implementations.local import LocalFileSystem

from include.coding.errors import PlanError, StagingError
from include.coding.files import path_of

#: Bytes of a part of an object, and how many parts are on their way at once.
OBJECT_BLOCK, AT_ONCE = 16 << 20, 2
#: Names of the folders that are swept: they end as those of runs do, and of exchanges with Redshift.
OURS = re.compile(r"[A-Za-z0-9._-]*[0-9a-f]{8}")
SHORTEST = timedelta(days=2)
#: What stays of a run whose files are removed: no text of a person is in it.
REPORT = "report.md"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Staging:
    """The files of one run.

    :param uri: of their folder: `file:///...`, or one of object storage
    :param scratch: folder of this machine for what is being worked on; the run's folder itself, if that is here
    :param fs: fsspec file system of the object storage; None for `file://`
    """

    uri: str
    scratch: Path
    fs: Any = None

    @classmethod
    def here(cls, folder: Path) -> Staging:
        """Staging in a folder of this machine."""
        return cls(folder.as_uri(), folder)

    def keep(self, path: Path) -> str:
        """Move a file of the scratch folder to the run's files, where it appears whole, and return its URI.

        :raises StagingError: the object storage refuses it
        """
        if self.fs is None:
            return path.as_uri()
        uri = f"{self.uri}/{path.name}"
        with _told(uri, "written"):
            self.fs.put_file(str(path), uri, chunksize=OBJECT_BLOCK, max_concurrency=AT_ONCE)
        path.unlink()
        return uri

    @contextmanager
    def open_local(self, uri: str) -> Iterator[Path]:
        """Yield a file of the run as one of this machine: an object's copy lasts as long as the block.

        :raises FileNotFoundError: it is gone
        :raises StagingError: it cannot be read
        """
        if self.fs is None:
            path = path_of(uri)
            if not path.is_file():
                raise FileNotFoundError(uri)
            yield path
            return
        copy = self.scratch / "-".join(uri.rsplit("/", 2)[1:])  # by its folder too: each part has an output.jsonl
        try:
            with _told(uri, "read"):
                self.fs.get_file(uri, str(copy))
            yield copy
        finally:
            copy.unlink(missing_ok=True)

    def read_text(self, uri: str) -> str | None:
        """Content of a small file, whatever its bytes; None if it is gone."""
        try:
            with self.open_local(uri) as path:
                return path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None

    def clear(self) -> None:
        """Remove the files of the run, all but its report.

        :raises StagingError: they cannot be removed
        """
        with _told(self.uri, "removed"):
            if self.fs is None:
                _clear_folder(path_of(self.uri))
            elif files := [path for path in self.fs.find(self.uri) if not path.endswith(f"/{REPORT}")]:
                self.fs.rm(files)


def sweep(base: str, unchanged_for: timedelta, now: datetime, fs: Any = None) -> list[str]:
    """Clear what dead runs left: the folders below `base` in which nothing has changed for so long. Uploads to object
    storage that nobody has completed are given up as well. A folder that has no name of ours is not touched.

    :param base: URI of the folder that has the runs' folders
    :param unchanged_for: two days at least: an operation may take one
    :param now: with a time zone
    :param fs: fsspec file system of the object storage; None for `file://`
    :return: URIs of the folders that were cleared
    :raises PlanError: the time is too short
    :raises StagingError: they cannot be listed or removed
    """
    if unchanged_for < SHORTEST:
        raise PlanError(
            f"CODING_STAGING_DAYS is {unchanged_for / timedelta(days=1):g}; expected 2 or more: runs go on"
        )
    before = now - unchanged_for
    with _told(base, "listed"):
        newest = _newest(fs or LocalFileSystem(), base if fs else str(path_of(base)))
    stale = [f"{base}/{name}" for name, changed in sorted(newest.items()) if changed < before]
    for uri in stale:
        Staging(uri, Path(), fs).clear()
        log.info("Cleared %s: nothing in it has changed since %s", uri, before)
    if fs is not None:
        _give_up_uploads(fs, base, before)
    return stale


def _newest(fs: Any, base: str) -> dict[str, datetime]:
    """For each folder in `base` that has more than a report, when a file of it was last changed."""
    newest: dict[str, datetime] = {}
    root = fs._strip_protocol(base).rstrip("/")
    for path, info in fs.find(base, detail=True).items():
        folder, _, name = path.removeprefix(f"{root}/").partition("/")
        if name and name != REPORT and OURS.fullmatch(folder):
            changed = info.get("LastModified") or datetime.fromtimestamp(info["mtime"], UTC)
            newest[folder] = max(changed, newest.get(folder, changed))
    return newest


def _give_up_uploads(fs: Any, base: str, before: datetime) -> None:
    """What is left over is found by the next sweep: S3 lists a thousand at a time."""
    bucket, _, prefix = fs._strip_protocol(base).partition("/")
    try:
        listed = fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=f"{prefix}/")
        for upload in listed.get("Uploads", []):
            if upload["Initiated"] < before:
                fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    except (OSError, BotoCoreError, ClientError) as error:
        log.warning(
            "Uploads to %s that nobody completed stay, unless the bucket has a rule for them: %s", base, error
        )


def _clear_folder(folder: Path) -> None:
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != REPORT:
            path.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()


@contextmanager
def _told(uri: str, what: str) -> Iterator[None]:
    """Errors of the disk or the object storage, told with the place they are about."""
    try:
        yield
    except FileNotFoundError:
        if what == "read":
            raise
        raise StagingError(
            f"{uri!r} cannot be {what}: its bucket or folder is not there; see CODING_STAGING"
        ) from None
    except (OSError, BotoCoreError) as error:
        raise StagingError(
            f"{uri!r} cannot be {what} ({type(error).__name__}: {error}): is there room, and may this worker?"
        ) from error
