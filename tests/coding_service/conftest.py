"""Fixtures: a running local coding service, an Airflow connection to it, and the context of a task."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
from cryptography.fernet import Fernet

from coding_service import CodingServiceHook
from include.local_service.http.server import LocalService

ROOT = Path(__file__).parents[2]
CONN_ID = "coding_service_default"


class Remote:
    """A running local coding service, its controls and its journal."""

    def __init__(self, service, session):
        self.service, self.url, self._session = service, service.url, session

    def knob(self, method, name, arguments=None, **params):
        answer = self._session.request(method, f"{self.url}/_local/{name}", json=arguments, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def fault(self, name, **options):
        self.knob("POST", "faults", {"name": name, **options})

    def jump(self, seconds):
        self.knob("POST", "clock", {"jump_seconds": seconds})

    def progression(self, name, **options):
        self.knob("POST", "progression", {"progression": name, **options})

    def operations(self):
        return self.knob("GET", "operations")["operations"]

    def journal(self, method=None, contains=""):
        """Return the requests so far with this method and this text in their path."""
        uploads = {one["operation_id"] for one in self.operations() if one["uploaded_at"]}
        while True:  # the answer to an upload can arrive a moment before its journal entry
            entries = self.knob("GET", "journal")["entries"]
            if uploads <= {one["operation_id"] for one in entries if (one["method"], one["status"]) == ("PUT", 200)}:
                break
        return [one for one in entries if method in (None, one["method"]) and contains in one["path"]]

    def forget_tokens(self):
        """Revoke every token, as if an hour had passed."""
        self.jump(3601)


@pytest.fixture(scope="session")
def plain_session():
    with requests.Session() as session:
        session.trust_env = False
        yield session


@pytest.fixture(scope="session")
def running_service(tmp_path_factory):
    with LocalService(tmp_path_factory.mktemp("service"), coder="stub", progression="immediate") as service:
        yield service


@pytest.fixture
def remote(running_service, plain_session):
    """A local service without any state, whose operations end at once."""
    remote = Remote(running_service, plain_session)
    remote.knob("POST", "reset")
    remote.progression("immediate")
    return remote


@pytest.fixture
def connect(monkeypatch, tmp_path):
    """Return a function that defines the Airflow connection; fields and extra fields as keywords."""

    def define(
        url, *, conn_id=CONN_ID, login="local-client", password="local-secret", port=None, schema=None, **extra
    ):
        fields = {"conn_type": "coding_service", "host": url, "login": login, "password": password}
        settings = {"auth_host": url, "requests_per_second": 10_000, "state_dir": str(tmp_path / "state"), **extra}
        extra = {name: value for name, value in settings.items() if value is not None}
        connection = {**fields, "port": port, "schema": schema, "extra": extra}
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(connection))
        return tmp_path / "state"

    return define


@pytest.fixture
def budget_database(postgres, monkeypatch):
    """Return the name of an empty database for the call budget; the Airflow connection `budget` leads to it."""
    name = postgres.create_database()
    connection = {"conn_type": "postgres", "host": postgres.socket_folder, "login": "postgres", "schema": name}
    monkeypatch.setenv("AIRFLOW_CONN_BUDGET", json.dumps(connection))
    return name


@pytest.fixture(params=["file", "postgres"])
def budget_extra(request):
    """Return the extra fields that select where the budget is kept, once for each kind."""
    if request.param == "file":
        return {}
    request.getfixturevalue("budget_database")
    return {"budget_conn_id": "budget"}


@pytest.fixture
def connected(remote, connect):
    """The local service, with the default connection pointing to it."""
    connect(remote.url)
    return remote


@dataclass(frozen=True)
class ReceivedRequest:
    """A request that a server received."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name):
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


