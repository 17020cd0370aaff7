"""What an answer of presigned storage means. The `<Code>` of its error document decides, not the status alone.

Sources of the codes: docs/service-contract.md 10.3, 10.4 and 11.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from html import unescape

import requests
from urllib3.exceptions import HTTPError

from coding_service.redaction import redact, redact_foreign

#: An error document is far shorter. What answers may be another machine, and its page of any length.
MAX_ERROR_BYTES = 16_000
#: Maximum length of an error code. The longest in Amazon's list has 46 characters.
MAX_CODE_LENGTH = 80


class Meaning(StrEnum):
    """What to do after a refusal of storage."""

    EXPIRED = "expired"  # request another URL
    RETRYABLE = "retryable"  # the same request can succeed later
    MISSING = "missing"  # there is no such file, or not yet
    REFUSED = "refused"  # not retryable


#: The meaning of each error code, whatever the status of its answer.
MEANINGS = {
    # the URL, or the session of its signer, has ended; or the URL does not fit the request
    "AccessDenied": Meaning.EXPIRED,
    "ExpiredToken": Meaning.EXPIRED,
    "InvalidAccessKeyId": Meaning.EXPIRED,
    "InvalidToken": Meaning.EXPIRED,
    "RequestExpired": Meaning.EXPIRED,
    "SignatureDoesNotMatch": Meaning.EXPIRED,
    "TokenRefreshRequired": Meaning.EXPIRED,
    # the request was right, but storage could not finish it now
    "BadDigest": Meaning.RETRYABLE,
    "ConditionalRequestConflict": Meaning.RETRYABLE,
    "IncompleteBody": Meaning.RETRYABLE,
    "InternalError": Meaning.RETRYABLE,
    "OperationAborted": Meaning.RETRYABLE,
    "RequestTimeout": Meaning.RETRYABLE,
    "RequestTimeTooSkewed": Meaning.RETRYABLE,  # clocks disagree; an expired URL is recognised by its age
    "ServiceUnavailable": Meaning.RETRYABLE,
    "SlowDown": Meaning.RETRYABLE,
    "ThrottlingException": Meaning.RETRYABLE,  # the limit of calls to the KMS, under status 400
    "KMS.ThrottlingException": Meaning.RETRYABLE,
    # the file
    "NoSuchKey": Meaning.MISSING,
    # the request itself
    "AuthorizationQueryParametersError": Meaning.REFUSED,
    "EntityTooLarge": Meaning.REFUSED,
    "InvalidArgument": Meaning.REFUSED,
    "MissingContentLength": Meaning.REFUSED,
    "NotImplemented": Meaning.REFUSED,
}
#: An `AccessDenied` with these words is about clocks that disagree, and passes.
NOT_YET_VALID = "not yet valid"


@dataclass(frozen=True)
class StorageRefusal:
    """An answer of storage other than the file or the receipt of an upload.

    :param code, message: of the error document, as they can be shown; "" if the answer has none, because another
        machine answered
    :param actual_size: size of the file in bytes, which an answer to an impossible range states
    """

    status: int
    code: str = ""
    message: str = ""
    actual_size: int | None = None

    @classmethod
    def from_response(cls, response: requests.Response) -> StorageRefusal:
        """Read the start of the body. Only code and message of it are kept: the rest can contain secrets."""
        try:
            start = response.raw.read(MAX_ERROR_BYTES, decode_content=True)
        except (HTTPError, OSError, ValueError):
            start = b""
        xml = start.decode("utf-8", "replace")
        size = _element(xml, "ActualObjectSize")
        actual_size = int(size) if size.isdecimal() and len(size) < 20 else None
        code = redact(_element(xml, "Code"), MAX_CODE_LENGTH)
        return cls(response.status_code, code, redact_foreign(_element(xml, "Message")), actual_size)

    @property
    def meaning(self) -> Meaning:
        """What to do now. A code that is not in the table leaves the decision to the status."""
        if self.code == "AccessDenied" and NOT_YET_VALID in self.message.lower():
            return Meaning.RETRYABLE
        return MEANINGS.get(self.code) or _meaning_of_status(self.status, self.message)

    def __str__(self) -> str:
        reason = ": ".join(filter(None, (self.code, self.message)))
        return f"HTTP {self.status} ({reason})" if reason else f"HTTP {self.status}"


def _meaning_of_status(status: int, message: str) -> Meaning:
    if status == 403 or (400 <= status < 500 and "expired" in message.lower()):
        return Meaning.EXPIRED
    if status == 404:
        return Meaning.MISSING
    if status in (408, 429) or (status >= 500 and status not in (501, 505)):
        return Meaning.RETRYABLE
    return Meaning.REFUSED


def _element(xml: str, name: str) -> str:
    text = xml.partition(f"<{name}>")[2].partition(f"</{name}>")[0]
    return unescape(text).strip()
