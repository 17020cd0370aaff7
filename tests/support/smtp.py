"""An SMTP server that stores the messages it receives."""

from __future__ import annotations

import email
import email.policy
import json
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


class _SmtpHandler(socketserver.StreamRequestHandler):
    server: Mailbox

    def handle(self) -> None:
        self._reply("220 test server")
        while line := self.rfile.readline().decode().strip():
            match line.split()[0].upper():
                case "EHLO" if self.server.tls and not isinstance(self.request, ssl.SSLSocket):
                    self._reply("250-test server\r\n250 STARTTLS")
                case "STARTTLS":
                    self._reply("220 ready")
                    self.request = self.server.tls.wrap_socket(self.request, server_side=True)
                    self.setup()
                case "DATA":
                    self._reply("354 send the message")
                    self.server.store(b"".join(iter(self.rfile.readline, b".\r\n")))
                    self._reply("250 stored")
                case "QUIT":
                    self._reply("221 bye")
                    return
                case _:
                    self._reply("250 ok")

    def finish(self) -> None:
        super().finish()
        self.request.close()

    def _reply(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())


class Mailbox(socketserver.ThreadingTCPServer):
    """The server and its messages.

    :param tls: the context for STARTTLS, which is not offered without it
    """

    daemon_threads = True

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _SmtpHandler)
        self.tls = tls
        self.messages: list[EmailMessage] = []

    def store(self, raw: bytes) -> None:
        self.messages.append(email.message_from_bytes(raw, policy=email.policy.default))  # type: ignore[arg-type]

    def connection(self) -> str:
        """Return the Airflow connection to this server as JSON."""
        extra = {"disable_ssl": True, "disable_tls": not self.tls, "from_email": "airflow@agency.example"}
        host, port = self.server_address[:2]
        return json.dumps({"conn_type": "smtp", "host": host, "port": port, "extra": extra})


def read_body(message: EmailMessage) -> str:
    """Return the text of a message."""
    body = message.get_body()
    assert body is not None
    return str(body.get_content())


@contextmanager
def run_mailbox(tls: ssl.SSLContext | None = None) -> Iterator[Mailbox]:
    with Mailbox(tls) as mailbox:
        thread = threading.Thread(target=mailbox.serve_forever)
        thread.start()
        try:
            yield mailbox
        finally:
            mailbox.shutdown()
            thread.join()


def make_tls(path: Path) -> ssl.SSLContext:
    """Return the TLS context of a server. Its self-signed certificate is written to `path`."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    address = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(address, critical=True)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(private + certificate.public_bytes(encoding))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(path)
    return tls
