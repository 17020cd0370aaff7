"""The service contract as pure functions: which request to send, how to read its answer, which error to raise.

Nothing here does I/O, so both hooks use it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from coding_service import errors
from coding_service.answer_limits import parse_json
from coding_service.models import Model, Operation, Topic, UploadGrant, check_guid, check_topic
from coding_service.redaction import MAX_READ_LENGTH, redact_foreign

T = TypeVar("T")

#: Lifetime of a token whose answer does not state one (docs/service-contract.md 2.1).
TOKEN_LIFETIME_S = 3600.0
#: Maximum lifetime that is believed.
MAX_TOKEN_LIFETIME_S = 86400.0
#: Longest wait that is accepted from a Retry-After header: the longest in the contract (docs/service-contract.md 4).
MAX_RETRY_AFTER_S = 86400.0
#: The same for all refusals but "Limit Exceeded", whose wait the call budget decides. A wait that ends too early
#: costs one call, and one that ends too late can cost the output.
MAX_SHORT_RETRY_AFTER_S = 3600.0
#: A token: a value that can be sent in a header.
TOKEN_FORM = re.compile(r"[!-~]{1,16384}")
#: Wait after a 403 in spite of a new token (docs/service-contract.md 10.10).
DENIAL_WAIT_S = 600.0


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request to the service: its method, its path, and the function that reads the JSON of its answer.

    :param is_for_operation: whether the call is for an existing operation, which is paid for
    """

    method: str
    path: str
    read: Callable[[Any], T]
    is_for_operation: bool = False


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, with header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def message(self) -> str:
        """The error message in the body, or the start of the body if it has none, as it can be shown
        (docs/service-contract.md 8.13)."""
        return redact_foreign(self._message) or "(no body)"

    @property
    def _message(self) -> str:
        try:
            data = parse_json(self.body)
        except ValueError:
            data = None
        if isinstance(data, dict):
            for name in ("message", "Message", "error_description", "error"):
                if isinstance(data.get(name), str):
                    return str(data[name])
        return self.body[:MAX_READ_LENGTH].decode("utf-8", "replace").strip()

    def has_words(self, words: str) -> bool:
        """Return whether the error message contains these words, in any case."""
        return words in self._message.lower()

    @property
    def retry_after(self) -> float | None:
        """Seconds to wait according to the Retry-After header (a number or an HTTP date); None without one.

        At most the longest wait in the contract: a service that still refuses then sends another header.
        """
        value = self.headers.get("retry-after", "").strip()
        if value.isdecimal():
            return min(float(value), MAX_RETRY_AFTER_S)
        try:
            moment = parsedate_to_datetime(value)
        except (ValueError, TypeError, IndexError, OverflowError):
            return None
        if moment.tzinfo is None:  # "-0000" or no time zone
            moment = moment.replace(tzinfo=UTC)
        return min(max(0.0, (moment - datetime.now(UTC)).total_seconds()), MAX_RETRY_AFTER_S)

    @property
    def is_explicit_deny(self) -> bool:
        """Whether the token was refused, so that one new token is worth an attempt (docs/service-contract.md 4)."""
        return self.status in (401, 403)

    @property
    def is_admitted(self) -> bool:
        """Whether the answer shows that calls are accepted again after "Limit Exceeded"."""
        return self.status < 500 and self.status not in (401, 403, 429)


def list_topics() -> Call[tuple[Topic, ...]]:
    """List all topics (docs/service-contract.md 2.2)."""
    return Call("GET", "/v1/topics", lambda data: tuple(map(Topic.from_json, _array(data, "topics"))))


def list_models(topic: str) -> Call[tuple[Model, ...]]:
    """List all models of `topic` (docs/service-contract.md 2.5)."""
    return Call("GET", f"{_topic(topic)}/models", lambda data: tuple(map(Model.from_json, _array(data, "models"))))


def latest_model(topic: str) -> Call[Model]:
    """Get the model that the service uses by default (docs/service-contract.md 2.4)."""
    return Call("GET", f"{_topic(topic)}/models/latest", Model.from_json)


def create_operation(topic: str, model_id: str | None = None) -> Call[UploadGrant]:
    """Open an operation for this model; every call opens another one (docs/service-contract.md 2.7).

    :param model_id: None: the model that is the latest one when the service receives the call
    """
    model = "" if model_id is None else f"/models/{check_guid(model_id, 'the model')}"
    return Call("POST", f"{_topic(topic)}{model}/batch-code", lambda data: UploadGrant.from_json(data, model_id))


def get_operation(topic: str, operation_id: str) -> Call[Operation]:
    """Get the state of an operation, with fresh links if it is complete (docs/service-contract.md 2.9)."""
    path = f"{_topic(topic)}/batch-code/operations/{check_guid(operation_id, 'the operation id')}"
    return Call("GET", path, lambda data: Operation.from_json(operation_id, data), is_for_operation=True)


