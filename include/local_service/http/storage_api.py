"""The object storage over HTTP: presigned PUT and GET, verified before the body is read."""

from __future__ import annotations

import base64
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NoReturn

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from include.local_service.core.clients import kms_key
from include.local_service.core.faults import Fault
from include.local_service.core.objects import BLOCK_BYTES, Writer
from include.local_service.core.operation import Operation
from include.local_service.core.service import CodingService
from include.local_service.core.storage_codes import MESSAGES
from include.local_service.core.store import StoredObject
from include.local_service.http.journal import CutConnection, Ending
from include.local_service.http.signing import SignedRequest, Signer, expired_error
from include.local_service.http.storage_errors import ErrorResponse, StorageError, request_ids
from include.local_service.http.storage_headers import (
    BUCKET,
    SSE,
    SSE_KEY,
    encryption_headers,
    object_headers,
    read_range,
)

ROUTE = f"/{BUCKET}/{{key:path}}"
MAX_OBJECT_BYTES = 5_000_000_000  # the smaller of the two meanings of "5 GB" (docs/service-contract.md 8.31)


class StorageApi:
    """The endpoint of the bucket."""

    def __init__(self, service: CodingService) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        response: Response
        try:
            response = await self._handle(request)
        except StorageError as error:
            response = ErrorResponse(error, request)
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    async def _handle(self, request: Request) -> Response:
        key = request.path_params["key"]
        operation = await run_in_threadpool(self._service.operations.find_by_input_key, key)
        # For the journal: the operation that the object belongs to.
        request.state.operation_id = key.rpartition("/")[2].partition(".")[0]
        signed_request = read_signed_request(request)
        Signer(self._service.access_keys).verify(signed_request, self._service.clock.now())
        if fault := self._triggers("storage_error", request):
            raise StorageError(fault.code, MESSAGES.get(fault.code, fault.code))
        if request.method == "PUT":
            return await self._put(request, signed_request, operation)
        if request.method == "GET":
            return await self._get(request, key)
        raise StorageError("MethodNotAllowed", "The specified method is not allowed against this resource.")

    def _triggers(self, name: str, request: Request) -> Fault | None:
        return self._service.faults.trigger_for_request(name, request.method, request.url.path)

    # PUT

    async def _put(self, request: Request, signed_request: SignedRequest, operation: Operation | None) -> Response:
        if self._triggers("abrupt_refusal", request):
            request.state.is_abrupt = True
            raise self._expired_error()
        operation = self._validate_put(signed_request, operation)
        size = _validate_length(request)
        content_md5 = _validate_md5(request.headers.get("content-md5"))
        fault = self._triggers("reset_upload", request)
        with await run_in_threadpool(Writer, self._service.objects, hash_md5=content_md5 is not None) as writer:
            await _receive_body(request, writer, _bytes_until_cut(fault, size))
            _validate_upload(writer, size, content_md5)
            upload = await run_in_threadpool(writer.commit)
        stored = await run_in_threadpool(self._service.receive_input, operation.operation_id, upload)
        if stored is None:
            raise StorageError("AccessDenied", "Access Denied")
        return Response(headers={"ETag": f'"{stored.etag}"', **encryption_headers(stored), **request_ids()})

    def _validate_put(self, request: SignedRequest, operation: Operation | None) -> Operation:
        if self._service.faults.trigger_for_request("expired_upload", "PUT", request.path):
            raise self._expired_error()
        expected_key = operation and kms_key(operation.client_id)
        if operation is None or request.header(SSE) != "aws:kms" or request.header(SSE_KEY) != expected_key:
            raise StorageError("AccessDenied", "Access Denied")
        return operation

    def _expired_error(self) -> StorageError:
        now = self._service.clock.now()
        return expired_error(0, now, now)

    # GET

    async def _get(self, request: Request, key: str) -> Response:
        if self._triggers("expired_link", request):
            raise self._expired_error()
        stored = await run_in_threadpool(self._service.operations.find_object, key)
        if stored is None:
            raise StorageError("NoSuchKey", "The specified key does not exist.", Key=key)
        if _is_not_modified(request, stored):
            return Response(status_code=304, headers=object_headers(stored))
        path = self._service.objects.path(stored.file)
        if self._triggers("gzip_download", request):
            headers = {**object_headers(stored), "Content-Encoding": "gzip"}
            return StreamingResponse(_compress_file(path), 200, headers, media_type="binary/octet-stream")
        start, end, status = read_range(request.headers.get("range"), stored.size)
        headers = {**object_headers(stored), "Content-Length": str(end - start)}
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{stored.size}"
        if fault := self._triggers("closed_download", request):
            _send_until_closed(request, path, start, end if fault.after is None else start + fault.after)
        if self._triggers("chunked_download", request):
            del headers["Content-Length"]
        fault = self._triggers("cut_download", request)
        body = _send_file(path, start, end, _bytes_until_cut(fault, end - start))
        return StreamingResponse(body, status, headers, media_type="binary/octet-stream")


