"""Rows handed over as Parquet in object storage, as Redshift takes and gives them; it knows nothing of SQL."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
from botocore.exceptions import BotoCoreError, ClientError

from include.warehouse.errors import WarehouseError, WarehouseSettingsError
from include.warehouse.warehouse import BATCH_ROWS

#: Rows after which another file is begun: the slices of a cluster load files side by side.
FILE_ROWS = 250_000
#: Bytes that a file takes from the storage, or sends there, at a time.
BLOCK_BYTES = 8 * 2**20

log = logging.getLogger(__name__)


class Exchange:
    """A folder in object storage of one session's own, and within it a folder for each handing over.

    :param filesystem: of fsspec, s3fs say; the encryption that it carries (`s3_additional_kwargs`) is kept to
    :param base: URI of the folder that the sessions share
    """

    def __init__(self, filesystem: Any, base: str) -> None:
        self._filesystem, self.uri = filesystem, f"{base.rstrip('/')}/{uuid4().hex}"
        self._numbers = count(1)
        self._folders: set[str] = set()

    @property
    def encryption(self) -> tuple[str, str | None]:
        """Server-side encryption of what is written, as S3 calls it ('' for that of the bucket), and its KMS key."""
        settings = getattr(self._filesystem, "s3_additional_kwargs", {})
        return settings.get("ServerSideEncryption", ""), settings.get("SSEKMSKeyId")

    def make_folder(self) -> str:
        """URI of a folder that nobody has used, with a slash at its end: S3 knows prefixes only, and that of folder
        1 is one of folder 10 as well."""
        folder = f"{self.uri}/{next(self._numbers)}/"
        self._folders.add(folder)
        return folder

    def write(self, folder: str, rows: pa.RecordBatchReader, schema: pa.Schema) -> int:
        """Write rows into a folder, cast to `schema`, and return how many files they are: none without rows."""
        files = count()
        with self._told():
            batches = (part for batch in rows if batch.num_rows for part in _cut(batch, schema))
            for batch in batches:
                self._write_file(f"{folder}{next(files):05}.parquet", batch, batches)
        return next(files)

    def _write_file(self, path: str, first: pa.RecordBatch, more: Iterator[pa.RecordBatch]) -> None:
        # Redshift reads a timestamp of 64 bits as another moment: https://github.com/apache/arrow/issues/38000
        options = {"version": "1.0", "compression": "snappy", "use_deprecated_int96_timestamps": True}
        with (
            self._filesystem.open(path, "wb", block_size=BLOCK_BYTES) as file,
            pq.ParquetWriter(file, first.schema, **options) as writer,
        ):
            writer.write_batch(first)
            written = first.num_rows
            while written < FILE_ROWS and (batch := next(more, None)) is not None:
                writer.write_batch(batch)
                written += batch.num_rows

    def read(self, folder: str) -> pa.RecordBatchReader | None:
        """Stream the rows of a folder's files; None if it has none."""
        with self._told():
            self._filesystem.invalidate_cache(folder)  # somebody else has written them
            paths = sorted(self._filesystem.find(folder))
            if not paths:
                return None
            with self._open(paths[0]) as file:
                schema = file.schema_arrow
        return pa.RecordBatchReader.from_batches(schema, self._batches(paths))

    def _batches(self, paths: list[str]) -> Iterator[pa.RecordBatch]:
        for path in paths:
            with self._told(), self._open(path) as file:
                yield from file.iter_batches(BATCH_ROWS)

    @contextmanager
    def _open(self, path: str) -> Iterator[pq.ParquetFile]:
        with self._filesystem.open(path, "rb", block_size=BLOCK_BYTES) as raw:
            yield pq.ParquetFile(raw, coerce_int96_timestamp_unit="us")

    def remove(self, folder: str) -> None:
        """Remove a folder. If it stays, that is no reason to fail what was done with it."""
        self._folders.discard(folder)
        try:
            with self._told():
                self._filesystem.invalidate_cache(folder)
                if paths := self._filesystem.find(folder):
                    self._filesystem.rm(paths)
        except WarehouseError as error:
            log.warning("%s: %r stays and may hold people's texts; remove it", error, folder)

    def close(self) -> None:
        """Remove all that is left of the session's folders."""
        for folder in sorted(self._folders):
            self.remove(folder)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Errors of the storage become ours."""
        try:
            yield
        except PermissionError as error:
            raise WarehouseSettingsError(
                f"the exchange {self.uri!r} refuses: {error}; grant list, read, write and delete below it"
            ) from error
        except (OSError, BotoCoreError, ClientError) as error:
            raise WarehouseError(f"rows could not be handed over by {self.uri!r}: {error}") from error


def check_base(base: str | None) -> str:
    """The URI of an exchange, if it is one.

    :raises WarehouseSettingsError: it is not in S3, or has characters that its statements would have to escape
    """
    parts = urlsplit(base or "")
    if not base or parts.scheme != "s3" or not parts.netloc or any(sign in base for sign in "'\\?#\n"):
        raise WarehouseSettingsError(
            f"Redshift hands rows over by S3, and {base!r} is no place there: set CODING_STAGING to such as"
            " 's3://bucket/occupation-coding'"
        )
    return base


def _cut(batch: pa.RecordBatch, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The batch in pieces that are no larger than those of a reader, cast."""
    for start in range(0, batch.num_rows, BATCH_ROWS):
        piece = pa.Table.from_batches([batch.slice(start, BATCH_ROWS)]).cast(schema)
        yield from piece.to_batches()
