"""Contract 1 and 2.1: addresses, tokens, and how a call is authorised."""

import base64

import pytest

from tests.contract.conftest import NOWHERE, message, needs_knobs

DENIED = "user is not authorized to access this resource with an explicit deny"


def test_a_token_is_given_for_credentials_as_a_form_with_basic_authorization(service):
    answer = service.ask_token()
    assert answer.status_code == 200
    assert answer.json()["access_token"]
    assert isinstance(answer.json()["access_token"], str)


def test_a_lifetime_if_it_is_told_is_an_hour(service):
    assert service.ask_token().json().get("expires_in", 3600) == 3600


@needs_knobs
def test_the_worked_example_of_an_authorization_header_is_accepted(start_local):
    service = start_local("client1", "secret123")
    assert base64.b64encode(b"client1:secret123") == b"Y2xpZW50MTpzZWNyZXQxMjM="
    assert service.ask_token(auth=lambda request: request, Authorization="Basic Y2xpZW50MTpzZWNyZXQxMjM=").ok


def test_wrong_credentials_get_no_token(service):
    answer = service.ask_token(auth=(service.credentials[0], "not the secret"))
    assert answer.status_code in (400, 401)
    assert "access_token" not in answer.json()


def test_one_token_serves_many_calls(service):
    assert [service.get("topics").status_code for _ in range(2)] == [200, 200]


@pytest.mark.parametrize("authorization", [None, "not a token"])
def test_a_call_without_a_good_token_is_denied(service, authorization):
    answer = service.get("topics", headers={"Authorization": authorization})
    assert answer.status_code in (401, 403)
    if authorization:
        assert (answer.status_code, message(answer)) == (403, DENIED)


def test_the_token_is_sent_bare_and_a_bearer_prefix_is_refused(service):
    assert service.get("topics", headers={"Authorization": service.token}).status_code == 200
    answer = service.get("topics", headers={"Authorization": f"Bearer {service.token}"})
    assert (answer.status_code, message(answer)) == (403, DENIED)


@needs_knobs
def test_a_token_expires_after_an_hour(movable):
    movable.get("topics")
    movable.knob("clock", jump_seconds=3590)
    assert movable.get("topics").status_code == 200
    movable.knob("clock", jump_seconds=20)
    answer = movable.get("topics")
    assert (answer.status_code, message(answer)) == (403, DENIED)
    movable.forget_token()
    assert movable.get("topics").status_code == 200


def test_the_security_contact_is_served(service):
    answer = service.get("security.txt")
    assert answer.status_code == 200
    assert "contact:" in answer.text.casefold()


def test_query_strings_are_not_accepted(service):
    assert 400 <= service.get("topics?page=1").status_code < 500


def test_there_is_no_way_to_list_cancel_or_delete(service, topic, latest, waiting):
    operations = f"topics/{topic}/batch-code/operations"
    for method, path in [
        ("GET", operations),
        ("DELETE", f"{operations}/{waiting.operation_id}"),
        ("GET", f"topics/{topic}/models/{latest['modelId']}"),
        ("GET", f"no-such-thing/{NOWHERE}"),
    ]:
        assert service.call(method, path).status_code in (403, 404, 405), path
