"""Presigned URLs in the manner of AWS Signature Version 4, made and judged.

The judge takes the path and the query exactly as they came over the wire: a client that rewrites a presigned
URL (decodes it, adds to it) is refused.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, quote

from include.local_service.clock import iso_time
from include.local_service.errors import StorageError

ALGORITHM = "AWS4-HMAC-SHA256"
PARAMETERS = (
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-SignedHeaders",
    "X-Amz-Signature",
)
LONGEST_EXPIRY = 604_800
CLOCK_SKEW = 900.0
TIME_FORMAT = "%Y%m%dT%H%M%SZ"
REGION = "ap-southeast-2"


@dataclass(frozen=True)
class SignedRequest:
    """A request as it came over the wire.

    :param path, query: raw, still percent-encoded.
    :param headers: names in lower case, in the order received.
    """

    method: str
    path: str
    query: str
    headers: tuple[tuple[str, str], ...]

    def header(self, name: str) -> str | None:
        """Return a header's value, several of one name joined by commas, or None."""
        values = [value for header, value in self.headers if header == name]
        return ",".join(values) if values else None


@dataclass(frozen=True)
class Signer:
    """One pair of access keys, and what it signs and accepts.

    :param region: the region that the credential scope names.
    """

    access_key: str
    secret_key: str = field(repr=False)
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
        """Return a URL that allows one method on one path for a while.

        :param base_url: scheme and host, such as ``http://127.0.0.1:8070``.
        :param now: the time of signing, seconds since 1970 (UTC).
        :param expires_in: seconds for which the URL is good, at most a week.
        :param headers: headers, besides ``host``, that the request must send with these very values.
        """
        signed = {"host": base_url.partition("://")[2], **(headers or {})}
        stamp = datetime.fromtimestamp(now, UTC).strftime(TIME_FORMAT)
        parameters = {
            "X-Amz-Algorithm": ALGORITHM,
            "X-Amz-Credential": f"{self.access_key}/{self._scope(stamp)}",
            "X-Amz-Date": stamp,
            "X-Amz-Expires": str(expires_in),
            "X-Amz-SignedHeaders": ";".join(sorted(signed)),
        }
        query = "&".join(f"{name}={quote(value, safe='-_.~')}" for name, value in parameters.items())
        request = SignedRequest(method, path, query, tuple(signed.items()))
        return f"{base_url}{path}?{query}&X-Amz-Signature={self._signature(request, sorted(signed), stamp)}"

    def judge(self, request: SignedRequest, now: float) -> None:
        """Accept a presigned request, or say what S3 says against it.

        :param now: the time of judging, seconds since 1970 (UTC).
        :raises StorageError: with S3's code for the first thing that is wrong.
        """
        if request.header("authorization") is not None:
            raise StorageError(
                "InvalidArgument",
                "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string "
                "parameter or the Authorization header should be specified",
                ArgumentName="Authorization",
                ArgumentValue="***",
            )
        parameters = _read_parameters(request.query)
        stamp = self._judge_parameters(parameters)
        _judge_time(stamp, int(parameters["X-Amz-Expires"]), now)
        signed = parameters["X-Amz-SignedHeaders"].split(";")
        _judge_unsigned(request, signed)
        expected = self._signature(request, signed, stamp)
        if not hmac.compare_digest(expected.encode(), parameters["X-Amz-Signature"].encode()):
            raise StorageError(
                "SignatureDoesNotMatch",
                "The request signature we calculated does not match the signature you provided. "
                "Check your key and signing method.",
            )

    def _judge_parameters(self, parameters: Mapping[str, str]) -> str:
        if parameters["X-Amz-Algorithm"] != ALGORITHM:
            raise _bad_parameters(f'X-Amz-Algorithm only supports "{ALGORITHM}"')
        stamp = parameters["X-Amz-Date"]
        if not re.fullmatch(r"\d{8}T\d{6}Z", stamp):
            raise _bad_parameters("X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\"")
        access_key, _, scope = parameters["X-Amz-Credential"].partition("/")
        if scope != self._scope(stamp):
            raise _bad_parameters(
                "Error parsing the X-Amz-Credential parameter; the Credential is mal-formed; "
                f'expecting "<YOUR-AKID>/YYYYMMDD/{self.region}/s3/aws4_request".'
            )
        if access_key != self.access_key:
            raise StorageError(
                "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records."
            )
        _judge_expiry(parameters["X-Amz-Expires"])
        return stamp

    def _scope(self, stamp: str) -> str:
        return f"{stamp[:8]}/{self.region}/s3/aws4_request"

    def _signature(self, request: SignedRequest, signed: Iterable[str], stamp: str) -> str:
        # Path and query came as latin-1; a name of a header can be anything, and what is none just cannot match.
        canonical = _canonical_request(request, list(signed)).encode("latin-1", "replace")
        digest = hashlib.sha256(canonical).hexdigest()
        text = "\n".join([ALGORITHM, stamp, self._scope(stamp), digest])
        key = f"AWS4{self.secret_key}".encode()
        for part in self._scope(stamp).split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        return hmac.digest(key, text.encode(), "sha256").hex()


