"""The errors of the object storage, with S3's codes, its error document and its way of closing connections."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Mapping
from uuid import uuid4
from xml.sax.saxutils import escape

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from include.local_service.core.objects import BLOCK_BYTES
from include.local_service.core.storage_codes import STATUS
from include.local_service.http.journal import CutConnection, Ending

INVALID_XML = re.compile(r"[\x00-\x1f\ufffe\uffff\ud800-\udfff]")
"""Characters that XML cannot contain, not even escaped."""

LINGER_TIMEOUT_S = 2.0
MAX_LINGER_BYTES = 16 * BLOCK_BYTES


class StorageError(Exception):
    """An error with one of S3's codes.

    :param code: S3's error code, such as ``AccessDenied``.
    :param message: S3's message.
    :param details: further elements of the error document.
    """

    def __init__(self, code: str, message: str, **details: str | int) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.details = details


def request_ids() -> dict[str, str]:
    """Return the two headers with S3's identifiers of a request."""
    return {"x-amz-request-id": uuid4().hex[:16].upper(), "x-amz-id-2": base64.b64encode(uuid4().bytes * 3).decode()}


class ErrorResponse(Response):
    """S3's error document. After a refused PUT it closes the connection, as S3 does.

    Before closing it reads more of the body for a moment: closing a socket with unread data would reset the
    connection, and the client would often not get the response. A fault can make it close at once instead.
    """

    def __init__(self, error: StorageError, request: Request) -> None:
        ids = request_ids()
        details = {**error.details, "RequestId": ids["x-amz-request-id"], "HostId": ids["x-amz-id-2"]}
        self._closes = request.method not in {"GET", "HEAD"}
        self._lingers = "expect" not in request.headers
        self._is_abrupt = getattr(request.state, "is_abrupt", False)
        headers = ids | ({"Connection": "close"} if self._closes else {})
        if "ActualObjectSize" in details:  # RFC 9110, 15.5.17: the response to a range after the end names the size
            headers["Content-Range"] = f"bytes */{details['ActualObjectSize']}"
        content = error_document({"Code": error.code, "Message": error.message, **details})
        super().__init__(content, STATUS[error.code], headers, media_type="application/xml")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_on(message: Message) -> None:
            if self._closes and message["type"] == "http.response.body":
                await send({**message, "more_body": True})
                if self._is_abrupt:
                    raise CutConnection(Ending.ABORT)
                if self._lingers:
                    await _linger(receive)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                await send(message)

        await super().__call__(scope, receive, send_on)


def error_document(elements: Mapping[str, str | int]) -> str:
    """Return S3's error document."""
    texts = {name: escape(INVALID_XML.sub("?", str(value))) for name, value in elements.items()}
    content = "".join(f"<{name}>{text}</{name}>" for name, text in texts.items())
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{content}</Error>'


async def _linger(receive: Receive) -> None:
    remaining = MAX_LINGER_BYTES
    try:
        async with asyncio.timeout(LINGER_TIMEOUT_S):
            while remaining > 0:
                message = await receive()
                remaining -= len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    return
    except TimeoutError:
        return
