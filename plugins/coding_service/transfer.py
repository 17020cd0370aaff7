"""Upload and download of files in presigned storage: streamed, resumed where possible, without any API header."""

from __future__ import annotations

import errno
import hashlib
import logging
import shutil
import ssl
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

import requests
from requests.auth import AuthBase
from urllib3 import HTTPSConnectionPool
from urllib3.exceptions import HTTPError

from coding_service.bounded_connections import BoundedAdapter, BoundedTlsConnection, read_blocks, watch_body
from coding_service.errors import (
    GrantExpiredError,
    InputFileError,
    LinkExpiredError,
    ProtocolError,
    StagingError,
    TransferError,
    UploadInterruptedError,
)
from coding_service.input_file import MAX_INPUT_BYTES, check_size
from coding_service.models import UploadGrant
from coding_service.partial_download import PartialDownload, open_partial_download
from coding_service.redaction import redact, redact_library_logs
from coding_service.storage import BLOCK_BYTES, FilePath, open_for_reading
from coding_service.storage_answers import Meaning, StorageRefusal

#: An output file has at most so many bytes for each byte of its input file, and at least the minimum is allowed. The
#: shortest input line has about 90 bytes, and an output line repeats it and adds a code, its label and alternatives:
#: less than 50 times as much.
MAX_OUTPUT_RATIO, MIN_OUTPUT_LIMIT_BYTES = 50, 1 << 20
#: Largest metadata file. It describes one model.
MAX_METADATA_BYTES = 1 << 20
#: Longest size of a file as text that is believed.
MAX_SIZE_DIGITS = 18
#: A transfer ends with an error if fewer bytes than these move in such a period: 10 KiB a second.
MIN_PERIOD_BYTES, SLOW_PERIOD_S = 3000 << 10, 300.0
#: When to try again after a transfer that was too slow.
SLOW_WAIT_S = 300.0
#: Pauses before further links, after links without a new byte. The download fails when they are used up.
LINK_PAUSES_S = (5.0, 15.0)

log = logging.getLogger(__name__)
# urllib3 logs path and query of every request at DEBUG, and whole URLs when headers are malformed
redact_library_logs()


