"""Creates and verifies presigned URLs of AWS Signature Version 4.

Verification uses the path and the query exactly as received: a client that changes a presigned URL (decodes it,
adds to it) is refused.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, quote

from include.local_service.core.clients import REGION, AccessKeys
from include.local_service.core.clock import iso_time
from include.local_service.http.storage_errors import StorageError

ALGORITHM = "AWS4-HMAC-SHA256"
PARAMETERS = (
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-SignedHeaders",
    "X-Amz-Signature",
)
MAX_EXPIRY_S = 604_800
MAX_CLOCK_SKEW_S = 900.0
TIME_FORMAT = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True)
class SignedRequest:
    """A request exactly as received.

    :param path, query: still percent-encoded.
    :param headers: names in lower case, in the order received.
    """

    method: str
    path: str
    query: str
    headers: tuple[tuple[str, str], ...]

    def header(self, name: str) -> str | None:
        """Return a header's value (the values joined by commas if it is repeated), or None."""
        values = [value for header, value in self.headers if header == name]
        return ",".join(values) if values else None


@dataclass(frozen=True)
class Signer:
    """Signs and verifies requests with one pair of access keys.

    :param region: the region in the credential scope.
    """

    keys: AccessKeys
    region: str = REGION

    def presign(
        self,
        method: str,
        base_url: str,
        path: str,
        *,
        now: float,
        expires_in: int,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        """Return a URL that allows one method on one path until it expires.

        :param base_url: scheme and host, such as ``http://127.0.0.1:8070``.
        :param now: the time of signing, seconds since 1970 (UTC).
        :param expires_in: seconds until the URL expires, at most a week.
        :param headers: headers that the request must send with exactly these values, in addition to ``host``.
        """
        signed_headers = {"host": base_url.partition("://")[2], **(headers or {})}
        stamp = datetime.fromtimestamp(now, UTC).strftime(TIME_FORMAT)
        parameters = {
            "X-Amz-Algorithm": ALGORITHM,
            "X-Amz-Credential": f"{self.keys.access_key}/{self._scope(stamp)}",
            "X-Amz-Date": stamp,
            "X-Amz-Expires": str(expires_in),
            "X-Amz-SignedHeaders": ";".join(sorted(signed_headers)),
        }
        query = "&".join(f"{name}={quote(value, safe='-_.~')}" for name, value in parameters.items())
        request = SignedRequest(method, path, query, tuple(signed_headers.items()))
        return f"{base_url}{path}?{query}&X-Amz-Signature={self._signature(request, sorted(signed_headers), stamp)}"

    def verify(self, request: SignedRequest, now: float) -> None:
        """Raise the error that S3 would return for a presigned request, if there is one.

        :param now: the present time, seconds since 1970 (UTC).
        :raises StorageError: with S3's code for the first problem.
        """
        if request.header("authorization") is not None:
            raise StorageError(
                "InvalidArgument",
                "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string "
                "parameter or the Authorization header should be specified",
                ArgumentName="Authorization",
                ArgumentValue="***",
            )
        parameters = _parse_parameters(request.query)
        stamp = self._validate_parameters(parameters)
        _validate_time(stamp, int(parameters["X-Amz-Expires"]), now)
        header_names = parameters["X-Amz-SignedHeaders"].split(";")
        _reject_unsigned_headers(request, header_names)
        expected = self._signature(request, header_names, stamp)
        if not hmac.compare_digest(expected.encode(), parameters["X-Amz-Signature"].encode()):
            raise StorageError(
                "SignatureDoesNotMatch",
                "The request signature we calculated does not match the signature you provided. "
                "Check your key and signing method.",
            )

    def _validate_parameters(self, parameters: Mapping[str, str]) -> str:
        if parameters["X-Amz-Algorithm"] != ALGORITHM:
            raise _parameters_error(f'X-Amz-Algorithm only supports "{ALGORITHM}"')
        stamp = parameters["X-Amz-Date"]
        if not re.fullmatch(r"\d{8}T\d{6}Z", stamp):
            raise _parameters_error("X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\"")
        access_key, _, scope = parameters["X-Amz-Credential"].partition("/")
        if scope != self._scope(stamp):
            raise _parameters_error(
                "Error parsing the X-Amz-Credential parameter; the Credential is mal-formed; "
                f'expecting "<YOUR-AKID>/YYYYMMDD/{self.region}/s3/aws4_request".'
            )
        if access_key != self.keys.access_key:
            raise StorageError(
                "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records."
            )
        _validate_expiry(parameters["X-Amz-Expires"])
        return stamp

    def _scope(self, stamp: str) -> str:
        return f"{stamp[:8]}/{self.region}/s3/aws4_request"

    def _signature(self, request: SignedRequest, header_names: Iterable[str], stamp: str) -> str:
        # Path and query are latin-1. A header name in X-Amz-SignedHeaders can be any text: then it does not match.
        canonical = _canonical_request(request, list(header_names)).encode("latin-1", "replace")
        digest = hashlib.sha256(canonical).hexdigest()
        text = "\n".join([ALGORITHM, stamp, self._scope(stamp), digest])
        key = f"AWS4{self.keys.secret_key}".encode()
        for part in self._scope(stamp).split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        return hmac.digest(key, text.encode(), "sha256").hex()


def _canonical_request(request: SignedRequest, header_names: list[str]) -> str:
    pairs = [pair for pair in request.query.split("&") if not pair.startswith("X-Amz-Signature=")]
    headers = "".join(f"{name}:{' '.join((request.header(name) or '').split())}\n" for name in header_names)
    return "\n".join(
        [request.method, request.path, "&".join(sorted(pairs)), headers, ";".join(header_names), "UNSIGNED-PAYLOAD"]
    )


def _parse_parameters(query: str) -> dict[str, str]:
    parameters = dict(parse_qsl(query, keep_blank_values=True))
    if not any(name in parameters for name in PARAMETERS):
        raise StorageError("AccessDenied", "Access Denied")
    if not all(name in parameters for name in PARAMETERS):
        raise _parameters_error(
            "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, X-Amz-Signature, "
            "X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters."
        )
    return parameters


def _validate_expiry(value: str) -> None:
    if not re.fullmatch(r"-?\d{1,18}", value):
        raise _parameters_error("X-Amz-Expires should be a number")
    if int(value) < 0:
        raise _parameters_error("X-Amz-Expires must be non-negative")
    if int(value) > MAX_EXPIRY_S:
        raise _parameters_error(
            "X-Amz-Expires must be less than a week (in seconds); that is, the given X-Amz-Expires must be less "
            f"than {MAX_EXPIRY_S} seconds"
        )


def _validate_time(stamp: str, expires_in: int, now: float) -> None:
    try:
        signed_at = datetime.strptime(stamp, TIME_FORMAT).replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise _parameters_error("X-Amz-Date must be a date") from None
    if signed_at > now + MAX_CLOCK_SKEW_S:
        raise StorageError("AccessDenied", "Request is not yet valid")
    if now >= signed_at + expires_in:
        raise expired_error(expires_in, signed_at + expires_in, now)


def expired_error(expires_in: int, expired_at: float, now: float) -> StorageError:
    """Return S3's error for an expired URL; times in seconds since 1970 (UTC)."""
    details: dict[str, Any] = {
        "X-Amz-Expires": expires_in,
        "Expires": iso_time(expired_at),
        "ServerTime": iso_time(now),
    }
    return StorageError("AccessDenied", "Request has expired", **details)


def _reject_unsigned_headers(request: SignedRequest, header_names: list[str]) -> None:
    names = {name for name, _ in request.headers if name.startswith("x-amz-")} | {"host"}
    missing = sorted(names - set(header_names))
    if missing:
        raise StorageError(
            "AccessDenied",
            "There were headers present in the request which were not signed",
            HeadersNotSigned=", ".join(missing),
        )


def _parameters_error(message: str) -> StorageError:
    return StorageError("AuthorizationQueryParametersError", message)
