"""Tokens and authorisation (docs/service-contract.md 2.1, 4)."""

import base64

import pytest

DENIED = {"Message": "User is not authorized to access this resource with an explicit deny"}


def test_valid_credentials_get_a_token(caller):
    response = caller.request_token()
    assert response.status_code == 200
    assert set(response.json()) == {"access_token", "expires_in", "token_type"}
    assert list(response.json().values())[1:] == [3600, "Bearer"]


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
    response = caller.request_token(data, **headers)
    assert (response.status_code, response.json()) == (400, {"error": error})


@pytest.mark.parametrize("credentials", [("local-client", "wrong"), ("nobody", "local-secret"), ("", "")])
def test_wrong_credentials_are_an_invalid_client(caller, credentials):
    response = caller.request_token(auth=credentials)
    assert (response.status_code, response.json()) == (400, {"error": "invalid_client"})


@pytest.mark.parametrize(
    "header", ["Basic", "Basic !!!", "Bearer abc", "Basic bm8tY29sb24=", "Basic \u00e9", "Basic /w=="]
)
def test_a_malformed_basic_header_is_an_invalid_client(caller, header):
    form = {"Content-Type": "application/x-www-form-urlencoded", "Authorization": header}
    response = caller.session.post(f"{caller.url}/oauth2/token", data="grant_type=client_credentials", headers=form)
    assert (response.status_code, response.json()) == (400, {"error": "invalid_client"})


def test_the_worked_example_of_the_guide_is_a_valid_basic_header(start):
    caller = start(client_id="client1", client_secret="secret123")
    assert base64.b64decode("Y2xpZW50MTpzZWNyZXQxMjM=") == b"client1:secret123"
    response = caller.session.post(
        f"{caller.url}/oauth2/token",
        data={"grant_type": "client_credentials"},
        headers={"Authorization": "Basic Y2xpZW50MTpzZWNyZXQxMjM="},
    )
    assert response.status_code == 200


@pytest.mark.parametrize("path", ["topics", "topics/osca", "topics/nowhere", "security.txt", "no/such/path"])
def test_every_call_needs_a_token(caller, path):
    for headers in ({}, {"Authorization": ""}, {"Authorization": "wrong"}):
        response = caller.session.get(f"{caller.url}/v1/{path}", headers=headers)
        assert (response.status_code, response.json()) == (403, DENIED)


def test_a_bearer_prefix_is_refused(caller):
    assert caller.get("topics").status_code == 200
    response = caller.get("topics", headers={"Authorization": f"Bearer {caller.token}"})
    assert (response.status_code, response.json()) == (403, DENIED)


def test_a_token_is_valid_for_an_hour(caller):
    caller.get("topics")
    caller.jump(3590)
    assert caller.get("topics").status_code == 200
    caller.jump(10)
    assert caller.get("topics").status_code == 403
    caller.token = None
    assert caller.get("topics").status_code == 200


def test_an_older_token_stays_valid_after_a_newer_one_is_issued(caller):
    caller.get("topics")
    assert caller.request_token().status_code == 200
    assert caller.get("topics").status_code == 200


def test_an_operation_belongs_to_the_client_that_created_it(caller, other_caller):
    grant = caller.create()
    response = other_caller.get(f"topics/osca/batch-code/operations/{grant['operationId']}")
    assert response.status_code == 404
    assert response.json() == {"message": "The specified operation does not exist"}
    assert other_caller.create()["bucketKmsKeyArn"] != grant["bucketKmsKeyArn"]
