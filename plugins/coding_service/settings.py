"""Settings of the service: read once from an Airflow connection, typed, and passed on as arguments."""

from __future__ import annotations

import hashlib
import ipaddress
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

from coding_service.errors import SettingsError

#: What may stand in the connection's extra beside our own fields: what Airflow's HttpHook takes.
HTTP_EXTRAS = frozenset(
    {
        "allow_redirects", "cert", "check_response", "max_redirects", "proxies", "proxy", "stream", "timeout",
        "trust_env", "verify", "verify_ssl",
    }
)  # fmt: skip
OWN_EXTRAS = frozenset(
    {
        "allow_http", "auth_host", "authorization_prefix", "budget_conn_id", "poll_interval", "requests_per_day",
        "requests_per_second", "state_dir",
    }
)  # fmt: skip


class Connection(Protocol):
    """The part of an Airflow connection that is read here."""

    conn_id: str
    host: str | None
    schema: str | None
    port: int | None
    login: str | None
    password: str | None


@dataclass(frozen=True)
class ServiceSettings:
    """How to reach the service and how often.

    :param api_url: base URL of the API, without a final slash
    :param auth_url: base URL of the token endpoint, without a final slash
    :param requests_per_second: calls a second for these credentials, whoever makes them (contract 6)
    :param requests_per_day: calls in any 24 hours for these credentials (contract 6)
    :param poll_interval: seconds between the first two status calls; later ones are further apart
    :param timeout: seconds an HTTP call may be silent
    :param authorization_prefix: what stands before the token; nothing by default (contract 1)
    :param budget_conn_id: Airflow connection (postgres) of the database that holds the call budget when several
        machines call; None: a file of this machine
    :param allow_http: whether plain http is accepted for hosts other than loopback
    """

    api_url: str
    auth_url: str
    client_id: str
    client_secret: str = field(repr=False)
    requests_per_second: float = 1.0
    requests_per_day: int = 10_000
    poll_interval: float = 10.0
    timeout: float = 60.0
    authorization_prefix: str = ""
    allow_http: bool = False
    budget_conn_id: str | None = None

    @classmethod
    def of(cls, connection: Connection, extra: Mapping[str, Any]) -> ServiceSettings:
        """Read the settings from an Airflow connection.

        :raises SettingsError: a field is missing, unknown or has a wrong value
        """
        what = f"connection {connection.conn_id!r}"
        if unknown := sorted(set(extra) - HTTP_EXTRAS - OWN_EXTRAS):
            known = sorted(HTTP_EXTRAS | OWN_EXTRAS)
            raise SettingsError(f"{what} has the unknown extra fields {unknown}; known: {known}")
        for name, value in (("login", connection.login), ("password", connection.password)):
            if not value:
                raise SettingsError(f"{what} has no {name}: put the client id in login, the secret in password")
        settings = cls(
            api_url=_base_url(connection),
            auth_url=str(extra.get("auth_host") or "").rstrip("/"),
            client_id=connection.login or "",
            client_secret=connection.password or "",
            requests_per_second=_positive(what, extra, "requests_per_second", 1.0),
            requests_per_day=int(_positive(what, extra, "requests_per_day", 10_000, least=1)),
            poll_interval=_positive(what, extra, "poll_interval", 10.0),
            timeout=_positive(what, extra, "timeout", 60.0),
            authorization_prefix=str(extra.get("authorization_prefix") or ""),
            allow_http=extra.get("allow_http") in (True, "true", "True"),
            budget_conn_id=_conn_id(what, extra, "budget_conn_id"),
        )
        settings.check_url(settings.api_url, f"host of {what}")
        settings.check_url(settings.auth_url, f"`auth_host` in the extra of {what}")
        return settings

    def check_url(self, url: str, what: str) -> None:
        """Refuse a URL over which a secret would travel in clear (contract 8, question 42).

        :raises SettingsError: not https, the host is not loopback, and `allow_http` is not set
        """
        shown = url.partition("?")[0]
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port  # both raise for what cannot be one
        except ValueError:
            host = None
        if not host or parts.scheme not in ("http", "https"):
            raise SettingsError(f"{what} is {shown!r}; expected a URL such as 'https://partner-coder.api.abs.gov.au'")
        if parts.scheme == "http" and not self.allow_http and not _is_loopback(host):
            raise SettingsError(
                f"{what} is {shown!r}: secrets would travel in clear; use https,"
                ' or set "allow_http": true in the extra of the connection'
            )

    @property
    def account(self) -> str:
        """A name for what shares one call budget and one token: host and client id, hashed for a file name."""
        return hashlib.sha256(f"{self.api_url}\n{self.client_id}".encode()).hexdigest()[:16]


def _base_url(connection: Connection) -> str:
    host = (connection.host or "").rstrip("/")
    url = host if "://" in host else f"{connection.schema or 'https'}://{host}"
    return f"{url}:{connection.port}" if connection.port else url


def _positive(what: str, extra: Mapping[str, Any], name: str, default: float, least: float = 0.0) -> float:
    value = extra.get(name, default)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = 0.0
    if not (number > 0 and number >= least and math.isfinite(number)):
        wanted = f"a number of at least {least:g}" if least else "a number above 0"
        raise SettingsError(f"{what} has {name} = {value!r} in its extra; expected {wanted}")
    return number


def _conn_id(what: str, extra: Mapping[str, Any], name: str) -> str | None:
    value = extra.get(name)
    if value in (None, ""):
        return None
    if not isinstance(value, str):
        raise SettingsError(f"{what} has {name} = {value!r} in its extra; expected the id of an Airflow connection")
    return value


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
