"""The headers of the object storage, read and written as S3 does (object storage notes)."""

from __future__ import annotations

import base64
import re
from email.utils import formatdate
from uuid import uuid4

from include.local_service.errors import StorageError
from include.local_service.store import StoredObject

SSE = "x-amz-server-side-encryption"
SSE_KEY = "x-amz-server-side-encryption-aws-kms-key-id"
MOST_DIGITS = 30


def request_ids() -> dict[str, str]:
    """Return the two headers by which S3 names a request."""
    return {
        "x-amz-request-id": uuid4().hex[:16].upper(),
        "x-amz-id-2": base64.b64encode(uuid4().bytes * 3).decode(),
    }


def encryption_headers(stored: StoredObject) -> dict[str, str]:
    """Return the headers that say under which key an object is kept."""
    return {SSE: "aws:kms", SSE_KEY: stored.kms_key}


def object_headers(stored: StoredObject) -> dict[str, str]:
    """Return the headers that S3 sends with every object."""
    return {
        "Accept-Ranges": "bytes",
        "ETag": f'"{stored.etag}"',
        "Last-Modified": formatdate(stored.modified_at, usegmt=True),
        **encryption_headers(stored),
        **request_ids(),
    }


def read_range(header: str | None, size: int) -> tuple[int, int, int]:
    """Return where to start, where to end (exclusive), and the status: 200 for the whole, 206 for a part.

    A header that is not one well-formed range is ignored, as S3 does.

    :raises StorageError: ``InvalidRange`` when the range lies past the end.
    """
    match = re.fullmatch(r"bytes=([0-9]*)-([0-9]*)", header or "")
    if not match or match.groups() == ("", ""):
        return 0, size, 200
    first, last = map(_read_number, match.groups())
    if first is None:
        start, end = max(0, size - (last or 0)), size
    elif last is not None and last < first:
        return 0, size, 200
    else:
        start, end = first, size if last is None else min(last + 1, size)
    if start >= size:
        raise StorageError(
            "InvalidRange",
            "The requested range is not satisfiable",
            RangeRequested=str(header),
            ActualObjectSize=size,
        )
    return start, end, 206


def _read_number(digits: str) -> int | None:
    # Python refuses to read numbers of thousands of digits; beyond every size is beyond every size.
    return int(digits[:MOST_DIGITS]) if digits else None
