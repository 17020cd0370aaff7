"""Nothing that has the form of a secret, and no secret of this process, is left in a text."""

import base64
import logging
import pickle
from urllib.parse import quote

import pytest

from coding_service import errors, redaction
from coding_service.errors import CodingServiceError
from coding_service.redaction import WITHHELD, redact, redact_foreign, register_secrets

SECRET = "5ec4e7"
HIDDEN = [
    f"see https://s3/in/a.jsonl?X-Amz-Signature={SECRET} now",
    f"HTTPS://S3/A?X-AMZ-SIGNATURE={SECRET}",
    f"https://s3/a?x=1&X-Amz-Security-Token={SECRET}",
    f"//s3/a?X-Amz-Signature={SECRET}",
    f"s3.example/a?sig={SECRET}&x=1",
    f"GET /a?unheard={SECRET} HTTP/1.1",
    f"https%3A%2F%2Fs3%2Fa%3FX-Amz-Signature%3D{SECRET}",
    f"https%253A%252F%252Fs3%252Fa%253FX-Amz-Signature%253D{SECRET}",
    f"https%3a%2f%2fs3%2fa%3funheard%3d{SECRET}",
    f"https://s3/a?x=1&amp;X-Amz-Signature={SECRET}",
    f"x=1&amp;X-Amz-Signature={SECRET}",
    f"a\\u0026X-Amz-Signature\\u003d{SECRET} b",
    f"https:\\/\\/s3\\/a?X-Amz-Signature={SECRET}",
    f"https://s3/a?X-Amz-\nSignature={SECRET[:3]}\n  {SECRET[3:]}",
    f"https://s3/a?X-Amz-Sig=\r\nnature={SECRET}",
    f"Signature\n=\n{SECRET}",
    f"<StringToSign>AWS4-HMAC-SHA256\n20261126\n{SECRET}</StringToSign><Code>X</Code>",
    f"<CanonicalRequest>PUT\n/in/a.jsonl\nx={SECRET}&y=1\nhost:s3</CanonicalRequest>",
    f"&lt;CanonicalRequest&gt;PUT {SECRET}&lt;/CanonicalRequest&gt; rest",
    f"<SignatureProvided>{SECRET}</SignatureProvided>",
    f"<AWSAccessKeyId>{SECRET}</AWSAccessKeyId>",
    f"AWSAccessKeyId={SECRET}",
    f"X-Amz-Credential=AKIA%2F{SECRET}&X-Amz-Signature=q",
    f"https://app/#access_token={SECRET}&x=1",
    f"https://user:{SECRET}@s3/a",
    f"https://{SECRET}@s3/a",
    f"https://user:pa/{SECRET}@s3/a",
    f"//user:{SECRET}@s3/a",
    f"user:{SECRET}@s3/a",
    f"https%3A%2F%2Fuser%3A{SECRET}%40s3%2Fa rest",
    f'{{"access_token": "{SECRET}"}}',
    f'{{\\"access_token\\": \\"{SECRET}\\"}}',
    f"{{&quot;access_token&quot;:&quot;{SECRET}&quot;}}",
    f"{{'password': 'two {SECRET}'}}",
    f"client_secret={SECRET}",
    f"client_secret: {SECRET}",
    f"code={SECRET}",
    f"password = {SECRET}",
    f"Authorization: {SECRET}",
    f"Authorization: Bearer {SECRET}",
    f"{{'Authorization': 'Basic {SECRET}'}}",
    f"authorization=Bearer {SECRET}secret",
    f"bearer {SECRET}{SECRET}",
    f"X-Amz-Security-Token: {SECRET}",
    f"%41uthorization: abc{SECRET}",
    f"X%2DAmz%2DSign%61ture%3D{SECRET}",
    f"&#x58;-Amz-Signature&#61;{SECRET}",
    f"\x1b[31mtok\x1b[0men={SECRET}",
    f"X-Amz-Sig\u200bnature={SECRET}",
]


@pytest.mark.parametrize("text", HIDDEN)
def test_a_secret_is_removed_in_every_form_of_an_address_a_header_or_a_document(text):
    assert SECRET not in redact(text).lower()
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize("text", HIDDEN)
@pytest.mark.parametrize(
    "error_class",
    [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, CodingServiceError)],
)
def test_the_message_of_every_class_of_errors_is_redacted(error_class, text):
    error = error_class(f"the call failed: {text}", status_code=500)
    copy = pickle.loads(pickle.dumps(error))
    for shown in (str(error), repr(error), f"{error.args}", str(copy)):
        assert SECRET not in shown.lower()
        assert "\n" not in shown