class NoAuth(AuthBase):
    """Keeps requests from adding an `Authorization` header, for example from .netrc; storage refuses a second one."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


class _TlsConnection(BoundedTlsConnection):
    """Reads the answer of a server that refuses an upload and closes while the body is still being sent.

    urllib3 does so after a broken pipe. Over TLS, the same appears as another error (docs/service-contract.md 10.5).
    """

    def send(self, data: Any) -> None:
        try:
            super().send(data)
        except (ssl.SSLError, ConnectionError) as error:
            raise BrokenPipeError(errno.EPIPE, "the server closed the connection") from error


class _TlsConnectionPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class BlockAdapter(BoundedAdapter):
    """Sends bodies in blocks of `BLOCK_BYTES`, and reads an answer that comes before the end of the body.

    The blocks of http.client are 16 KiB, which is 2.4 times slower.
    """

    pool_classes: ClassVar[dict[str, Any]] = {**BoundedAdapter.pool_classes, "https": _TlsConnectionPool}

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, blocksize=BLOCK_BYTES, **kwargs)


@dataclass(frozen=True)
class Download:
    """A file that was downloaded completely: its size, its SHA-256 (hexadecimal) and its number of line feeds."""

    path: FilePath
    bytes: int
    sha256: str
    lines: int


class Progress:
    """Logs the progress of a transfer, at most once in `period` seconds."""

    def __init__(self, name: str, total: int | None, start: int = 0, period: float = 10.0) -> None:
        self._name, self._total, self._done, self._period = name, total, start, period
        self._start_time = self._last_log_time = time.monotonic()
        self._start = start

    def add(self, count: int) -> None:
        """Count further bytes."""
        self._done += count
        now = time.monotonic()
        if now - self._last_log_time >= self._period:
            self._last_log_time = now
            rate = (self._done - self._start) / (now - self._start_time) / 1e6
            share = f" of {self._total / 1e6:.1f} MB ({self._done / self._total:.0%})" if self._total else " MB"
            log.info("%s: %.1f%s, %.1f MB/s", self._name, self._done / 1e6, share, rate)


class _InputFile:
    """A request body of known length: requests uses only `read` and `__len__`.

    :param sha256: expected SHA-256 of the file. If the file differs, the last block is not sent, so that storage does
        not keep the file.
    """

    def __init__(self, file: IO[bytes], path: FilePath, size: int, sha256: str | None) -> None:
        self._file, self._path, self._size, self._remaining, self._sha256 = file, path, size, size, sha256
        self._hash, self._progress = hashlib.sha256(), Progress(f"upload of {path}", size)
        self._period_start, self._period_bytes = time.monotonic(), 0

    def __len__(self) -> int:
        return self._size

    @property
    def has_started(self) -> bool:
        """Whether some of the file may have been sent."""
        return self._remaining < self._size

    def read(self, size: int = -1) -> bytes:
        block = self._file.read(size)
        self._hash.update(block)
        self._remaining -= len(block)
        if self._remaining <= 0 and self._sha256 not in (None, self._hash.hexdigest()):
            raise InputFileError(f"the input file {self._path} has changed since it was prepared; prepare it again")
        self._progress.add(len(block))
        self._check_speed(len(block))
        return block

    def _check_speed(self, count: int) -> None:
        self._period_bytes += count
        now = time.monotonic()
        if self._period_bytes >= MIN_PERIOD_BYTES:
            self._period_start, self._period_bytes = now, 0
        elif now - self._period_start > SLOW_PERIOD_S:
            raise UploadInterruptedError(
                f"the upload of {self._path} was too slow: {self._period_bytes} bytes in {SLOW_PERIOD_S:.0f} s",
                retry_after=SLOW_WAIT_S,
            )


def upload(
    session: requests.Session, grant: UploadGrant, path: FilePath, *, timeout: float, sha256: str | None = None
) -> int:
    """Upload the file at `path` with a grant (docs/service-contract.md 2.8) and return its size in bytes.

    The body is sent with a Content-Length, because storage refuses a chunked body. The two KMS headers are the only
    other headers.

    :param timeout: seconds to wait for storage to send something
    :param sha256: expected SHA-256 of the file (hexadecimal), if it is known
    :raises InputFileError: the file is missing, empty, above 5,000,000,000 bytes, or does not have this SHA-256
    :raises StagingError: the file cannot be read
    :raises GrantExpiredError: storage refuses the URL: it has expired or does not match the request
    :raises UploadInterruptedError: the connection broke: the file may or may not have arrived
    :raises TransferError: no connection, or a refusal that is retryable
    :raises ProtocolError: any other answer
    """
    size = check_size(path)
    place = redact(grant.url.partition("?")[0])
    headers = {
        "x-amz-server-side-encryption": "aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id": grant.kms_key_arn,
        "Content-Length": str(size),
    }
    with open_for_reading(path) as file:
        body = _InputFile(file, path, size, sha256)
        try:
            response = session.put(
                grant.url,
                data=body,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
                auth=NoAuth(),
                stream=True,
            )
        except requests.RequestException as error:
            error_class = UploadInterruptedError if body.has_started else TransferError
            raise error_class(f"the upload of {path} to {place} was interrupted: {type(error).__name__}") from None
    with response:
        if response.status_code == 200:
            return size
        refusal = _read_refusal(response, timeout)
    upload_errors = {Meaning.EXPIRED: GrantExpiredError, Meaning.RETRYABLE: TransferError}
    raise upload_errors.get(refusal.meaning, ProtocolError)(
        f"storage at {place} answered the upload of {path} with {refusal}", status_code=refusal.status
    )


def _read_refusal(response: requests.Response, timeout: float) -> StorageRefusal:
    """Read the start of a refusal, if it arrives in time."""
    with suppress(TimeoutError), watch_body(response, timeout):
        return StorageRefusal.from_response(response)
    return StorageRefusal(response.status_code)


def output_limit(input_bytes: int | None) -> int:
    """Return the largest size of an output file in bytes.

    :param input_bytes: size of its input file; None: unknown
    """
    size = MAX_INPUT_BYTES if input_bytes is None else input_bytes
    return max(size * MAX_OUTPUT_RATIO, MIN_OUTPUT_LIMIT_BYTES)


def download(
    session: requests.Session,
    fresh_link: Callable[[], str],
    path: FilePath,
    *,
    timeout: float,
    expected_lines: int | None = None,
    max_bytes: int | None = None,
    slow_period: float = SLOW_PERIOD_S,
    sleep: Callable[[float], None] = time.sleep,
    operation_id: str = "",
) -> Download:
    """Download a file to `path`, where it appears once it is complete (docs/service-contract.md 2.10, 10.6).

    After a broken connection or an expired link, the download resumes with a fresh link if storage still has the same
    file (by its ETag). On this machine it also resumes what an earlier attempt left beside `path`. A file for object
    storage is written in parts, without a local copy. A file that arrives compressed (gzip) is written decompressed,
    and starts over after an interruption.

    :param fresh_link: returns a new link; called once for each connection
    :param timeout: seconds to wait for storage to send something
    :param expected_lines: number of lines that the file should have; used only if nothing but the end of the
        connection marks the end of the file. None: unknown
    :param max_bytes: size above which the file cannot be right; None: the largest of any operation
    :param slow_period: seconds in which `MIN_PERIOD_BYTES` have to arrive, unless the file ends before
    :param sleep: waits for a number of seconds
    :param operation_id: the operation that the file belongs to, so that downloads from two operations to one path
        never mix
    :raises TransferError: several links in a row brought no new bytes, or storage is too slow
    :raises StagingError: `path` cannot be written, or has no room for the file
    :raises ProtocolError: the file is larger than `max_bytes`; nothing of it is kept
    :raises LinkExpiredError: storage refuses fresh links as well, or has no such file
    """
    partial = open_partial_download(path, operation_id)
    limits = _Limits(timeout, output_limit(None) if max_bytes is None else max_bytes, slow_period, expected_lines)
    try:
        _download_all(session, fresh_link, partial, limits, sleep)
        partial.finish()
    except BaseException:
        partial.abandon()
        raise
    return Download(path, partial.size, partial.sha256, partial.lines)


@dataclass(frozen=True)
class _Limits:
    """What a download has to keep to: the parameters of :func:`download` with these names."""

    timeout: float
    max_bytes: int
    slow_period: float
    expected_lines: int | None


def _download_all(
    session: requests.Session,
    fresh_link: Callable[[], str],
    partial: PartialDownload,
    limits: _Limits,
    sleep: Callable[[float], None],
) -> None:
    """Connect as often as necessary to complete the file."""
    pauses, max_size = iter(LINK_PAUSES_S), partial.size
    while True:
        try:
            return _download_rest(session, fresh_link(), partial, limits)
        except (TransferError, LinkExpiredError) as error:
            if isinstance(error, TransferError) and error.retry_after is not None:
                raise  # another attempt of the task comes then, and this one does not occupy its worker
            # compared with the maximum, because a download that starts over each time would never end
            if partial.size > max_size:
                pauses, max_size, pause = iter(LINK_PAUSES_S), partial.size, 0.0
            else:
                pause = next(pauses, -1.0)
            if pause < 0:
                raise
            log.warning("%s; resuming at byte %d with a fresh link in %.0f s", error, partial.size, pause)
            sleep(pause)


@dataclass(frozen=True)
class _Body:
    """The file, or its rest, as storage sends it over one connection.

    :param total: size of the whole file in bytes; None if storage does not state it
    :param is_compressed: whether it has to be decompressed
    :param ends_by_closing: whether nothing but the end of the connection marks its end
    """

    total: int | None
    is_compressed: bool = False
    ends_by_closing: bool = False


def _download_rest(session: requests.Session, link: str, partial: PartialDownload, limits: _Limits) -> None:
    """Download the missing bytes over one connection."""
    headers = {"Accept-Encoding": "identity"}
    if partial.size and partial.etag:
        headers |= {"Range": f"bytes={partial.size}-", "If-Match": partial.etag}
    place = redact(link.partition("?")[0])
    try:
        with session.get(
            link, headers=headers, timeout=limits.timeout, stream=True, allow_redirects=False, auth=NoAuth()
        ) as response:
            body = _start_or_resume(response, partial, place, limits.timeout)
            if body is None:
                return
            _check_size(partial, body.total or 0, limits.max_bytes, place)
            _check_room(partial, body.total or 0)
            _receive(response, body, partial, limits, place)
    except TimeoutError:
        raise TransferError(
            f"the download from {place} was too slow: below {MIN_PERIOD_BYTES} bytes in {limits.slow_period:g} s",
            retry_after=SLOW_WAIT_S,
        ) from None
    except (requests.RequestException, HTTPError, zlib.error) as error:
        raise TransferError(f"the download from {place} was interrupted: {type(error).__name__}") from None
    if body.total is not None and partial.size != body.total:
        raise TransferError(f"the download from {place} ended after {partial.size} of {body.total} bytes")
    if body.ends_by_closing and not partial.has_whole_lines(limits.expected_lines):
        expected = "" if limits.expected_lines is None else f" of {limits.expected_lines}"
        raise TransferError(f"the download from {place} ended after {partial.lines}{expected} lines")


def _receive(response: requests.Response, body: _Body, partial: PartialDownload, limits: _Limits, place: str) -> None:
    """Write the body of an answer to the file.

    :raises TimeoutError: it is too slow
    """
    blocks = read_blocks(response, BLOCK_BYTES)
    progress, period_bytes = Progress(f"download from {place}", body.total, partial.size), 0
    with watch_body(response, limits.slow_period) as watchdog:
        for size in partial.append(_decompress(blocks) if body.is_compressed else blocks):
            progress.add(size)
            _check_size(partial, partial.size, limits.max_bytes, place)
            period_bytes += size
            if period_bytes >= MIN_PERIOD_BYTES:
                watchdog.restart(limits.slow_period)
                period_bytes = 0


def _check_size(partial: PartialDownload, size: int, max_bytes: int, place: str) -> None:
    """Discard a file that is larger than it can be."""
    if size > max_bytes:
        partial.start("")
        raise ProtocolError(
            f"the file at {place} has more than {max_bytes} bytes, which is more than the service returns for such an"
            " input: nothing of it was kept"
        )


def _check_room(partial: PartialDownload, size: int) -> None:
    """Check that the disk has room for the rest of the file, before it is filled for everybody."""
    if not isinstance(partial.path, Path) or not size:
        return
    free = shutil.disk_usage(partial.path.parent).free
    if size - partial.size > free:
        raise StagingError(f"{partial.path} needs {size - partial.size} bytes, but {free} are free: make room")


def _start_or_resume(
    response: requests.Response, partial: PartialDownload, place: str, timeout: float
) -> _Body | None:
    """Return how the body has to be read; None if the file is complete already."""
    status = response.status_code
    if response.headers.get("Content-Type", "").startswith("text/html") and status < 300:
        raise TransferError(f"the download from {place} was answered with a web page: another machine answered")
    is_compressed = status < 300 and _is_compressed(response, place)
    is_chunked = "chunked" in response.headers.get("Transfer-Encoding", "").lower()
    length = None if is_chunked or is_compressed else _content_length(response)
    ends_by_closing = not is_chunked and not is_compressed and length is None
    first, total = _content_range(response)
    if status == 206 and first == partial.size and not is_compressed:
        if total < 0 and length is not None:
            total = first + length
        return _Body(total if total >= 0 else None, ends_by_closing=ends_by_closing and total < 0)
    if status == 200:
        partial.start("" if is_compressed else _strong_etag(response))
        return _Body(length, is_compressed, ends_by_closing)
    refusal = _read_refusal(response, timeout)
    if status == 416 and partial.size in (total, refusal.actual_size):
        return None
    if status in (206, 412, 416):  # storage has a different file now
        partial.start("")
        raise TransferError(f"the file at {place} changed during its download", status_code=status)
    download_errors = {
        Meaning.EXPIRED: LinkExpiredError, Meaning.MISSING: LinkExpiredError, Meaning.RETRYABLE: TransferError,
    }  # fmt: skip
    raise download_errors.get(refusal.meaning, ProtocolError)(
        f"storage at {place} answered the download with {refusal}", status_code=status
    )


def _is_compressed(response: requests.Response, place: str) -> bool:
    names = {name.strip().lower() for name in response.headers.get("Content-Encoding", "").split(",")}
    names -= {"", "identity", "aws-chunked"}  # S3 can return the last one, but it describes the upload only
    if names - {"gzip", "x-gzip"}:
        raise ProtocolError(f"the file at {place} is encoded as {sorted(names)}; only gzip can be decoded")
    return bool(names)


def _decompress(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the content of a gzip file in blocks of at most `BLOCK_BYTES`.

    :raises zlib.error: it is damaged, or incomplete, which its last bytes show
    """
    decoder = None
    for block in blocks:
        while block:
            decoder = decoder or zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
            data = decoder.decompress(block, BLOCK_BYTES)
            while data:
                yield data
                data = decoder.decompress(decoder.unconsumed_tail, BLOCK_BYTES)
            block = decoder.unused_data
            decoder = None if decoder.eof else decoder
    if decoder is not None:
        raise zlib.error("the compressed file is incomplete")


def _content_length(response: requests.Response) -> int | None:
    size = _size(response.headers.get("Content-Length", "").strip())
    return size if size >= 0 else None


def _strong_etag(response: requests.Response) -> str:
    """Return the ETag; "" if there is none with which a download can be resumed (`If-Match` needs a strong one)."""
    etag: str = response.headers.get("ETag", "")
    return "" if etag.startswith("W/") else etag


def _content_range(response: requests.Response) -> tuple[int, int]:
    """Return first byte and total size from `Content-Range: bytes 5-9/10`; -1 for a value that is missing."""
    unit, _, rest = response.headers.get("Content-Range", "").partition(" ")
    span, _, total = rest.partition("/")
    first = span.partition("-")[0]
    return (_size(first) if unit == "bytes" else -1, _size(total))


def _size(text: str) -> int:
    """Return a number of bytes; -1 if the text is none, or longer than that of any file."""
    return int(text) if text.isdecimal() and len(text) <= MAX_SIZE_DIGITS else -1
