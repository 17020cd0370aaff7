"""The deviations of docs/service-contract.md 10 as faults of the local service."""

from __future__ import annotations

from typing import Any


def storage_errors(method: str, *codes: str) -> list[dict[str, Any]]:
    return [{"name": "storage_error", "method": method, "code": code} for code in codes]


#: Deviations that a run gets over with one operation for each part, to which the input is sent once.
HARMLESS: dict[str, list[dict[str, Any]]] = {
    "10.1": [{"name": "hidden_operation", "count": 2}, {"name": "hidden_operation", "skip": 2, "count": 2}],
    "10.2": [{"name": "missing_links", "count": 6}, *storage_errors("GET", *["NoSuchKey"] * 6)],
    "10.3": storage_errors("GET", "ExpiredToken"),
    "10.4": [
        *storage_errors("PUT", "RequestTimeout", "OperationAborted", "SlowDown", "InternalError", "BadDigest"),
        *storage_errors("GET", "RequestTimeout", "OperationAborted", "SlowDown", "InternalError"),
    ],
    "10.6": [{"name": name} for name in ("chunked_download", "closed_download", "gzip_download")],
    "10.7": [
        *[{"name": "spelled_status", "style": style} for style in ("upper", "title", "hyphens")],
        {"name": "unknown_status"}, {"name": "other_field_names", "count": 4}, {"name": "changed_input"}, {"name": "changed_metadata"},
    ],
    "10.9": [
        {"name": "limit_exceeded", "path_contains": "/batch-code"},
        {"name": "limit_exceeded", "path_contains": "/operations/", "skip": 2},
    ],
    "10.10": [
        {"name": "access_denied", "path_contains": "/batch-code", "count": 2},
        {"name": "access_denied", "path_contains": "/oauth2/token"},
    ],
}  # fmt: skip
