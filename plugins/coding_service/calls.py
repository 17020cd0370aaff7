"""The steps of a call to the service, without HTTP, so that both hooks can perform them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from coding_service import protocol
from coding_service.call_budget import CallBudget
from coding_service.errors import (
    AccessDeniedError,
    AuthorizationError,
    CertificateError,
    CodingServiceError,
    QuotaExceededError,
    ServiceUnavailableError,
    TooManyRequestsError,
)
from coding_service.protocol import Answer, Call
from coding_service.settings import ServiceSettings
from coding_service.shared_state import SharedFile, SharedRow
from coding_service.tokens import TokenSlot, TokenStore

T = TypeVar("T")

#: Pause of all callers after a "Too Many Requests" without a Retry-After header.
DEFAULT_PAUSE_S = 5.0
#: How often to check for a token that another process is fetching.
TOKEN_CHECK_INTERVAL_S = 0.1
#: How long one call waits at most, in total, before it is sent. Then it fails, and with it the attempt of its task,
#: which gives back the worker. A trigger waits for a shorter time, so that calls of workers do not wait for polls.
MAX_WAIT_S, MAX_POLL_WAIT_S = 60.0, 30.0
#: Longer waits are logged.
LOGGED_WAIT_S = 10.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wait:
    """A step: wait for this many seconds."""

    seconds: float


@dataclass(frozen=True)
class Send:
    """A step: send this request and return the answer."""

    method: str
    url: str
    headers: dict[str, str] = field(repr=False)
    body: str | None = None


@dataclass(frozen=True)
class RunBlocking:
    """A step: return the result of this function, which can block on a lock, a disk or a database."""

    function: Callable[[], Any]


Step = Wait | Send | RunBlocking
Flow = Generator[Step, Any, T]


@dataclass
class Patience:
    """How many seconds a call can still wait."""

    seconds: float

    def wait(self, seconds: float, reason: str) -> Flow[None]:
        """Wait, and log it if it takes long.

        :param reason: what the call waits for
        """
        if seconds > LOGGED_WAIT_S:
            log.info("waiting %.0f s for %s", seconds, reason)
        self.seconds -= seconds
        yield Wait(seconds)


class CallFlow:
    """Turns a call into steps: get a token, reserve a moment, send, and send again if the token was refused.

    :param settings: settings of the service
    :param state_dir: folder for the token and the call budget, shared by the processes of this machine
    :param budget_row: where the call budget is kept instead, if several machines share it
    :param max_wait: how many seconds each call can wait before it is sent
    """

    def __init__(
        self,
        settings: ServiceSettings,
        state_dir: Path,
        budget_row: SharedRow | None = None,
        max_wait: float = MAX_WAIT_S,
    ) -> None:
        self.settings, self._max_wait = settings, max_wait
        account = state_dir / settings.account
        self._tokens = TokenStore(
            account.with_suffix(".token"), settings.client_id, settings.client_secret, auth_url=settings.auth_url
        )
        state = budget_row or SharedFile(account.with_suffix(".calls"))
        self._budget = CallBudget(state, settings.requests_per_second, settings.requests_per_day)

    def steps(self, call: Call[T]) -> Flow[T]:
        """Yield the steps of `call` one by one, and return the value of its answer.

        An error of a step has to be thrown into the generator, which stores what other processes have to know.
        """
        patience = Patience(self._max_wait)
        token = yield from self._token(patience)
        answer = yield from self._send(call, token, patience)
        if answer.is_explicit_deny:  # the token may have expired or been revoked (docs/service-contract.md 4)
            token = yield from self._token(patience, refused_token=token)
            answer = yield from self._send(call, token, patience)
        try:
            return protocol.read(call, answer)
        except TooManyRequestsError as error:
            yield RunBlocking(partial(self._budget.slow_down, error.retry_after or DEFAULT_PAUSE_S))
            raise
        except QuotaExceededError as error:
            stop = yield RunBlocking(partial(self._budget.stop, error.retry_after))
            waits = {"retry_after": stop.retry_after, "ends_after": stop.ends_after}
            raise QuotaExceededError(f"{error}; {stop}", status_code=error.status_code, **waits) from None
        except (AccessDeniedError, AuthorizationError) as error:
            yield from self._store_denial(error, patience)
            raise

    def paused_seconds(self, since: float) -> float:
        """Return for how long no calls were allowed from `since` (seconds since the epoch) until now."""
        return self._budget.paused_seconds(since)

    def _send(self, call: Call[T], token: str, patience: Patience) -> Flow[Answer]:
        reserve = partial(self._budget.reserve, is_for_operation=call.is_for_operation, max_wait=patience.seconds)
        reservation = yield RunBlocking(reserve)
        seconds = reservation.seconds
        while seconds:
            yield from patience.wait(seconds, "a free call of the budget")
            seconds = yield RunBlocking(partial(self._budget.confirm, patience.seconds))
        headers = protocol.api_headers(token, self.settings.authorization_prefix)
        answer = yield Send(call.method, self.settings.api_url + call.path, headers)
        if reservation.is_probe and answer.is_admitted:
            yield RunBlocking(self._budget.resume)
        return answer

    def _token(self, patience: Patience, refused_token: str | None = None) -> Flow[str]:
        slot = yield from self._token_slot(patience)
        try:
            token = yield RunBlocking(partial(slot.get, refused_token))
            return token or (yield from self._fetch_token(slot))
        finally:
            slot.release()

    def _token_slot(self, patience: Patience) -> Flow[TokenSlot]:
        checks = 0
        while not (slot := (yield RunBlocking(self._tokens.lock))):
            seconds = checks * TOKEN_CHECK_INTERVAL_S
            if patience.seconds < TOKEN_CHECK_INTERVAL_S:
                raise ServiceUnavailableError(f"another process has been fetching a token for {seconds:.0f} s")
            checks += 1
            if checks == round(LOGGED_WAIT_S / TOKEN_CHECK_INTERVAL_S):
                log.info("waiting %.0f s so far for a token that another process is fetching", LOGGED_WAIT_S)
            yield from patience.wait(TOKEN_CHECK_INTERVAL_S, "a token that another process is fetching")
        return slot

    def _fetch_token(self, slot: TokenSlot) -> Flow[str]:
        settings = self.settings
        yield RunBlocking(slot.prepare_request)
        headers = protocol.token_headers(settings.client_id, settings.client_secret)
        try:
            answer = yield Send("POST", settings.auth_url + protocol.TOKEN_PATH, headers, protocol.TOKEN_BODY)
            token, lifetime = protocol.read_token(answer)
        except CertificateError:  # the request was not sent
            raise
        except CodingServiceError as error:
            yield RunBlocking(partial(slot.save_failure, error))
            raise
        yield RunBlocking(partial(slot.save, token, lifetime))
        return token

    def _store_denial(self, error: CodingServiceError, patience: Patience) -> Flow[None]:
        slot = yield from self._token_slot(patience)
        try:
            yield RunBlocking(partial(slot.save_failure, error))
        finally:
            slot.release()
