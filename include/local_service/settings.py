"""What a local service is started with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

DEFAULT_CLIENT_ID = "local-client"
DEFAULT_CLIENT_SECRET = "local-secret"  # noqa: S105 - well known, for trials on loopback


class Progression(StrEnum):
    """When a finished operation is shown as finished."""

    IMMEDIATE = "immediate"
    BY_POLLS = "by_polls"
    BY_TIME = "by_time"


class CoderKind(StrEnum):
    """Which coder stands behind the service."""

    SVM = "svm"
    STUB = "stub"


@dataclass(frozen=True)
class Settings:
    """Settings of one local service.

    :param client_id, client_secret: the credentials that the token endpoint takes.
    :param other_clients: further credentials, client id -> client secret.
    :param progression: when a finished operation is shown as finished.
    :param polls: for ``by_polls``: status calls after the upload that still show ``in_progress``.
    :param seconds: for ``by_time``: seconds after the upload that still show ``in_progress``.
    :param throttle: hold every client to ``requests_per_second`` and ``requests_per_day`` (contract 6).
    :param coder: ``svm`` reads the texts, ``stub`` goes by a hash of them.
    """

    client_id: str = DEFAULT_CLIENT_ID
    client_secret: str = field(default=DEFAULT_CLIENT_SECRET, repr=False)
    other_clients: Mapping[str, str] = field(default_factory=dict, repr=False)
    progression: str = Progression.BY_POLLS
    polls: int = 2
    seconds: float = 5.0
    throttle: bool = False
    requests_per_second: float = 1.0
    requests_per_day: int = 10_000
    coder: str = CoderKind.SVM

    @property
    def clients(self) -> dict[str, str]:
        """Every known client id with its secret."""
        return {self.client_id: self.client_secret, **self.other_clients}
