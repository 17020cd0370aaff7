"""Requests follow the contract, and every answer in the contract gives one value or one error."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coding_service import protocol
from coding_service.errors import (
    AccessDeniedError,
    AuthorizationError,
    CodingServiceError,
    NotFoundError,
    ProtocolError,
    QuotaExceededError,
    RequestRefusedError,
    RetryableError,
    ServiceUnavailableError,
    TooManyRequestsError,
)
from coding_service.models import Model, Topic
from coding_service.protocol import Answer

DENY = "User is not authorized to access this resource with an explicit deny"
TOPICS = protocol.list_topics()
GUID = "0b5b0000-0000-4000-8000-000000000000"


def answer(status=200, body=None, **headers):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


def raise_error(status, message, envelope="message", **headers):
    with pytest.raises(CodingServiceError) as caught:
        protocol.read(TOPICS, answer(status, {envelope: message}, **headers))
    return caught.value


@pytest.mark.parametrize(
    ("status", "message", "error"),
    [
        (400, "Invalid request body", RequestRefusedError),
        (400, "Malformed record found in request", RequestRefusedError),
        (403, DENY, AccessDeniedError),
        (404, "The specified topic does not exist", NotFoundError),
        (404, "The specified model does not exist", NotFoundError),
        (409, "Selected model does not match the input topic.", RequestRefusedError),
        (429, "Limit Exceeded", QuotaExceededError),
        (429, "Too Many Requests", TooManyRequestsError),
        (500, "Error performing request", ServiceUnavailableError),
        (500, "Error performing request: the model did not load", ServiceUnavailableError),
        (500, "No models found for topic", RequestRefusedError),
        (500, "No models found for topic topic", RequestRefusedError),
        (401, "Unauthorized", AuthorizationError),
        (418, "teapot", RequestRefusedError),
        (502, "Bad Gateway", ServiceUnavailableError),
        (503, "Service Unavailable", ServiceUnavailableError),
        (504, "Endpoint request timed out", ServiceUnavailableError),
        (201, "created", RequestRefusedError),
        (302, "elsewhere", RequestRefusedError),
    ],
)
@pytest.mark.parametrize("envelope", ["message", "Message"])
def test_every_refusal_in_the_contract_raises_its_error(status, message, error, envelope):
    raised = raise_error(status, message, envelope)
    assert type(raised) is error
    assert raised.status_code == status
    assert message in str(raised)
    assert str(raised).startswith(f"HTTP {status} {message!r}")
    assert str(raised).endswith(" (GET /v1/topics)")


@pytest.mark.parametrize("message", ["limit exceeded", "LIMIT EXCEEDED.", "Limit Exceeded. "])
def test_messages_are_compared_without_case_and_final_full_stop(message):
    assert type(raise_error(429, message)) is QuotaExceededError


def test_no_models_found_is_final_although_it_is_a_500():
    assert not isinstance(raise_error(500, "No models found for topic."), RetryableError)


def test_limit_exceeded_waits_as_long_as_the_service_states():
    assert raise_error(429, "Limit Exceeded").retry_after is None  # the call budget decides
    assert raise_error(429, "Limit Exceeded", retry_after="600").retry_after == 600


@pytest.mark.parametrize(
    ("status", "message"), [(429, "Too Many Requests"), (500, "Error performing request"), (503, "busy")]
)
def test_other_errors_wait_for_the_retry_after_of_the_service(status, message):
    assert raise_error(status, message).retry_after is None
    assert raise_error(status, message, retry_after="7").retry_after == 7


@pytest.mark.parametrize(
    ("status", "is_admitted"),
    [(200, True), (400, True), (404, True), (401, False), (403, False), (429, False), (499, True), (500, False),
     (501, False), (503, False)],
)  # fmt: skip
def test_only_an_answer_about_the_call_itself_shows_that_calls_are_accepted_again(status, is_admitted):
    assert answer(status).is_admitted == is_admitted


def test_retry_after_may_be_a_date():
    moment = datetime.now(UTC) + timedelta(seconds=90)
    assert answer(retry_after=format_datetime(moment, usegmt=True)).retry_after == pytest.approx(90, abs=5)


@pytest.mark.parametrize("zone", ["-0000", ""])
def test_a_date_without_a_time_zone_is_read_as_utc(zone):
    moment = datetime.now(UTC) + timedelta(seconds=90)
    text = f"{moment:%a, %d %b %Y %H:%M:%S} {zone}".strip()
    assert answer(retry_after=text).retry_after == pytest.approx(90, abs=5)


def test_a_date_in_the_past_means_now():
    assert answer(retry_after="Wed, 21 Oct 2015 07:28:00 GMT").retry_after == 0


@pytest.mark.parametrize(
    "value", ["", "soon", "1.5", "-5", "²", "5 s", "Wed, 99 Oct 2026 07:28:00 GMT", "Wed", ",", "10:00", "\x00"]
)
def test_an_invalid_retry_after_is_ignored(value):
    assert answer(retry_after=value).retry_after is None
    assert raise_error(503, "busy", retry_after=value).retry_after is None


@pytest.mark.parametrize("value", ["999999999999999999", "9" * 400, "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_no_wait_is_longer_than_the_longest_in_the_contract(value):
    assert answer(retry_after=value).retry_after == 86400


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"message": "text"}', "text"),
        (b'{"Message": "text"}', "text"),
        (b'{"error": "invalid_client"}', "invalid_client"),
        (b'{"error": {"code": 5}}', '{"error": {"code": 5}}'),
        (b'["text"]', '["text"]'),
        (b"<html>Bad Gateway</html>", "<html>Bad Gateway</html>"),
        (b"", "(no body)"),
        (b"\xff\xfe", "\ufffd\ufffd"),
    ],
)
def test_an_unknown_error_body_is_shown_as_it_is(body, message):
    assert Answer(500, {}, body).message == message
    assert message in str(protocol.error_for(Answer(500, {}, body), "a call"))


def test_a_long_answer_is_shortened():
    assert len(Answer(500, {}, b"word " * 20_000).message) == 200


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_is_distinguished_from_other_refusals(status):
    assert answer(status).is_explicit_deny
    assert not answer(404).is_explicit_deny


# ---- requests ----------------------------------------------------------------------------------------------------


def test_the_authorization_header_is_the_bare_token():
    assert protocol.api_headers("example token") == {
        "Authorization": "example token",
        "Content-Type": "application/json",
    }


def test_the_authorization_prefix_precedes_the_token():
    assert protocol.api_headers("t0ken", "Bearer")["Authorization"] == "Bearer t0ken"


def test_the_token_request_is_form_encoded_with_the_basic_header_of_the_worked_example():
    assert protocol.token_headers("client1", "secret123") == {
        "Authorization": "Basic Y2xpZW50MTpzZWNyZXQxMjM=",
        "Content-Type": "application/x-www-form-urlencoded",
    }
    assert (protocol.TOKEN_PATH, protocol.TOKEN_BODY) == ("/oauth2/token", "grant_type=client_credentials")


def test_long_credentials_are_encoded_without_a_line_break():
    assert "\n" not in protocol.token_headers("c" * 200, "s" * 200)["Authorization"]


@pytest.mark.parametrize(
    ("call", "method", "path"),
    [
        (protocol.list_topics(), "GET", "/v1/topics"),
        (protocol.list_models("osca"), "GET", "/v1/topics/osca/models"),
        (protocol.latest_model("osca"), "GET", "/v1/topics/osca/models/latest"),
        (protocol.create_operation("osca", GUID), "POST", f"/v1/topics/osca/models/{GUID}/batch-code"),
        (protocol.get_operation("osca", GUID), "GET", f"/v1/topics/osca/batch-code/operations/{GUID}"),
    ],
)
def test_a_call_has_its_method_and_its_path(call, method, path):
    assert (call.method, call.path) == (method, path)


# ---- answers -----------------------------------------------------------------------------------------------------


def test_lists_are_read_as_tuples_of_models():
    assert protocol.read(TOPICS, answer(body=[{"uriName": "osca", "fullName": "OSCA"}])) == (Topic("osca", "OSCA"),)
    assert protocol.read(protocol.list_models("osca"), answer(body=[{"modelId": GUID}])) == (Model(GUID),)


@pytest.mark.parametrize("call", [TOPICS, protocol.list_models("osca")])
def test_an_answer_that_is_not_a_list_is_refused(call):
    with pytest.raises(ProtocolError, match=r"JSON dict; expected an array"):
        protocol.read(call, answer(body={"items": []}))


def test_an_answer_that_is_not_json_is_refused_by_its_size_and_kind():
    with pytest.raises(ProtocolError, match="GET /v1/topics is not JSON: 6 bytes of content type 'text/html'"):
        protocol.read(TOPICS, answer(body=b"<html>", content_type="text/html"))


@pytest.mark.parametrize(
    ("data", "seconds"),
    [
        ({}, 3600),
        ({"expires_in": 1800}, 1800),
        ({"expires_in": 0}, 3600),
        ({"expires_in": -5}, 3600),
        ({"expires_in": "1800"}, 3600),
        ({"expires_in": None}, 3600),
    ],
)
def test_the_lifetime_of_a_token_is_in_its_answer_or_an_hour(data, seconds):
    assert protocol.read_token(answer(body={"access_token": "t0ken", **data})) == ("t0ken", seconds)


@pytest.mark.parametrize("data", [{}, [], "t0ken", {"access_token": ""}, {"access_token": 5}, {"token": "t0ken"}])
def test_an_answer_without_a_token_is_refused_and_is_not_part_of_the_error(data):
    with pytest.raises(ProtocolError, match="no 'access_token'") as caught:
        protocol.read_token(answer(body=data))
    assert "t0ken" not in str(caught.value)


def test_the_error_for_a_token_answer_that_is_not_json_does_not_contain_a_token():
    with pytest.raises(ProtocolError) as caught:
        protocol.read_token(answer(body=b'{"access_token": "t0ken", '))
    assert "t0ken" not in str(caught.value)


@pytest.mark.parametrize("status", [400, 401])
def test_the_error_for_wrong_credentials_says_what_to_check(status):
    with pytest.raises(AuthorizationError, match=r"'invalid_client'.*login.*password.*auth_host") as caught:
        protocol.read_token(answer(status, {"error": "invalid_client"}))
    assert caught.value.status_code == status


@pytest.mark.parametrize(
    ("status", "error"),
    [(403, AccessDeniedError), (429, TooManyRequestsError), (500, ServiceUnavailableError)],
)
def test_an_error_of_the_token_endpoint_is_retryable(status, error):
    with pytest.raises(error, match=r"\(the token request\)"):
        protocol.read_token(answer(status, {"message": "busy"}))


# ---- waits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "message"), [(429, "Too Many Requests"), (503, "busy"), (403, DENY)])
@pytest.mark.parametrize("value", ["7200", "1" + "0" * 30, "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_no_wait_but_that_for_the_quota_is_longer_than_an_hour(status, message, value):
    assert raise_error(status, message, retry_after=value).retry_after == 3600
    assert raise_error(429, "Limit Exceeded", retry_after=value).retry_after >= 7200


@given(st.text(max_size=60))
def test_no_retry_after_raises_another_error(value):
    seconds = answer(503, retry_after=value).retry_after
    assert seconds is None or 0 <= seconds <= protocol.MAX_RETRY_AFTER_S


@pytest.mark.parametrize("lifetime", ["1e308", "18446744073709551615"])
def test_a_lifetime_that_is_too_long_is_not_believed(lifetime):
    body = f'{{"access_token": "t0ken", "expires_in": {lifetime}}}'.encode()
    assert protocol.read_token(Answer(200, {}, body)) == ("t0ken", 86400.0)


@pytest.mark.parametrize("lifetime", ["true", "-1", "0", '"long"', "null", "[1]"])
def test_a_lifetime_that_is_no_number_of_seconds_is_ignored(lifetime):
    body = f'{{"access_token": "t0ken", "expires_in": {lifetime}}}'.encode()
    assert protocol.read_token(Answer(200, {}, body)) == ("t0ken", protocol.TOKEN_LIFETIME_S)