@pytest.mark.parametrize(
    "text",
    [
        "why? because",
        "https://s3/a without a query",
        "HTTP 403 (SignatureDoesNotMatch: No)",
        "HTTP 400 (InvalidToken: why)",
        "check login (client id) and password (client secret) of the connection",
        "GET https://api.example:8443/v1/topics/osca was answered with HTTP 404 'The specified topic does not exist'",
        "s3://bucket/runs/scheduled__2026-01-01T00:00:00+00:00/part-0.jsonl cannot be written",
        "all 10 calls allowed in 24 hours have been made: wait",
    ],
)
def test_ordinary_words_remain(text):
    assert redact(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "one\ntwo",
        "one\r\n\ttwo",
        "one\x00 two",
        "one \x1b[2Jtwo",
        "one\x1b]0;title\x07 two",
        "one\u2028two",
        "one \x9b1mtwo",
    ],
)
def test_a_text_is_one_line_without_control_characters(text):
    assert redact(text) == "one two"


def test_a_long_text_is_shortened():
    assert len(redact("word " * 100_000)) <= redaction.MAX_MESSAGE_LENGTH
    assert len(redact_foreign("word " * 100_000)) <= redaction.MAX_FOREIGN_LENGTH
    assert redact("x" * 100_000) == "..."  # it could begin a secret


@pytest.mark.parametrize(
    "unit", ["a", "token", "//a", "%3", "x-", "a:", "\\", "?", '"', "x-amz-", "token>", "//a:", "%253f"]
)
def test_a_hostile_text_does_not_take_longer_the_more_it_repeats(unit):
    """Every pattern is linear, or its repetition is bounded: otherwise one answer would stop the triggerer."""
    text = (unit * redaction.MAX_READ_LENGTH)[: redaction.MAX_READ_LENGTH]
    assert len(redact(text)) <= redaction.MAX_MESSAGE_LENGTH


# ---- the secrets of this process ---------------------------------------------------------------------------------


@pytest.fixture
def own_secrets(monkeypatch):
    monkeypatch.setattr(redaction, "_known_secrets", {})


OWN = 'kn0wn+/ "secret"=&'


@pytest.mark.parametrize(
    "text",
    [
        OWN,
        quote(OWN),
        quote(OWN, safe=""),
        quote(quote(OWN, safe=""), safe=""),
        OWN.upper(),
        OWN.replace('"', '\\"'),
        OWN.replace("&", "&amp;").replace('"', "&quot;"),
        OWN.replace("secret", "sec\nret"),
        base64.b64encode(f"client:{OWN}".encode()).decode(),
        f"{base64.b64encode(f'client:{OWN}'.encode()).decode()[:10]}\r\n{base64.b64encode(f'client:{OWN}'.encode()).decode()[10:]}",
    ],
)
def test_a_secret_of_this_process_is_removed_in_every_encoding(own_secrets, text):
    encoded = base64.b64encode(f"client:{OWN}".encode()).decode()
    register_secrets(OWN, encoded)
    shown = redact(f"before {text} after")
    assert shown in ("before *** after", WITHHELD)


def test_a_short_value_is_not_removed(own_secrets):
    assert register_secrets("a", "", "four") == []
    assert redact("a message of four words") == "a message of four words"


def test_the_number_of_secrets_is_bounded_and_the_newest_count(own_secrets):
    for number in range(redaction.MAX_SECRETS + 10):
        register_secrets(f"secret-{number:05}")
    assert len(redaction._known_secrets) == redaction.MAX_SECRETS
    assert redact("secret-00001") == "secret-00001"
    assert redact(f"secret-{redaction.MAX_SECRETS:05}") == "***"


# ---- libraries ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", redaction.HTTP_LOGGERS)
@pytest.mark.parametrize("level", [logging.DEBUG, logging.WARNING])
def test_log_records_of_http_libraries_are_redacted(name, level, caplog):
    redaction.redact_library_logs()
    with caplog.at_level(logging.DEBUG, logger=name):
        try:
            raise ValueError(f"https://s3/a?sig={SECRET}")
        except ValueError:
            logging.getLogger(name).log(level, "%s %s", "GET", f"/a?sig={SECRET}", exc_info=True)
    assert caplog.messages == ["GET /a?***"]
    assert SECRET not in caplog.text


@pytest.mark.parametrize("name", ["botocore.endpoint", "aiobotocore.parsers", "s3fs", "botocore.auth"])
def test_bodies_and_signatures_are_not_logged_by_the_libraries_of_object_storage(name, caplog):
    redaction.redact_library_logs()
    caplog.set_level(logging.DEBUG)
    logging.getLogger(name).debug("StringToSign %s", SECRET)
    assert caplog.messages == []
