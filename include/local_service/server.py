"""Runs the service under uvicorn: in the foreground, or in a thread for tests."""

from __future__ import annotations

import fcntl
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from include.local_service.app import create_app
from include.local_service.service import CodingService
from include.local_service.settings import Settings

SHUTDOWN_SECONDS = 2
START_SECONDS = 120


class Protocol(HttpToolsProtocol):
    """Hands the connection to the application, which must be able to cut it when a fault says so."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"]["transport"] = self.transport


class Server(uvicorn.Server):
    """A uvicorn server that says when it listens."""

    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_start()


@contextmanager
def open_service(data_dir: Path, settings: Settings) -> Iterator[CodingService]:
    """Run a service on a data folder, which it locks for itself.

    :raises BlockingIOError: when another service runs on the folder.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        service = CodingService(data_dir, settings)
        service.start()
        try:
            yield service
        finally:
            service.close()


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to the address; port 0 takes any free one."""
    return socket.create_server((host, port), backlog=2048)


def url_of(bound: socket.socket) -> str:
    """Return the base URL of a bound socket."""
    host, port = bound.getsockname()[:2]
    return f"http://{host}:{port}"


def make_server(service: CodingService, on_start: Callable[[], None]) -> Server:
    """Return a server for the service.

    :param on_start: called once it listens.
    """
    config = uvicorn.Config(
        create_app(service),
        http=Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    return Server(config, on_start)


class LocalService:
    """The service in a thread, for tests.

    ::

        with LocalService(tmp_path, coder="stub", progression="immediate") as service:
            requests.get(f"{service.url}/openapi.json")

    :param data_dir: holds all state; give the same folder again to go on.
    :param port: 0 takes any free port.
    :param settings: as the fields of `Settings`.
    """

    def __init__(self, data_dir: Path | str, *, host: str = "127.0.0.1", port: int = 0, **settings: Any) -> None:
        self.data_dir = Path(data_dir)
        self.settings = Settings(**settings)
        self._address = (host, port)

    def start(self) -> None:
        """Return when the service answers.

        :raises RuntimeError: when it does not start.
        """
        with ExitStack() as opened:
            bound = opened.enter_context(listen(*self._address))
            self.url = url_of(bound)
            self.service = opened.enter_context(open_service(self.data_dir, self.settings))
            self._opened = opened.pop_all()
        started = threading.Event()
        self._server = make_server(self.service, started.set)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [bound]}, name="local-service", daemon=True
        )
        self._thread.start()
        if not started.wait(START_SECONDS):
            raise RuntimeError(f"the local service did not start at {self.url}")

    def stop(self) -> None:
        """Stop, and leave the data folder to the next start."""
        self._server.should_exit = True
        self._thread.join()
        self._opened.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
