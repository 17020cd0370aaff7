"""Uploads over TLS to a storage that refuses them at once and closes (docs/service-contract.md 10.5)."""

import hashlib
import json

import pytest
import requests

from coding_service import CodingServiceHook, transfer
from coding_service.errors import GrantExpiredError, RetryableError, UploadInterruptedError
from coding_service.models import InputPart
from coding_service.part_operation import PartOperation
from include.local_service.http.server import LocalService
from tests.coding_service.conftest import FakeStore, Remote

MAX_ATTEMPTS = 10


@pytest.fixture(scope="module")
def tls_service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    with (
        LocalService(folder, coder="stub", progression="immediate", tls=True) as service,
        requests.Session() as session,
    ):
        session.trust_env, session.verify = False, str(service.ca_file)
        yield Remote(service, session)


@pytest.fixture
def remote(tls_service, connect, encrypted, monkeypatch):
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    tls_service.knob("POST", "reset")
    connect(tls_service.url, verify=str(tls_service.service.ca_file))
    return tls_service


@pytest.fixture
def large_file(tmp_path):
    """An input file that does not fit into the buffers of a connection."""
    path = tmp_path / "part-0.jsonl"
    line = json.dumps({"recordId": "r", "occp_text": "baker", "tasks_text": "bakes " * 40})
    path.write_text(f"{line}\n" * 60_000)
    return path


@pytest.fixture
def operation(remote, large_file):
    hook = CodingServiceHook()
    model_id = hook.latest_model("osca").model_id
    sha256 = hashlib.sha256(large_file.read_bytes()).hexdigest()
    part = InputPart("osca", model_id, large_file.as_uri(), sha256)
    return lambda: PartOperation(CodingServiceHook(), part, store)


store = FakeStore()


@pytest.fixture(autouse=True)
def _empty_store():
    store.values.clear()


def count_creations(remote):
    return len(remote.journal("POST", "/batch-code"))


def bytes_received(remote):
    return [entry["bytes_received"] for entry in remote.journal("PUT") if entry["status"] == 200]


def upload_until_success(operation, clock):
    """Repeat the upload as Airflow does, after the wait of its error."""
    for _ in range(MAX_ATTEMPTS):
        try:
            return operation().upload(*operation().open())
        except RetryableError as error:
            clock.jump(error.retry_after or 30)
    raise AssertionError("the upload never succeeded")


def test_an_upload_over_tls_is_accepted(remote, operation, large_file):
    operation_id = operation().upload(*operation().open())
    assert CodingServiceHook().operation("osca", operation_id).status != "awaiting_input"
    assert bytes_received(remote) == [large_file.stat().st_size]


def test_a_refusal_that_comes_before_the_connection_breaks_is_read(remote, large_file):
    """The answer can also get lost on the way, so one of several attempts must see it."""
    hook, errors = CodingServiceHook(), []
    remote.fault("abrupt_refusal", count=MAX_ATTEMPTS)
    grant = hook.create_operation("osca", hook.latest_model("osca").model_id)
    for _ in range(MAX_ATTEMPTS):
        with pytest.raises((GrantExpiredError, UploadInterruptedError)) as caught:
            hook.upload(grant, large_file)
        errors.append(type(caught.value))
    assert GrantExpiredError in errors


@pytest.mark.parametrize(("fault", "count"), [("abrupt_refusal", 1), ("reset_upload", 1), ("reset_upload", 2)])
def test_whatever_the_client_sees_the_file_is_sent_to_one_operation_once(
    remote, operation, large_file, clock, fault, count
):
    remote.fault(fault, count=count)
    operation_id = upload_until_success(operation, clock)
    assert [one["operation_id"] for one in remote.operations() if one["uploaded_at"]] == [operation_id]
    assert bytes_received(remote) == [large_file.stat().st_size]
    assert count_creations(remote) <= 2


def test_a_grant_that_the_storage_refuses_abruptly_is_replaced_once(remote, operation, large_file, clock):
    first, _ = operation().open()
    remote.fault("abrupt_refusal", count=MAX_ATTEMPTS, path_contains=first)
    second = upload_until_success(operation, clock)
    assert second != first
    assert bytes_received(remote) == [large_file.stat().st_size]
    assert count_creations(remote) == 2


def test_every_connection_of_the_storage_session_can_read_an_early_answer(remote):
    assert isinstance(CodingServiceHook()._storage.get_adapter("https://x/"), transfer.BlockAdapter)
    adapter = transfer.BlockAdapter()
    for manager in (adapter.poolmanager, adapter.proxy_manager_for("http://proxy:3128")):
        pool = manager.connection_from_url("https://storage.example/")
        assert pool.ConnectionCls is transfer._TlsConnection
