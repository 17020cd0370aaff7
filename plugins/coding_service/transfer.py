"""Upload and download of files in presigned storage: streamed, resumed where possible, without any API header."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3.exceptions import HTTPError

from coding_service.errors import GrantExpiredError, InputFileError, LinkExpiredError, ProtocolError, TransferError
from coding_service.models import UploadGrant
from coding_service.partial_download import PartialDownload, open_partial_download
from coding_service.storage import BLOCK_BYTES, FilePath, file_size, open_for_reading, translate_storage_errors

#: The service accepts "5 GB"; 5 * 10^9 is the smaller interpretation (docs/service-contract.md 8.31).
MAX_INPUT_BYTES = 5_000_000_000
#: A download fails after this many links in a row without a new byte.
MAX_LINKS_WITHOUT_PROGRESS = 3

log = logging.getLogger(__name__)
# urllib3 logs path and query of every request at DEBUG, and a presigned query must not reach a log.
logging.getLogger("urllib3.connectionpool").setLevel(logging.INFO)


class NoAuth(AuthBase):
    """Keeps requests from adding an `Authorization` header, for example from .netrc; storage refuses a second one."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


class BlockAdapter(HTTPAdapter):
    """Sends bodies in blocks of `BLOCK_BYTES`. The blocks of http.client are 16 KiB, which is 2.4 times slower."""

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

    def __len__(self) -> int:
        return self._size

    def read(self, size: int = -1) -> bytes:
        block = self._file.read(size)
        self._hash.update(block)
        self._remaining -= len(block)
        if self._remaining <= 0 and self._sha256 not in (None, self._hash.hexdigest()):
            raise InputFileError(f"the input file {self._path} has changed since it was prepared; prepare it again")
        self._progress.add(len(block))
        return block


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
    :raises GrantExpiredError: storage answered 403: the URL has expired or does not match the request
    :raises TransferError: the connection broke, or storage answered 5xx: the file may or may not have arrived
    :raises ProtocolError: any other answer
    """
    size = _checked_size(path)
    place = grant.url.partition("?")[0]
    headers = {
        "x-amz-server-side-encryption": "aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id": grant.kms_key_arn,
        "Content-Length": str(size),
    }
    with open_for_reading(path) as file:
        body = _InputFile(file, path, size, sha256)
        try:
            response = session.put(
                grant.url, data=body, headers=headers, timeout=timeout, allow_redirects=False, auth=NoAuth()
            )
        except requests.RequestException as error:
            raise TransferError(f"the upload of {path} to {place} was interrupted: {type(error).__name__}") from None
    answer = f"storage at {place} answered the upload of {path} with HTTP {response.status_code}{_reason(response)}"
    if response.status_code == 200:
        return size
    transient = response.status_code in (429, 500, 502, 503, 504)
    error_class = GrantExpiredError if response.status_code == 403 else TransferError if transient else ProtocolError
    raise error_class(answer, status_code=response.status_code)


def _checked_size(path: FilePath) -> int:
    with translate_storage_errors(path, "read"):
        try:
            size, is_file = file_size(path), path.is_file()
        except FileNotFoundError:
            raise InputFileError(f"the input file {path} does not exist; prepare it again") from None
    if not is_file:
        raise InputFileError(f"the input file {path} is not a file")
    if not 0 < size <= MAX_INPUT_BYTES:
        raise InputFileError(f"the input file {path} has {size} bytes; the service accepts 1 to {MAX_INPUT_BYTES}")
    return size


def download(session: requests.Session, fresh_link: Callable[[], str], path: FilePath, *, timeout: float) -> Download:
    """Download a file to `path`, where it appears once it is complete (docs/service-contract.md 2.10).

    After a broken connection or an expired link, the download resumes with a fresh link if storage still has the same
    file (by its ETag). On this machine it also resumes what an earlier attempt left beside `path`. A file for object
    storage is written in parts, without a local copy.

    :param fresh_link: returns a new link; called once for each connection
    :param timeout: seconds to wait for storage to send something
    :raises TransferError: several links in a row brought no new bytes
    :raises StagingError: `path` cannot be written
    :raises LinkExpiredError: storage refuses fresh links as well
    """
    partial = open_partial_download(path)
    try:
        _download_all(session, fresh_link, partial, timeout)
        partial.finish()
    except BaseException:
        partial.abandon()
        raise
    return Download(path, partial.size, partial.sha256, partial.lines)


def _download_all(
    session: requests.Session, fresh_link: Callable[[], str], partial: PartialDownload, timeout: float
) -> None:
    """Connect as often as necessary to complete the file."""
    attempts, max_size = 0, partial.size
    while True:
        try:
            return _download_rest(session, fresh_link(), partial, timeout)
        except (TransferError, LinkExpiredError) as error:
            # compared with the maximum, because a download that starts over each time would never end
            attempts = 0 if partial.size > max_size else attempts + 1
            max_size = max(max_size, partial.size)
            if attempts >= MAX_LINKS_WITHOUT_PROGRESS:
                raise
            log.warning("%s; resuming at byte %d with a fresh link", error, partial.size)


def _download_rest(session: requests.Session, link: str, partial: PartialDownload, timeout: float) -> None:
    """Download the missing bytes over one connection."""
    headers = {"Accept-Encoding": "identity"}
    if partial.size and partial.etag:
        headers |= {"Range": f"bytes={partial.size}-", "If-Match": partial.etag}
    place = link.partition("?")[0]
    try:
        with session.get(
            link, headers=headers, timeout=timeout, stream=True, allow_redirects=False, auth=NoAuth()
        ) as response:
            total = _start_or_resume(response, partial, place)
            if total is None:
                return
            progress = Progress(f"download from {place}", total, partial.size)
            for size in partial.append(response.raw.stream(BLOCK_BYTES, decode_content=False)):
                progress.add(size)
    except (requests.RequestException, HTTPError) as error:
        raise TransferError(f"the download from {place} was interrupted: {type(error).__name__}") from None
    if partial.size != total:
        raise TransferError(f"the download from {place} ended after {partial.size} of {total} bytes")


def _start_or_resume(response: requests.Response, partial: PartialDownload, place: str) -> int | None:
    """Return the size of the whole file in bytes; None if it is complete already."""
    status = response.status_code
    if status == 206 and _content_range(response)[0] == partial.size:
        return _content_range(response)[1]
    if status == 200 and "Content-Length" in response.headers:
        partial.start(response.headers.get("ETag", ""))
        return int(response.headers["Content-Length"])
    if status == 416 and partial.size in (_content_range(response)[1], _actual_size(response)):
        return None
    if status in (206, 412, 416):  # storage has a different file now
        partial.start("")
        raise TransferError(f"the file at {place} changed during its download", status_code=status)
    text = f"storage at {place} answered the download with HTTP {status}{_reason(response)}"
    if status in (403, 404):
        raise LinkExpiredError(text, status_code=status)
    if status >= 500 or status == 429:
        raise TransferError(text, status_code=status)
    raise ProtocolError(text, status_code=status)


def _content_range(response: requests.Response) -> tuple[int, int]:
    """Return first byte and total size from `Content-Range: bytes 5-9/10`; -1 for a value that is missing."""
    unit, _, rest = response.headers.get("Content-Range", "").partition(" ")
    span, _, total = rest.partition("/")
    first = span.partition("-")[0]
    return (int(first) if unit == "bytes" and first.isdigit() else -1, int(total) if total.isdigit() else -1)


def _actual_size(response: requests.Response) -> int:
    """Return the file size from the error document for a range that is not satisfiable; -1 if it is missing."""
    size = _error_element(response, "ActualObjectSize")
    return int(size) if size.isdecimal() else -1


def _reason(response: requests.Response) -> str:
    """Return code and message of a storage error (XML), and nothing else from the body."""
    words = [_error_element(response, name) for name in ("Code", "Message")]
    return f" ({': '.join(filter(None, words))})" if any(words) else ""


def _error_element(response: requests.Response, name: str) -> str:
    xml = response.content[:2000].decode("utf-8", "replace")
    return xml.partition(f"<{name}>")[2].partition(f"</{name}>")[0][:200]
