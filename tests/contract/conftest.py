"""The service that the contract is held against: a local one, or the real one if the environment points to it.

With CODING_SERVICE_URL, CODING_AUTH_URL, CODING_CLIENT_ID and CODING_CLIENT_SECRET set, the same tests call the
real service: one call a second, three operations at most, a few lines of harmless text. What can only be seen
by moving the clock or by exceeding a limit is then skipped.
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
REAL = all(os.environ.get(name) for name in VARIABLES)
SECONDS_BETWEEN_CALLS = 1.1
MOST_OPERATIONS = 3
POLL_SECONDS, PATIENCE = (15, 3600) if REAL else (0.01, 30)
TIMEOUT = 60
SSE = "x-amz-server-side-encryption"
SSE_KEY = "x-amz-server-side-encryption-aws-kms-key-id"
GUID = re.compile(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE)
NOWHERE = "00000000-0000-4000-8000-000000000000"
LOCAL = {"coder": "stub", "progression": "by_polls", "polls": 1}

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

needs_knobs = pytest.mark.skipif(REAL, reason="needs to move the service's clock or to exceed its limits")


def to_jsonl(lines):
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def message(answer):
    """Return the message of a refusal, whichever way its envelope spells the member, without a final full stop."""
    body = answer.json()
    return (body.get("message") or body["Message"]).rstrip(".").casefold()


class Service:
    """A service as a client sees it: two addresses and a pair of credentials."""

    def __init__(self, api_url, auth_url, client_id, client_secret, pause=0.0):
        self.api_url, self.auth_url = api_url.rstrip("/"), auth_url.rstrip("/")
        self.credentials = (client_id, client_secret)
        self.storage = requests.Session()
        self._api = requests.Session()
        self._pause, self._last = pause, 0.0
        self._token, self._operations = None, 0

    @property
    def token(self):
        self._token = self._token or self.ask_token().json()["access_token"]
        return self._token

    def forget_token(self):
        self._token = None

    def ask_token(self, data="grant_type=client_credentials", auth=None, **headers):
        headers = {"Content-Type": "application/x-www-form-urlencoded", **headers}
        url = f"{self.auth_url}/oauth2/token"
        return self._send("POST", url, data=data, auth=auth or self.credentials, headers=headers)

    def call(self, method, path, **options):
        headers = {"Content-Type": "application/json", **options.pop("headers", {})}
        if "Authorization" not in headers:
            headers["Authorization"] = self.token
        kept = {name: value for name, value in headers.items() if value is not None}
        return self._send(method, f"{self.api_url}/v1/{path}", headers=kept, **options)

    def get(self, path, **options):
        return self.call("GET", path, **options)

    def post(self, path, **options):
        return self.call("POST", path, **options)

    def _send(self, method, url, **options):
        wait = self._last + self._pause - time.monotonic()
        if wait > 0:
            time.sleep(wait)  # the pace that the contract asks of a client
        self._last = time.monotonic()
        return self._api.request(method, url, timeout=TIMEOUT, **options)

    def create(self, topic, model=None):
        self._operations += 1
        assert not self._pause or self._operations <= MOST_OPERATIONS, "too many operations at the real service"
        place = f"topics/{topic}/models/{model}" if model else f"topics/{topic}"
        return self.post(f"{place}/batch-code")

    def upload(self, grant, body, **headers):
        headers = {SSE: "aws:kms", SSE_KEY: grant["bucketKmsKeyArn"], **headers}
        kept = {name: value for name, value in headers.items() if value is not None}
        return self.storage.put(grant["requestUploadUrl"], data=body, headers=kept, timeout=TIMEOUT)

    def status(self, topic, operation_id):
        return self.get(f"topics/{topic}/batch-code/operations/{operation_id}")

    def watch(self, topic, operation_id):
        """Ask until the operation has ended; return every status seen."""
        seen, deadline = [], time.monotonic() + PATIENCE
        while not seen or seen[-1]["operationStatus"] in {"awaiting_input", "in_progress"}:
            assert time.monotonic() < deadline, seen
            time.sleep(POLL_SECONDS if seen else 0)
            seen.append(self.status(topic, operation_id).json())
        return seen

    def knob(self, place, **arguments):
        answer = self._api.post(f"{self.api_url}/_local/{place}", json=arguments, timeout=TIMEOUT)
        assert answer.status_code == 200, answer.text


@pytest.fixture(scope="session")
def start_local(tmp_path_factory):
    """Start a local service with settings of one's own."""
    with ExitStack() as running:

        def start(client_id="local-client", client_secret="local-secret", **settings):
            settings = {**LOCAL, "client_id": client_id, "client_secret": client_secret, **settings}
            service = running.enter_context(LocalService(tmp_path_factory.mktemp("service"), **settings))
            return Service(service.url, service.url, client_id, client_secret)

        yield start


@pytest.fixture(scope="session")
def service(start_local):
    if REAL:
        return Service(*(os.environ[name] for name in VARIABLES), pause=SECONDS_BETWEEN_CALLS)
    return start_local()


@pytest.fixture
def movable(start_local):
    """A local service of the test's own, whose clock it may move."""
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
    """An operation and all that was seen of it."""

    def __init__(self, service, topic, model=None):
        self.topic, self.service = topic, service
        self.created = service.create(topic, model)
        self.grant = self.created.json()
        self.operation_id = self.grant["operationId"]

    def run(self, body):
        self.before = self.service.status(self.topic, self.operation_id).json()
        self.uploaded = self.service.upload(self.grant, body)
        self.seen = self.service.watch(self.topic, self.operation_id)
        return self


@pytest.fixture(scope="session")
def waiting(service, topic):
    """An operation that never gets its input."""
    return Operation(service, topic)


@pytest.fixture(scope="session")
def coded(service, topic, latest):
    """An operation that was coded by a given model."""
    return Operation(service, topic, latest["modelId"]).run(to_jsonl(LINES))


@pytest.fixture(scope="session")
def failed(service, topic):
    """An operation whose input is no JSON."""
    return Operation(service, topic).run(b"this is not JSON\n")


@pytest.fixture(scope="session")
def output(coded, service):
    """The output file."""
    return service.storage.get(coded.seen[-1]["responseDownloadUrl"], timeout=TIMEOUT)
