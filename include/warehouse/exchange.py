"""Exchange of rows with Redshift as Parquet files in object storage. The SQL is not here."""

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
from include.warehouse.folder_names import add_checksum
from include.warehouse.warehouse import BATCH_ROWS

#: Rows after which a new file starts. The slices of a cluster load files in parallel.
FILE_ROWS = 250_000
#: Bytes per request to the storage.
BLOCK_BYTES = 8 * 2**20

log = logging.getLogger(__name__)


class Exchange:
    """A session's own folder in object storage, with a subfolder for each read or write.

    :param filesystem: an fsspec file system such as s3fs, whose encryption (`s3_additional_kwargs`) applies
    :param base_uri: URI of the folder that contains those of all sessions
    """

    def __init__(self, filesystem: Any, base_uri: str) -> None:
        self._filesystem, self.uri = filesystem, add_checksum(base_uri, uuid4().hex)
        self._numbers = count(1)
        self._folders: set[str] = set()

    @property
    def encryption(self) -> tuple[str, str | None]:
        """The server-side encryption of new files in S3's terms ('' for the bucket's default), and its KMS key."""
        settings = getattr(self._filesystem, "s3_additional_kwargs", {})
        return settings.get("ServerSideEncryption", ""), settings.get("SSEKMSKeyId")

    def make_folder(self) -> str:
        """Return the URI of a new folder. It ends with a slash, since S3 only knows prefixes: without it, folder 1
        would include folder 10."""
        folder = f"{self.uri}/{next(self._numbers)}/"
        self._folders.add(folder)
        return folder

    def write(self, folder: str, rows: pa.RecordBatchReader, schema: pa.Schema) -> int:
        """Write rows into a folder, cast to `schema`, and return the number of files: 0 if there are no rows."""
        numbers = count()
        with self._translate_errors():
            batches = (piece for batch in rows if batch.num_rows for piece in _split_batch(batch, schema))
            for batch in batches:
                self._write_file(f"{folder}{next(numbers):05}.parquet", batch, batches)
        return next(numbers)

    def _write_file(self, path: str, first: pa.RecordBatch, others: Iterator[pa.RecordBatch]) -> None:
        # Redshift misreads timestamps of 64 bits: https://github.com/apache/arrow/issues/38000
        options = {"version": "1.0", "compression": "snappy", "use_deprecated_int96_timestamps": True}
        with (
            self._filesystem.open(path, "wb", block_size=BLOCK_BYTES) as file,
            pq.ParquetWriter(file, first.schema, **options) as writer,
        ):
            writer.write_batch(first)
            file_rows = first.num_rows
            while file_rows < FILE_ROWS and (batch := next(others, None)) is not None:
                writer.write_batch(batch)
                file_rows += batch.num_rows

    def read(self, folder: str) -> pa.RecordBatchReader | None:
        """Stream the rows of a folder's files; return None if there is no file."""
        with self._translate_errors():
            self._filesystem.invalidate_cache(folder)  # the files were written by the cluster
            paths = sorted(self._filesystem.find(folder))
            if not paths:
                return None
            with self._open_file(paths[0]) as file:
                schema = file.schema_arrow
        return pa.RecordBatchReader.from_batches(schema, self._read_files(paths))

    def _read_files(self, paths: list[str]) -> Iterator[pa.RecordBatch]:
        for path in paths:
            with self._translate_errors(), self._open_file(path) as file:
                yield from file.iter_batches(BATCH_ROWS)

    @contextmanager
    def _open_file(self, path: str) -> Iterator[pq.ParquetFile]:
        with self._filesystem.open(path, "rb", block_size=BLOCK_BYTES) as raw:
            yield pq.ParquetFile(raw, coerce_int96_timestamp_unit="us")

    def remove(self, folder: str) -> None:
        """Remove a folder. A failure is only logged, since the rows have been exchanged."""
        self._folders.discard(folder)
        try:
            with self._translate_errors():
                self._filesystem.invalidate_cache(folder)
                if paths := self._filesystem.find(folder):
                    self._filesystem.rm(paths)
        except WarehouseError as error:
            log.warning("Folder %r was not removed: %s. It can contain people's texts; remove it", folder, error)

    def close(self) -> None:
        """Remove the remaining folders of the session."""
        for folder in sorted(self._folders):
            self.remove(folder)

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except PermissionError as error:
            raise WarehouseSettingsError(
                f"access to the exchange folder {self.uri!r} was denied ({_name_error(error)}): grant list, read,"
                " write and delete permissions below it"
            ) from None
        except (OSError, BotoCoreError, ClientError) as error:
            raise WarehouseError(
                f"rows could not be exchanged through {self.uri!r} ({_name_error(error)}): check that the storage can"
                " be reached, and its settings"
            ) from None
        except pa.ArrowException as error:  # its text can quote a value
            raise WarehouseError(
                f"rows could not be exchanged through {self.uri!r} ({type(error).__name__}): a value does not fit the"
                " type of its column"
            ) from None


def _name_error(error: Exception) -> str:
    """Return the class of an error of the storage, and its code in S3."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None) or {}
    code = response.get("Error", {}).get("Code")
    return f"{type(error).__name__}, {code}" if code else type(error).__name__


def check_exchange_uri(uri: str | None) -> str:
    """Return the URI of an exchange folder if it is valid.

    :raises WarehouseSettingsError: it is not in S3, or contains characters that would need escaping in SQL
    """
    parts = urlsplit(uri or "")
    if not uri or parts.scheme != "s3" or not parts.netloc or any(character in uri for character in "'\\?#\n"):
        raise WarehouseSettingsError(
            f"Redshift exchanges rows through S3, and {uri!r} is not a valid folder there: set CODING_STAGING to one,"
            " such as 's3://bucket/occupation-coding'"
        )
    return uri


def _split_batch(batch: pa.RecordBatch, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Split a batch into batches of the usual size, cast to `schema`."""
    for start in range(0, batch.num_rows, BATCH_ROWS):
        piece = pa.Table.from_batches([batch.slice(start, BATCH_ROWS)]).cast(schema)
        yield from piece.to_batches()
