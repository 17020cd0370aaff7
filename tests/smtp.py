"""An SMTP server that keeps what it is sent."""

from __future__ import annotations

import email
import email.policy
import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage


class _Conversation(socketserver.StreamRequestHandler):
    server: Mailbox

    def handle(self) -> None:
        self._say("220 sink")
        while line := self.rfile.readline().decode().strip():
            match line.split()[0].upper():
                case "DATA":
                    self._say("354 go on")
                    self.server.keep(b"".join(iter(self.rfile.readline, b".\r\n")))
                    self._say("250 kept")
                case "QUIT":
                    self._say("221 bye")
                    return
                case _:
                    self._say("250 sink")

    def _say(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())


class Mailbox(socketserver.ThreadingTCPServer):
    """The server, and the messages that have arrived."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Conversation)
        self.messages: list[EmailMessage] = []

    def keep(self, raw: bytes) -> None:
        self.messages.append(email.message_from_bytes(raw, policy=email.policy.default))  # type: ignore[arg-type]

    def connection(self) -> str:
        """Airflow's connection to it."""
        extra = {"disable_ssl": True, "disable_tls": True, "from_email": "airflow@agency.example"}
        host, port = self.server_address[:2]
        return json.dumps({"conn_type": "smtp", "host": host, "port": port, "extra": extra})


def text_of(message: EmailMessage) -> str:
    """What a person reads in it."""
    body = message.get_body()
    assert body is not None
    return str(body.get_content())


@contextmanager
def run_mailbox() -> Iterator[Mailbox]:
    with Mailbox() as mailbox:
        thread = threading.Thread(target=mailbox.serve_forever)
        thread.start()
        try:
            yield mailbox
        finally:
            mailbox.shutdown()
            thread.join()
