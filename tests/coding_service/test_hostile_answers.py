"""What a service, a gateway or storage answers can neither reveal a secret nor choose where files go."""

import asyncio
import base64
import logging

import pytest

from coding_service import CodingServiceAsyncHook, CodingServiceHook
from coding_service.errors import CodingServiceError, ProtocolError, SettingsError
from coding_service.models import InputPart, UploadGrant
from coding_service.operators import CodingServiceDownloadOperator, CodingServiceUploadOperator
from coding_service.sensors import BatchCodeSensor
from coding_service.triggers import BatchCodeTrigger

OPERATION = "c0ffee00-0000-4000-8000-000000000000"
MODEL = "0b5b0000-0000-4000-8000-000000000000"
TOKEN = "t0p+secret/token=="  # a token of one word that no rule but that for known secrets removes
CLIENT_SECRET = "quite ordinary words"
BASIC = base64.b64encode(f"local-client:{CLIENT_SECRET}".encode()).decode()
PLACES_OF_ESCAPE = [
    "../../..",
    "..",
    "/etc/passwd",
    "a/b",
    "%2e%2e%2fx",
    f"{OPERATION}/..",
    f"{OPERATION}\n",
    "",
    None,
    5,
]


def call_synchronously():
    return CodingServiceHook().operation("osca", OPERATION)


def call_in_the_triggerer():
    return asyncio.run(CodingServiceAsyncHook().operation("osca", OPERATION))


def wait_in_the_triggerer():
    """Return what reaches the task, and with it Airflow's database, from a wait that fails."""

    async def collect():
        trigger = BatchCodeTrigger("osca", OPERATION, "coding_service_default", 0.0, poll_interval=0.01)
        return [event async for event in trigger.run()]

    [event] = asyncio.run(collect())
    raise ProtocolError(str(event.payload))


@pytest.fixture(params=[call_synchronously, call_in_the_triggerer, wait_in_the_triggerer])
def call(request):
    return request.param


@pytest.fixture
def masked(monkeypatch):
    """Return what Airflow's masker is told, in this process and in its supervisor."""
    from airflow.sdk._shared.secrets_masker import SecretsMasker
    from airflow.sdk._shared.secrets_masker import secrets_masker as module

    masker = SecretsMasker()
    monkeypatch.setattr("airflow.sdk.log._secrets_masker", lambda: masker)
    assert module
    return masker


ECHOES = {
    "plain": lambda value: f"denied: {value}",
    "json": lambda value: {"message": f"denied for Authorization: {value}"},
    "in two lines": lambda value: {"message": f"denied {value[:9]}\n{value[9:]}"},
    "percent": lambda value: f"denied%20{value.replace(' ', '%20').replace('+', '%2B').replace('=', '%3D')}",
    "html": lambda value: f"<html><body><pre>X-Echo {value}</pre></body></html>".encode(),
    "upper": lambda value: {"error": value.upper()},
    "long": lambda value: {"message": "a" * 60_000 + value},
}


@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 302])
def test_a_header_that_the_service_repeats_is_in_no_error_no_event_and_no_log(
    serve, connect, call, echo, status, caplog, capsys
):
    def answer(request, reply):
        if request.path == "/oauth2/token":
            return reply(200, {"access_token": TOKEN})
        return reply(status, ECHOES[echo](request.header("Authorization")))

    caplog.set_level(logging.DEBUG)
    connect(serve(answer).url, password=CLIENT_SECRET, authorization_prefix="Custom")
    with pytest.raises(CodingServiceError) as caught:
        call()
    for text in (str(caught.value), repr(caught.value), caplog.text, "".join(capsys.readouterr())):
        assert TOKEN.lower() not in text.lower()
        assert TOKEN[:9].lower() not in text.lower()


@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize("status", [400, 401, 403, 429, 500, 302])
def test_credentials_that_the_token_endpoint_repeats_are_in_no_error_no_event_and_no_log(
    serve, connect, call, echo, status, caplog, capsys
):
    def answer(request, reply):
        reply(status, ECHOES[echo](f"{request.header('Authorization')} {CLIENT_SECRET}"))

    caplog.set_level(logging.DEBUG)
    connect(serve(answer).url, password=CLIENT_SECRET)
    with pytest.raises(CodingServiceError) as caught:
        call()
    for text in (str(caught.value), repr(caught.value), caplog.text, "".join(capsys.readouterr())):
        assert BASIC.lower() not in text.lower()
        assert CLIENT_SECRET not in text.lower()
    with pytest.raises(
        CodingServiceError, match="no token is requested before"
    ) as caught:  # stored, and raised again
        call_synchronously()
    assert BASIC.lower() not in str(caught.value).lower()


