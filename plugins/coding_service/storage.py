"""Where the files of a run lie, by URI: a path of this machine, or one of object storage."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from coding_service.errors import InputFileError
from coding_service.partials import StoragePath

#: Airflow connection of the object storage; without it, what AWS itself finds on the machine.
STORAGE_CONN_ID = "staging_default"


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
