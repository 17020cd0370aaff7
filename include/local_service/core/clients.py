"""Clients and their credentials: secrets, access tokens, KMS keys, and the access keys that sign URLs."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import NAMESPACE_URL, uuid5

from include.local_service.core.clock import Clock
from include.local_service.core.errors import AccessDeniedError, UnknownClientError
from include.local_service.core.store import Store

TOKEN_LIFETIME_S = 3600
REGION = "ap-southeast-2"


@dataclass(frozen=True)
class AccessKeys:
    """The pair of keys that signs the presigned URLs."""

    access_key: str
    secret_key: str = field(repr=False)

    @classmethod
    def load(cls, store: Store) -> AccessKeys:
        """Return the keys in the store; make new ones if there are none."""
        with store.transaction():
            access_key = store.setting("access_key", "") or f"LOCAL{secrets.token_hex(8).upper()}"
            secret_key = store.setting("secret_key", "") or secrets.token_urlsafe(30)
            store.save_setting("access_key", access_key)
            store.save_setting("secret_key", secret_key)
        return cls(access_key, secret_key)


class Clients:
    """The clients of the service and their tokens.

    :param secret_by_id: client id -> client secret.
    """

    def __init__(self, secret_by_id: Mapping[str, str], store: Store, clock: Clock) -> None:
        self._secret_by_id = secret_by_id
        self._store = store
        self._clock = clock

    def issue_token(self, client_id: str, client_secret: str) -> str:
        """Return a new access token that is valid for an hour (docs/service-contract.md 2.1).

        :raises UnknownClientError: if the credentials are wrong.
        """
        expected = self._secret_by_id.get(client_id, "")
        if not expected or not hmac.compare_digest(expected.encode(), client_secret.encode()):
            raise UnknownClientError(client_id)
        token = secrets.token_urlsafe(48)
        self._store.save_token(_digest(token), client_id, self._clock.now() + TOKEN_LIFETIME_S)
        return token

    def authenticate(self, token: str) -> str:
        """Return the id of the client that owns this token.

        :raises AccessDeniedError: if the token is unknown or expired.
        """
        client_id = self._store.token_client(_digest(token), self._clock.now())
        if client_id is None:
            raise AccessDeniedError
        return client_id


def kms_key(client_id: str) -> str:
    """Return the KMS key ARN that a client must send with its uploads (docs/service-contract.md 2.7)."""
    return f"arn:aws:kms:{REGION}:000000000000:key/{uuid5(NAMESPACE_URL, client_id)}"


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
