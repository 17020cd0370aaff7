"""Files to and from presigned storage: streamed, resumed where that is possible, never with an API header."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3.exceptions import HTTPError

from coding_service.errors import (
    GrantExpiredError,
    InputFileError,
    LinkExpiredError,
    ProtocolError,
    TransferError,
)
from coding_service.models import UploadGrant
from coding_service.partial_download import Partial, partial_of
from coding_service.storage import BLOCK, StoragePath, open_to_read, size_of, staging_errors

#: The service takes 5 GB; 5 * 10^9 is the smaller reading (contract 8, question 31).
MAX_INPUT_BYTES = 5_000_000_000
#: Links asked for without a single new byte before a download gives up.
MAX_FRUITLESS_LINKS = 3

log = logging.getLogger(__name__)
# urllib3 prints path and query of every request at DEBUG: a presigned query must not reach a log.
logging.getLogger("urllib3.connectionpool").setLevel(logging.INFO)


class NoAuth(AuthBase):
    """Keeps requests from adding an `Authorization` of its own, from a .netrc say; storage refuses two."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


class BlockAdapter(HTTPAdapter):
    """Sends bodies in blocks of `BLOCK` bytes; http.client's own are of 16 KiB, which is 2.4 times slower."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, blocksize=BLOCK, **kwargs)


@dataclass(frozen=True)
class Download:
    """A file that has come down whole.

    :param bytes: its size
    :param sha256: of its content, hexadecimal
    :param lines: line feeds in it
    """

    path: Path | StoragePath
    bytes: int
    sha256: str
    lines: int


class Progress:
    """Says how far a transfer is, at most every ten seconds."""

    def __init__(self, what: str, total: int | None, done: int = 0, period: float = 10.0) -> None:
        self._what, self._total, self._done, self._period = what, total, done, period
        self._start = self._said = time.monotonic()
        self._before = done

    def add(self, count: int) -> None:
        """Count `count` more bytes."""
        self._done += count
        now = time.monotonic()
        if now - self._said >= self._period:
            self._said = now
            rate = (self._done - self._before) / (now - self._start) / 1e6
            of_total = f" of {self._total / 1e6:.1f} MB ({self._done / self._total:.0%})" if self._total else " MB"
            log.info("%s: %.1f%s, %.1f MB/s", self._what, self._done / 1e6, of_total, rate)


class _InputFile:
    """A file as requests wants it for a body of known length: `read` and `__len__`, nothing to guess.

    :param sha256: of what the file should hold. If it does not, the last block is not sent, so that nothing arrives.
    """

    def __init__(self, file: IO[bytes], path: Path | StoragePath, size: int, sha256: str | None) -> None:
        self._file, self._path, self._size, self._left, self._sha256 = file, path, size, size, sha256
        self._hash, self._progress = hashlib.sha256(), Progress(f"upload of {path}", size)

    def __len__(self) -> int:
        return self._size

    def read(self, size: int = -1) -> bytes:
        block = self._file.read(size)
        self._hash.update(block)
        self._left -= len(block)
        if self._left <= 0 and self._sha256 not in (None, self._hash.hexdigest()):
            raise InputFileError(f"the input file {self._path} is not what was prepared; prepare the run again")
        self._progress.add(len(block))
        return block


def upload(
    session: requests.Session,
    grant: UploadGrant,
    path: Path | StoragePath,
    *,
    timeout: float,
    sha256: str | None = None,
) -> int:
    """Send the file at `path` to the place that `grant` names (contract 2.8) and return its size in bytes.

    The body goes out with Content-Length and never chunked, which storage refuses; the two KMS headers are the
    only ones of ours.

    :param sha256: of the file, hexadecimal, if it is known: another file is not sent
    :raises InputFileError: the file is missing, empty, above 5,000,000,000 bytes or another one
    :raises StagingError: the input file cannot be read
    :raises GrantExpiredError: storage answered 403: the URL has expired or does not fit
    :raises TransferError: the connection broke, or storage answered 5xx: whether the file arrived is unknown
    :raises ProtocolError: any other answer
    """
    size = _size_to_send(path)
    place = _place(grant.url)
    headers = {
        "x-amz-server-side-encryption": "aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id": grant.kms_key_arn,
        "Content-Length": str(size),
    }
    with open_to_read(path) as file:
        body = _InputFile(file, path, size, sha256)
        try:
            response = session.put(
                grant.url, data=body, headers=headers, timeout=timeout, allow_redirects=False, auth=NoAuth()
            )
        except requests.RequestException as error:
            raise TransferError(f"the upload of {path} to {place} broke off: {type(error).__name__}") from None
    answer = f"storage at {place} answered the upload of {path} with HTTP {response.status_code}{_reason(response)}"
    if response.status_code == 200:
        return size
    if response.status_code == 403:
        raise GrantExpiredError(answer, status_code=403)
    if response.status_code in (429, 500, 502, 503, 504):
        raise TransferError(answer, status_code=response.status_code)
    raise ProtocolError(answer, status_code=response.status_code)


def _size_to_send(path: Path | StoragePath) -> int:
    with staging_errors(path, "read"):
        try:
            size, is_file = size_of(path), path.is_file()
        except FileNotFoundError:
            raise InputFileError(f"the input file {path} does not exist; prepare the run again") from None
    if not is_file:
        raise InputFileError(f"the input file {path} is not a file")
    if not 0 < size <= MAX_INPUT_BYTES:
        raise InputFileError(f"the input file {path} has {size} bytes; the service takes 1 to {MAX_INPUT_BYTES}")
    return size


def download(
    session: requests.Session,
    fresh_link: Callable[[], str],
    path: Path | StoragePath,
    *,
    timeout: float,
    block: int = BLOCK,
) -> Download:
    """Bring a file down to `path`, which appears only when it is whole (contract 2.10).

    What came down before is resumed if storage still has the same file (by its ETag); a broken connection or an
    expired link asks for a fresh link. On this machine what an earlier try left beside `path` is resumed as well; to
    object storage the file goes part by part, without a copy here.

    :param fresh_link: gives a link that was just issued; called once for each connection
    :raises TransferError: several links in a row brought nothing new
    :raises StagingError: `path` cannot be written
    :raises LinkExpiredError: fresh links are refused as well
    """
    partial = partial_of(path)
    try:
        _bring_down(session, fresh_link, partial, timeout, block)
        partial.finish()
    except BaseException:
        partial.abandon()
        raise
    return Download(path, partial.size, partial.sha256, partial.lines)


def _bring_down(
    session: requests.Session, fresh_link: Callable[[], str], partial: Partial, timeout: float, block: int
) -> None:
    """Connect as often as it takes until all of the file is here."""
    fruitless, before = 0, partial.size
    while True:
        try:
            return _continue(session, fresh_link(), partial, timeout, block)
        except (TransferError, LinkExpiredError) as error:
            fruitless = 0 if partial.size > before else fruitless + 1
            before = max(before, partial.size)  # else one that starts over each time might never end
            if fruitless >= MAX_FRUITLESS_LINKS:
                raise
            log.warning("%s; going on from byte %d with a fresh link", error, partial.size)


def _continue(session: requests.Session, link: str, partial: Partial, timeout: float, block: int) -> None:
    """Fetch what is missing over one connection."""
    headers = {"Accept-Encoding": "identity"}
    if partial.size and partial.etag:
        headers |= {"Range": f"bytes={partial.size}-", "If-Match": partial.etag}
    place = _place(link)
    try:
        with session.get(
            link, headers=headers, timeout=timeout, stream=True, allow_redirects=False, auth=NoAuth()
        ) as response:
            total = _judge(response, partial, place)
            if total is None:
                return
            progress = Progress(f"download from {place}", total, partial.size)
            for size in partial.append(response.raw.stream(block, decode_content=False)):
                progress.add(size)
    except (requests.RequestException, HTTPError) as error:
        raise TransferError(f"the download from {place} broke off: {type(error).__name__}") from None
    if partial.size != total:
        raise TransferError(f"the download from {place} ended after {partial.size} of {total} bytes")


def _judge(response: requests.Response, partial: Partial, place: str) -> int | None:
    """Return the size of the whole file in bytes, None if all of it is here already."""
    status = response.status_code
    if status == 206 and _content_range(response)[0] == partial.size:
        return _content_range(response)[1]
    if status == 200 and "Content-Length" in response.headers:
        partial.start(response.headers.get("ETag", ""))
        return int(response.headers["Content-Length"])
    if status == 416 and partial.size in (_content_range(response)[1], _actual_size(response)):
        return None
    if status in (206, 412, 416):  # another file than the one begun: start over
        partial.start("")
        raise TransferError(f"the file at {place} changed in the middle of its download", status_code=status)
    text = f"storage at {place} answered the download with HTTP {status}{_reason(response)}"
    if status in (403, 404):
        raise LinkExpiredError(text, status_code=status)
    if status >= 500 or status == 429:
        raise TransferError(text, status_code=status)
    raise ProtocolError(text, status_code=status)


def _content_range(response: requests.Response) -> tuple[int, int]:
    """First byte and whole size of `Content-Range: bytes 5-9/10`; -1 for what it does not say."""
    unit, _, rest = response.headers.get("Content-Range", "").partition(" ")
    span, _, total = rest.partition("/")
    first = span.partition("-")[0]
    return (int(first) if unit == "bytes" and first.isdigit() else -1, int(total) if total.isdigit() else -1)


def _actual_size(response: requests.Response) -> int:
    """Size that the error document of an impossible range gives; -1 if it does not."""
    size = _element(_document(response), "ActualObjectSize")
    return int(size) if size.isdecimal() else -1


def _place(url: str) -> str:
    """Host and path of a presigned URL: what may be shown of it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


def _reason(response: requests.Response) -> str:
    """Code and message of a storage error, which is XML; nothing else of the body."""
    xml = _document(response)
    words = [_element(xml, name) for name in ("Code", "Message")]
    return f" ({': '.join(filter(None, words))})" if any(words) else ""


def _document(response: requests.Response) -> str:
    return response.content[:2000].decode("utf-8", "replace")


def _element(xml: str, name: str) -> str:
    return xml.partition(f"<{name}>")[2].partition(f"</{name}>")[0][:200]
