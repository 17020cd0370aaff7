"""The bodies of API calls, read whole and only up to a limit."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from include.local_service.errors import InvalidBodyError

LARGEST_BODY = 10 * 1024 * 1024
"""Bytes that the gateway in front of the service takes in one call."""


async def read_body(request: Request) -> bytes:
    """Return the body of a request.

    :raises HTTPException: 413 when it is too long, 400 when it breaks off.
    """
    body = bytearray()
    try:
        async for data in request.stream():
            body += data
            if len(body) > LARGEST_BODY:
                raise HTTPException(413, "Request Too Long", headers={"Connection": "close"})
    except ClientDisconnect:
        raise HTTPException(400, "Invalid request body") from None
    return bytes(body)


def read_json(body: bytes) -> Any:
    """Return the JSON value of a body.

    :raises InvalidBodyError: when it is none.
    """
    try:
        return msgspec.json.decode(body)
    except (ValueError, RecursionError):
        raise InvalidBodyError from None
