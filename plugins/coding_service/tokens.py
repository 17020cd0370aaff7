"""One access token an hour for all processes of this machine, in a file that tells nothing without the secret."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

from coding_service.shared_file import locked

#: Seconds before its end at which a token is renewed, so that none ends on its way.
MARGIN = 120.0


class TokenSlot:
    """The place of the token while its lock is held."""

    def __init__(self, state: dict, cipher: Fernet, clock: Callable[[], float]) -> None:
        self._state, self._cipher, self._clock = state, cipher, clock

    def get(self, refused: str | None = None) -> str | None:
        """Return the stored token if it still lives and is not the one that the service `refused`."""
        if self._state.get("until", 0.0) <= self._clock():
            return None
        try:
            token = self._cipher.decrypt(self._state.get("token", "")).decode()
        except InvalidToken:
            return None
        return None if token == refused else token

    def put(self, token: str, seconds: float) -> None:
        """Store a token that lives for `seconds`."""
        self._state["token"] = self._cipher.encrypt(token.encode()).decode()
        self._state["until"] = self._clock() + max(seconds - MARGIN, seconds / 2)


class TokenStore:
    """The token of one account. It is encrypted with a key made of the credentials, so a copy of the file is useless.

    :param path: the file that the processes share
    :param client_id, client_secret: the credentials
    :param clock: seconds since the epoch
    """

    def __init__(
        self, path: Path, client_id: str, client_secret: str, clock: Callable[[], float] = time.time
    ) -> None:
        key = hashlib.sha256(f"{client_id}\n{client_secret}".encode()).digest()
        self._path, self._cipher, self._clock = path, Fernet(base64.urlsafe_b64encode(key)), clock

    @contextmanager
    def slot(self) -> Iterator[TokenSlot | None]:
        """Yield the token's place, or None while another process holds it (it may be fetching the token)."""
        with locked(self._path, wait=False) as state:
            yield None if state is None else TokenSlot(state, self._cipher, self._clock)
