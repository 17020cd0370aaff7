"""ASGI middleware: records every request in the journal, and ends the connections that a fault cuts."""

from __future__ import annotations

import asyncio
import socket
import struct
from enum import StrEnum
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from include.local_service.core.service import CodingService
from include.local_service.core.store import JournalEntry

KNOBS_PREFIX = "/_local/"


class Ending(StrEnum):
    """How a fault ends a connection."""

    CLOSE = "close"  # what was written is still sent
    ABORT = "abort"  # at once; data that was not read makes it a TCP reset
    RESET = "reset"  # with a TCP reset, as if the machine had crashed; not even what was written may arrive


class CutConnection(Exception):
    """Ends the connection without the rest of the response, for a fault. Not an error."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending)
        self.ending = ending


class Journal:
    """Records one entry for each request outside ``/_local/``."""

    def __init__(self, app: ASGIApp, service: CodingService) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(KNOBS_PREFIX):
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._service)
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except CutConnection as cut:
            await exchange.record()
            await exchange.cut(cut.ending)
        finally:
            await exchange.record()


class _Exchange:
    def __init__(self, scope: Scope, receive: Receive, send: Send, service: CodingService) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._service = service
        self._time = service.clock.now()
        self._status: int | None = None
        self._received = 0
        self._sent = 0
        self._length: int | None = None
        self._is_recorded = False

    async def receive(self) -> Message:
        message = await self._receive()
        self._received += len(message.get("body", b""))
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            length = Headers(raw=message["headers"]).get("content-length")
            self._length = int(length) if length else None
        self._sent += len(message.get("body", b""))
        if self._is_last(message):
            # Recorded before the last byte is sent: a client with the response finds its request in the journal.
            await self.record()
        await self._send(message)

    def _is_last(self, message: Message) -> bool:
        if message["type"] == "http.response.start":
            return self._length == 0 or self._scope["method"] == "HEAD" or message["status"] == 304
        return not message.get("more_body") or self._sent == self._length

    async def record(self) -> None:
        if self._is_recorded:
            return
        self._is_recorded = True
        fields = self._scope.get("state", {})
        entry = JournalEntry(
            time=self._time,
            method=self._scope["method"],
            path=self._scope["path"],
            status=fields.get("raw_status", self._status),
            client_id=fields.get("client_id"),
            operation_id=fields.get("operation_id"),
            bytes_received=self._received,
            bytes_sent=fields.get("raw_bytes_sent", self._sent),
        )
        await run_in_threadpool(self._service.store.add_entry, entry)

    async def cut(self, ending: Ending) -> None:
        transport: asyncio.Transport = self._scope["state"]["transport"]
        if ending is Ending.RESET:
            # With a linger time of 0, closing the socket resets the TCP connection.
            connection: Any = transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if ending is Ending.CLOSE:
            transport.close()
        else:
            transport.abort()
        while (await self._receive())["type"] != "http.disconnect":
            pass
