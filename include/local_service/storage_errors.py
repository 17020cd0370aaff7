"""S3's refusals over HTTP: its error document and its way of closing (object storage notes)."""

from __future__ import annotations

import asyncio
import re
from xml.sax.saxutils import escape

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from include.local_service.errors import StorageError
from include.local_service.objects import BLOCK
from include.local_service.storage_headers import request_ids

STATUS = {
    "AccessDenied": 403,
    "AuthorizationQueryParametersError": 400,
    "BadDigest": 400,
    "EntityTooLarge": 400,
    "IncompleteBody": 400,
    "InvalidAccessKeyId": 403,
    "InvalidArgument": 400,
    "InvalidDigest": 400,
    "InvalidRange": 416,
    "MethodNotAllowed": 405,
    "MissingContentLength": 411,
    "NoSuchKey": 404,
    "NotImplemented": 501,
    "PreconditionFailed": 412,
    "SignatureDoesNotMatch": 403,
}
CONTROL = re.compile(r"[\x00-\x1f\ufffe\uffff\ud800-\udfff]")
"""Characters that XML cannot have, not even escaped."""

LINGER_SECONDS = 2.0
LINGER_BYTES = 16 * BLOCK


class Refusal(Response):
    """S3's error document; after a refused PUT it closes the connection, as S3 does.

    It reads on for a moment before it closes: closing with unread data in the socket would reset the
    connection, and the client would often lose the answer.
    """

    def __init__(self, error: StorageError, request: Request) -> None:
        ids = request_ids()
        details = {
            **{name: str(value) for name, value in error.details.items()},
            "RequestId": ids["x-amz-request-id"],
            "HostId": ids["x-amz-id-2"],
        }
        self._closes = request.method not in {"GET", "HEAD"}
        self._lingers = "expect" not in request.headers
        headers = {**ids, **_range_header(error), **({"Connection": "close"} if self._closes else {})}
        content = error_document(error.code, error.message, details)
        super().__init__(content, STATUS[error.code], headers, media_type="application/xml")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_on(message: Message) -> None:
            if self._closes and message["type"] == "http.response.body":
                await send({**message, "more_body": True})
                if self._lingers:
                    await _linger(receive)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                await send(message)

        await super().__call__(scope, receive, send_on)


def _range_header(error: StorageError) -> dict[str, str]:
    # RFC 9110, 15.5.17: whoever asks past the end is told the size.
    size = error.details.get("ActualObjectSize")
    return {} if size is None else {"Content-Range": f"bytes */{size}"}


def error_document(code: str, message: str, details: dict[str, str]) -> str:
    """Return S3's error document."""
    elements = {"Code": code, "Message": message, **details}
    inside = "".join(f"<{name}>{_escape(value)}</{name}>" for name, value in elements.items())
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{inside}</Error>'


def _escape(value: str) -> str:
    return escape(CONTROL.sub("?", value))


async def _linger(receive: Receive) -> None:
    left = LINGER_BYTES
    try:
        async with asyncio.timeout(LINGER_SECONDS):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    return
    except TimeoutError:
        return
