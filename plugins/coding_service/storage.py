"""Files by their URI, on this machine or in object storage."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import unquote, urlsplit

from botocore.exceptions import BotoCoreError

from coding_service.errors import InputFileError, StagingError

#: Bytes of a local file or an HTTP body that are read or sent at a time.
BLOCK_BYTES = 1 << 20
#: Bytes of an object that are read or sent at a time. S3 accepts up to 10,000 parts, which is enough for 5 GB.
OBJECT_BLOCK_BYTES = 8 << 20
#: What the disk and the object storage raise.
STORAGE_ERRORS = (OSError, BotoCoreError)


class StoragePath(Protocol):
    """A path in object storage: Airflow's ObjectStoragePath, or a UPath of universal_pathlib."""

    @property
    def path(self) -> str: ...
    @property
    def fs(self) -> Any: ...
    def is_file(self) -> bool: ...


FilePath = Path | StoragePath


def storage_path(uri: str, conn_id: str | None = None) -> FilePath:
    """Return the path for a `file:///` or an `s3://` URI.

    Every write is encrypted as the connection's extra says under `service_config.s3.s3_additional_kwargs`, such as
    `{"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "..."}`.

    :param conn_id: Airflow connection of type aws, for `s3://`; None: the credentials that AWS finds on the machine
    :raises InputFileError: the URI is of another kind, or names a file on another host
    """
    parts = urlsplit(uri)
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and not parts.query and not parts.fragment:
        return Path(unquote(parts.path))
    if parts.scheme != "s3" or not parts.netloc:
        raise InputFileError(f"unsupported file URI {uri!r}: use file:///... or s3://bucket/...")
    # imported here because it takes a second, and DAG files import this module
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook
    from airflow.sdk import ObjectStoragePath

    path = ObjectStoragePath(uri, conn_id=conn_id)
    encryption = S3Hook(aws_conn_id=conn_id).service_config.get("s3_additional_kwargs", {})
    path.fs.s3_additional_kwargs.update(encryption)
    return path


@contextmanager
def translate_storage_errors(path: Any, action: str) -> Iterator[None]:
    """Translate errors of the disk or the object storage into one that names the path.

    :param action: "read" or "written", for the message
    :raises StagingError: the block raised one of :data:`STORAGE_ERRORS`
    """
    try:
        yield
    except STORAGE_ERRORS as error:
        raise StagingError(
            f"{path} cannot be {action} ({type(error).__name__}: {error}): check free space and worker permissions"
        ) from None  # the text of an error of the object storage can contain an address


def check_output_path(path: FilePath) -> None:
    """Check that a file can be written, as far as that can be known before; on this machine its folder is created.

    :raises InputFileError: the path is that of a folder, or its folder does not allow new files
    :raises StagingError: its folder cannot be created
    """
    if not isinstance(path, Path):
        return
    with translate_storage_errors(path, "written"):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputFileError(
            f"the output file {str(path)!r} cannot be written: name a file in a folder that allows it"
        )


def file_size(path: FilePath) -> int:
    """Return the size of a file in bytes.

    :raises FileNotFoundError: it does not exist
    """
    return path.stat().st_size if isinstance(path, Path) else int(path.fs.info(path.path)["size"])


def open_for_reading(path: FilePath) -> IO[bytes]:
    """Open a file for sequential reading. At most two blocks of an object are held in memory."""
    if isinstance(path, Path):
        return path.open("rb")
    file: IO[bytes] = path.fs.open(path.path, "rb", block_size=OBJECT_BLOCK_BYTES)
    return file
