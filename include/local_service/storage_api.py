"""The object storage over HTTP: presigned PUT and GET, judged before the body is read (object storage notes)."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from include.local_service.clients import kms_key
from include.local_service.errors import StorageError
from include.local_service.faults import Fault
from include.local_service.journal import CutConnection
from include.local_service.objects import BLOCK, BUCKET, LARGEST_OBJECT, Writer
from include.local_service.operation import Operation
from include.local_service.service import CodingService
from include.local_service.signing import SignedRequest, expired
from include.local_service.storage_errors import Refusal
from include.local_service.storage_headers import (
    SSE,
    SSE_KEY,
    encryption_headers,
    object_headers,
    read_range,
    request_ids,
)
from include.local_service.store import StoredObject

ROUTE = f"/{BUCKET}/{{key:path}}"


class StorageApi:
    """The endpoint of the bucket."""

    def __init__(self, service: CodingService) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        response: Response
        try:
            response = await self._answer(request)
        except StorageError as error:
            response = Refusal(error, request)
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        key = request.path_params["key"]
        operation = await run_in_threadpool(self._service.operations.of_input_key, key)
        note_operation(request, key)
        signed = read_signed_request(request)
        self._service.signer.judge(signed, self._service.clock.now())
        if request.method == "PUT":
            return await self._put(request, signed, operation)
        if request.method == "GET":
            return await self._get(request, key)
        raise StorageError("MethodNotAllowed", "The specified method is not allowed against this resource.")

    # PUT

    async def _put(self, request: Request, signed: SignedRequest, operation: Operation | None) -> Response:
        operation = self._judge_put(signed, operation)
        size = _judge_length(request)
        content_md5 = _judge_md5(request.headers.get("content-md5"))
        reset = self._service.faults.take_for_request("reset_upload", "PUT", request.url.path)
        with await run_in_threadpool(self._service.objects.begin, content_md5) as writer:
            await _receive_body(request, writer, _bytes_until(reset, size))
            written = await run_in_threadpool(writer.commit, size)
        stored = await run_in_threadpool(self._service.receive_input, operation.operation_id, written)
        return Response(headers={"ETag": f'"{stored.etag}"', **encryption_headers(stored), **request_ids()})

    def _judge_put(self, signed: SignedRequest, operation: Operation | None) -> Operation:
        if self._service.faults.take_for_request("expired_upload", "PUT", signed.path):
            raise self._expired()
        wanted = operation and kms_key(operation.client_id)
        if operation is None or signed.header(SSE) != "aws:kms" or signed.header(SSE_KEY) != wanted:
            raise StorageError("AccessDenied", "Access Denied")
        return operation

    def _expired(self) -> StorageError:
        now = self._service.clock.now()
        return expired(0, now, now)

    # GET

    async def _get(self, request: Request, key: str) -> Response:
        if self._service.faults.take_for_request("expired_link", "GET", request.url.path):
            raise self._expired()
        stored = await run_in_threadpool(self._service.operations.find_object, key)
        if _not_modified(request, stored):
            return Response(status_code=304, headers=object_headers(stored))
        start, end, status = read_range(request.headers.get("range"), stored.size)
        headers = {**object_headers(stored), "Content-Length": str(end - start)}
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{stored.size}"
        cut = self._service.faults.take_for_request("cut_download", "GET", request.url.path)
        path = self._service.objects.path(stored.file)
        body = _send_file(path, start, end, _bytes_until(cut, end - start))
        return StreamingResponse(body, status, headers, media_type="binary/octet-stream")


def read_signed_request(request: Request) -> SignedRequest:
    """Return the request as it came over the wire, neither decoded nor sorted."""
    headers = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in request.scope["headers"])
    return SignedRequest(
        request.method,
        request.scope["raw_path"].decode("latin-1"),
        request.scope["query_string"].decode("latin-1"),
        tuple(headers),
    )


def note_operation(request: Request, key: str) -> None:
    """Note for the journal which operation the object belongs to."""
    request.state.operation_id = key.rpartition("/")[2].partition(".")[0]


def _judge_length(request: Request) -> int:
    if "transfer-encoding" in request.headers:
        raise StorageError(
            "NotImplemented",
            "A header you provided implies functionality that is not implemented",
            Header="Transfer-Encoding",
        )
    if "content-length" not in request.headers:
        raise StorageError("MissingContentLength", "You must provide the Content-Length HTTP header.")
    size = int(request.headers["content-length"])
    if size > LARGEST_OBJECT:
        raise StorageError(
            "EntityTooLarge",
            "Your proposed upload exceeds the maximum allowed size",
            ProposedSize=size,
            MaxSizeAllowed=LARGEST_OBJECT,
        )
    return size


def _judge_md5(header: str | None) -> str | None:
    if header is None:
        return None
    try:
        digest = base64.b64decode(header, validate=True)
    except ValueError:
        digest = b""
    if len(digest) != 16:
        raise StorageError("InvalidDigest", "The Content-MD5 you specified was invalid.")
    return header


def _not_modified(request: Request, stored: StoredObject) -> bool:
    wanted = request.headers.get("if-match")
    if wanted is not None and not _names(wanted, stored):
        raise StorageError(
            "PreconditionFailed",
            "At least one of the pre-conditions you specified did not hold",
            Condition="If-Match",
        )
    known = request.headers.get("if-none-match")
    return known is not None and _names(known, stored)


def _names(header: str, stored: StoredObject) -> bool:
    return header.strip() == "*" or stored.etag in [tag.strip().strip('"') for tag in header.split(",")]


def _bytes_until(fault: Fault | None, size: int) -> int | None:
    if fault is None:
        return None
    return size // 2 if fault.after is None else min(fault.after, size)


async def _receive_body(request: Request, writer: Writer, cut_at: int | None) -> None:
    """Write the body in blocks, off the event loop; `cut_at` bytes in, a fault ends the connection."""
    block = bytearray()
    received = 0
    async for data in request.stream():
        block += data
        received += len(data)
        if cut_at is not None and received >= cut_at:
            raise CutConnection(reset=True)
        if len(block) >= BLOCK:
            full, block = block, bytearray()
            await run_in_threadpool(writer.write, full)
    await run_in_threadpool(writer.write, block)


async def _send_file(path: Path, start: int, end: int, cut_after: int | None) -> AsyncIterator[bytes]:
    with path.open("rb") as handle:
        handle.seek(start)
        left = end - start if cut_after is None else cut_after
        while left > 0:
            block = await run_in_threadpool(handle.read, min(BLOCK, left))
            left -= len(block)
            yield block
    if cut_after is not None:
        raise CutConnection(reset=False)
