"""The errors of the coding service. The class of an error tells what to do next.

CodingServiceError
├── RetryableError                the same call can succeed later, after `retry_after` seconds if set
│   ├── ServiceUnavailableError   the service could not be reached, or answered HTTP 5xx
│   ├── TooManyRequestsError      HTTP 429: calls too close together
│   ├── QuotaExceededError        HTTP 429: the daily quota is used up
│   ├── AccessDeniedError         HTTP 403 in spite of a new token, or for a token request
│   ├── BudgetError               the database of the call budget is unavailable
│   ├── LocalFaultError           this machine failed: its disk is full, or Airflow returned no connection
│   ├── TransferError             an upload or a download failed and can succeed later
│   │   └── UploadInterruptedError    the connection broke during an upload: the file may have arrived
│   ├── UnknownStatusError        an operation has a status that the contract does not name
│   ├── OutputNotReadyError       a complete operation does not offer its files, or not yet
│   └── StagingError              a file cannot be read or written on disk or in object storage
├── FinalError                    the same call will fail again until somebody acts
│   ├── SettingsError             a connection or a setting is missing or wrong
│   ├── CertificateError          the TLS certificate of a server is not trusted
│   ├── AuthorizationError        wrong credentials
│   ├── NotFoundError             there is no such topic, model or operation
│   ├── RequestRefusedError       any other refusal of a request
│   ├── ProtocolError             an answer that the contract does not allow
│   ├── InputFileError            an input file that must not be sent
│   └── OperationFailedError      an operation that ended without output
└── ExpiredError                  something short-lived has expired: request a new one
    ├── GrantExpiredError         storage refuses the upload URL: open a new operation
    ├── LinkExpiredError          storage refuses the download link: get the status again
    └── OutputExpiredError        the output files have been deleted: code the part again
"""

from __future__ import annotations

import math
import time

from coding_service.redaction import redact


def utc(moment: float) -> str:
    """Format a moment (seconds since the epoch), rounded up to a second, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(math.ceil(moment)))


class CodingServiceError(Exception):
    """Base of all errors. Messages contain no secret, because each passes through :func:`redact`.

    :param message: what failed, for which object, and what to do
    :param status_code: HTTP status of the answer, if there was one
    """

    def __init__(self, message: str, *, status_code: int | None = None) -> None:
        super().__init__(redact(message))
        self.status_code = status_code


class RetryableError(CodingServiceError):
    """The same call can succeed later.

    :param retry_after: seconds to wait before the next attempt; None if the service stated none
    """

    def __init__(self, message: str, *, status_code: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message, status_code=status_code)
        self.retry_after = retry_after


class ServiceUnavailableError(RetryableError):
    """The service could not be reached, did not answer in time, or answered HTTP 5xx."""


class TooManyRequestsError(RetryableError):
    """Calls were too close together (HTTP 429 "Too Many Requests", docs/service-contract.md 4)."""


class QuotaExceededError(RetryableError):
    """The quota of calls is used up (HTTP 429 "Limit Exceeded", docs/service-contract.md 4, 10.9).

    :param retry_after: seconds until one caller can try whether calls are accepted again
    :param ends_after: seconds until every caller can try; None: after `retry_after`
    """

    def __init__(
        self,
        message: str,
        *,
        status_code: int | None = None,
        retry_after: float | None = None,
        ends_after: float | None = None,
    ) -> None:
        super().__init__(message, status_code=status_code, retry_after=retry_after)
        self.ends_after = retry_after if ends_after is None else ends_after


class AccessDeniedError(RetryableError):
    """The service refuses even a new token (HTTP 403 "explicit deny", docs/service-contract.md 10.10).

    It can pass, because others of the organisation may have requested too many tokens.
    """


class BudgetError(RetryableError):
    """The database that holds the call budget of several machines is unavailable."""


class LocalFaultError(RetryableError):
    """This machine failed in a way that can pass: its disk is full, or Airflow did not return a connection."""


class TransferError(RetryableError):
    """An upload or a download failed in a way that can pass."""


class UploadInterruptedError(TransferError):
    """The connection broke during an upload: check the status of the operation, because the file may have arrived."""


class UnknownStatusError(RetryableError):
    """An operation has a status that the contract does not name, which can pass (docs/service-contract.md 8.3)."""


class OutputNotReadyError(RetryableError):
    """A complete operation offers no links, or storage does not have the files (docs/service-contract.md 10.2)."""


class StagingError(RetryableError):
    """A file cannot be read or written: the disk is full, or the object storage refuses."""


class FinalError(CodingServiceError):
    """The same call will fail again until somebody acts."""


class SettingsError(FinalError):
    """An Airflow connection or a setting is missing or has a wrong value."""


class CertificateError(FinalError):
    """The TLS certificate of the service or of its storage is not trusted (docs/service-contract.md 10.11)."""


class AuthorizationError(FinalError):
    """The client id or secret is wrong (docs/service-contract.md 8.12)."""


class NotFoundError(FinalError):
    """The service has no such topic, model or operation."""


class RequestRefusedError(FinalError):
    """The service refused a request for a reason that is not retryable."""


class ProtocolError(FinalError):
    """The service gave an answer that the contract does not allow."""


class InputFileError(FinalError):
    """The input file is missing, empty, too large, or not the file that was prepared."""


class OperationFailedError(FinalError):
    """The operation ended `failed` or `timed_out`, or did not end before the deadline."""


class ExpiredError(CodingServiceError):
    """Something short-lived has expired: request a new one."""


class GrantExpiredError(ExpiredError):
    """Storage refuses the upload URL: open a new operation (docs/service-contract.md 8.5, 10.3)."""


class LinkExpiredError(ExpiredError):
    """Storage refuses the download link: get a fresh one (docs/service-contract.md 2.10, 10.3)."""


class OutputExpiredError(ExpiredError):
    """The output files have been deleted, 24 hours after success at the latest (docs/service-contract.md 2.10)."""
