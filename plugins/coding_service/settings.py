"""Settings of the service, read from an Airflow connection once and passed on as a typed value."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from coding_service.addresses import Address, is_allowed, read_address, read_pattern
from coding_service.errors import SettingsError
from coding_service.redaction import register_secrets

#: Extra fields of the connection that Airflow's HttpHook reads, and those that are specific to this service.
HTTP_EXTRAS = frozenset({
    "allow_redirects", "cert", "check_response", "max_redirects", "proxies", "proxy", "stream", "timeout",
    "trust_env", "verify", "verify_ssl",
})  # fmt: skip
OWN_EXTRAS = frozenset({
    "allow_http", "auth_host", "authorization_prefix", "budget_conn_id", "poll_interval", "requests_per_day",
    "requests_per_second", "state_dir", "storage_hosts",
})  # fmt: skip
EXAMPLE_URL = "https://partner-coder.api.abs.gov.au"
#: Hosts of storage, beside the API's own host, if the connection names none.
DEFAULT_STORAGE_HOSTS = ("*.amazonaws.com",)


@dataclass(frozen=True)
class ServiceSettings:
    """How to reach the service and how often to call it.

    :param api_url: base URL of the API, without a trailing slash
    :param auth_url: base URL of the token endpoint, without a trailing slash
    :param requests_per_second: calls a second for these credentials, from all callers (docs/service-contract.md 6)
    :param requests_per_day: calls in any 24 hours for these credentials (docs/service-contract.md 6)
    :param poll_interval: seconds between the first two status calls; later calls are further apart
    :param timeout: seconds to wait for the service to send something
    :param authorization_prefix: text before the token; empty by default (docs/service-contract.md 1)
    :param allow_http: whether plain http is accepted for hosts other than loopback
    :param storage_hosts: hosts that files are sent to and read from: names, or `*.` before a domain; empty:
        `*.amazonaws.com` and the API's own host (docs/service-contract.md 8.42)
    :param budget_conn_id: Airflow connection (postgres) of the database that keeps the call budget if several
        machines make calls; None: the budget is kept in a file of this machine
    :param verify: whether to verify TLS certificates, or the path of a file or folder with certificate authorities
    :param cert: paths of a client certificate and of its key; None as key: it is in the same file
    :param proxies: proxy URL by scheme; empty: those of the environment
    :param trust_env: whether to read proxies and certificate authorities from the environment
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
    verify: bool | str = True
    cert: tuple[str, str | None] | None = None
    proxies: Mapping[str, str] = field(default_factory=dict, repr=False)
    trust_env: bool = True
    storage_hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        register_secrets(*self.secrets)

    @classmethod
    def from_connection(cls, connection: Any, extra: Mapping[str, Any]) -> ServiceSettings:
        """Read the settings from an Airflow connection.

        An extra field that is null or empty is not set: a form stores its empty fields like this.

        :raises SettingsError: a field is missing, unknown or has a wrong value
        """
        name = f"connection {connection.conn_id!r}"
        if unknown := sorted(set(extra) - HTTP_EXTRAS - OWN_EXTRAS):
            fields = sorted(HTTP_EXTRAS | OWN_EXTRAS)
            raise SettingsError(f"{name} has the unknown extra fields {unknown}; known: {fields}")
        extra = {field: value for field, value in extra.items() if value not in (None, "")}
        for credential, value in (("login", connection.login), ("password", connection.password)):
            if not value:
                raise SettingsError(f"{name} has no {credential}: use client id as login, client secret as password")
        proxies = extra.get("proxies", extra.get("proxy")) or {}
        if not isinstance(proxies, str | Mapping):
            raise SettingsError(
                f"{name} has proxies that are a {type(proxies).__name__}; expected an object or a URL"
            )
        if not connection.host:
            raise SettingsError(f"{name} has no host: enter the API URL, such as {EXAMPLE_URL!r}")
        settings = cls(
            api_url=_base_url(connection),
            auth_url=str(extra.get("auth_host") or "").rstrip("/"),
            client_id=connection.login or "",
            client_secret=connection.password or "",
            requests_per_second=_positive_number(name, extra, "requests_per_second", 1.0),
            requests_per_day=int(_positive_number(name, extra, "requests_per_day", 10_000, minimum=1)),
            poll_interval=_positive_number(name, extra, "poll_interval", 10.0),
            timeout=_positive_number(name, extra, "timeout", 60.0),
            authorization_prefix=str(extra.get("authorization_prefix") or ""),
            allow_http=_flag(name, extra, "allow_http", default=False),
            budget_conn_id=_optional_conn_id(name, extra, "budget_conn_id"),
            verify=_flag_or_path(name, extra, "verify" if "verify" in extra else "verify_ssl"),
            cert=_client_certificate(name, extra),
            proxies=dict.fromkeys(("http", "https"), proxies) if isinstance(proxies, str) else proxies,
            trust_env=_flag(name, extra, "trust_env", default=True),
            storage_hosts=_host_patterns(name, extra, "storage_hosts"),
        )
        settings.check_url(settings.api_url, f"host of {name}")
        settings.check_url(settings.auth_url, f"`auth_host` in the extra of {name}")
        return settings

    def check_url(self, url: str, name: str) -> None:
        """Refuse an address of the service that would send a secret unencrypted (docs/service-contract.md 8.42).

        :param name: of the URL, for the error message
        :raises SettingsError: it is not https, its host is not loopback, and `allow_http` is not set; or it is
            malformed, or contains a user name
        """
        try:
            address = read_address(url)
            if "?" in url or "#" in url:
                raise ValueError("a query")
        except ValueError:
            raise SettingsError(
                f"{name} is {url!r}; expected a URL such as {EXAMPLE_URL!r}, without user, query and fragment"
            ) from None
        if address.scheme == "http" and not self.allow_http and not address.is_loopback:
            raise SettingsError(
                f"{name} is {url!r}: secrets would be sent unencrypted; use https,"
                ' or set "allow_http": true in the extra of the connection'
            )

    def check_link(self, url: str, name: str) -> None:
        """Refuse a link of the service to a host that is not a storage of the service.

        :param name: of the link, for the error message, which contains the host at most
        :raises SettingsError: its scheme is not that of the API or https; its host is not one of the storage hosts;
            or it is internal, and that of the API is not
        """
        try:
            address = read_address(url)
        except ValueError:
            raise SettingsError(
                f"{name} is malformed, or contains a user name: nothing was sent to it. Report it to the service"
            ) from None
        if address.scheme == "http" and self._api_address.scheme == "https":
            raise SettingsError(
                f"{name} to the host {address.host!r} is http, but the service is https: nothing was sent to it."
                " Report it to the service"
            )
        if address.is_internal and not self._api_address.is_internal:
            raise SettingsError(
                f"{name} leads to {address.host!r}, an address of this machine or of an internal network, but the"
                " service is not there: nothing was sent to it. Report it to the service"
            )
        if not is_allowed(address, self._storage_patterns):
            raise SettingsError(
                f"{name} leads to the host {address.host!r}, which is not one of {list(self._storage_patterns)}:"
                " nothing was sent to it. If it is a storage of the service, add it to `storage_hosts` in the extra"
                " of the connection"
            )

    @cached_property
    def _api_address(self) -> Address:
        return read_address(self.api_url)

    @property
    def _storage_patterns(self) -> tuple[str, ...]:
        own_host = "localhost" if self._api_address.is_loopback else self._api_address.host
        return self.storage_hosts or (*DEFAULT_STORAGE_HOSTS, own_host)

    @property
    def secrets(self) -> tuple[str, ...]:
        """The client secret, its form in the token request, and the passwords of proxies."""
        credentials = base64.b64encode(f"{self.client_id}:{self.client_secret}".encode()).decode()
        passwords = [_find_password(proxy) for proxy in self.proxies.values()]
        return (self.client_secret, credentials, *filter(None, passwords))

    @property
    def account(self) -> str:
        """Host and client id as a hash, for file names. One account has one call budget and one token."""
        return hashlib.sha256(f"{self.api_url}\n{self.client_id}".encode()).hexdigest()[:16]


