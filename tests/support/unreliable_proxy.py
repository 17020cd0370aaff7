"""A proxy in front of the local service that behaves as bad networks do, and stops at chosen moments."""

from __future__ import annotations

import http.client
import json
import re
import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit

#: What a network does to a request, or to its answer.
KINDS = (
    "closed",  # the connection ends without an answer
    "reset",  # the same, with a TCP reset
    "reset_after",  # the service handles the request, but its answer never arrives
    "stalled",  # no answer, and the connection stays open
    "slow",  # the answer arrives in small pieces
    "truncated",  # the connection ends within the answer
    "too_long",  # the connection ends before the length that the answer states
    "hold_before",  # the request waits for `release`, then passes
    "hold_after",  # the service handles the request, and its answer waits for `release`
)
#: Secrets in answers of the service: tokens, and the signatures of links.
_SECRETS = re.compile(rb'"access_token":\s*"([^"]+)"|X-Amz-Signature=([0-9a-f]{64})')
_PIECE_DELAY_S, _HOLD_TIMEOUT_S = 0.02, 120


@dataclass
class NetworkFault:
    """One kind of fault, for the next requests that match.

    :param path_contains: a part of the path and query of the request.
    :param count: number of requests that it affects.
    :param skip: number of matching requests that pass first.
    """

    kind: str
    method: str | None = None
    path_contains: str = ""
    count: int = 1
    skip: int = 0
    was_hit: threading.Event = field(default_factory=threading.Event, repr=False)
    is_released: threading.Event = field(default_factory=threading.Event, repr=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind {self.kind!r}; expected one of {', '.join(KINDS)}")

    def affects(self, method: str, path: str) -> bool:
        """Return whether the fault affects this request, and count it."""
        if self.count == 0 or self.method not in (None, method) or self.path_contains not in path:
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.count -= 1
        self.was_hit.set()
        return True


class UnreliableProxy:
    """Forwards requests to a service on loopback.

    :param target: base URL of the service.
    :ivar inputs: the `recordId`s of each input file that the storage accepted.
    :ivar secrets: the tokens and signatures in the service's answers.
    """

    def __init__(self, target: str) -> None:
        self.target = urlsplit(target)
        self.faults: list[NetworkFault] = []
        self.secrets: set[bytes] = set()
        self.inputs: list[list[str]] = []
        self._lock = threading.Lock()
        self._address = ("127.0.0.1", 0)
        self.listen()

    @property
    def url(self) -> str:
        host, port = self._address
        return f"http://{host}:{port}"

    def listen(self) -> None:
        """Accept connections, always at the same address."""
        self._server = _Server(self._address, self)
        self._address = self._server.server_address[:2]  # type: ignore[assignment]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def refuse(self) -> None:
        """Refuse connections until `listen` is called."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def choose_fault(self, method: str, path: str) -> NetworkFault | None:
        """Return the fault of this request, if any."""
        with self._lock:
            return next((fault for fault in self.faults if fault.affects(method, path)), None)

    def remember_secrets(self, body: bytes) -> None:
        """Remember the secrets in an answer, so that a test can search for them."""
        self.secrets |= {secret for groups in _SECRETS.findall(body) for secret in groups if secret}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for fault in self.faults:
            fault.is_released.set()
        self.refuse()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], proxy: UnreliableProxy) -> None:
        self.proxy = proxy
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are no errors here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        """Do not log."""

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.proxy.choose_fault(self.command, self.path)
        kind = fault.kind if fault else ""
        if fault and kind == "hold_before":
            fault.is_released.wait(_HOLD_TIMEOUT_S)
        if fault and kind == "stalled":
            self._wait_for_client()
        if kind in ("closed", "reset", "stalled"):
            self._close(is_reset=kind == "reset")
            return
        response, content = self._forward(body)
        if fault and kind == "hold_after":
            fault.is_released.wait(_HOLD_TIMEOUT_S)
        if kind == "reset_after":
            self._close(is_reset=True)
            return
        self._answer(response, content, kind)

    do_GET = do_POST = do_PUT = do_HEAD = _handle

    def _forward(self, body: bytes) -> tuple[http.client.HTTPResponse, bytes]:
        target = self.server.proxy.target
        connection = http.client.HTTPConnection(str(target.hostname), target.port, timeout=_HOLD_TIMEOUT_S)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body or None)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        self.server.proxy.remember_secrets(content)
        if self.command == "PUT" and response.status == HTTPStatus.OK:
            self.server.proxy.inputs.append([json.loads(line)["recordId"] for line in body.splitlines()])
        return response, content

    def _answer(self, response: http.client.HTTPResponse, content: bytes, kind: str) -> None:
        self.send_response_only(response.status, response.reason)
        length = len(content) + (10 if kind == "too_long" else 0)
        for name, value in response.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        if not (self.command == "HEAD" or response.status in (204, 304)):
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if kind == "truncated":
            content = content[: len(content) // 2]
        step = max(1, len(content) // 20) if kind == "slow" else max(1, len(content))
        for start in range(0, len(content), step):
            self.wfile.write(content[start : start + step])
            if kind == "slow":
                threading.Event().wait(_PIECE_DELAY_S)
        if kind in ("truncated", "too_long"):
            self._close(is_reset=False)

    def _wait_for_client(self) -> None:
        """Wait until the client closes the connection."""
        self.connection.settimeout(_HOLD_TIMEOUT_S)
        with suppress(OSError):
            while self.connection.recv(1024):
                pass

    def _close(self, *, is_reset: bool) -> None:
        self.close_connection = True
        if is_reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
