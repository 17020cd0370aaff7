"""A running local service for each test, and a caller that speaks to it over HTTP as any client would."""

import json
import socket
import time
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest
import requests

from include.local_service.http.server import LocalService

SSE = "x-amz-server-side-encryption"
SSE_KEY = "x-amz-server-side-encryption-aws-kms-key-id"
PATIENCE = 20
STRANGER = ("second-client", "second-secret")
SETTINGS = {"coder": "stub", "progression": "immediate", "other_clients": dict([STRANGER])}


class Caller:
    """Calls the service at `url` with the credentials of one client."""

    def __init__(self, url, session, credentials=("local-client", "local-secret"), service=None):
        self.url = url
        self.service = service
        self.session = session
        self.credentials = credentials
        self.token = None

    def ask_token(self, data="grant_type=client_credentials", auth=None, **headers):
        headers = {"Content-Type": "application/x-www-form-urlencoded", **headers}
        return self.session.post(
            f"{self.url}/oauth2/token", data=data, auth=auth or self.credentials, headers=headers
        )

    def call(self, method, path, **options):
        self.token = self.token or self.ask_token().json()["access_token"]
        headers = {"Authorization": self.token, **options.pop("headers", {})}
        return self.session.request(method, f"{self.url}/v1/{path}", headers=headers, **options)

    def get(self, path, **options):
        return self.call("GET", path, **options)

    def post(self, path, **options):
        return self.call("POST", path, **options)

    def create(self, topic="osca", model=None):
        place = f"topics/{topic}/models/{model}" if model else f"topics/{topic}"
        answer = self.post(f"{place}/batch-code")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def upload(self, grant, body, **headers):
        headers = {SSE: "aws:kms", SSE_KEY: grant["bucketKmsKeyArn"], **headers}
        kept = {name: value for name, value in headers.items() if value is not None}
        return self.session.put(grant["requestUploadUrl"], data=body, headers=kept)

    def submit(self, body, topic="osca", model=None):
        """Create an operation, upload its input, and return its id."""
        grant = self.create(topic, model)
        answer = self.upload(grant, body)
        assert answer.status_code == 200, answer.text
        return grant["operationId"]

    def status(self, operation_id, topic="osca"):
        answer = self.get(f"topics/{topic}/batch-code/operations/{operation_id}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def wait_for(self, operation_id, state="complete", topic="osca"):
        """Ask until the operation is in this state; fail when it ends in another."""
        deadline = time.monotonic() + PATIENCE
        while (status := self.status(operation_id, topic))["operationStatus"] != state:
            assert status["operationStatus"] in {"awaiting_input", "in_progress"}, status
            assert time.monotonic() < deadline, status
            time.sleep(0.01)
        return status

    def output(self, operation_id):
        """Wait for the operation and return its output file as text."""
        answer = self.session.get(self.wait_for(operation_id)["responseDownloadUrl"])
        assert answer.status_code == 200, answer.text
        return answer.text

    def wait_until(self, is_so):
        """Look until something is so."""
        deadline = time.monotonic() + PATIENCE
        while not is_so():
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def wait_for_entry(self, wanted):
        """Look until the journal has such an entry and return it."""
        found = []
        self.wait_until(lambda: found.extend(filter(wanted, self.journal())) or found)
        return found[0]

    def knob(self, method, name, arguments=None, **params):
        answer = self.session.request(method, f"{self.url}/_local/{name}", json=arguments, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def files(self, folder):
        """Return the files that the service has in this folder of its objects."""
        return list((self.service.data_dir / "objects" / folder).iterdir())

    def fault(self, name, **options):
        return self.knob("POST", "faults", {"name": name, **options})

    def jump(self, seconds):
        return self.knob("POST", "clock", {"jump_seconds": seconds})

    def journal(self, since=0):
        return self.knob("GET", "journal", since=since)["entries"]

    def raw(self, text, body=b""):
        """Send a request byte for byte and return the whole answer as text; the service must close."""
        return self.raw_bytes(text, body).decode()

    def raw_bytes(self, text, body):
        """Send a request byte for byte and return the whole answer; the service must close."""
        place = urlsplit(self.url)
        with socket.create_connection((place.hostname, place.port), timeout=PATIENCE) as connection:
            connection.sendall(text.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
            answer = b""
            while data := connection.recv(65536):
                answer += data
        return answer


def write_lines(*records):
    """Return records as JSONL."""
    return "".join(json.dumps(record) + "\n" for record in records)


def make_input(count, prefix="worker"):
    """Return an input file of so many good records."""
    return write_lines(
        *({"recordId": f"r{n}", "occp_text": f"{prefix} {n}", "tasks_text": "does the work"} for n in range(count))
    )


def read_lines(text):
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="session")
def session():
    with requests.Session() as session:
        session.trust_env = False
        yield session


@pytest.fixture
def start(tmp_path, session):
    """Start a service with settings of one's own; returns its caller."""
    with ExitStack() as running:

        def start_service(**settings):
            service = running.enter_context(LocalService(tmp_path / "data", **{**SETTINGS, **settings}))
            return Caller(service.url, session, service=service)

        yield start_service


@pytest.fixture(scope="session")
def shared_service(tmp_path_factory):
    with LocalService(tmp_path_factory.mktemp("shared") / "data", **SETTINGS) as service:
        yield service


@pytest.fixture
def caller(shared_service, session):
    """The caller of a service that remembers nothing and shows every end at once."""
    caller = Caller(shared_service.url, session, service=shared_service)
    caller.knob("POST", "reset")
    return caller


@pytest.fixture
def stranger(caller, session):
    """A second client of the same service."""
    return Caller(caller.url, session, STRANGER)
