"""No answer of the service can cost more than its limits: bytes, time, depth. Both hooks keep them alike."""

import gzip
import itertools
import json
import socket
import threading
import zlib
from contextlib import suppress
from uuid import uuid4

import pytest
import requests

from coding_service import CodingServiceAsyncHook, CodingServiceHook
from coding_service.answer_limits import MAX_ANSWER_BYTES, MAX_ERROR_BYTES, MAX_JSON_DEPTH, AnswerBody, parse_json
from coding_service.bounded_connections import Watchdog, run_with_deadline
from coding_service.errors import (
    CodingServiceError,
    NotFoundError,
    ProtocolError,
    RequestRefusedError,
    ServiceUnavailableError,
)

STATUS = {"operationStatus": "in_progress"}
TOKEN = {"access_token": "t0ken"}
#: A process may use this much memory beyond what it had before the answer.
MAX_GROWTH_KIB = 50_000
#: Size of an answer that would take more memory.
LARGE_MIB = 200
#: A deadline for what must end, far above what it needs.
PATIENCE_S = 60


@pytest.fixture(params=[CodingServiceHook, CodingServiceAsyncHook])
def ask(request):
    """Return a function that makes a status call: with the synchronous hook, then with the asynchronous one."""

    async def make_call():
        if request.param is CodingServiceAsyncHook:
            return await CodingServiceAsyncHook().operation("osca", "00000000-0000-4000-8000-000000000001")
        return CodingServiceHook().operation("osca", "00000000-0000-4000-8000-000000000001")

    return make_call


@pytest.fixture
def answer_with(serve, connect):
    """Return a function that starts a service whose status calls are answered by a function of the reply."""

    def start(write, **extra):
        def answer(request, reply):
            if request.path == "/oauth2/token":
                reply(200, TOKEN)
            else:
                write(reply)

        server = serve(answer)
        connect(server.url, **extra)
        return server

    return start


def gzip_bomb(size):
    """Yield a gzip file of `size` zero bytes in pieces of some KiB."""
    packer = zlib.compressobj(9, wbits=zlib.MAX_WBITS | 16)
    block = bytes(1 << 20)
    for _ in range(size >> 20):
        yield packer.compress(block)
    yield packer.flush()


# ---- size --------------------------------------------------------------------------------------------------------


async def test_an_answer_is_asked_for_without_compression(answer_with, ask):
    server = answer_with(lambda reply: reply(200, STATUS))
    await ask()
    assert [request.header("Accept-Encoding") for request in server.requests] == ["identity", "identity"]


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
async def test_an_answer_that_is_compressed_nevertheless_is_read(answer_with, ask, pack):
    body, name = pack(json.dumps(STATUS).encode()), "gzip" if pack is gzip.compress else "deflate"
    answer_with(lambda reply: reply(200, body, Content_Encoding=name))
    assert (await ask()).status == "in_progress"


@pytest.mark.parametrize(
    ("body", "encoding", "words"),
    [
        (gzip.compress(json.dumps(STATUS).encode())[:-9], "gzip", "incomplete"),
        (b"no gzip at all", "gzip", "damaged"),
        (b"x", "br", "encoded as 'br'"),
        (gzip.compress(bytes(MAX_ANSWER_BYTES + 1)), "gzip", "more than 1048576 bytes"),
    ],
    ids=["incomplete", "damaged", "unknown encoding", "too large"],
)
async def test_an_answer_whose_compression_cannot_be_read_is_retryable(answer_with, ask, body, encoding, words):
    answer_with(lambda reply: reply(200, body, Content_Encoding=encoding))
    with pytest.raises(
        ServiceUnavailableError,
        match=rf"the answer is .*{words}.* \(GET .*operations/00000000-0000-4000-8000-000000000001\)",
    ):
        await ask()


async def test_an_answer_of_exactly_the_limit_is_read(answer_with, ask):
    body = json.dumps(STATUS).encode().ljust(MAX_ANSWER_BYTES)
    answer_with(lambda reply: reply(200, body))
    assert (await ask()).status == "in_progress"


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_an_answer_above_the_limit_is_retryable(answer_with, ask, is_chunked):
    body = json.dumps(STATUS).encode().ljust(MAX_ANSWER_BYTES + 1)
    answer_with(lambda reply: reply.chunked([body]) if is_chunked else reply(200, body))
    with pytest.raises(ServiceUnavailableError, match="a body of more than 1048576 bytes"):
        await ask()


async def test_a_token_answer_above_the_limit_is_retryable(serve, connect, ask):
    connect(serve(lambda request, reply: reply(200, bytes(MAX_ANSWER_BYTES + 1))).url)
    with pytest.raises(ServiceUnavailableError, match=r"the answer is a body of more than .* \(POST .*token\)"):
        await ask()


