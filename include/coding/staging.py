"""The staging area: the files that a run's tasks hand to each other, in a local folder or in object storage."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from fsspec.implementations.local import LocalFileSystem

from include.coding.errors import PlanError, StagingError
from include.coding.files import path_from_uri
from include.coding.handoff import find_run_file
from include.warehouse.folder_names import has_checksum

#: Size of the blocks of an upload to object storage, and how many are sent at once.
BLOCK_BYTES, CONCURRENT_BLOCKS = 16 << 20, 2
MIN_SWEEP_AGE = timedelta(days=2)
REPORT_HTML, REPORT_JSON, REPORT_MARKDOWN = "report.html", "report.json", "report.md"
#: The picture of a comparison, beside its report.
PICTURE = "picture.svg"
#: Stands in the head of a report that quotes people.
QUOTES_PEOPLE = '<meta name="quotes-people" content="yes">'
#: The only files that stay when those of a run are removed: its report, for people and for machines.
REPORTS = (REPORT_HTML, REPORT_JSON, REPORT_MARKDOWN)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Staging:
    """The files of one run. A URI of any other file is refused.

    :param uri: their folder: `file:///...`, or a URI of object storage
    :param scratch: local folder for files in progress; the run's own folder if that is local
    :param fs: fsspec file system of the object storage; None for `file://`
    """

    uri: str
    scratch: Path
    fs: Any = None

    @classmethod
    def in_folder(cls, folder: Path) -> Staging:
        """Return the staging area of a run whose files are in a local folder."""
        return cls(folder.as_uri(), folder)

    def keep(self, path: Path) -> str:
        """Move a file of the scratch folder to the run's files, where it appears complete, and return its URI.

        :raises StagingError: the object storage refuses it
        :raises PlanError: it is not in the scratch folder
        """
        uri = f"{self.uri}/{path.name}"
        if path.parent != self.scratch or path.is_symlink():
            raise PlanError(
                f"{path.name!r} cannot be kept, because it is not a file of the scratch folder of the run"
            )
        self._check(uri)
        if self.fs is None:
            return uri
        with _translate_errors(uri, "written"):
            self.fs.put_file(str(path), uri, chunksize=BLOCK_BYTES, max_concurrency=CONCURRENT_BLOCKS)
        path.unlink()
        return uri

    @contextmanager
    def open_local(self, uri: str) -> Iterator[Path]:
        """Yield a file of the run as a local path; a copy of an object is removed at the end of the block.

        :raises FileNotFoundError: it does not exist
        :raises StagingError: it cannot be read
        :raises PlanError: it is not a file of the run
        """
        self._check(uri)
        if self.fs is None:
            path, folder = path_from_uri(uri), path_from_uri(self.uri)
            if not path.is_file():
                raise FileNotFoundError(uri)
            if path.resolve() != folder.resolve() / path.relative_to(folder):  # a link leads elsewhere
                raise PlanError(f"{path.name!r} is not a file of the run, but a link: start another run")
            yield path
            return
        # The name includes the folder, because each part has an output.jsonl.
        copy = self.scratch / "-".join(uri.rsplit("/", 2)[1:])
        try:
            with _translate_errors(uri, "read"):
                self.fs.get_file(uri, str(copy))
            yield copy
        finally:
            copy.unlink(missing_ok=True)

    def read_text(self, uri: str, max_bytes: int) -> str | None:
        """Return the content of a small file, whatever its bytes; None if it does not exist or is too large."""
        try:
            with self.open_local(uri) as path, path.open("rb") as file:
                data = file.read(max_bytes + 1)
        except FileNotFoundError:
            return None
        if len(data) > max_bytes:
            log.warning("The file %r is above %d bytes, so it is not read", uri, max_bytes)
            return None
        return data.decode("utf-8", errors="replace")

    def _check(self, uri: str) -> None:
        try:
            find_run_file(uri, self.uri)
        except ValueError:
            raise PlanError(f"{uri!r} is not a file of the run: clear the task that named it") from None

    def find(self, prefix: str) -> list[str]:
        """Return the URIs of the files whose names begin with `prefix`, in order.

        :raises StagingError: they cannot be listed
        """
        with _translate_errors(self.uri, "listed"):
            if self.fs is None:
                return sorted(path.as_uri() for path in path_from_uri(self.uri).glob(f"{prefix}*"))
            return sorted(f"{self.uri}/{path.rpartition('/')[2]}" for path in self.fs.glob(f"{self.uri}/{prefix}*"))

    def clear(self) -> None:
        """Remove the files of the run except its report.

        :raises PlanError: the name of their folder does not show that this deployment created it
        :raises StagingError: they cannot be removed
        """
        base, _, name = self.uri.rpartition("/")
        if not has_checksum(base, name):
            raise PlanError(f"{self.uri!r} is not cleared, because it is not the folder of a run")
        with _translate_errors(self.uri, "removed"):
            if self.fs is None:
                _clear_folder(path_from_uri(self.uri))
            elif files := [path for path in self.fs.find(self.uri) if path.rpartition("/")[2] not in REPORTS]:
                self.fs.rm(files)


def sweep(
    base: str,
    min_age: timedelta,
    now: datetime,
    fs: Any = None,
    before_clearing: Callable[[Staging], None] = lambda staging: None,
) -> list[str]:
    """Clear the folders of abandoned runs, whose files have not changed for `min_age`, and return their URIs.

    Incomplete uploads to object storage are aborted too. A folder is touched only if its name shows that this
    deployment created it (:mod:`include.warehouse.folder_names`). Symbolic links are not followed.

    :param base: URI of the folder that contains the runs' folders
    :param min_age: at least two days, because an operation can take one
    :param now: with a timezone
    :param fs: fsspec file system of the object storage; None for `file://`
    :param before_clearing: called with each folder before its files are removed; if it fails, they stay
    :raises PlanError: `min_age` is too short
    :raises StagingError: the folders cannot be listed or cleared
    """
    if min_age < MIN_SWEEP_AGE:
        raise PlanError(
            f"CODING_STAGING_DAYS is {min_age / timedelta(days=1):g}; it must be at least 2 days, because runs may"
            " still use these files"
        )
    limit = now - min_age
    with _translate_errors(base, "listed"):
        changes = _find_last_changes(fs or LocalFileSystem(), base, base if fs else str(path_from_uri(base)))
    stale = [f"{base}/{name}" for name, changed_at in sorted(changes.items()) if changed_at < limit]
    for uri in stale:
        staging = Staging(uri, Path(tempfile.gettempdir()), fs)
        before_clearing(staging)
        staging.clear()
        log.info("Cleared %s: nothing in it has changed since %s", uri, limit)
    if fs is not None:
        _abort_uploads(fs, base, limit)
    return stale


def _find_last_changes(fs: Any, base: str, path: str) -> dict[str, datetime]:
    """Return for each folder of ours, except those with nothing but a report, when a file in it last changed.

    :param path: path of `base` for the file system
    """
    changes: dict[str, datetime] = {}
    root = fs._strip_protocol(path).rstrip("/")
    for file, info in fs.find(path, detail=True).items():
        folder, _, name = file.removeprefix(f"{root}/").partition("/")
        if name and name not in REPORTS and has_checksum(base, folder):
            changed_at = info.get("LastModified") or datetime.fromtimestamp(info["mtime"], UTC)
            changes[folder] = max(changed_at, changes.get(folder, changed_at))
    return changes


def _abort_uploads(fs: Any, base: str, limit: datetime) -> None:
    """Abort the uploads that began before `limit`. S3 lists a thousand of them; the next sweep finds the rest."""
    bucket, _, prefix = fs._strip_protocol(base).partition("/")
    try:
        response = fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=f"{prefix}/")
        for upload in response.get("Uploads", []):
            folder = upload["Key"].removeprefix(f"{prefix}/").partition("/")[0]
            if upload["Initiated"] < limit and has_checksum(base, folder):
                fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    except (OSError, BotoCoreError, ClientError) as error:
        log.warning(
            "Incomplete uploads to %s stay until a rule of the bucket removes them (%s)", base, type(error).__name__
        )


def _clear_folder(folder: Path) -> None:
    if folder.is_symlink() or not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():  # of a link, only the link itself is removed
            shutil.rmtree(path)
        elif path.name not in REPORTS:
            path.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()


@contextmanager
def _translate_errors(uri: str, action: str) -> Iterator[None]:
    """Raise errors of the disk or the object storage as :class:`StagingError` with the URI in question."""
    try:
        yield
    except FileNotFoundError:
        if action == "read":
            raise
        raise StagingError(
            f"{uri!r} cannot be {action}: its bucket or folder does not exist; check CODING_STAGING"
        ) from None
    except (OSError, BotoCoreError) as error:
        raise StagingError(
            f"{uri!r} cannot be {action} ({type(error).__name__}: {error}): check free space and this worker's"
            " permissions"
        ) from error
