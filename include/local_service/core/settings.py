"""The settings of a local service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

DEFAULT_DATA_DIR = Path(".run/service")  # `make run` and `make up` use it too


class Progression(StrEnum):
    """The rule for when status calls show that an operation has ended."""

    IMMEDIATE = "immediate"
    BY_POLLS = "by_polls"
    BY_TIME = "by_time"


class CoderKind(StrEnum):
    """The coder that the service uses."""

    SVM = "svm"
    STUB = "stub"


@dataclass(frozen=True)
class Settings:
    """The settings of one local service.

    :param client_id, client_secret: the credentials that the token endpoint accepts.
    :param other_clients: further credentials, client id -> client secret.
    :param progression: when status calls show that an operation has ended.
    :param polls: for ``by_polls``: number of status calls after the upload that still show ``in_progress``.
    :param seconds: for ``by_time``: seconds after the upload during which ``in_progress`` is shown.
    :param throttle: limit every client to ``requests_per_second`` and ``requests_per_day``
        (docs/service-contract.md 6).
    :param tls: listen with TLS, with a certificate made at the start; API, token endpoint and storage alike.
    :param coder: ``svm`` codes by meaning, ``stub`` by a hash of the text.
    """

    client_id: str = "local-client"
    client_secret: str = field(default="local-secret", repr=False)  # public, for trials on loopback
    other_clients: Mapping[str, str] = field(default_factory=dict, repr=False)
    progression: str = Progression.BY_POLLS
    polls: int = 2
    seconds: float = 5.0
    throttle: bool = False
    requests_per_second: float = 1.0
    requests_per_day: int = 10_000
    tls: bool = False
    coder: str = CoderKind.SVM

    @property
    def clients(self) -> dict[str, str]:
        """The secret of every client, by client id."""
        return {self.client_id: self.client_secret, **self.other_clients}