@pytest.mark.parametrize("call", [call_synchronously, call_in_the_triggerer])
def test_airflows_masker_knows_the_secrets_of_each_process(serve, connect, call, masked):
    server = serve(lambda request, reply: reply(200, {"access_token": TOKEN, "operationStatus": "in_progress"}))
    connect(server.url, password=CLIENT_SECRET, proxies={})
    call()
    for text in (TOKEN, f"Authorization: {TOKEN}", CLIENT_SECRET, BASIC, "t0p%2Bsecret%2Ftoken%3D%3D"):
        assert masked.redact(text) in ("***", "Authorization: ***")


def test_a_process_that_finds_a_stored_token_registers_it_too(serve, connect, masked):
    """As after a restart of the triggerer, or in the task that continues after a wait."""
    server = serve(lambda request, reply: reply(200, {"access_token": TOKEN, "operationStatus": "in_progress"}))
    connect(server.url, password=CLIENT_SECRET)
    call_in_the_triggerer()
    masked.reset_masker()
    call_in_the_triggerer()
    assert [request.path for request in server.requests].count("/oauth2/token") == 1
    assert masked.redact(f"{TOKEN} {CLIENT_SECRET} {BASIC}") == "*** *** ***"


def test_links_and_grants_are_registered_in_tasks_and_never_pile_up_in_the_triggerer(serve, connect, masked):
    link = "{url}/a?X-Amz-Signature=5ec4e75ec4e75ec4e7&X-Amz-Security-Token=abcdefghijklmnopqrst%2F"

    def answer(request, reply):
        url = link.format(url=server.url)
        fields = {"operationId": OPERATION, "requestUploadUrl": url, "bucketKmsKeyArn": "arn:aws:kms:x:1:key/k"}
        reply(200, {"access_token": TOKEN, "operationStatus": "complete", "responseDownloadUrl": url, **fields})

    server = serve(answer)
    connect(server.url)
    call_in_the_triggerer()
    assert masked.redact("5ec4e75ec4e75ec4e7") == "5ec4e75ec4e75ec4e7"
    CodingServiceHook().create_operation("osca", MODEL)
    for text in ("5ec4e75ec4e75ec4e7", "abcdefghijklmnopqrst/", "abcdefghijklmnopqrst%2F", "arn:aws:kms:x:1:key/k"):
        assert masked.redact(text) == "***"


def test_a_warning_of_urllib3_about_malformed_headers_does_not_contain_the_link(serve, connect, caplog, input_file):
    """urllib3 logs the whole URL as a warning when storage answers with a malformed header."""

    def answer(request, reply):
        handler = reply._handler
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nbroken header line\r\nContent-Length: 0\r\n\r\n")
        handler.wfile.flush()
        handler.close_connection = True

    server = serve(answer)
    connect(server.url)
    caplog.set_level(logging.DEBUG)
    CodingServiceHook().upload(UploadGrant(OPERATION, f"{server.url}/a?X-Amz-Signature=5ec4e7", "key"), input_file)
    assert "Failed to parse headers" in caplog.text
    assert "5ec4e7" not in caplog.text


@pytest.mark.parametrize(
    "token",
    ["a\r\nX-Injected: 1", "a b", "\u202etoken", "x" * 20_000, ["t"], "\x00"],
    ids=lambda value: repr(value)[:20],
)
def test_a_token_that_is_no_header_value_is_refused_and_not_shown(serve, connect, token):
    connect(serve(lambda request, reply: reply(200, {"access_token": token})).url)
    with pytest.raises(ProtocolError, match="no 'access_token'") as caught:
        call_synchronously()
    assert str(token)[-9:] not in str(caught.value)


def test_words_of_the_service_cannot_forge_lines_of_the_log(serve, connect, caplog):
    forged = "ok\n2026-11-26 ERROR forged\x1b[31m line\r\n" + "more " * 10_000

    def answer(request, reply):
        if request.path == "/oauth2/token":
            return reply(200, {"access_token": TOKEN})
        return reply(404, {"message": forged})

    connect(serve(answer).url)
    with pytest.raises(CodingServiceError) as caught:
        call_synchronously()
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 500