def _topic(topic: str) -> str:
    return f"/v1/topics/{quote(check_topic(topic), safe='')}"


def _array(data: Any, name: str) -> list[Any]:
    if not isinstance(data, list):
        raise errors.ProtocolError(f"the list of {name} is a JSON {type(data).__name__}; expected an array")
    return data


def api_headers(token: str, prefix: str = "") -> dict[str, str]:
    """Return the headers of a /v1 request; the service refuses `Bearer` as prefix (docs/service-contract.md 1)."""
    return {"Authorization": f"{prefix} {token}".strip(), "Content-Type": "application/json"}


def token_headers(client_id: str, client_secret: str) -> dict[str, str]:
    """Return the headers of the token request (docs/service-contract.md 2.1)."""
    credentials = base64.b64encode(f"{client_id}:{client_secret}".encode()).decode()
    return {"Authorization": f"Basic {credentials}", "Content-Type": "application/x-www-form-urlencoded"}


#: Path and form-encoded body of the token request (docs/service-contract.md 2.1).
TOKEN_PATH = "/oauth2/token"  # noqa: S105 (a path, not a secret)
TOKEN_BODY = "grant_type=client_credentials"  # noqa: S105


def read_token(answer: Answer) -> tuple[str, float]:
    """Return the access token and its lifetime in seconds.

    :raises AuthorizationError: HTTP 400 or 401: the credentials are wrong (docs/service-contract.md 8.12)
    :raises AccessDeniedError: HTTP 403: there were too many token requests (docs/service-contract.md 10.10)
    :raises RetryableError: HTTP 429 or 5xx
    :raises ProtocolError: 200 without an access token
    """
    if answer.status in (400, 401):
        raise errors.AuthorizationError(
            f"the token request was refused with HTTP {answer.status} {answer.message!r}: check login (client id)"
            " and password (client secret) of the connection, and that `auth_host` belongs to the same tier",
            status_code=answer.status,
        )
    data = _json(answer, "the token request")
    token = data.get("access_token") if isinstance(data, dict) else None
    if not isinstance(token, str) or not TOKEN_FORM.fullmatch(token):
        raise errors.ProtocolError("the answer to the token request has no 'access_token' that a header can contain")
    lifetime = data.get("expires_in")
    is_number = isinstance(lifetime, int | float) and not isinstance(lifetime, bool)
    return token, min(float(lifetime), MAX_TOKEN_LIFETIME_S) if is_number and lifetime > 0 else TOKEN_LIFETIME_S


def read(call: Call[T], answer: Answer) -> T:
    """Return the value in the answer to `call`.

    :raises CodingServiceError: the service refused; the class depends on the answer (docs/service-contract.md 4)
    """
    return call.read(_json(answer, f"{call.method} {call.path}"))


def _json(answer: Answer, request: str) -> Any:
    if answer.status != 200:
        raise error_for(answer, request)
    try:
        return parse_json(answer.body)
    except ValueError:
        # the message leaves out the body, which may contain part of a token or a link
        content_type = redact_foreign(answer.headers.get("content-type", ""))
        raise errors.ProtocolError(
            f"the answer to {request} is not JSON: {len(answer.body)} bytes of content type {content_type!r}"
        ) from None


def error_for(answer: Answer, request: str) -> errors.CodingServiceError:
    """Return the error for a refusal: by status, and by message where one status has two meanings.

    The path of a request is long, so it comes last: Airflow shows the beginning of a message only.
    """
    status = answer.status
    text, place = f"HTTP {status} {answer.message!r}", f" ({request})"
    if status == 429 and answer.has_words("limit exceeded"):
        text = f"{text}: the quota of calls is used up; wait, or request a higher quota"
        return errors.QuotaExceededError(text + place, status_code=429, retry_after=answer.retry_after)
    retry_after = None if answer.retry_after is None else min(answer.retry_after, MAX_SHORT_RETRY_AFTER_S)
    if status == 429:
        text = f"{text}: calls are too close together"
        return errors.TooManyRequestsError(text + place, status_code=429, retry_after=retry_after)
    # this 500 is permanent (docs/service-contract.md 4)
    if status >= 500 and not answer.has_words("no models found"):
        return errors.ServiceUnavailableError(text + place, status_code=status, retry_after=retry_after)
    if status == 403:
        text = (
            f"{text}: others of your organisation may have requested too many tokens, which passes; if it does not,"
            " check that the credentials belong to the tier of this host"
        )
        wait = DENIAL_WAIT_S if retry_after is None else retry_after
        return errors.AccessDeniedError(text + place, status_code=status, retry_after=wait)
    if status == 401:
        text = f"{text}, although the token is new: check that the credentials belong to the tier of this host"
        return errors.AuthorizationError(text + place, status_code=status)
    if status == 404:
        return errors.NotFoundError(text + place, status_code=status)
    return errors.RequestRefusedError(text + place, status_code=status)