def read_signed_request(request: Request) -> SignedRequest:
    """Return the request exactly as received, neither decoded nor sorted."""
    headers = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in request.scope["headers"])
    return SignedRequest(
        request.method,
        request.scope["raw_path"].decode("latin-1"),
        request.scope["query_string"].decode("latin-1"),
        tuple(headers),
    )


def _validate_length(request: Request) -> int:
    if "transfer-encoding" in request.headers:
        raise StorageError(
            "NotImplemented",
            "A header you provided implies functionality that is not implemented",
            Header="Transfer-Encoding",
        )
    if "content-length" not in request.headers:
        raise StorageError("MissingContentLength", "You must provide the Content-Length HTTP header.")
    size = int(request.headers["content-length"])
    if size > MAX_OBJECT_BYTES:
        raise StorageError(
            "EntityTooLarge",
            "Your proposed upload exceeds the maximum allowed size",
            ProposedSize=size,
            MaxSizeAllowed=MAX_OBJECT_BYTES,
        )
    return size


def _validate_md5(header: str | None) -> str | None:
    if header is None:
        return None
    try:
        digest = base64.b64decode(header, validate=True)
    except ValueError:
        digest = b""
    if len(digest) != 16:
        raise StorageError("InvalidDigest", "The Content-MD5 you specified was invalid.")
    return header


def _validate_upload(writer: Writer, size: int, content_md5: str | None) -> None:
    if writer.size != size:
        message = "You did not provide the number of bytes specified by Content-Length"
        raise StorageError("IncompleteBody", message)
    if writer.md5 and base64.b64encode(writer.md5.digest()).decode() != content_md5:
        raise StorageError("BadDigest", "The Content-MD5 you specified did not match what we received.")


def _is_not_modified(request: Request, stored: StoredObject) -> bool:
    if_match = request.headers.get("if-match")
    if if_match is not None and not _has_etag(if_match, stored):
        raise StorageError(
            "PreconditionFailed",
            "At least one of the pre-conditions you specified did not hold",
            Condition="If-Match",
        )
    if_none_match = request.headers.get("if-none-match")
    return if_none_match is not None and _has_etag(if_none_match, stored)


def _has_etag(header: str, stored: StoredObject) -> bool:
    return header.strip() == "*" or stored.etag in [tag.strip().strip('"') for tag in header.split(",")]


def _bytes_until_cut(fault: Fault | None, size: int) -> int | None:
    if fault is None:
        return None
    return size // 2 if fault.after is None else min(fault.after, size)


async def _receive_body(request: Request, writer: Writer, cut_after: int | None) -> None:
    """Write the body in blocks, in a thread; after `cut_after` bytes a fault ends the connection."""
    block = bytearray()
    received_bytes = 0
    async for data in request.stream():
        block += data
        received_bytes += len(data)
        if cut_after is not None and received_bytes >= cut_after:
            raise CutConnection(Ending.RESET)
        if len(block) >= BLOCK_BYTES:
            full, block = block, bytearray()
            await run_in_threadpool(writer.write, full)
    await run_in_threadpool(writer.write, block)


async def _send_file(path: Path, start: int, end: int, cut_after: int | None) -> AsyncIterator[bytes]:
    with path.open("rb") as handle:
        handle.seek(start)
        remaining = end - start if cut_after is None else cut_after
        while remaining > 0:
            block = await run_in_threadpool(handle.read, min(BLOCK_BYTES, remaining))
            remaining -= len(block)
            yield block
    if cut_after is not None:
        raise CutConnection(Ending.CLOSE)


async def _compress_file(path: Path) -> AsyncIterator[bytes]:
    compressor = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    with path.open("rb") as handle:
        while block := await run_in_threadpool(handle.read, BLOCK_BYTES):
            yield compressor.compress(block)
    yield compressor.flush()


def _send_until_closed(request: Request, path: Path, start: int, end: int) -> NoReturn:
    """Send a response that ends with the connection, which uvicorn cannot do. Not for large files."""
    with path.open("rb") as handle:
        handle.seek(start)
        content = handle.read(max(0, end - start))
    request.state.transport.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + content)
    request.state.raw_status, request.state.raw_bytes_sent = 200, len(content)
    raise CutConnection(Ending.CLOSE)
