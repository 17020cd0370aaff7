"""Tokens, and who may call what (contract 2.1, 4)."""

import base64

import pytest

DENIED = {"Message": "User is not authorized to access this resource with an explicit deny"}


def test_a_token_is_given_for_client_credentials(caller):
    answer = caller.ask_token()
    assert answer.status_code == 200
    assert set(answer.json()) == {"access_token", "expires_in", "token_type"}
    assert list(answer.json().values())[1:] == [3600, "Bearer"]


@pytest.mark.parametrize(
    ("data", "headers", "error"),
    [
        ("", {}, "invalid_request"),
        ("grant_type=client_credentials", {"Content-Type": "application/json"}, "invalid_request"),
        ('{"grant_type": "client_credentials"}', {}, "invalid_request"),
        ("grant_type=password", {}, "unsupported_grant_type"),
        ("grant_type=client_credentials&grant_type=password", {}, "unsupported_grant_type"),
    ],
)
def test_a_malformed_token_request_is_refused_with_its_reason(caller, data, headers, error):
    answer = caller.ask_token(data, **headers)
    assert (answer.status_code, answer.json()) == (400, {"error": error})


@pytest.mark.parametrize("credentials", [("local-client", "wrong"), ("nobody", "local-secret"), ("", "")])
def test_wrong_credentials_are_an_invalid_client(caller, credentials):
    answer = caller.ask_token(auth=credentials)
    assert (answer.status_code, answer.json()) == (400, {"error": "invalid_client"})


@pytest.mark.parametrize(
    "header", ["Basic", "Basic !!!", "Bearer abc", "Basic bm8tY29sb24=", "Basic \u00e9", "Basic /w=="]
)
def test_an_unreadable_basic_header_is_an_invalid_client(caller, header):
    form = {"Content-Type": "application/x-www-form-urlencoded", "Authorization": header}
    answer = caller.session.post(f"{caller.url}/oauth2/token", data="grant_type=client_credentials", headers=form)
    assert (answer.status_code, answer.json()) == (400, {"error": "invalid_client"})


def test_the_worked_example_of_the_guide_is_a_valid_basic_header(start):
    caller = start(client_id="client1", client_secret="secret123")
    assert base64.b64decode("Y2xpZW50MTpzZWNyZXQxMjM=") == b"client1:secret123"
    answer = caller.session.post(
        f"{caller.url}/oauth2/token",
        data={"grant_type": "client_credentials"},
        headers={"Authorization": "Basic Y2xpZW50MTpzZWNyZXQxMjM="},
    )
    assert answer.status_code == 200


@pytest.mark.parametrize("path", ["topics", "topics/osca", "topics/nowhere", "security.txt", "no/such/path"])
def test_every_call_needs_a_token(caller, path):
    for headers in ({}, {"Authorization": ""}, {"Authorization": "wrong"}):
        answer = caller.session.get(f"{caller.url}/v1/{path}", headers=headers)
        assert (answer.status_code, answer.json()) == (403, DENIED)


def test_the_token_must_be_bare(caller):
    assert caller.get("topics").status_code == 200
    answer = caller.get("topics", headers={"Authorization": f"Bearer {caller.token}"})
    assert (answer.status_code, answer.json()) == (403, DENIED)


def test_a_token_is_good_for_an_hour(caller):
    caller.get("topics")
    caller.jump(3590)
    assert caller.get("topics").status_code == 200
    caller.jump(10)
    assert caller.get("topics").status_code == 403
    caller.token = None
    assert caller.get("topics").status_code == 200


def test_an_older_token_stays_good_when_a_newer_one_is_given(caller):
    caller.get("topics")
    assert caller.ask_token().status_code == 200
    assert caller.get("topics").status_code == 200


def test_an_operation_belongs_to_the_client_that_made_it(caller, stranger):
    grant = caller.create()
    answer = stranger.get(f"topics/osca/batch-code/operations/{grant['operationId']}")
    assert answer.status_code == 404
    assert answer.json() == {"message": "The specified operation does not exist"}
    assert stranger.create()["bucketKmsKeyArn"] != grant["bucketKmsKeyArn"]
