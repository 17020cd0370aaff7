"""The request and response headers of the object storage, as in S3."""

from __future__ import annotations

import re
from email.utils import formatdate

from include.local_service.core.store import StoredObject
from include.local_service.http.storage_errors import StorageError, request_ids

BUCKET = "local-coding-service"
SSE = "x-amz-server-side-encryption"
SSE_KEY = "x-amz-server-side-encryption-aws-kms-key-id"
MAX_DIGITS = 30


def encryption_headers(stored: StoredObject) -> dict[str, str]:
    """Return the headers that name the KMS key of an object."""
    return {SSE: "aws:kms", SSE_KEY: stored.kms_key}


def object_headers(stored: StoredObject) -> dict[str, str]:
    """Return the headers of every response with an object."""
    return {
        "Accept-Ranges": "bytes",
        "ETag": f'"{stored.etag}"',
        "Last-Modified": formatdate(stored.modified_at, usegmt=True),
        **encryption_headers(stored),
        **request_ids(),
    }


def read_range(header: str | None, size: int) -> tuple[int, int, int]:
    """Return the start, the end (exclusive), and the status: 200 for the whole object, 206 for a part.

    Like S3, this ignores a header that is not a single valid range.

    :raises StorageError: ``InvalidRange`` if the range starts after the end of the object.
    """
    match = re.fullmatch(r"bytes=([0-9]*)-([0-9]*)", header or "")
    if not match or match.groups() == ("", ""):
        return 0, size, 200
    # Python refuses to parse numbers of thousands of digits; 30 digits are larger than any object.
    first, last = (int(digits[:MAX_DIGITS]) if digits else None for digits in match.groups())
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