class RawServer:
    """A server whose answers a test defines, and which keeps the requests that it received.

    :param answer: called with each request and a :class:`Reply`
    """

    def __init__(self, answer):
        self.requests = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler(answer))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def _handler(self, answer):
        received = self.requests

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def handle_one_request(self):
                try:
                    super().handle_one_request()
                except (ConnectionError, TimeoutError):
                    self.close_connection = True

            def reply(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                received.append(ReceivedRequest(self.command, self.path, self.headers.items(), body))
                answer(received[-1], Reply(self))

            do_GET = do_PUT = do_POST = reply

            def log_message(self, *args):
                pass

        return Handler

    def stop(self):
        """Stop the server; a second call has no effect."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Reply:
    """Ways to answer a request."""

    def __init__(self, handler):
        self._handler = handler

    def __call__(self, status, body=b"", **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self._head(status, {"Content-Length": str(len(body)), **headers})
        self._handler.wfile.write(body)

    def broken(self, status, body, length, **headers):
        """Promise `length` bytes, send `body`, and close the connection."""
        self._head(status, {"Content-Length": str(length), **headers})
        self._handler.wfile.write(body)
        self.cut()

    def stream(self, blocks, length):
        self._head(200, {"Content-Length": str(length), "ETag": '"big"'})
        for block in blocks:
            self._handler.wfile.write(block)

    def write_blocks(self, blocks, **headers):
        """Send the blocks as they are, whatever the headers say."""
        self._head(200, headers)
        for block in blocks:
            self._handler.wfile.write(block)
        self.cut()

    def write_raw(self, pieces):
        """Send the pieces at once, without a head."""
        for piece in pieces:
            self._handler.wfile.write(piece)
            self._handler.wfile.flush()

    def chunked(self, blocks, *, is_complete=True):
        """Send the blocks without a length; without the last chunk if the body is not to be complete."""
        self._head(200, {"Transfer-Encoding": "chunked", "ETag": '"big"'})
        for block in blocks:
            self._handler.wfile.write(b"%x\r\n%s\r\n" % (len(block), block))
        if is_complete:
            self._handler.wfile.write(b"0\r\n\r\n")
        else:
            self.cut()

    def until_closed(self, body):
        """Send a body whose end is that of the connection."""
        self._head(200, {"Connection": "close"})
        self._handler.wfile.write(body)
        self.cut()

    def cut(self):
        """Close the connection without sending anything more."""
        self._handler.wfile.flush()
        self._handler.connection.shutdown(socket.SHUT_RDWR)
        self._handler.close_connection = True

    def _head(self, status, headers):
        self._handler.send_response_only(status)
        for name, value in headers.items():
            self._handler.send_header(name.replace("_", "-"), value)
        self._handler.end_headers()


@pytest.fixture
def serve():
    """Return a function that starts a server with a function that answers its requests."""
    running = []

    def start(answer):
        running.append(RawServer(answer))
        return running[-1]

    yield start
    for server in running:
        server.stop()


class FakeClock:
    """A clock whose pauses pass at once, and which a test can move."""

    def __init__(self):
        self.pauses, self._offset = [], 0.0

    def now(self):
        return time.time() + self._offset

    def sleep(self, seconds):
        self.pauses.append(seconds)
        self._offset += seconds

    def jump(self, seconds):
        self._offset += seconds


@pytest.fixture
def clock(monkeypatch):
    """The clock of every hook in the test."""
    clock = FakeClock()
    monkeypatch.setattr(CodingServiceHook, "clock", clock)
    return clock


class FakeStore:
    """A fake of Airflow's task state store: JSON values by key."""

    def __init__(self):
        self.values = {}

    def get(self, key):
        return json.loads(self.values[key]) if key in self.values else None

    def set(self, key, value):
        self.values[key] = json.dumps(value)


class FakeTaskInstance:
    """A fake of the running task instance: keeps XComs, and has never been rescheduled."""

    def __init__(self):
        self.xcoms = {}
        self.try_number = 1
        self.start_date = datetime.now(UTC)

    def xcom_push(self, key, value):
        self.xcoms[key] = json.loads(json.dumps(value))

    def get_first_reschedule_date(self, context):
        return None


@pytest.fixture
def new_context():
    """Return a function that makes the context of a task's first attempt."""
    return lambda: {"task_state_store": FakeStore(), "ti": FakeTaskInstance()}


@pytest.fixture
def context(new_context):
    return new_context()


@pytest.fixture
def run():
    """Return a function that runs a task as Airflow's task runner does."""
    from airflow.sdk.bases.operator import ExecutorSafeguard

    def execute(operator, context):
        mark = {f"{type(operator).__name__}__sentinel": ExecutorSafeguard.sentinel_value}
        return operator.execute(context, **mark)

    return execute


@pytest.fixture
def fernet_key(monkeypatch):
    """Return a function that sets Airflow's Fernet key; "" for none."""
    from airflow.sdk.crypto import get_fernet

    def use(key):
        monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", key)
        get_fernet.cache_clear()

    yield use
    get_fernet.cache_clear()


@pytest.fixture
def encrypted(fernet_key):
    """Set a Fernet key for Airflow."""
    fernet_key(Fernet.generate_key().decode())


@pytest.fixture
def input_file(tmp_path):
    """Return the path of an input file of three lines."""
    path = tmp_path / "part-0.jsonl"
    lines = [{"recordId": f"r{n}", "occp_text": f"baker {n}", "tasks_text": "bakes"} for n in range(3)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def python_command(program, arguments):
    """Return the arguments of subprocess for a program in another interpreter that can import this project."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "plugins"), str(ROOT)])}
    return {"args": [sys.executable, "-c", program, *map(str, arguments)], "env": environment}


@pytest.fixture
def run_python():
    """Return a function that runs a program in another interpreter and returns its output."""

    def run_program(program, *arguments):
        process = subprocess.run(
            **python_command(program, arguments), capture_output=True, text=True, check=False, timeout=120
        )
        assert process.returncode == 0, process.stderr
        return process.stdout

    return run_program


@pytest.fixture
def start_python():
    """Return a function that starts a program in another interpreter."""
    processes = []

    def start_program(program, *arguments):
        processes.append(subprocess.Popen(**python_command(program, arguments), stdout=subprocess.PIPE, text=True))
        return processes[-1]

    yield start_program
    for process in processes:
        process.kill()
        process.communicate()