async def test_an_unexpected_error_in_the_triggerer_is_logged_without_addresses(serve, connect, capsys, monkeypatch):
    class BrokenHook(CodingServiceAsyncHook):
        async def operation(self, topic, operation_id):
            try:
                raise ValueError("https://user:pa55word@s3/a?X-Amz-Signature=5ec4e7")
            except ValueError as error:
                raise ZeroDivisionError("why") from error

    connect(serve(lambda request, reply: reply(500)).url)
    monkeypatch.setattr("coding_service.triggers.CodingServiceAsyncHook", BrokenHook)
    trigger = BatchCodeTrigger("osca", OPERATION, "coding_service_default", 0.0, poll_interval=0.01)
    [event] = [event async for event in trigger.run()]
    assert event.payload["reason"] == "refused"
    log = capsys.readouterr().out
    assert "ZeroDivisionError: why" in log
    assert "ValueError: https://***@s3/a?***" in log
    for secret in ("5ec4e7", "pa55word"):
        assert secret not in log


# ---- redirects ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("redirected", ["token", "status", "upload", "download"])
def test_no_redirect_is_followed_by_any_kind_of_call(serve, connect, redirected, status, input_file, tmp_path, clock):
    def answer(request, reply):
        kind = {"/oauth2/token": "token", "/in": "upload", "/out": "download"}.get(
            request.path.partition("?")[0], "status"
        )
        if kind == redirected:
            return reply(status, Location=f"{other.url}/stolen")
        link = f"{server.url}/out?X-Amz-Signature=5ec4e7"
        return reply(200, {"access_token": TOKEN, "operationStatus": "complete", "responseDownloadUrl": link})

    other = serve(lambda request, reply: reply(200, {"access_token": "x", "operationStatus": "complete"}))
    server = serve(answer)
    connect(server.url)
    hook = CodingServiceHook()
    grant = UploadGrant(OPERATION, f"{server.url}/in?X-Amz-Signature=5ec4e7", "key")
    calls = [lambda: hook.download("osca", OPERATION, tmp_path / "o", tmp_path / "m"), call_in_the_triggerer]
    if redirected == "upload":
        calls = [lambda: hook.upload(grant, input_file)]
    for call in calls[: 1 if redirected == "download" else 2]:
        with pytest.raises(CodingServiceError):
            call()
    assert other.requests == []


# ---- links -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["responseDownloadUrl", "metadataDownloadUrl"])
def test_a_file_is_not_read_from_a_host_that_is_no_storage(serve, connect, tmp_path, name):
    def answer(request, reply):
        links = dict.fromkeys(("responseDownloadUrl", "metadataDownloadUrl"), f"{server.url}/out")
        links[name] = "https://169.254.169.254/latest/meta-data?X-Amz-Signature=5ec4e7"
        reply(200, {"access_token": TOKEN, "operationStatus": "complete", **links})

    server = serve(answer)
    connect(server.url)
    with pytest.raises(SettingsError, match=r"file leads to the host '169.254.169.254'.*storage_hosts") as caught:
        CodingServiceHook().download("osca", OPERATION, tmp_path / "o", tmp_path / "m")
    assert "5ec4e7" not in str(caught.value)
    assert "meta-data" not in str(caught.value)
    assert list(tmp_path.glob("o*")) == []


def test_a_file_is_not_sent_to_a_host_that_is_no_storage(serve, connect, input_file):
    connect(serve(lambda request, reply: reply(200)).url)
    grant = UploadGrant(OPERATION, "http://stranger.example/in?X-Amz-Signature=5ec4e7", "key")
    with pytest.raises(SettingsError, match=r"upload URL leads to the host 'stranger.example'"):
        CodingServiceHook().upload(grant, input_file)


# ---- ids and names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation_id", PLACES_OF_ESCAPE)
def test_an_operation_id_that_is_no_guid_is_refused_when_it_arrives(serve, connect, operation_id):
    fields = {"operationId": operation_id, "requestUploadUrl": "https://s3/a", "bucketKmsKeyArn": "arn"}
    connect(serve(lambda request, reply: reply(200, {"access_token": TOKEN, **fields})).url)
    with pytest.raises(ProtocolError):
        CodingServiceHook().create_operation("osca", MODEL)


