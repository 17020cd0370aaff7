"""The access token that all processes of this machine share, encrypted in a file, and the last refusal of a token."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

from coding_service import errors
from coding_service.shared_state import LockedFile, lock_file

#: A token is renewed this many seconds before it expires, so that none expires while a request is under way.
RENEWAL_MARGIN_S = 120.0
#: After a failed token request, no process makes another one for this long, or for as long as the service asks.
FAILURE_PAUSE_S = 60.0
#: Maximum pause, whatever the service asks.
MAX_PAUSE_S = 3600.0


class TokenSlot:
    """The stored token, while this process holds its lock. Its methods can block on the disk."""

    def __init__(self, file: LockedFile, cipher: Fernet, clock: Callable[[], float]) -> None:
        self._file, self._cipher, self._clock = file, cipher, clock

    def get(self, refused_token: str | None = None) -> str | None:
        """Return the stored token; None if it is about to expire or is the one that the service refused."""
        if self._file.state.get("until", 0.0) <= self._clock():
            return None
        token = self._decrypt("token")
        return None if token == refused_token else token

    def prepare_request(self) -> None:
        """Check that a new token may be requested, and could be stored.

        :raises CodingServiceError: the last request failed a short time ago; the error is that of this request
        :raises SettingsError, LocalFaultError: the file cannot be written
        """
        now = self._clock()
        if failure := self._decrypt("failure"):
            name, message, status, end = json.loads(failure)
            if now < end <= now + MAX_PAUSE_S:
                raise _make_error(
                    name, f"{message}; no token is requested before {errors.utc(end)}", status, end - now
                )
        self._file.state["requested"] = now
        self._file.save()

    def save(self, token: str, lifetime: float) -> None:
        """Store a token that expires in `lifetime` seconds."""
        end = self._clock() + max(lifetime - RENEWAL_MARGIN_S, lifetime / 2)
        self._file.state.pop("failure", None)
        self._file.state |= {"token": self._encrypt(token), "until": end}
        self._file.save()

    def save_failure(self, error: errors.CodingServiceError) -> None:
        """Store the error of a token request, or of a call with a new token, so that no process requests another."""
        retry_after = error.retry_after if isinstance(error, errors.RetryableError) else None
        end = self._clock() + min(retry_after or FAILURE_PAUSE_S, MAX_PAUSE_S)
        failure = [type(error).__name__, str(error), error.status_code, end]
        self._file.state["failure"] = self._encrypt(json.dumps(failure))
        self._file.save()

    def release(self) -> None:
        """Let other processes use the token."""
        self._file.release()

    def _encrypt(self, text: str) -> str:
        return self._cipher.encrypt(text.encode()).decode()

    def _decrypt(self, name: str) -> str | None:
        """Return a text of the file; None if there is none, or if it was encrypted with other credentials."""
        try:
            return self._cipher.decrypt(self._file.state.get(name) or "").decode()
        except InvalidToken:
            return None


class TokenStore:
    """The token of one account, encrypted with a key derived from the credentials: a copy of the file is useless.

    What was stored with other credentials or for another token endpoint reads as nothing, so that a correction of the
    connection has an effect at once.

    :param path: the file that the processes share
    :param clock: returns seconds since the epoch
    :param auth_url: base URL of the token endpoint
    """

    def __init__(
        self,
        path: Path,
        client_id: str,
        client_secret: str,
        clock: Callable[[], float] = time.time,
        *,
        auth_url: str = "",
    ) -> None:
        key = hashlib.sha256(f"{auth_url}\n{client_id}\n{client_secret}".encode()).digest()
        self._path, self._cipher, self._clock = path, Fernet(base64.urlsafe_b64encode(key)), clock

    def lock(self) -> TokenSlot | None:
        """Lock the token and return it; None if another process holds the lock, perhaps to fetch a new token.

        :raises SettingsError, LocalFaultError: see :func:`coding_service.shared_state.lock_file`
        """
        file = lock_file(self._path, wait=False)
        return None if file is None else TokenSlot(file, self._cipher, self._clock)


def _make_error(name: str, message: str, status: int | None, retry_after: float) -> errors.CodingServiceError:
    error_class = getattr(errors, name)
    if issubclass(error_class, errors.RetryableError):
        return error_class(message, status_code=status, retry_after=retry_after)
    error: errors.CodingServiceError = error_class(message, status_code=status)
    return error
