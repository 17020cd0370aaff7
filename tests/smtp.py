"""An SMTP server that keeps what it is sent."""

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


class _Conversation(socketserver.StreamRequestHandler):
    server: Mailbox

    def handle(self) -> None:
        self._say("220 sink")
        while line := self.rfile.readline().decode().strip():
            match line.split()[0].upper():
                case "EHLO" if self.server.tls and not isinstance(self.request, ssl.SSLSocket):
                    self._say("250-sink\r\n250 STARTTLS")
                case "STARTTLS":
                    self._say("220 go on")
                    self.request = self.server.tls.wrap_socket(self.request, server_side=True)
                    self.setup()
                case "DATA":
                    self._say("354 go on")
                    self.server.keep(b"".join(iter(self.rfile.readline, b".\r\n")))
                    self._say("250 kept")
                case "QUIT":
                    self._say("221 bye")
                    return
                case _:
                    self._say("250 sink")

    def finish(self) -> None:
        super().finish()
        self.request.close()

    def _say(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())


class Mailbox(socketserver.ThreadingTCPServer):
    """The server, and the messages that have arrived.

    :param tls: what it offers STARTTLS with
    """

    daemon_threads = True

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Conversation)
        self.tls = tls
        self.messages: list[EmailMessage] = []

    def keep(self, raw: bytes) -> None:
        self.messages.append(email.message_from_bytes(raw, policy=email.policy.default))  # type: ignore[arg-type]

    def connection(self) -> str:
        """Airflow's connection to it."""
        extra = {"disable_ssl": True, "disable_tls": not self.tls, "from_email": "airflow@agency.example"}
        host, port = self.server_address[:2]
        return json.dumps({"conn_type": "smtp", "host": host, "port": port, "extra": extra})


def text_of(message: EmailMessage) -> str:
    """What a person reads in it."""
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
    """TLS of a server, with a certificate that it made itself and writes to a file."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    here = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(here, critical=True)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(private + certificate.public_bytes(encoding))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(path)
    return tls
