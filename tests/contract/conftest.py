"""The service that the contract tests call: a local one, or the real one if the environment configures it.

With CODING_SERVICE_URL, CODING_AUTH_URL, CODING_CLIENT_ID and CODING_CLIENT_SECRET set, the same tests call the
real service: one call a second, at most three operations, a few lines of harmless text. Tests that move the clock
or exceed a limit are then skipped.
"""

import json
import os
import re
import time
from contextlib import ExitStack

import pytest
import requests

from include.local_service.http.server import LocalService

VARIABLES = ("CODING_SERVICE_URL", "CODING_AUTH_URL", "CODING_CLIENT_ID", "CODING_CLIENT_SECRET")
IS_REAL_SERVICE = all(os.environ.get(name) for name in VARIABLES)
CALL_INTERVAL_S = 1.1
MAX_OPERATIONS = 3
POLL_INTERVAL_S, OPERATION_TIMEOUT_S = (15, 3600) if IS_REAL_SERVICE else (0.01, 30)
TIMEOUT_S = 60
SSE = "x-amz-server-side-encryption"
SSE_KEY = "x-amz-server-side-encryption-aws-kms-key-id"
GUID = re.compile(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE)
NOWHERE = "00000000-0000-4000-8000-000000000000"
LOCAL_SETTINGS = {"coder": "stub", "progression": "by_polls", "polls": 1}

TEXTS = [
    ("aged care worker", "looks after residents"),
    ("Primary school teacher", ""),
    ("", "Repairing cars in a workshop"),
    ("electrician", "Installing and testing wiring in new houses. " * 6),
]
LINES = [
    {"recordId": f"line-{number}", "occp_text": occp, "tasks_text": tasks[: 300 - len(occp)]}
    for number, (occp, tasks) in enumerate(TEXTS)
]

needs_knobs = pytest.mark.skipif(IS_REAL_SERVICE, reason="needs to move the service's clock or to exceed its limits")


def to_jsonl(lines):
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def message(response):
    """Return the message of a refusal in lower case, from either spelling of the member, without a full stop."""
    body = response.json()
    return (body.get("message") or body["Message"]).rstrip(".").casefold()


class Service:
    """A service with two addresses and a pair of credentials."""

    def __init__(self, api_url, auth_url, client_id, client_secret, pause=0.0):
        self.api_url, self.auth_url = api_url.rstrip("/"), auth_url.rstrip("/")
        self.credentials = (client_id, client_secret)
        self.storage = requests.Session()
        self._api = requests.Session()
        self._pause, self._last = pause, 0.0
        self._token, self._operations = None, 0

    @property
    def token(self):
        self._token = self._token or self.request_token().json()["access_token"]
        return self._token

    def forget_token(self):
        self._token = None

    def request_token(self, data="grant_type=client_credentials", auth=None, **headers):
        headers = {"Content-Type": "application/x-www-form-urlencoded", **headers}
        url = f"{self.auth_url}/oauth2/token"
        return self._send("POST", url, data=data, auth=auth or self.credentials, headers=headers)

    def call(self, method, path, **options):
        headers = {"Content-Type": "application/json", **options.pop("headers", {})}
        if "Authorization" not in headers:
            headers["Authorization"] = self.token
        headers = {name: value for name, value in headers.items() if value is not None}
        return self._send(method, f"{self.api_url}/v1/{path}", headers=headers, **options)

    def get(self, path, **options):
        return self.call("GET", path, **options)

    def post(self, path, **options):
        return self.call("POST", path, **options)

    def _send(self, method, url, **options):
        wait = self._last + self._pause - time.monotonic()
        if wait > 0:
            time.sleep(wait)  # the call limit of the contract
        self._last = time.monotonic()
        return self._api.request(method, url, timeout=TIMEOUT_S, **options)

    def create(self, topic, model=None):
        self._operations += 1
        assert not self._pause or self._operations <= MAX_OPERATIONS, "too many operations at the real service"
        path = f"topics/{topic}/models/{model}" if model else f"topics/{topic}"
        return self.post(f"{path}/batch-code")

    def upload(self, grant, body, **headers):
        headers = {SSE: "aws:kms", SSE_KEY: grant["bucketKmsKeyArn"], **headers}
        headers = {name: value for name, value in headers.items() if value is not None}
        return self.storage.put(grant["requestUploadUrl"], data=body, headers=headers, timeout=TIMEOUT_S)

    def status(self, topic, operation_id):
        return self.get(f"topics/{topic}/batch-code/operations/{operation_id}")

    def watch(self, topic, operation_id):
        """Poll until the operation has ended; return every status."""
        statuses, deadline = [], time.monotonic() + OPERATION_TIMEOUT_S
        while not statuses or statuses[-1]["operationStatus"] in {"awaiting_input", "in_progress"}:
            assert time.monotonic() < deadline, statuses
            time.sleep(POLL_INTERVAL_S if statuses else 0)
            statuses.append(self.status(topic, operation_id).json())
        return statuses

    def knob(self, name, /, **arguments):
        response = self._api.post(f"{self.api_url}/_local/{name}", json=arguments, timeout=TIMEOUT_S)
        assert response.status_code == 200, response.text


@pytest.fixture(scope="session")
def start_local(tmp_path_factory):
    """A function that starts a local service with special settings."""
    with ExitStack() as running:

        def start(client_id="local-client", client_secret="local-secret", **settings):
            settings = {**LOCAL_SETTINGS, "client_id": client_id, "client_secret": client_secret, **settings}
            service = running.enter_context(LocalService(tmp_path_factory.mktemp("service"), **settings))
            return Service(service.url, service.url, client_id, client_secret)

        yield start


@pytest.fixture(scope="session")
def service(start_local):
    if IS_REAL_SERVICE:
        return Service(*(os.environ[name] for name in VARIABLES), pause=CALL_INTERVAL_S)
    return start_local()


@pytest.fixture
def own_service(start_local):
    """A local service for one test, which can move its clock."""
    return start_local()


@pytest.fixture(scope="session")
def topics(service):
    return [topic["uriName"] for topic in service.get("topics").json()]


@pytest.fixture(scope="session")
def topic(topics):
    return "osca" if "osca" in topics else topics[0]


@pytest.fixture(scope="session")
def latest(service, topic):
    return service.get(f"topics/{topic}/models/latest").json()


class Operation:
    """An operation with every response about it."""

    def __init__(self, service, topic, model=None):
        self.topic, self.service = topic, service
        self.create_response = service.create(topic, model)
        self.grant = self.create_response.json()
        self.operation_id = self.grant["operationId"]

    def run(self, body):
        self.first_status = self.service.status(self.topic, self.operation_id).json()
        self.upload_response = self.service.upload(self.grant, body)
        self.statuses = self.service.watch(self.topic, self.operation_id)
        return self


@pytest.fixture(scope="session")
def awaiting_operation(service, topic):
    """An operation that never gets its input."""
    return Operation(service, topic)


@pytest.fixture(scope="session")
def coded_operation(service, topic, latest):
    """An operation coded by a specific model."""
    return Operation(service, topic, latest["modelId"]).run(to_jsonl(LINES))


@pytest.fixture(scope="session")
def failed_operation(service, topic):
    """An operation whose input is not JSON."""
    return Operation(service, topic).run(b"this is not JSON\n")


@pytest.fixture(scope="session")
def output(coded_operation, service):
    """The output file."""
    return service.storage.get(coded_operation.statuses[-1]["responseDownloadUrl"], timeout=TIMEOUT_S)
