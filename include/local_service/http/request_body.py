"""Reads the bodies of API calls into memory, up to a limit."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from include.local_service.core.errors import InvalidBodyError

MAX_BODY_BYTES = 10 * 1024 * 1024  # the limit of the gateway in front of the service


async def read_body(request: Request) -> bytes:
    """Return the body of a request.

    :raises HTTPException: 413 if it is too long, 400 if the client disconnects.
    """
    body = bytearray()
    try:
        async for data in request.stream():
            body += data
            if len(body) > MAX_BODY_BYTES:
                raise HTTPException(413, "Request Too Long", headers={"Connection": "close"})
    except ClientDisconnect:
        raise HTTPException(400, "Invalid request body") from None
    return bytes(body)


def parse_json(body: bytes) -> Any:
    """Return the JSON value of a body.

    :raises InvalidBodyError: if it is not JSON.
    """
    try:
        return msgspec.json.decode(body)
    except (ValueError, RecursionError):
        raise InvalidBodyError from None
