"""Which servers are trusted: one TLS context for both hooks and for storage; the error for an untrusted server."""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from cryptography import x509

from coding_service.bounded_connections import BoundedAdapter
from coding_service.errors import CertificateError, SettingsError
from coding_service.redaction import redact_foreign
from coding_service.settings import ServiceSettings

#: Environment variables that name certificate authorities. requests reads the first two, OpenSSL the others.
BUNDLE_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
OPENSSL_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
#: Maximum time for asking an untrusted server for its certificate, to name its issuer.
ISSUER_TIMEOUT_S = 5.0
#: Name of a certificate in a folder that was prepared with `openssl rehash`.
HASHED_NAME = re.compile(r"[0-9a-f]{8}\.\d+")


def make_context(settings: ServiceSettings, environ: Mapping[str, str] | None = None) -> ssl.SSLContext:
    """Return the TLS context for all connections to the service and its storage.

    Certificate authorities are those of the connection, or else those that the environment names, or else those of
    requests and of the system.

    :param environ: the environment variables; None: those of this process
    :raises SettingsError: a file or folder is missing, or does not contain what it should
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # an authority that is not a root can be trusted, too
    if settings.verify is False:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    elif isinstance(settings.verify, str):
        _trust(context, settings.verify, "the extra `verify` of the connection")
    else:
        _trust_environment(context, (os.environ if environ is None else environ) if settings.trust_env else {})
    if settings.cert:
        _load_client_certificate(context, *settings.cert)
    return context


def _trust_environment(context: ssl.SSLContext, environ: Mapping[str, str]) -> None:
    """Trust the authorities of the first variables that are set, or those that every machine trusts."""
    for variable in BUNDLE_VARIABLES:
        if environ.get(variable):
            return _trust(context, environ[variable], f"the environment variable {variable}")
    variables = [variable for variable in OPENSSL_VARIABLES if environ.get(variable)]
    for variable in variables:
        value = environ[variable]
        for path in value.split(os.pathsep) if variable == "SSL_CERT_DIR" else [value]:
            _trust(context, path, f"the environment variable {variable}")
    if not variables:
        system = ssl.get_default_verify_paths()
        for path in (requests.utils.DEFAULT_CA_BUNDLE_PATH, system.openssl_cafile, system.openssl_capath):
            if Path(path).exists():
                _trust(context, path, "the system")
    return None


def _trust(context: ssl.SSLContext, path: str, source: str) -> None:
    name = f"{path!r}, which {source} names as certificate authorities,"
    try:
        for file in _certificate_files(Path(path)):
            context.load_verify_locations(cafile=file)
        if Path(path).is_dir():
            context.load_verify_locations(capath=path)
    except ssl.SSLError:
        raise SettingsError(f"{name} contains no certificate: name a file in PEM format, or a folder") from None
    except OSError as error:
        raise SettingsError(
            f"{name} cannot be read on this machine ({error.strerror}): copy it there, or correct the path"
        ) from None


def _certificate_files(path: Path) -> list[Path]:
    """Return the files to read: this one, or those of a folder, unless it is one that OpenSSL searches by hash."""
    if not path.is_dir():
        return [path]
    if any(HASHED_NAME.fullmatch(entry.name) for entry in path.iterdir()):
        return []
    return sorted(entry for entry in path.iterdir() if entry.suffix in (".pem", ".crt", ".cer"))


def _load_client_certificate(context: ssl.SSLContext, certificate: str, key: str | None) -> None:
    name = f"the client certificate {certificate!r}{f' with the key {key!r}' if key else ''} of the connection"
    try:
        # without a password, OpenSSL would ask for that of an encrypted key on the terminal
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError:
        raise SettingsError(
            f"{name} cannot be used: name a file in PEM format with certificate and key, or two files as a list; the"
            " key must belong to the certificate and not be encrypted"
        ) from None
    except OSError as error:
        raise SettingsError(f"{name} cannot be read on this machine ({error.strerror}): correct the path") from None


class TrustedAdapter(BoundedAdapter):
    """Sends requests with a given TLS context, instead of what requests reads from session and environment.

    :raises CertificateError: when it sends: the server is not trusted
    """

    def __init__(self, context: ssl.SSLContext, **options: Any) -> None:
        self._context = context
        super().__init__(**options)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._context, **options)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        secure = {} if proxy.lower().startswith("socks") else {"proxy_ssl_context": self._context}
        return super().proxy_manager_for(proxy, ssl_context=self._context, **secure, **options)

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        host, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        return host, {}  # the TLS context is that of the pool manager

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Add no authority of the session or the environment to the context."""

    def send(self, request: Any, *args: Any, **options: Any) -> requests.Response:
        try:
            return super().send(request, *args, **options)
        except requests.exceptions.SSLError as error:
            if refusal := find_certificate_error(error):
                raise make_certificate_error(str(request.url), refusal) from None
            raise


def find_certificate_error(error: BaseException) -> ssl.SSLCertVerificationError | None:
    """Return the refusal of a certificate that is the cause of an error of requests or aiohttp, if it is one."""
    # aiohttp derives an error of its own from this class, which does not say what is wrong with the certificate
    refusals = (one for one in _causes(error, set()) if hasattr(one, "verify_message"))
    return next((one for one in refusals if isinstance(one, ssl.SSLCertVerificationError)), None)


def _causes(error: Any, visited_ids: set[int]) -> Iterator[BaseException]:
    if isinstance(error, BaseException) and id(error) not in visited_ids:
        visited_ids.add(id(error))
        yield error
        for cause in (error.__cause__, error.__context__, getattr(error, "reason", None), *error.args):
            yield from _causes(cause, visited_ids)


def make_certificate_error(url: str, refusal: ssl.SSLCertVerificationError) -> CertificateError:
    """Return the error for an untrusted server. It asks the server for its certificate once more, to name the issuer,
    and can block meanwhile."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 443
    issuer = redact_foreign(_find_issuer(host, port) or "")
    return CertificateError(
        f"the certificate of {host}:{port} is not trusted ({refusal.verify_message}"
        f"{f'; issued by {issuer!r}' if issuer else ''}): if a proxy of your organisation inspects traffic, name its"
        " certificate authority as `verify` in the extra of the connection, or in REQUESTS_CA_BUNDLE"
    )


def _find_issuer(host: str, port: int) -> str | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), ISSUER_TIMEOUT_S) as connection,
            context.wrap_socket(connection, server_hostname=host) as secured,
        ):
            certificate = secured.getpeercert(binary_form=True)
        return x509.load_der_x509_certificate(certificate).issuer.rfc4514_string() if certificate else None
    except (OSError, ValueError):  # for example, because only a proxy reaches the host
        return None
