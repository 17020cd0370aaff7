"""What can go wrong with the coding service. The class of an error says what to do next.

CodingServiceError
├── RetryableError                the same call may succeed later, after `retry_after` seconds if given
│   ├── ServiceUnavailableError   the service could not be reached, or answered HTTP 5xx
│   ├── TooManyRequestsError      HTTP 429: calls too close together
│   ├── QuotaExceededError        HTTP 429: the quota of the day is used up
│   ├── BudgetError               the database that holds the call budget refuses
│   ├── TransferError             an upload or a download broke off
│   └── StagingError              the disk or the object storage of a run's files refuses
├── FinalError                    the same call will fail again; somebody has to act
│   ├── SettingsError             a connection or a setting is missing or wrong
│   ├── AuthorizationError        wrong credentials, or a token refused when new
│   ├── NotFoundError             no such topic, model or operation
│   ├── RequestRefusedError       any other refusal of a request
│   ├── ProtocolError             an answer that the contract does not allow
│   ├── InputFileError            an input file that must not be sent
│   └── OperationFailedError      an operation that ended without output
└── ExpiredError                  something short-lived is gone: ask for a new one
    ├── GrantExpiredError         storage refuses the upload URL: a new operation is needed
    ├── LinkExpiredError          storage refuses the download link: ask the status again
    └── OutputExpiredError        the output files are deleted: the part must be coded again
"""

from __future__ import annotations

import math
import re
import time

_URL_QUERY = re.compile(r"(https?://[^\s?'\"]+)\?[^\s'\"]*", re.IGNORECASE)


def redact(text: str) -> str:
    """Return `text` with the query of every URL taken out; whoever has a presigned query has the file."""
    return _URL_QUERY.sub(r"\1?***", text)


def utc(moment: float) -> str:
    """Return a moment (seconds since the epoch), rounded up, as people of any time zone can read it."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(math.ceil(moment)))


class CodingServiceError(Exception):
    """Anything that went wrong with the coding service. Messages carry no secret: URLs lose their query.

    :param message: what happened, to which thing, and what to do
    :param status_code: HTTP status of the answer, if there was one
    """

    def __init__(self, message: str, *, status_code: int | None = None) -> None:
        super().__init__(redact(message))
        self.status_code = status_code


class RetryableError(CodingServiceError):
    """The same call may succeed later.

    :param retry_after: seconds after which the service wants the next try; None if it said nothing
    """

    def __init__(self, message: str, *, status_code: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message, status_code=status_code)
        self.retry_after = retry_after


class ServiceUnavailableError(RetryableError):
    """The service could not be reached, did not answer in time, or answered HTTP 5xx."""


class TooManyRequestsError(RetryableError):
    """Calls were too close together (HTTP 429 "Too Many Requests", contract 4)."""


class QuotaExceededError(RetryableError):
    """The quota of calls is used up (HTTP 429 "Limit Exceeded", contract 4): wait up to 24 hours."""


class BudgetError(RetryableError):
    """The call budget of several machines cannot be asked: its database is down or refuses."""


class TransferError(RetryableError):
    """An upload or a download broke off."""


class StagingError(RetryableError):
    """A file of the run cannot be read or written: the disk is full, or the object storage refuses."""


class FinalError(CodingServiceError):
    """The same call will fail again; somebody has to act."""


class SettingsError(FinalError):
    """An Airflow connection lacks a field or has a wrong value, or a setting of the deployment has."""


class AuthorizationError(FinalError):
    """The client id or secret is wrong, or a token that was just issued is refused."""


class NotFoundError(FinalError):
    """The service knows no such topic, model or operation."""


class RequestRefusedError(FinalError):
    """The service refused a request for a reason that a repetition does not mend."""


class ProtocolError(FinalError):
    """The service answered something that the contract does not allow."""


class InputFileError(FinalError):
    """The input file is missing, empty, too large, or not of the size that was prepared."""


class OperationFailedError(FinalError):
    """The operation ended `failed` or `timed_out`, or did not end before the deadline."""


class ExpiredError(CodingServiceError):
    """Something short-lived is gone: ask for a new one."""


class GrantExpiredError(ExpiredError):
    """Storage refuses the upload URL (HTTP 403): a new operation is needed (contract 8, question 5)."""


class LinkExpiredError(ExpiredError):
    """Storage refuses the download link (HTTP 403, 404): a status call gives a fresh one (contract 2.10)."""


class OutputExpiredError(ExpiredError):
    """The output files are deleted, 24 hours after success at the latest (contract 2.10)."""