def _base_url(connection: Any) -> str:
    host = (connection.host or "").rstrip("/")
    url = host if "://" in host else f"{connection.schema or 'https'}://{host}"
    with suppress(ValueError):  # a malformed URL, which is refused later
        # an account is the same with and without the port that https has anyway
        if urlsplit(url).port or (connection.port == 443 and url.startswith("https://")):
            return url
    return f"{url}:{connection.port}" if connection.port else url


def _positive_number(owner: str, extra: Mapping[str, Any], name: str, default: float, minimum: float = 0.0) -> float:
    value = extra.get(name, default)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = 0.0
    if not (number > 0 and number >= minimum and math.isfinite(number)):
        expected = f"a number of at least {minimum:g}" if minimum else "a number above 0"
        raise SettingsError(f"{owner} has {name} = {value!r} in its extra; expected {expected}")
    return number


#: How a connection can spell a boolean.
FLAGS = {"true": True, "false": False}


def _flag(owner: str, extra: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = extra.get(name)
    if value in (None, ""):
        return default
    flag = value if isinstance(value, bool) else FLAGS.get(str(value).lower())
    if flag is None:
        raise SettingsError(f"{owner} has {name} = {value!r} in its extra; expected true or false")
    return flag


def _flag_or_path(owner: str, extra: Mapping[str, Any], name: str) -> bool | str:
    value = extra.get(name)
    if isinstance(value, str) and value.lower() not in ("", *FLAGS):
        return value
    if not isinstance(value, str | bool | None):
        raise SettingsError(f"{owner} has {name} = {value!r} in its extra; expected true, false or a path")
    return _flag(owner, extra, name, default=True)


def _client_certificate(owner: str, extra: Mapping[str, Any]) -> tuple[str, str | None] | None:
    value = extra.get("cert")
    if not value:
        return None
    paths = [value] if isinstance(value, str) else value
    if not isinstance(paths, list) or len(paths) > 2 or not all(isinstance(path, str) and path for path in paths):
        raise SettingsError(
            f"{owner} has cert = {value!r} in its extra; expected a path, or a list of two: certificate and key"
        )
    return (paths[0], paths[1] if len(paths) == 2 else None)


def _optional_conn_id(owner: str, extra: Mapping[str, Any], name: str) -> str | None:
    value = extra.get(name)
    if value in (None, ""):
        return None
    if not isinstance(value, str):
        raise SettingsError(f"{owner} has {name} = {value!r} in its extra; expected an Airflow connection id")
    return value


def _host_patterns(owner: str, extra: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = extra.get(name) or []
    texts = value.split(",") if isinstance(value, str) else value
    try:
        if not isinstance(texts, list | tuple):
            raise TypeError(type(texts))
        return tuple(read_pattern(text.strip()) for text in texts)
    except (AttributeError, TypeError, ValueError):
        raise SettingsError(
            f"{owner} has {name} = {value!r} in its extra; expected hosts without scheme and port, as a list or"
            " separated by commas, such as 'storage.example' or '*.storage.example'"
        ) from None


def _find_password(proxy: Any) -> str | None:
    try:
        return urlsplit(str(proxy)).password
    except ValueError:
        return None
