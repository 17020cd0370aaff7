"""Fixtures: a running local service, and a caller that uses it over HTTP like any client."""

import fcntl
import json
import os
import pickle
import socket
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from include.local_service.coder.coder import Coder
from include.local_service.coder.workbooks import import_workbooks
from include.local_service.core.coders import MODEL_FOLDER
from include.local_service.http.server import LocalService

SSE = "x-amz-server-side-encryption"
SSE_KEY = "x-amz-server-side-encryption-aws-kms-key-id"
SHARED_DATA = Path(os.environ.get("SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
TIMEOUT_S = 20
OTHER_CLIENT = ("second-client", "second-secret")
SETTINGS = {"coder": "stub", "progression": "immediate", "other_clients": dict([OTHER_CLIENT])}


class Caller:
    """Calls the service at `url` with the credentials of one client."""

    def __init__(self, url, session, credentials=("local-client", "local-secret"), service=None):
        self.url = url
        self.service = service
        self.session = session
        self.credentials = credentials
        self.token = None

    def request_token(self, data="grant_type=client_credentials", auth=None, **headers):
        headers = {"Content-Type": "application/x-www-form-urlencoded", **headers}
        return self.session.post(
            f"{self.url}/oauth2/token", data=data, auth=auth or self.credentials, headers=headers
        )

    def call(self, method, path, **options):
        self.token = self.token or self.request_token().json()["access_token"]
        headers = {"Authorization": self.token, **options.pop("headers", {})}
        return self.session.request(method, f"{self.url}/v1/{path}", headers=headers, **options)

    def get(self, path, **options):
        return self.call("GET", path, **options)

    def post(self, path, **options):
        return self.call("POST", path, **options)

    def create(self, topic="osca", model=None):
        path = f"topics/{topic}/models/{model}" if model else f"topics/{topic}"
        response = self.post(f"{path}/batch-code")
        assert response.status_code == 200, response.text
        return response.json()

    def upload(self, grant, body, **headers):
        headers = {SSE: "aws:kms", SSE_KEY: grant["bucketKmsKeyArn"], **headers}
        headers = {name: value for name, value in headers.items() if value is not None}
        return self.session.put(grant["requestUploadUrl"], data=body, headers=headers)

    def submit(self, body, topic="osca", model=None):
        """Create an operation, upload its input, and return its id."""
        grant = self.create(topic, model)
        response = self.upload(grant, body)
        assert response.status_code == 200, response.text
        return grant["operationId"]

    def status(self, operation_id, topic="osca"):
        response = self.get(f"topics/{topic}/batch-code/operations/{operation_id}")
        assert response.status_code == 200, response.text
        return response.json()

    def wait_for(self, operation_id, state="complete", topic="osca"):
        """Poll until the operation is in this state; fail if it ends in another."""
        deadline = time.monotonic() + TIMEOUT_S
        while (status := self.status(operation_id, topic))["operationStatus"] != state:
            assert status["operationStatus"] in {"awaiting_input", "in_progress"}, status
            assert time.monotonic() < deadline, status
            time.sleep(0.01)
        return status

    def output(self, operation_id):
        """Wait for the operation and return its output file as text."""
        response = self.session.get(self.wait_for(operation_id)["responseDownloadUrl"])
        assert response.status_code == 200, response.text
        return response.text

    def wait_until(self, condition):
        """Call a function until it returns a true value."""
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def wait_for_entry(self, matches):
        """Wait until the journal has a matching entry and return it."""
        entries = []
        self.wait_until(lambda: entries.extend(filter(matches, self.journal())) or entries)
        return entries[0]

    def knob(self, method, name, arguments=None, **params):
        response = self.session.request(method, f"{self.url}/_local/{name}", json=arguments, params=params)
        assert response.status_code == 200, response.text
        return response.json()

    def files(self, folder):
        """Return the files in this folder of the service's objects."""
        return list((self.service.data_dir / "objects" / folder).iterdir())

    def fault(self, name, **options):
        return self.knob("POST", "faults", {"name": name, **options})

    def jump(self, seconds):
        return self.knob("POST", "clock", {"jump_seconds": seconds})

    def journal(self, since=0):
        return self.knob("GET", "journal", since=since)["entries"]

    def raw(self, text, body=b""):
        """Send a request byte for byte and return the response as text; the service must close the connection."""
        return self.raw_bytes(text, body).decode()

    def raw_bytes(self, text, body):
        """Send a request byte for byte and return the response; the service must close the connection."""
        address = urlsplit(self.url)
        with socket.create_connection((address.hostname, address.port), timeout=TIMEOUT_S) as connection:
            connection.sendall(text.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
            response = b""
            while data := connection.recv(65536):
                response += data
        return response


def to_jsonl(*records):
    """Return records as JSONL."""
    return "".join(json.dumps(record) + "\n" for record in records)


def make_input(count, prefix="worker"):
    """Return an input file with this number of valid records."""
    return to_jsonl(
        *({"recordId": f"r{n}", "occp_text": f"{prefix} {n}", "tasks_text": "does the work"} for n in range(count))
    )


def read_lines(text):
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory):
    """A folder of this pytest run; all xdist workers share it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "local_service"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def once_per_run(run_dir):
    """A function that returns a value which is computed only once per pytest run, whatever the number of workers."""

    def get(name, compute):
        path = run_dir / f"{name}.pickle"
        with (run_dir / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                path.write_bytes(pickle.dumps(compute()))
        return pickle.loads(path.read_bytes())

    return get


@pytest.fixture(scope="session")
def released_workbooks():
    """The folder of the ABS workbooks as released."""
    folder = SHARED_DATA / "abs_original"
    if not folder.exists():
        pytest.skip(f"no ABS workbooks in {folder}. Set SHARED_DATA to the folder that contains them.")
    return folder


@pytest.fixture(scope="session")
def osca(released_workbooks, once_per_run):
    """The categories of OSCA."""
    files = [released_workbooks / f"OSCA {name}.xlsx" for name in ("structure", "Category Descriptions")]
    return once_per_run("osca", lambda: import_workbooks(*files))


@pytest.fixture(scope="session")
def data_dir_with_model(run_dir):
    """A data folder for the model file of the shipped classification, which the fixture `coder` trains."""
    return run_dir / "data"


@pytest.fixture(scope="session")
def coder(data_dir_with_model, once_per_run):
    """The coder on the shipped classification."""
    return once_per_run("coder", lambda: Coder.load(data_dir_with_model / MODEL_FOLDER))


@pytest.fixture(scope="session")
def session():
    with requests.Session() as session:
        session.trust_env = False
        yield session


@pytest.fixture
def start(tmp_path, session):
    """A function that starts a service with special settings and returns its caller."""
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
    """The caller of a service without earlier state, which shows the end of operations at once."""
    caller = Caller(shared_service.url, session, service=shared_service)
    caller.knob("POST", "reset")
    return caller


@pytest.fixture
def other_caller(caller, session):
    """A second client of the same service."""
    return Caller(caller.url, session, OTHER_CLIENT)
