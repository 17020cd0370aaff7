"""Where the files of a run lie, by URI: a path of this machine, or one of object storage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import unquote, urlsplit

from botocore.exceptions import BotoCoreError

from coding_service.errors import InputFileError, StagingError

#: Airflow connection of the object storage; without it, what AWS itself finds on the machine.
STORAGE_CONN_ID = "staging_default"
#: Bytes read at once of a local file.
BLOCK = 1 << 20
#: Bytes of a part of an object, read or sent at once; 10,000 of them are the most, so 5 GB fit well.
OBJECT_BLOCK = 8 << 20


class StoragePath(Protocol):
    """A path of object storage: Airflow's ObjectStoragePath, or a UPath of universal_pathlib."""

    @property
    def path(self) -> str: ...
    @property
    def fs(self) -> Any: ...
    def is_file(self) -> bool: ...
    def exists(self) -> bool: ...


def storage_path(uri: str, conn_id: str | None = STORAGE_CONN_ID) -> Path | StoragePath:
    """The path of a `file:///` or an `s3://` URI.

    What the connection's extra says under `service_config.s3.s3_additional_kwargs` goes with every write:
    `{"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "..."}`.

    :param conn_id: Airflow connection of type aws, for `s3://`
    :raises InputFileError: any other kind of URI, or a file of another host
    """
    parts = urlsplit(uri)
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and not parts.query and not parts.fragment:
        return Path(unquote(parts.path))
    if parts.scheme != "s3" or not parts.netloc:
        raise InputFileError(
            f"the staging URI {uri!r} is no file:///... and no s3://bucket/...: set CODING_STAGING to one"
        )
    # not before: DAG files import this module, and these take a second
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook
    from airflow.sdk import ObjectStoragePath

    path = ObjectStoragePath(uri, conn_id=conn_id)
    encryption = S3Hook(aws_conn_id=conn_id).service_config.get("s3_additional_kwargs", {})
    path.fs.s3_additional_kwargs.update(encryption)
    return path


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