@pytest.mark.parametrize(("status", "error"), [(404, NotFoundError), (503, ServiceUnavailableError)])
@pytest.mark.parametrize("encoding", ["identity", "gzip", "br"])
async def test_a_long_refusal_keeps_its_meaning(answer_with, ask, status, error, encoding):
    body = b"<html>" + b"x" * (MAX_ANSWER_BYTES + 1)
    body = gzip.compress(body) if encoding == "gzip" else body
    answer_with(lambda reply: reply(status, body, Content_Encoding=encoding))
    with pytest.raises(error, match=rf"HTTP {status} '(<html>x+ \.\.\.|\(no body\))'") as caught:
        await ask()
    assert len(str(caught.value)) < 1000


def test_of_a_refusal_no_more_than_its_limit_is_kept():
    body = AnswerBody(500, {})
    assert body.add(bytes(MAX_ERROR_BYTES)) is True
    assert body.add(b"x") is False
    assert len(body.finish()) == MAX_ERROR_BYTES


async def test_the_body_of_a_redirect_is_not_read(answer_with, ask):
    answer_with(lambda reply: reply(302, b"x" * MAX_ANSWER_BYTES, Location="/elsewhere"))
    with pytest.raises(RequestRefusedError, match="HTTP 302") as caught:
        await ask()
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("headers", [{"X-Long": "x" * 70_000}, {f"X-{number}": "x" for number in range(1000)}])
async def test_headers_that_are_too_long_or_too_many_are_refused(answer_with, ask, headers):
    answer_with(lambda reply: reply(200, STATUS, **headers))
    with pytest.raises(ServiceUnavailableError, match="failed without an answer"):
        await ask()


MEASURE = """
import asyncio, sys
from coding_service import CodingServiceAsyncHook, CodingServiceHook
from coding_service.errors import ServiceUnavailableError

def high_water_mark():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(lines["VmHWM"].split()[0])

hook = CodingServiceHook() if sys.argv[1] == "sync" else CodingServiceAsyncHook()
call = lambda guid: hook.operation("osca", guid) if sys.argv[1] == "sync" else asyncio.run(hook.operation("osca", guid))
call(sys.argv[3])
before = high_water_mark()
try:
    call(sys.argv[4])
except ServiceUnavailableError as error:
    assert sys.argv[2] in str(error), error
else:
    raise SystemExit("the answer was accepted")
print(high_water_mark() - before)
"""


@pytest.mark.parametrize("hook", ["sync", "async"])
@pytest.mark.parametrize("attack", ["a long answer", "a gzip bomb", "a line before a chunk"])
def test_a_large_answer_takes_little_memory(serve, connect, run_python, hook, attack):
    def answer(request, reply):
        if request.path == "/oauth2/token":
            reply(200, TOKEN)
        elif request.path.endswith(small):
            reply(200, STATUS)
        elif attack == "a long answer":
            reply.chunked(itertools.repeat(b" " * (1 << 20), LARGE_MIB))
        elif attack == "a line before a chunk":
            reply.write_blocks(itertools.repeat(b"0" * (1 << 20), LARGE_MIB), Transfer_Encoding="chunked")
        else:
            reply(200, bomb, Content_Encoding="gzip")

    small, large = str(uuid4()), str(uuid4())
    bomb = b"".join(gzip_bomb(LARGE_MIB << 20)) if attack == "a gzip bomb" else b""
    connect(serve(answer).url)
    words = "failed without an answer" if attack == "a line before a chunk" else "more than 1048576 bytes"
    assert int(run_python(MEASURE, hook, words, small, large)) < MAX_GROWTH_KIB


# ---- time --------------------------------------------------------------------------------------------------------


class RawSocketServer:
    """A server that gives each connection to a function, which need not speak HTTP."""

    def __init__(self, talk):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.is_stopped, self._talk = threading.Event(), talk
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self):
        threads = []
        while not self.is_stopped.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                break
            threads.append(threading.Thread(target=self._serve, args=[connection]))
            threads[-1].start()
        for thread in threads:
            thread.join()

    def _serve(self, connection):
        with connection, suppress(OSError):
            self._talk(connection, self.is_stopped)

    def stop(self):
        self.is_stopped.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def serve_raw():
    servers = []

    def start(talk):
        servers.append(RawSocketServer(talk))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def drip(head, pieces):
    """Return how a server sends `head`, and then a piece every tenth of a second, for ever."""

    def talk(connection, is_stopped):
        connection.recv(65536)
        connection.sendall(head)
        for piece in itertools.cycle(pieces):
            if is_stopped.wait(0.1):
                return
            connection.sendall(piece)

    return talk


def say_nothing(connection, is_stopped):
    is_stopped.wait(PATIENCE_S)


