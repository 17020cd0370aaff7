"""Runs the service with uvicorn: in the foreground, or in a thread for tests."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from include.local_service.core.service import CodingService
from include.local_service.core.settings import Settings
from include.local_service.http.app import create_app
from include.local_service.http.certificates import SERVER_FILE, make_certificates

TLS_FOLDER = "tls"
SHUTDOWN_TIMEOUT_S = 2
START_TIMEOUT_S = 120


class Protocol(HttpToolsProtocol):
    """Passes the connection to the application, so that a fault can cut it."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"]["transport"] = self.transport


class Server(uvicorn.Server):
    """A uvicorn server that calls a function when it listens."""

    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        # A TLS connection is closed only when the client agrees, and an idle client never does.
        connections: list[Any] = list(self.server_state.connections)
        for connection in connections:
            connection.transport.abort()
        while self.server_state.connections:
            await asyncio.sleep(0)


@contextmanager
def open_service(data_dir: Path, settings: Settings) -> Iterator[CodingService]:
    """Run a service on a data folder, which is locked meanwhile.

    :raises BlockingIOError: if another service uses the folder.
    """
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (data_dir / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        service = CodingService(data_dir, settings)
        service.start()
        try:
            yield service
        finally:
            service.close()


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to the address; port 0 means any free port."""
    return socket.create_server((host, port), backlog=2048)


def socket_url(server_socket: socket.socket, *, tls: bool = False) -> str:
    """Return the base URL of a bound socket."""
    host, port = server_socket.getsockname()[:2]
    return f"{'https' if tls else 'http'}://{host}:{port}"


def make_server(service: CodingService, on_start: Callable[[], None], certificate: Path | None = None) -> Server:
    """Return a server for the service.

    :param on_start: called when it listens.
    :param certificate: file with certificate and key, for TLS.
    """
    config = uvicorn.Config(
        create_app(service),
        http=Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
        ssl_certfile=certificate,
        # uvloop never ends after a TLS connection was aborted, as faults do
        loop="asyncio" if certificate else "auto",
    )
    return Server(config, on_start)


class LocalService:
    """The service in a thread, for tests.

    ::

        with LocalService(tmp_path, coder="stub", progression="immediate") as service:
            requests.get(f"{service.url}/openapi.json")

    :param data_dir: stores all state; a service with the same folder continues where the last one stopped.
    :param port: 0 means any free port.
    :param settings: the fields of `Settings`. With `tls`, `ca_file` is what clients have to trust.
    """

    def __init__(self, data_dir: Path | str, *, host: str = "127.0.0.1", port: int = 0, **settings: Any) -> None:
        self.data_dir = Path(data_dir)
        self.settings = Settings(**settings)
        self._address = (host, port)
        self.ca_file: Path | None = None

    def start(self) -> None:
        """Start the service and wait until it listens.

        :raises RuntimeError: if it does not start.
        """
        with ExitStack() as stack:
            server_socket = stack.enter_context(listen(*self._address))
            self.url = socket_url(server_socket, tls=self.settings.tls)
            self.service = stack.enter_context(open_service(self.data_dir, self.settings))
            self._resources = stack.pop_all()
        is_listening = threading.Event()
        certificate = None
        if self.settings.tls:
            self.ca_file = make_certificates(self.data_dir / TLS_FOLDER, self._address[0])
            certificate = self.ca_file.with_name(SERVER_FILE)
        self._server = make_server(self.service, is_listening.set, certificate)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [server_socket]}, name="local-service", daemon=True
        )
        self._thread.start()
        if not is_listening.wait(START_TIMEOUT_S):
            raise RuntimeError(f"the local service at {self.url} did not start within {START_TIMEOUT_S} s")

    def stop(self) -> None:
        """Stop the service; the data folder remains."""
        self._server.should_exit = True
        self._thread.join()
        self._resources.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
