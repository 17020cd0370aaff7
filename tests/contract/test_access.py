"""Addresses, tokens and authorisation (docs/service-contract.md 1, 2.1)."""

import base64

import pytest

from tests.contract.conftest import NOWHERE, message, needs_knobs

DENIED = "user is not authorized to access this resource with an explicit deny"


def test_a_form_request_with_basic_authorization_gets_a_token(service):
    response = service.request_token()
    assert response.status_code == 200
    assert response.json()["access_token"]
    assert isinstance(response.json()["access_token"], str)


def test_the_lifetime_of_a_token_if_present_is_an_hour(service):
    assert service.request_token().json().get("expires_in", 3600) == 3600


@needs_knobs
def test_the_worked_example_of_an_authorization_header_is_accepted(start_local):
    service = start_local("client1", "secret123")
    assert base64.b64encode(b"client1:secret123") == b"Y2xpZW50MTpzZWNyZXQxMjM="
    assert service.request_token(auth=lambda request: request, Authorization="Basic Y2xpZW50MTpzZWNyZXQxMjM=").ok


def test_wrong_credentials_get_no_token(service):
    response = service.request_token(auth=(service.credentials[0], "not the secret"))
    assert response.status_code in (400, 401)
    assert "access_token" not in response.json()


def test_one_token_serves_many_calls(service):
    assert [service.get("topics").status_code for _ in range(2)] == [200, 200]


@pytest.mark.parametrize("authorization", [None, "not a token"])
def test_a_call_without_a_valid_token_is_denied(service, authorization):
    response = service.get("topics", headers={"Authorization": authorization})
    assert response.status_code in (401, 403)
    if authorization:
        assert (response.status_code, message(response)) == (403, DENIED)


def test_a_bearer_prefix_is_refused(service):
    assert service.get("topics", headers={"Authorization": service.token}).status_code == 200
    response = service.get("topics", headers={"Authorization": f"Bearer {service.token}"})
    assert (response.status_code, message(response)) == (403, DENIED)


@needs_knobs
def test_a_token_expires_after_an_hour(own_service):
    own_service.get("topics")
    own_service.knob("clock", jump_seconds=3590)
    assert own_service.get("topics").status_code == 200
    own_service.knob("clock", jump_seconds=20)
    response = own_service.get("topics")
    assert (response.status_code, message(response)) == (403, DENIED)
    own_service.forget_token()
    assert own_service.get("topics").status_code == 200


def test_the_security_contact_is_served(service):
    response = service.get("security.txt")
    assert response.status_code == 200
    assert "contact:" in response.text.casefold()


def test_query_strings_are_not_accepted(service):
    assert 400 <= service.get("topics?page=1").status_code < 500


def test_operations_cannot_be_listed_cancelled_or_deleted(service, topic, latest, awaiting_operation):
    operations = f"topics/{topic}/batch-code/operations"
    for method, path in [
        ("GET", operations),
        ("DELETE", f"{operations}/{awaiting_operation.operation_id}"),
        ("GET", f"topics/{topic}/models/{latest['modelId']}"),
        ("GET", f"no-such-thing/{NOWHERE}"),
    ]:
        assert service.call(method, path).status_code in (403, 404, 405), path
