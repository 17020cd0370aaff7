"""Who may call: credentials, access tokens, and the KMS key of each client (contract 2.1, 2.7)."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from uuid import NAMESPACE_URL, uuid5

from include.local_service.clock import Clock
from include.local_service.errors import AccessDeniedError, UnknownClientError
from include.local_service.signing import REGION
from include.local_service.store import Store

TOKEN_LIFETIME = 3600
"""Seconds."""


class Clients:
    """The clients of the service and the tokens they hold.

    :param known: client id -> client secret.
    """

    def __init__(self, known: Mapping[str, str], store: Store, clock: Clock) -> None:
        self._known = known
        self._store = store
        self._clock = clock

    def issue_token(self, client_id: str, client_secret: str) -> str:
        """Return a new access token, good for an hour (contract 2.1).

        :raises UnknownClientError: when the credentials are wrong.
        """
        expected = self._known.get(client_id, "")
        if not expected or not hmac.compare_digest(expected.encode(), client_secret.encode()):
            raise UnknownClientError(client_id)
        token = secrets.token_urlsafe(48)
        self._store.keep_token(_digest(token), client_id, self._clock.now() + TOKEN_LIFETIME)
        return token

    def holder_of(self, token: str) -> str:
        """Return the client that holds this token.

        :raises AccessDeniedError: when the token is unknown or expired.
        """
        client_id = self._store.client_of_token(_digest(token), self._clock.now())
        if client_id is None:
            raise AccessDeniedError
        return client_id


def kms_key(client_id: str) -> str:
    """Return the KMS key ARN that a client must echo when it uploads (contract 2.7)."""
    return f"arn:aws:kms:{REGION}:000000000000:key/{uuid5(NAMESPACE_URL, client_id)}"


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
