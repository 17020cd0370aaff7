"""The contract as pure functions: which request to send, how to read its answer, which error to raise.

No I/O: the synchronous and the asynchronous hook send what stands here.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from coding_service.errors import (
    AuthorizationError,
    CodingServiceError,
    NotFoundError,
    ProtocolError,
    QuotaExceededError,
    RequestRefusedError,
    ServiceUnavailableError,
    TooManyRequestsError,
    utc,
)
from coding_service.models import Model, Operation, Topic, UploadGrant

T = TypeVar("T")

#: Seconds a token lives when its answer does not say (contract 2.1).
TOKEN_LIFETIME = 3600.0
#: Seconds to wait after "Limit Exceeded" when the service does not say (contract 4).
QUOTA_WAIT = 86400.0


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request to the service: method, path below its host, and how the JSON of its answer is read."""

    method: str
    path: str
    read: Callable[[Any], T]


@dataclass(frozen=True)
class Answer:
    """What came back over HTTP. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def message(self) -> str:
        """The service's own words: the member `message` or `Message`, else the raw body (question 13)."""
        try:
            data = json.loads(self.body)
        except ValueError:
            data = None
        if isinstance(data, dict):
            for name in ("message", "Message", "error_description", "error"):
                if isinstance(data.get(name), str):
                    return str(data[name])
        return self.body[:500].decode("utf-8", "replace").strip() or "(no body)"

    @property
    def retry_after(self) -> float | None:
        """Seconds of the header Retry-After, given as seconds or as an HTTP date; None without one.

        Never more than the longest wait of the contract: what the service still refuses then says so again.
        """
        value = self.headers.get("retry-after", "").strip()
        if value.isdecimal():
            return min(float(value), QUOTA_WAIT)
        try:
            moment = parsedate_to_datetime(value)
        except ValueError:
            return None
        if moment.tzinfo is None:  # "-0000" or no zone at all
            moment = moment.replace(tzinfo=UTC)
        return min(max(0.0, (moment - datetime.now(UTC)).total_seconds()), QUOTA_WAIT)

    @property
    def is_explicit_deny(self) -> bool:
        """Whether the token was refused (contract 4): a new one may help, once."""
        return self.status in (401, 403)


def list_topics() -> Call[tuple[Topic, ...]]:
    """All topics (contract 2.2)."""
    return Call("GET", "/v1/topics", lambda data: tuple(map(Topic.from_json, _array(data, "topics"))))


def list_models(topic: str) -> Call[tuple[Model, ...]]:
    """All models of `topic` (contract 2.5)."""
    return Call("GET", f"{_topic(topic)}/models", lambda data: tuple(map(Model.from_json, _array(data, "models"))))


def latest_model(topic: str) -> Call[Model]:
    """The model that codes when none is named (contract 2.4)."""
    return Call("GET", f"{_topic(topic)}/models/latest", Model.from_json)


def create_operation(topic: str, model_id: str) -> Call[UploadGrant]:
    """A new operation for the given model; each call makes one (contract 2.7)."""
    return Call("POST", f"{_topic(topic)}/models/{quote(model_id, safe='')}/batch-code", UploadGrant.from_json)


def get_operation(topic: str, operation_id: str) -> Call[Operation]:
    """The state of an operation, with fresh links when it is complete (contract 2.9)."""
    path = f"{_topic(topic)}/batch-code/operations/{quote(operation_id, safe='')}"
    return Call("GET", path, lambda data: Operation.from_json(operation_id, data))


def _topic(topic: str) -> str:
    return f"/v1/topics/{quote(topic, safe='')}"


def _array(data: Any, what: str) -> list[Any]:
    if not isinstance(data, list):
        raise ProtocolError(f"the list of {what} is a JSON {type(data).__name__}; expected an array")
    return data


def api_headers(token: str, prefix: str = "") -> dict[str, str]:
    """Headers of every /v1 request. The token stands bare: a `Bearer` prefix is refused (contract 1)."""
    return {"Authorization": f"{prefix} {token}".strip(), "Content-Type": "application/json"}


def token_headers(client_id: str, client_secret: str) -> dict[str, str]:
    """Headers of the token request (contract 2.1)."""
    credentials = base64.b64encode(f"{client_id}:{client_secret}".encode()).decode()
    return {"Authorization": f"Basic {credentials}", "Content-Type": "application/x-www-form-urlencoded"}


#: Path and body of the token request; form-encoded on the wire (contract 2.1).
TOKEN_PATH = "/oauth2/token"  # noqa: S105 (a path, not a secret)
TOKEN_BODY = "grant_type=client_credentials"  # noqa: S105


def read_token(answer: Answer) -> tuple[str, float]:
    """Return (access token, seconds it lives).

    :raises AuthorizationError: HTTP 400, 401 or 403: the credentials are wrong (question 12)
    :raises RetryableError: HTTP 429 or 5xx
    :raises ProtocolError: 200 without an access token
    """
    if answer.status in (400, 401, 403):
        raise AuthorizationError(
            f"the token request was refused with HTTP {answer.status} {answer.message!r}: check login (client id)"
            " and password (client secret) of the connection, and that `auth_host` is of the same tier",
            status_code=answer.status,
        )
    data = _json(answer, "the token request")
    token = data.get("access_token") if isinstance(data, dict) else None
    if not isinstance(token, str) or not token:
        raise ProtocolError("the answer to the token request has no 'access_token'")
    seconds = data.get("expires_in")
    return token, float(seconds) if isinstance(seconds, int | float) and seconds > 0 else TOKEN_LIFETIME


def read(call: Call[T], answer: Answer) -> T:
    """Return what `answer` says to `call`, or raise the error that it stands for.

    :raises CodingServiceError: the class tells what to do (contract 4)
    """
    return call.read(_json(answer, f"{call.method} {call.path}"))


def _json(answer: Answer, what: str) -> Any:
    if answer.status != 200:
        raise error_for(answer, what)
    try:
        return json.loads(answer.body)
    except ValueError:
        # the body itself is not shown: it may be half a token or half a link
        kind = answer.headers.get("content-type", "")
        raise ProtocolError(
            f"the answer to {what} is not JSON: {len(answer.body)} bytes of content type {kind!r}"
        ) from None


def error_for(answer: Answer, what: str) -> CodingServiceError:
    """The error that a refusal stands for: by status, and by message where one status means two things."""
    text = f"{what} was answered with HTTP {answer.status} {answer.message!r}"
    status, said = answer.status, answer.message.lower().rstrip(". ")
    if status == 429 and "limit exceeded" in said:
        wait = QUOTA_WAIT if answer.retry_after is None else answer.retry_after
        return QuotaExceededError(
            f"{text}: the quota of calls is used up until {utc(time.time() + wait)}; wait, or ask for a higher one",
            status_code=429,
            retry_after=wait,
        )
    if status == 429:
        return TooManyRequestsError(
            f"{text}: calls are too close together", status_code=429, retry_after=answer.retry_after
        )
    if status >= 500 and "no models found" not in said:  # that one stays although it is a 500 (contract 4)
        return ServiceUnavailableError(text, status_code=status, retry_after=answer.retry_after)
    if status in (401, 403):
        return AuthorizationError(
            f"{text}, with a token that was just issued: check that the credentials are of the tier of this host",
            status_code=status,
        )
    if status == 404:
        return NotFoundError(text, status_code=status)
    return RequestRefusedError(text, status_code=status)
