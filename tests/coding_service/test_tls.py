"""Which servers are trusted: both hooks and storage read the same settings in the same way."""

import inspect
import ipaddress
import socket
import ssl
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from coding_service import BatchCodeTrigger, CodingServiceAsyncHook, CodingServiceHook
from coding_service.errors import CertificateError, SettingsError
from coding_service.models import UploadGrant
from coding_service.polling import MAX_CERTIFICATE_ERRORS
from coding_service.tls import BUNDLE_VARIABLES, OPENSSL_VARIABLES

CONN_ID = "coding_service_default"


class Authority:
    """A private certificate authority, as that of a proxy that inspects traffic."""

    def __init__(self, folder, name):
        self._folder, self._key = folder, ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._sign(self._name, self._key, x509.BasicConstraints(ca=True, path_length=None))
        self.path = self._write(f"{name}.pem", certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name):
        """Return the paths of a certificate for 127.0.0.1 and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        certificate = self._sign(subject, key, address)
        key_text = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return (
            self._write(f"{name}.crt", certificate.public_bytes(serialization.Encoding.PEM)),
            self._write(f"{name}.key", key_text),
        )

    def _sign(self, subject, key, extension):
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name)
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        return builder.add_extension(extension, critical=False).sign(self._key, hashes.SHA256())

    def _write(self, name, content):
        path = self._folder / name
        path.write_bytes(content)
        return str(path)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"), "Agency Proxy CA")


@pytest.fixture(scope="module")
def certificate(authority):
    return authority.issue("server")


@pytest.fixture(autouse=True)
def without_environment(monkeypatch):
    for name in (*BUNDLE_VARIABLES, *OPENSSL_VARIABLES, "https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def secure(serve, certificate):
    """Return a function that starts a TLS server; with an authority, it asks for certificates of it."""

    def start(client_authority=None):
        def answer(request, reply):
            reply(200, {"access_token": "t0ken", "operationStatus": "in_progress"})

        server = serve(answer)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*certificate)
        if client_authority:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(client_authority.path)
        raw = server._server
        # the handshake is made by the thread of the request, so that a refused one does not end the server
        raw.socket = context.wrap_socket(raw.socket, server_side=True, do_handshake_on_connect=False)
        raw.handle_error = lambda request, address: None
        server.url = server.url.replace("http://", "https://")
        return server

    return start


@pytest.fixture(params=[CodingServiceHook, CodingServiceAsyncHook])
def call(request):
    """Return a function that makes a status call: with the synchronous hook, then with the asynchronous one."""

    async def get_status():
        answer = request.param().operation("osca", "00000000-0000-4000-8000-000000000001")
        return (await answer if inspect.isawaitable(answer) else answer).status

    return get_status


def folder_of(path, folder):
    """Return a folder with the authority under the name that it has, without a hash."""
    folder.mkdir()
    (folder / "agency.pem").write_text(Path(path).read_text())
    return str(folder)


@pytest.mark.parametrize("form", ["file", "folder"])
async def test_the_connection_names_an_authority(secure, connect, call, authority, tmp_path, form):
    connect(secure().url, verify=authority.path if form == "file" else folder_of(authority.path, tmp_path / "ca"))
    assert await call() == "in_progress"


@pytest.mark.parametrize("variable", [*BUNDLE_VARIABLES, "SSL_CERT_FILE"])
@pytest.mark.parametrize("verify", [None, True, "true", "True", ""])
async def test_the_environment_names_an_authority(secure, connect, call, authority, monkeypatch, variable, verify):
    monkeypatch.setenv(variable, authority.path)
    connect(secure().url, verify=verify)
    assert await call() == "in_progress"


@pytest.mark.parametrize("variable", [*BUNDLE_VARIABLES, "SSL_CERT_DIR"])
async def test_the_environment_names_a_folder(secure, connect, call, authority, monkeypatch, tmp_path, variable):
    monkeypatch.setenv(variable, folder_of(authority.path, tmp_path / "ca"))
    connect(secure().url)
    assert await call() == "in_progress"


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
@pytest.mark.parametrize("verify", [False, "false", "False"])
async def test_the_check_can_be_switched_off(secure, connect, call, verify):
    connect(secure().url, verify=verify)
    assert await call() == "in_progress"


async def test_the_connection_has_priority_over_the_environment(
    secure, connect, call, authority, monkeypatch, tmp_path
):
    other = Authority(tmp_path, "Another CA")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", other.path)
    connect(secure().url, verify=authority.path)
    assert await call() == "in_progress"
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", authority.path)
    connect(secure().url, verify=other.path)
    with pytest.raises(CertificateError):
        await call()


async def test_the_environment_can_be_ignored(secure, connect, call, authority, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", authority.path)
    connect(secure().url, trust_env="false")
    with pytest.raises(CertificateError):
        await call()


async def test_an_untrusted_certificate_is_named_with_host_reason_and_issuer(secure, connect, call):
    server = secure()
    connect(server.url)
    with pytest.raises(CertificateError) as caught:
        await call()
    host = server.url.removeprefix("https://")
    assert f"the certificate of {host} is not trusted (unable to get local issuer certificate; issued by" in str(
        caught.value
    )
    assert "'CN=Agency Proxy CA'" in str(caught.value)
    assert "REQUESTS_CA_BUNDLE" in str(caught.value)
    assert server.requests == []


def test_the_test_of_a_connection_names_an_untrusted_certificate(secure, connect):
    connect(secure().url)
    succeeded, message = CodingServiceHook().test_connection()
    assert not succeeded
    assert message.startswith("The certificate of the server is not trusted. Check the host")
    assert "Agency Proxy CA" in message


async def test_a_certificate_of_another_host_is_not_trusted(secure, connect, call, authority):
    url = secure().url
    connect(url.replace("127.0.0.1", "localhost"), verify=authority.path)
    with pytest.raises(CertificateError, match=r"the certificate of localhost:\d+ is not trusted \(.*[Hh]ostname"):
        await call()


@pytest.mark.parametrize("form", ["two files", "one file"])
async def test_a_client_certificate_is_sent(secure, connect, call, authority, tmp_path, form):
    paths = Authority(tmp_path, "Client CA"), tmp_path / "both.pem"
    certificate, key = paths[0].issue("client")
    paths[1].write_text(Path(certificate).read_text() + Path(key).read_text())
    server = secure(paths[0])
    connect(server.url, verify=authority.path, cert=[certificate, key] if form == "two files" else str(paths[1]))
    assert await call() == "in_progress"


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (
            {"verify": "{folder}/missing.pem"},
            "'.*missing.pem', which the extra `verify` of the connection names .*No such",
        ),
        ({"verify": "{folder}/empty.pem"}, "empty.pem.*contains no certificate: name a file in PEM format"),
        ({"cert": "{folder}/missing.pem"}, "the client certificate '.*missing.pem' of the connection cannot be read"),
        (
            {"cert": ["{folder}/empty.pem", "{folder}/empty.pem"]},
            "the client certificate .*with the key .*cannot be used",
        ),
    ],
)
async def test_a_file_that_is_missing_or_empty_is_refused_with_a_sentence(connect, call, tmp_path, extra, words):
    (tmp_path / "empty.pem").touch()

    def fill(value):
        return [fill(one) for one in value] if isinstance(value, list) else value.format(folder=tmp_path)

    connect("https://127.0.0.1:1", **{name: fill(value) for name, value in extra.items()})
    with pytest.raises(SettingsError, match=words):
        await call()


@pytest.mark.parametrize("variable", [*BUNDLE_VARIABLES, *OPENSSL_VARIABLES])
async def test_a_missing_file_of_the_environment_is_named_with_its_variable(connect, call, monkeypatch, variable):
    monkeypatch.setenv(variable, "/nowhere/ca.pem")
    connect("https://127.0.0.1:1")
    with pytest.raises(SettingsError, match=f"'/nowhere/ca.pem', which the environment variable {variable} names"):
        await call()


def test_storage_is_trusted_as_the_service_is(secure, connect, authority, input_file):
    server = secure()
    grant = UploadGrant("op-1", f"{server.url}/in?X-Amz-Signature=5ec4e7", "arn")
    connect(server.url, verify=authority.path)
    assert CodingServiceHook().upload(grant, input_file) == input_file.stat().st_size
    connect(server.url)
    with pytest.raises(CertificateError, match="is not trusted") as caught:
        CodingServiceHook().upload(grant, input_file)
    assert "5ec4e7" not in str(caught.value)


async def events_of(trigger):
    return [event.payload async for event in trigger.run()]


async def test_an_untrusted_certificate_ends_a_wait_after_a_few_attempts(secure, connect):
    connect(secure().url)
    trigger = BatchCodeTrigger(
        "osca", "00000000-0000-4000-8000-000000000001", CONN_ID, time.time() + 60, poll_interval=0.01
    )
    [payload] = await events_of(trigger)
    assert payload["reason"] == "refused"
    assert f"; {MAX_CERTIFICATE_ERRORS} status calls in a row failed like this" in payload["message"]


async def test_a_missing_file_of_authorities_ends_a_wait_at_once(connect):
    connect("https://127.0.0.1:1", verify="/nowhere/ca.pem")
    [payload] = await events_of(
        BatchCodeTrigger("osca", "00000000-0000-4000-8000-000000000001", CONN_ID, time.time() + 60)
    )
    assert payload["reason"] == "refused"
    assert "'/nowhere/ca.pem'" in payload["message"]


class Tunnel(BaseRequestHandler):
    """Connects a client to the server that it names with CONNECT, as a proxy does."""

    def handle(self):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.request.recv(1)
        target = head.split()[1].decode()
        self.server.targets.append(target)
        host, _, port = target.rpartition(":")
        with socket.create_connection((host, int(port))) as upstream:
            self.request.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            copier = threading.Thread(target=self._copy, args=(upstream, self.request))
            copier.start()
            self._copy(self.request, upstream)
            copier.join()

    @staticmethod
    def _copy(source, target):
        try:
            while block := source.recv(65536):
                target.sendall(block)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass


@pytest.fixture
def tunnel():
    """A proxy on loopback."""
    with ThreadingTCPServer(("127.0.0.1", 0), Tunnel) as server:
        server.daemon_threads, server.targets = True, []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


async def test_the_authority_is_trusted_through_a_proxy(secure, connect, call, authority, tunnel):
    server = secure()
    proxy = f"http://127.0.0.1:{tunnel.server_address[1]}"
    connect(server.url, verify=authority.path, proxies={"https": proxy})
    assert await call() == "in_progress"
    assert set(tunnel.targets) == {server.url.removeprefix("https://")}
    connect(server.url, proxies={"https": proxy}, conn_id=CONN_ID)
    with pytest.raises(CertificateError):
        await call()