@pytest.mark.parametrize("form", [OPERATION.upper(), OPERATION.replace("-", ""), OPERATION])
def test_a_guid_is_accepted_in_any_case_and_with_or_without_hyphens(serve, connect, form):
    fields = {"operationId": form, "requestUploadUrl": "https://s3/a", "bucketKmsKeyArn": "arn"}
    connect(serve(lambda request, reply: reply(200, {"access_token": TOKEN, **fields})).url)
    assert CodingServiceHook().create_operation("osca", MODEL).operation_id == form


PART = {"topic": "osca", "model_id": MODEL, "input_uri": "file:///staging/run/part-0.jsonl", "sha256": "a" * 64}


@pytest.mark.parametrize("operation_id", PLACES_OF_ESCAPE)
def test_an_operation_id_from_xcom_that_is_no_guid_is_refused_before_any_call(
    serve, connect, context, run, operation_id, tmp_path
):
    server = serve(lambda request, reply: reply(500))
    connect(server.url)
    part = {**PART, "input_uri": (tmp_path / "a" / "b" / "part-0.jsonl").as_uri()}
    steps = [
        CodingServiceUploadOperator(task_id="upload", part=part, operation_id=operation_id, grant="x"),
        CodingServiceDownloadOperator(task_id="download", part=part, operation_id=operation_id),
        BatchCodeSensor(task_id="poll", part=part, operation_id=operation_id),
        BatchCodeSensor(task_id="poll", part=part, operation_id=operation_id, deferrable=False),
    ]
    for step in steps:
        with pytest.raises(ProtocolError, match="expected a GUID"):
            run(step, context)
    assert server.requests == []
    assert list(tmp_path.rglob("*.jsonl")) == []


async def test_a_wait_with_an_edited_operation_id_ends_at_once(serve, connect):
    server = serve(lambda request, reply: reply(500))
    connect(server.url)
    events = [
        event async for event in BatchCodeTrigger("osca", "../x", "coding_service_default", 9e9, started=0.0).run()
    ]
    assert [event.payload["reason"] for event in events] == ["refused"]
    assert server.requests == []


@pytest.mark.parametrize(
    "change",
    [
        {"topic": "../x"}, {"topic": ".."}, {"topic": "a/b"}, {"topic": None}, {"topic": "a" * 101},
        {"model_id": "latest"}, {"model_id": "../.."}, {"model_id": None}, {"sha256": "x"}, {"sha256": None},
        {"input_uri": "/etc/passwd"}, {"input_uri": "file:///staging/../etc/passwd"}, {"input_uri": "http://x/a"},
        {"input_uri": "file:///staging/%2e%2e/etc"}, {"input_uri": "file:///staging/.."}, {"input_uri": 5},
        {"records": "many"}, {"records": -1}, {"records": float("inf")}, {"records": True},
        {"expected_seconds": float("nan")}, {"expected_seconds": []}, {"force_new": "yes"},
    ],
    ids=str,
)  # fmt: skip
def test_a_part_that_was_edited_in_xcom_is_refused(change):
    with pytest.raises(ProtocolError, match="the part|of the part|the topic"):
        InputPart.from_dict({**PART, **change})


def test_a_part_that_lacks_a_field_is_refused():
    with pytest.raises(ProtocolError, match="the part lacks a field"):
        InputPart.from_dict({"topic": "osca"})


@pytest.mark.parametrize("name", ["../x", "..", "a/b", "osca\n", "a b", "a%2fb", "", "a" * 101])
def test_a_topic_or_model_that_cannot_be_part_of_a_path_is_refused(serve, connect, name):
    def answer(request, reply):
        if request.path == "/oauth2/token":
            return reply(200, {"access_token": TOKEN})
        return reply(200, [{"uriName": name, "modelId": name}])

    server = serve(answer)
    connect(server.url)
    hook = CodingServiceHook()
    for ask in (hook.topics, lambda: hook.models("osca"), lambda: hook.models(name), lambda: hook.latest_model(name)):
        with pytest.raises(ProtocolError):
            ask()
    assert {request.path for request in server.requests} <= {"/oauth2/token", "/v1/topics", "/v1/topics/osca/models"}