def _canonical_request(request: SignedRequest, signed: list[str]) -> str:
    pairs = [pair for pair in request.query.split("&") if not pair.startswith("X-Amz-Signature=")]
    headers = "".join(f"{name}:{' '.join((request.header(name) or '').split())}\n" for name in signed)
    return "\n".join(
        [request.method, request.path, "&".join(sorted(pairs)), headers, ";".join(signed), "UNSIGNED-PAYLOAD"]
    )


def _read_parameters(query: str) -> dict[str, str]:
    parameters = dict(parse_qsl(query, keep_blank_values=True))
    if not any(name in parameters for name in PARAMETERS):
        raise StorageError("AccessDenied", "Access Denied")
    if not all(name in parameters for name in PARAMETERS):
        raise _bad_parameters(
            "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, X-Amz-Signature, "
            "X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters."
        )
    return parameters


def _judge_expiry(value: str) -> None:
    if not re.fullmatch(r"-?\d{1,18}", value):
        raise _bad_parameters("X-Amz-Expires should be a number")
    if int(value) < 0:
        raise _bad_parameters("X-Amz-Expires must be non-negative")
    if int(value) > LONGEST_EXPIRY:
        raise _bad_parameters(
            "X-Amz-Expires must be less than a week (in seconds); that is, the given X-Amz-Expires must be less "
            f"than {LONGEST_EXPIRY} seconds"
        )


def _judge_time(stamp: str, expires_in: int, now: float) -> None:
    try:
        signed_at = datetime.strptime(stamp, TIME_FORMAT).replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise _bad_parameters("X-Amz-Date must be a date") from None
    if signed_at > now + CLOCK_SKEW:
        raise StorageError("AccessDenied", "Request is not yet valid")
    if now >= signed_at + expires_in:
        raise expired(expires_in, signed_at + expires_in, now)


def expired(expires_in: int, expired_at: float, now: float) -> StorageError:
    """Return S3's refusal of a URL that is too old; times in seconds since 1970 (UTC)."""
    details: dict[str, Any] = {
        "X-Amz-Expires": expires_in,
        "Expires": iso_time(expired_at),
        "ServerTime": iso_time(now),
    }
    return StorageError("AccessDenied", "Request has expired", **details)


def _judge_unsigned(request: SignedRequest, signed: list[str]) -> None:
    names = {name for name, _ in request.headers if name.startswith("x-amz-")} | {"host"}
    missing = sorted(names - set(signed))
    if missing:
        raise StorageError(
            "AccessDenied",
            "There were headers present in the request which were not signed",
            HeadersNotSigned=", ".join(missing),
        )


def _bad_parameters(message: str) -> StorageError:
    return StorageError("AuthorizationQueryParametersError", message)
