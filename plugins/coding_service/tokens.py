"""The access token that all processes of this machine share, encrypted in a file."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

from coding_service.shared_state import lock_file

#: A token is renewed this many seconds before it expires, so that none expires while a request is under way.
RENEWAL_MARGIN_S = 120.0


class TokenSlot:
    """The stored token, while this process holds its lock."""

    def __init__(self, state: dict, cipher: Fernet, clock: Callable[[], float]) -> None:
        self._state, self._cipher, self._clock = state, cipher, clock

    def get(self, refused_token: str | None = None) -> str | None:
        """Return the stored token; None if it is about to expire or is the one that the service refused."""
        if self._state.get("until", 0.0) <= self._clock():
            return None
        try:
            token = self._cipher.decrypt(self._state.get("token", "")).decode()
        except InvalidToken:
            return None
        return None if token == refused_token else token

    def save(self, token: str, lifetime: float) -> None:
        """Store a token that expires in `lifetime` seconds."""
        self._state["token"] = self._cipher.encrypt(token.encode()).decode()
        self._state["until"] = self._clock() + max(lifetime - RENEWAL_MARGIN_S, lifetime / 2)


class TokenStore:
    """The token of one account, encrypted with a key derived from the credentials: a copy of the file is useless.

    :param path: the file that the processes share
    :param client_id, client_secret: the credentials
    :param clock: returns seconds since the epoch
    """

    def __init__(
        self, path: Path, client_id: str, client_secret: str, clock: Callable[[], float] = time.time
    ) -> None:
        key = hashlib.sha256(f"{client_id}\n{client_secret}".encode()).digest()
        self._path, self._cipher, self._clock = path, Fernet(base64.urlsafe_b64encode(key)), clock

    @contextmanager
    def slot(self) -> Iterator[TokenSlot | None]:
        """Lock the token and yield it; None if another process holds the lock, perhaps to fetch a new token."""
        with lock_file(self._path, wait=False) as state:
            yield None if state is None else TokenSlot(state, self._cipher, self._clock)
