"""Connections of requests that end in time, whatever the other side does.

The timeout of a socket limits each pause between two bytes, so an answer of one byte a second never ends, and it does
not limit the look-up of a host name at all.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar, Self, TypeVar

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, ProtocolError

T = TypeVar("T")

#: Bytes of a chunked body that are read at a time.
CHUNKED_BLOCK_BYTES = 64 << 10


class Watchdog:
    """Limits the time of a block that waits for another machine: `with Watchdog(60, abort): ...`.

    :param seconds: how long the block can take
    :param abort: called in another thread when the time is up; makes the wait of the block end
    :raises TimeoutError: at the end of the block: the time was up
    """

    def __init__(self, seconds: float, abort: Callable[[], Any]) -> None:
        self._end, self._abort = time.monotonic() + seconds, abort
        self._is_done, self.has_expired = threading.Event(), False
        self._thread = threading.Thread(target=self._watch, name="coding-service-watchdog", daemon=True)

    def restart(self, seconds: float) -> None:
        """Give the block so many seconds from now on."""
        self._end = time.monotonic() + seconds

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> None:
        self._is_done.set()
        self._thread.join()
        if self.has_expired and (kind is None or issubclass(kind, Exception)):
            raise TimeoutError("the time is up") from None

    def _watch(self) -> None:
        while (seconds := self._end - time.monotonic()) > 0:
            if self._is_done.wait(seconds):
                return
        self.has_expired = True
        with suppress(OSError, ValueError, RuntimeError):  # the connection has ended by itself
            self._abort()


def run_with_deadline(function: Callable[[], T], seconds: float | None) -> T:
    """Return the result of a function that runs in a thread of its own, which goes on alone after the deadline.

    :raises TimeoutError: the function did not end in time
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:  # noqa: BLE001 - raised by the caller
            outcome.set_exception(error)

    threading.Thread(target=run, name="coding-service-connect", daemon=True).start()
    return outcome.result(seconds)


def watch_body(response: requests.Response, seconds: float) -> Watchdog:
    """Return a watchdog for a block that reads the body of an answer."""
    return Watchdog(seconds, getattr(response.raw, "abort", response.raw.shutdown))


def read_blocks(response: requests.Response, size: int) -> Iterator[bytes]:
    """Yield the body of an answer as it is sent, in blocks of `size` bytes.

    `stream` of urllib3 does the same, but reads the line before each chunk of a chunked body whatever its length. The
    blocks of such a body are small, because a part of the last one is lost when the connection breaks.
    """
    size = min(size, CHUNKED_BLOCK_BYTES) if response.headers.get("Transfer-Encoding") else size
    try:
        while block := response.raw.read(size, decode_content=False):
            yield block
    except ProtocolError as error:
        whole_chunks = getattr(error.args[-1], "partial", None)
        if isinstance(whole_chunks, bytes) and whole_chunks:
            yield whole_chunks
        raise


class BoundedConnection(HTTPConnection):
    """Connects, look-up of the host name included, within its timeout, and then receives the head of an answer within
    its timeout."""

    def _new_conn(self) -> socket.socket:
        try:
            return run_with_deadline(super()._new_conn, self.timeout)
        except TimeoutError:
            raise ConnectTimeoutError(self, f"no connection to {self.host} within {self.timeout} s") from None

    def _tunnel(self) -> None:
        with self._watchdog():
            super()._tunnel()

    def getresponse(self) -> Any:
        answer: Any
        abort, answer = self._make_abort(), None
        try:
            with self._watchdog():
                answer = super().getresponse()
        except TimeoutError:
            if answer is not None:  # a head that ends early looks complete
                answer.close()
            raise
        answer.abort = abort  # for `watch_body`: its own `shutdown` has no effect while the other side sends
        return answer

    def _watchdog(self) -> Watchdog:
        return Watchdog(threading.TIMEOUT_MAX if self.timeout is None else self.timeout, self._make_abort())

    def _make_abort(self) -> Callable[[], None]:
        # the socket of a connection through a TLS proxy is wrapped twice
        return partial(socket.socket.shutdown, getattr(self.sock, "socket", self.sock), socket.SHUT_RDWR)


class BoundedTlsConnection(BoundedConnection, HTTPSConnection):
    """The same over TLS."""


class _Pool(HTTPConnectionPool):
    ConnectionCls = BoundedConnection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = BoundedTlsConnection


class BoundedAdapter(HTTPAdapter):
    """Sends requests over bounded connections, and follows no redirect."""

    pool_classes: ClassVar[dict[str, Any]] = {"http": _Pool, "https": _TlsPool}

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self._use_bounded_connections(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **options)
        if not proxy.lower().startswith("socks"):  # which has connections of its own
            self._use_bounded_connections(manager)
        return manager

    def build_response(self, request: Any, answer: Any) -> requests.Response:
        response = super().build_response(request, answer)
        # requests reads the whole body of a redirect, also of one that it does not follow
        response.headers.pop("Location", None)
        return response

    def _use_bounded_connections(self, manager: PoolManager) -> None:
        manager.pool_classes_by_scheme = {**manager.pool_classes_by_scheme, **self.pool_classes}