def close_half(connection, is_stopped):
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{")
    connection.shutdown(socket.SHUT_WR)
    is_stopped.wait(PATIENCE_S)


HEAD = b"HTTP/1.1 200 OK\r\n"
ATTACKS = {
    "nothing": say_nothing,
    "half a connection": close_half,
    "a head byte by byte": drip(HEAD + b"X-Slow: ", [b"x"]),
    "one header after another": drip(HEAD, [b"X-Slow: x\r\n"]),
    "interim answers": drip(b"", [b"HTTP/1.1 100 Continue\r\n\r\n"]),
    "a body byte by byte": drip(HEAD + b"Content-Length: 9999\r\n\r\n", [b" "]),
    "a body in chunks": drip(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", [b"1\r\n \r\n"]),
    "the size of a chunk": drip(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", [b"0"]),
    "a redirect byte by byte": drip(
        b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 9999\r\n\r\n", [b" "]
    ),
    "a refusal byte by byte": drip(b"HTTP/1.1 404 Not Found\r\nContent-Length: 9999\r\n\r\n", [b" "]),
}


@pytest.mark.parametrize("attack", ATTACKS)
async def test_an_answer_that_never_ends_is_given_up(serve_raw, connect, ask, attack):
    connect(serve_raw(ATTACKS[attack]).url, timeout=0.5)
    with pytest.raises(ServiceUnavailableError, match="failed without an answer"):
        await ask()


async def test_a_name_whose_look_up_hangs_is_given_up(connect, ask, monkeypatch):
    def hang(*args, **options):
        is_over.wait(PATIENCE_S)
        raise socket.gaierror

    is_over = threading.Event()
    connect("http://coder.example", allow_http=True, timeout=0.3, trust_env=False)
    monkeypatch.setattr(socket, "getaddrinfo", hang)
    try:
        with pytest.raises(ServiceUnavailableError, match="failed without an answer .*Time"):
            await ask()
    finally:
        is_over.set()


def test_a_watchdog_ends_a_block_and_says_so():
    is_aborted = threading.Event()
    with pytest.raises(TimeoutError), Watchdog(0.01, is_aborted.set):
        assert is_aborted.wait(PATIENCE_S)


def test_a_watchdog_does_not_disturb_a_block_that_ends_in_time():
    is_aborted = threading.Event()
    with Watchdog(PATIENCE_S, is_aborted.set) as watchdog:
        watchdog.restart(PATIENCE_S)
    assert not is_aborted.is_set()
    assert not watchdog.has_expired


def test_what_ends_a_task_passes_a_watchdog():
    is_aborted = threading.Event()

    def be_interrupted():
        with Watchdog(0.0, is_aborted.set):
            assert is_aborted.wait(PATIENCE_S)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        be_interrupted()


def test_an_error_before_the_deadline_is_raised_as_it_is():
    def fail():
        raise KeyError("x")

    with pytest.raises(KeyError):
        run_with_deadline(fail, PATIENCE_S)


def test_a_redirect_is_answered_without_a_target(serve):
    from coding_service.bounded_connections import BoundedAdapter

    server = serve(lambda request, reply: reply(302, b"x", Location="/elsewhere"))
    with requests.Session() as session:
        session.mount("http://", BoundedAdapter())
        answer = session.get(server.url, stream=True)
    assert (answer.status_code, answer.is_redirect) == (302, False)
    assert len(server.requests) == 1


# ---- JSON --------------------------------------------------------------------------------------------------------


def nested(depth):
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize("depth", [MAX_JSON_DEPTH + 1, 900, 100_000])
async def test_an_answer_that_is_nested_too_deeply_is_an_error_of_the_protocol(answer_with, ask, depth):
    answer_with(lambda reply: reply(200, b'{"operationStatus": ' + nested(depth) + b"}"))
    with pytest.raises(ProtocolError, match="is not JSON"):
        await ask()


@pytest.mark.parametrize("depth", [900, 100_000])
async def test_a_refusal_that_is_nested_too_deeply_keeps_its_meaning(answer_with, ask, depth):
    answer_with(lambda reply: reply(404, nested(depth)))
    with pytest.raises(NotFoundError):
        await ask()


@pytest.mark.parametrize(
    "text",
    [
        b"NaN", b"-Infinity", b"1e999", b"[1" + b"0" * 30 + b"]", b"[1" + b"0" * 9000 + b"]", b'"\xff"', b'"\\ud800"',
        b'{"\\udfff": 1}', b'{"a": 1, "a": 2}', b'{"a": [1], "a": [2]}', b"", b"{",
        nested(MAX_JSON_DEPTH + 2), nested(100_000),
    ],
)  # fmt: skip
def test_json_that_could_harm_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011 - any ValueError
        parse_json(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"\xef\xbb\xbf{}", {}),
        ('{"a": "ü"}'.encode("utf-16"), {"a": "ü"}),
        (b'{"a": 1, "a": 1}', {"a": 1}),
        (b"[18446744073709551615, 1e308, -0.5]", [18446744073709551615, 1e308, -0.5]),
        (b'"\\ud83d\\ude00"', "\U0001f600"),
        (nested(MAX_JSON_DEPTH), None),
    ],
)
def test_json_that_differs_harmlessly_is_read(text, value):
    assert parse_json(text) == value or value is None


async def test_no_odd_answer_raises_another_error(answer_with, ask):
    bodies = iter([b"null", b"[]", b'"x"', b"1", b'{"operationStatus": 1}', b'{"operationStatus": {}}', b"\x00"])
    answer_with(lambda reply: reply(200, next(bodies)))
    for _ in range(7):
        with pytest.raises(CodingServiceError):
            await ask()
