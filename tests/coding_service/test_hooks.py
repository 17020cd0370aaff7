"""Both hooks with the local service: an Airflow connection gives access to typed models."""

import asyncio
import inspect
import logging
import threading
import time
from uuid import uuid4

import pytest

from coding_service import CodingServiceAsyncHook, CodingServiceHook
from coding_service.calls import Send
from coding_service.connection_test import describe_error
from coding_service.errors import (
    AccessDeniedError,
    AuthorizationError,
    CodingServiceError,
    NotFoundError,
    OperationFailedError,
    OutputNotReadyError,
    QuotaExceededError,
    ServiceUnavailableError,
    SettingsError,
    TooManyRequestsError,
    UnknownStatusError,
)
from coding_service.models import Operation, Topic

MISSING = "c0ffee00-0000-4000-8000-000000000000"
BUSY, DENIED = "b0000000-0000-4000-8000-000000000000", "d0000000-0000-4000-8000-000000000000"


class EitherHook:
    """One of the two hooks, with the method that both have."""

    def __init__(self, hook_class):
        self.hook = hook_class()

    async def operation(self, topic, operation_id):
        answer = self.hook.operation(topic, operation_id)
        return await answer if inspect.isawaitable(answer) else answer


@pytest.fixture(params=[CodingServiceHook, CodingServiceAsyncHook])
def either(request):
    """Return a function that makes a hook: the synchronous one, then the asynchronous one."""
    return lambda: EitherHook(request.param)


def start_operation(hook, path):
    grant = hook.create_operation("osca", hook.latest_model("osca").model_id)
    hook.upload(grant, path)
    return grant.operation_id


def finish_operation(hook, path):
    operation_id = start_operation(hook, path)
    while not hook.operation("osca", operation_id).status.is_terminal:
        pass
    return operation_id


# ---- methods of the service -------------------------------------------------------------------------------------


def test_topics_and_models_are_listed(connected):
    hook = CodingServiceHook()
    names = {topic.uri_name for topic in hook.topics()}
    assert {"osca", "anzsco"} <= names
    assert all(isinstance(topic, Topic) for topic in hook.topics())
    models = hook.models("osca")
    assert [model.version for model in models] == [1, 2]
    assert hook.latest_model("osca") == models[-1]
    assert models[0].input_format == ("occp_text", "tasks_text")


def test_latest_resolves_to_the_latest_model(connected):
    hook = CodingServiceHook()
    assert hook.pin_model("osca", "latest") == hook.latest_model("osca")


def test_a_guid_resolves_to_its_model(connected):
    hook = CodingServiceHook()
    older = hook.models("osca")[0]
    assert hook.pin_model("osca", older.model_id) == older


def test_an_unknown_topic_is_refused_with_a_list_of_topics(connected):
    with pytest.raises(NotFoundError, match=r"no topic 'isco'; it has \['anzsco', 'osca'\]"):
        CodingServiceHook().pin_model("isco", "latest")


def test_an_unknown_model_is_refused_with_a_list_of_models(connected):
    hook = CodingServiceHook()
    with pytest.raises(
        NotFoundError, match=f"topic 'osca' has no model '{MISSING}'; use 'latest' or one of "
    ) as caught:
        hook.pin_model("osca", MISSING)
    for model in hook.models("osca"):
        assert f"{model.model_id} (version {model.version})" in str(caught.value)


def test_an_operation_is_created_uploaded_and_downloaded(connected, input_file, tmp_path):
    hook = CodingServiceHook()
    model = hook.models("osca")[0]
    grant = hook.create_operation("osca", model.model_id)
    assert hook.operation("osca", grant.operation_id).status == "awaiting_input"
    connected.progression("by_polls", polls=1)
    hook.upload(grant, input_file)
    assert hook.operation("osca", grant.operation_id).status == "in_progress"
    while not hook.operation("osca", grant.operation_id).status.is_successful:
        pass
    output, metadata = hook.download("osca", grant.operation_id, tmp_path / "o.jsonl", tmp_path / "m.json")
    assert output.lines == 3
    assert model.model_id in metadata.path.read_text()
    assert connected.operations()[0]["model_id"] == model.model_id


def test_a_model_of_another_topic_is_refused(connected):
    hook = CodingServiceHook()
    with pytest.raises(CodingServiceError, match="Selected model does not match the input topic") as caught:
        hook.create_operation("anzsco", hook.models("osca")[0].model_id)
    assert caught.value.status_code == 409


async def test_an_unknown_operation_is_not_found(connected, either):
    with pytest.raises(NotFoundError, match=rf"HTTP 404 'The specified .* \(GET .*operations/{MISSING}\)"):
        await either().operation("osca", MISSING)


async def test_both_hooks_return_the_same_operation(connected, either, input_file):
    operation_id = finish_operation(CodingServiceHook(), input_file)
    operation = await either().operation("osca", operation_id)
    assert isinstance(operation, Operation)
    assert (operation.operation_id, operation.status) == (operation_id, "complete")
    assert operation.output_url.startswith(connected.url)
    assert operation.metadata_url.startswith(connected.url)


async def test_both_hooks_share_one_token(connected, either, input_file):
    operation_id = finish_operation(CodingServiceHook(), input_file)
    await either().operation("osca", operation_id)
    assert len(connected.journal("POST", "/oauth2/token")) == 1


async def test_both_hooks_replace_a_revoked_token_once(connected, either):
    CodingServiceHook().topics()
    connected.forget_tokens()
    with pytest.raises(NotFoundError):
        await either().operation("osca", MISSING)
    assert [one["status"] for one in connected.journal("GET", MISSING)] == [403, 404]
    assert len(connected.journal("POST", "/oauth2/token")) == 2


# ---- sending ----------------------------------------------------------------------------------------------


async def test_requests_contain_the_bare_token_and_no_field_of_the_connection(serve, connect, either):
    def answer(request, reply):
        if request.path == "/oauth2/token":
            reply(200, {"access_token": "t0ken", "token_type": "Bearer"})
        else:
            reply(200, {"operationStatus": "in_progress"})

    server = serve(answer)
    connect(server.url, verify=True, poll_interval=3, requests_per_day=77, authorization_prefix="")
    await either().operation("osca", "00000000-0000-4000-8000-000000000001")
    token_request, status_request = server.requests
    assert token_request.method == "POST"
    assert token_request.body == b"grant_type=client_credentials"
    assert token_request.header("Content-Type") == "application/x-www-form-urlencoded"
    assert token_request.header("Authorization") == "Basic bG9jYWwtY2xpZW50OmxvY2FsLXNlY3JldA=="
    assert (status_request.method, status_request.body) == ("GET", b"")
    assert status_request.header("Authorization") == "t0ken"
    assert status_request.header("Content-Type") == "application/json"
    http_headers = {"host", "accept", "accept-encoding", "user-agent", "connection"}
    for request in server.requests:
        names = {name.lower() for name, _ in request.headers} - http_headers
        assert names <= {"authorization", "content-type", "content-length"}
        assert "?" not in request.path


async def test_netrc_does_not_change_the_requests(connected, either, monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password 0therSecret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with pytest.raises(NotFoundError):
        await either().operation("osca", MISSING)


async def test_a_redirect_is_not_followed(serve, connect, either):
    def answer(request, reply):
        if request.path == "/oauth2/token":
            reply(200, {"access_token": "t0ken"})
        else:
            reply(302, Location=f"{other.url}/stolen")

    other = serve(lambda request, reply: reply(200, {"operationStatus": "complete"}))
    connect(serve(answer).url)
    with pytest.raises(CodingServiceError, match="HTTP 302"):
        await either().operation("osca", "00000000-0000-4000-8000-000000000001")
    assert other.requests == []


async def test_both_hooks_use_the_proxy_of_the_environment(serve, connect, either, monkeypatch):
    def answer(request, reply):
        if request.path.endswith("/oauth2/token"):
            reply(200, {"access_token": "t0ken"})
        else:
            reply(200, {"operationStatus": "in_progress"})

    proxy = serve(answer)
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", proxy.url)
    connect("http://coder.example", allow_http=True)
    assert (await either().operation("osca", "00000000-0000-4000-8000-000000000001")).status == "in_progress"
    assert [request.path for request in proxy.requests] == [
        "http://coder.example/oauth2/token",
        "http://coder.example/v1/topics/osca/batch-code/operations/00000000-0000-4000-8000-000000000001",
    ]


async def test_both_hooks_use_the_proxy_of_the_connection(serve, connect, either):
    def answer(request, reply):
        reply(200, {"access_token": "t0ken", "operationStatus": "in_progress"})

    proxy = serve(answer)
    connect("http://coder.example", allow_http=True, proxies={"http": proxy.url})
    await either().operation("osca", "00000000-0000-4000-8000-000000000001")
    assert len(proxy.requests) == 2


async def test_a_refused_authorization_prefix_is_an_explicit_deny(remote, connect, either):
    connect(remote.url, authorization_prefix="Bearer")
    with pytest.raises(AccessDeniedError, match="explicit deny"):
        await either().operation("osca", MISSING)
    assert [one["status"] for one in remote.journal("GET")] == [403, 403]


async def test_the_error_for_a_wrong_secret_says_what_to_check_and_does_not_contain_the_secret(
    remote, connect, either
):
    connect(remote.url, password="wr0ngSecret")
    with pytest.raises(AuthorizationError, match=r"'invalid_client'.*login.*password") as caught:
        await either().operation("osca", MISSING)
    assert "wr0ngSecret" not in str(caught.value)
    assert remote.journal("GET") == []


async def test_the_error_for_a_service_that_is_down_contains_its_url_and_what_to_check(serve, connect, either):
    server = serve(lambda request, reply: reply(200))
    url = server.url
    server.stop()
    connect(url)
    with pytest.raises(
        ServiceUnavailableError,
        match=rf"failed without an answer .*check that the service .*\(POST {url}/oauth2/token\)",
    ):
        await either().operation("osca", "00000000-0000-4000-8000-000000000001")


async def test_a_call_without_an_answer_fails_after_the_timeout(serve, connect, either):
    def answer(request, reply):
        if request.path == "/oauth2/token":
            reply(200, {"access_token": "t0ken"})
        else:
            stop.wait(5)

    stop = threading.Event()
    connect(serve(answer).url, timeout=0.2)
    try:
        with pytest.raises(ServiceUnavailableError, match=r"failed without an answer .*Timeout.* \(GET "):
            await either().operation("osca", "00000000-0000-4000-8000-000000000001")
    finally:
        stop.set()


async def test_a_closed_connection_raises_a_retryable_error(serve, connect, either):
    connect(serve(lambda request, reply: reply.cut()).url)
    with pytest.raises(ServiceUnavailableError, match="failed without an answer"):
        await either().operation("osca", "00000000-0000-4000-8000-000000000001")


async def test_the_error_for_a_missing_connection_says_how_to_create_one(either, monkeypatch):
    monkeypatch.delenv("AIRFLOW_CONN_CODING_SERVICE_DEFAULT", raising=False)
    with pytest.raises(SettingsError, match=r"no Airflow connection 'coding_service_default'.*AIRFLOW_CONN_CODING"):
        await either().operation("osca", "00000000-0000-4000-8000-000000000001")


async def test_a_connection_with_a_wrong_field_is_refused(connect, either):
    connect("http://coder.example")
    with pytest.raises(SettingsError, match="host of connection 'coding_service_default' is 'http://coder.example'"):
        await either().operation("osca", "00000000-0000-4000-8000-000000000001")


async def test_too_many_requests_delays_the_next_call_of_any_hook(connected, either, tmp_path):
    connected.fault("too_many_requests", retry_after=7)
    with pytest.raises(TooManyRequestsError, match="too close together") as caught:
        await either().operation("osca", MISSING)
    assert caught.value.retry_after == 7
    assert 6 < CodingServiceHook()._flow._budget.reserve().seconds <= 7


async def test_a_probe_that_succeeds_lets_all_hooks_go_on(remote, connect, either, budget_extra):
    connect(remote.url, **budget_extra)
    hooks = [either() for _ in range(5)]
    remote.fault("limit_exceeded", count=2)
    for hook in hooks:
        with pytest.raises(QuotaExceededError, match="no calls to the coding service before"):
            await hook.operation("osca", MISSING)
    state = CodingServiceHook()._flow._budget._state
    for statuses in ([429, 429], [429, 429, 404, 404]):  # the first probe is refused, the second is not
        with state.lock() as (stored, _):
            stored["last_probe"] -= 3600
        for hook in hooks[:2]:
            with pytest.raises(CodingServiceError):
                await hook.operation("osca", MISSING)
        assert [one["status"] for one in remote.journal("GET", MISSING)] == statuses


async def test_limit_exceeded_stops_all_hooks_until_midnight_but_for_a_probe_an_hour(connected, either):
    connected.fault("limit_exceeded")
    now = time.time()
    with pytest.raises(QuotaExceededError, match="request a higher quota .*; no calls to the coding") as caught:
        await either().operation("osca", MISSING)
    until_midnight = 86400 - now % 86400
    assert caught.value.ends_after == pytest.approx(until_midnight, abs=5)
    assert caught.value.retry_after == pytest.approx(min(3600, until_midnight), abs=5)
    calls = len(connected.journal())
    for other in (EitherHook(CodingServiceHook), EitherHook(CodingServiceAsyncHook)):
        with pytest.raises(QuotaExceededError, match="no calls to the coding service before"):
            await other.operation("osca", MISSING)
    assert len(connected.journal()) == calls


async def test_the_last_fifth_of_the_day_is_for_operations_that_have_been_created(
    remote, connect, either, budget_extra
):
    connect(remote.url, requests_per_day=10, **budget_extra)
    hook = CodingServiceHook()
    model = hook.latest_model("osca").model_id
    operation_id = hook.create_operation("osca", model).operation_id
    for _ in range(6):
        hook.topics()
    for new in (hook.topics, lambda: hook.create_operation("osca", model)):
        with pytest.raises(QuotaExceededError, match="the rest is reserved for operations that have been created"):
            new()
    for _ in range(2):
        assert (await either().operation("osca", operation_id)).status == "awaiting_input"
    with pytest.raises(QuotaExceededError, match="all 10 calls allowed in 24 hours have been made"):
        await either().operation("osca", operation_id)
    assert len(remote.journal(contains="/v1/")) == 10


async def test_a_server_error_is_retryable(connected, either):
    connected.fault("server_error")
    hook = either()
    with pytest.raises(ServiceUnavailableError, match="HTTP 500 'Error performing request'"):
        await hook.operation("osca", MISSING)
    with pytest.raises(NotFoundError):
        await hook.operation("osca", MISSING)


def test_calls_are_spaced_by_the_rate_of_the_connection(remote, connect):
    connect(remote.url, requests_per_second=20)
    hook = CodingServiceHook()
    start = time.monotonic()
    for _ in range(5):
        hook.topics()
    assert time.monotonic() - start >= 4 / 20


def test_two_hooks_together_do_not_exceed_the_rate(remote, connect):
    connect(remote.url, requests_per_second=20)
    hooks = [CodingServiceHook(), CodingServiceHook()]
    for _ in range(3):
        for hook in hooks:
            hook.topics()
    assert [one["status"] for one in remote.journal("GET")] == [200] * 6


async def test_an_unknown_status_can_pass(serve, connect, either):
    connect(serve(lambda request, reply: reply(200, {"access_token": "t0ken", "operationStatus": "paused"})).url)
    with pytest.raises(UnknownStatusError, match="unknown status 'paused'"):
        await either().operation("osca", "00000000-0000-4000-8000-000000000001")


# ---- download ----------------------------------------------------------------------------------------------------


def test_an_operation_that_is_not_complete_cannot_be_downloaded(connected, tmp_path):
    hook = CodingServiceHook()
    grant = hook.create_operation("osca", hook.latest_model("osca").model_id)
    paths = tmp_path / "o", tmp_path / "m"
    with pytest.raises(
        ServiceUnavailableError, match=f"'{grant.operation_id}' is 'awaiting_input': it has no output"
    ):
        hook.download("osca", grant.operation_id, *paths)
    connected.jump(3601)
    with pytest.raises(OperationFailedError, match=f"'{grant.operation_id}' is 'timed_out': it has no output"):
        hook.download("osca", grant.operation_id, *paths)


def test_the_error_for_deleted_files_differs_from_the_one_for_an_incomplete_operation(
    connected, input_file, tmp_path, clock
):
    hook = CodingServiceHook()
    operation_id = finish_operation(hook, input_file)
    connected.jump(86_401)
    with pytest.raises(OutputNotReadyError, match=f"'{operation_id}' is complete, but offers no output"):
        hook.download("osca", operation_id, tmp_path / "o", tmp_path / "m")


def test_an_expired_link_costs_one_more_status_call(connected, input_file, tmp_path, clock):
    hook = CodingServiceHook()
    operation_id = finish_operation(hook, input_file)
    connected.fault("expired_link")
    before = len(connected.journal("GET", "/v1/"))
    output, metadata = hook.download("osca", operation_id, tmp_path / "o", tmp_path / "m")
    assert (output.lines, metadata is None) == (3, False)
    assert len(connected.journal("GET", "/v1/")) == before + 2


def test_a_failed_metadata_download_does_not_fail_the_output_download(connected, input_file, tmp_path, clock):
    hook = CodingServiceHook()
    operation_id = finish_operation(hook, input_file)
    connected.fault("expired_link", path_contains="metadata", count=3)
    output, metadata = hook.download("osca", operation_id, tmp_path / "o", tmp_path / "m")
    assert (output.lines, metadata) == (3, None)


@pytest.mark.parametrize("metadata_links", [0, 1])
def test_missing_metadata_does_not_fail_the_output_download(serve, connect, tmp_path, metadata_links, clock):
    statuses = []

    def answer(request, reply):
        if request.path == "/oauth2/token":
            reply(200, {"access_token": "t0ken"})
        elif request.path.startswith("/v1/"):
            statuses.append(request)
            links = {"responseDownloadUrl": f"{server.url}/out"}
            if len(statuses) <= metadata_links:
                links["metadataDownloadUrl"] = f"{server.url}/gone"
            reply(200, {"operationStatus": "complete", **links})
        elif request.path == "/gone":
            reply(403)
        else:
            reply(200, b"{}\n", ETag='"e1"')

    server = serve(answer)
    connect(server.url)
    output, metadata = CodingServiceHook().download(
        "osca", "00000000-0000-4000-8000-000000000001", tmp_path / "o", tmp_path / "m"
    )
    assert (output.lines, metadata) == (1, None)


@pytest.mark.parametrize("name", ["responseDownloadUrl", "metadataDownloadUrl"])
def test_a_plain_http_link_to_another_host_is_not_followed(serve, connect, tmp_path, name):
    def answer(request, reply):
        links = dict.fromkeys(("responseDownloadUrl", "metadataDownloadUrl"), f"{server.url}/out")
        links[name] = "http://s3.example/out?X-Amz-Signature=5ec4e7"
        reply(200, {"access_token": "t0ken", "operationStatus": "complete", **links})

    server = serve(answer)
    connect(server.url)
    with pytest.raises(SettingsError, match=r"the link to the \w+ file leads to the host 's3.example'") as caught:
        CodingServiceHook().download("osca", "00000000-0000-4000-8000-000000000001", tmp_path / "o", tmp_path / "m")
    assert "5ec4e7" not in str(caught.value)


# ---- test_connection ---------------------------------------------------------------------------------------------


def test_test_connection_succeeds_for_a_valid_connection(connected):
    succeeded, message = CodingServiceHook().test_connection()
    assert succeeded
    assert message.startswith("Connected; topics: ")
    assert "osca" in message


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"password": "wrong"}, "Wrong credentials. Enter client id and client secret again"),
        ({"login": "nobody"}, "Wrong credentials. Enter client id and client secret again"),
        ({"auth_host": None}, "`auth_host` in the extra of this connection"),
        ({"timeout": -1}, "this connection has timeout = -1"),
        ({"authorization_prefix": "Bearer"}, "Access is denied at the moment. Wait an hour"),
        ({"port": 1}, "Wrong host, or no way to it. Check API URL, Token URL and port"),
        ({"auth_host": "http://127.0.0.1:1"}, "Wrong host, or no way to it. Check API URL, Token URL and port"),
    ],
)
def test_test_connection_fails_with_the_reason_for_an_invalid_connection(remote, connect, fields, words):
    url = remote.url.rpartition(":")[0] if "port" in fields else remote.url
    connect(url, **{"auth_host": remote.url, **fields})
    succeeded, message = CodingServiceHook().test_connection()
    assert not succeeded
    assert words in message
    assert "coding_service_default" not in message, "Airflow makes up the id of a tested connection"
    assert len(remote.journal("GET", "/v1/")) <= 2


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("too_many_requests", "The service limits calls at the moment. Test again in a minute"),
        ("limit_exceeded", "The calls of the day are used up. Wait, or ask the operator"),
        ("server_error", "The service answers, but is disturbed. Test again in a few minutes"),
    ],
)
def test_test_connection_tells_throttling_and_disturbances_from_wrong_settings(connected, fault, words):
    connected.fault(fault)
    succeeded, message = CodingServiceHook().test_connection()
    assert not succeeded
    assert message.startswith(words)
    assert len(connected.journal("GET", "/v1/")) == 1


@pytest.mark.parametrize("status", [200, 302, 404])
@pytest.mark.parametrize("place", ["host", "auth_host"])
def test_test_connection_recognises_another_server(remote, connect, serve, status, place):
    other = serve(lambda request, reply: reply(status, "<html>Please log in</html>"))
    connect(other.url if place == "host" else remote.url, auth_host=other.url if place == "auth_host" else remote.url)
    succeeded, message = CodingServiceHook().test_connection()
    assert not succeeded
    assert message.startswith("Wrong host. A server answered that is not the coding service")


def test_test_connection_costs_one_call_and_at_most_one_token(connected):
    for _ in range(2):
        assert CodingServiceHook().test_connection()[0]
    assert len(connected.journal("GET", "/v1/")) == 2
    assert len(connected.journal("POST", "/oauth2/token")) == 1


def test_test_connection_notices_a_wrong_token_url_and_its_correction_at_once(remote, connect):
    connect(remote.url)
    assert CodingServiceHook().test_connection()[0]
    connect(remote.url, auth_host="http://127.0.0.1:1")
    assert not CodingServiceHook().test_connection()[0], "the token of the other endpoint does not count"
    connect(remote.url)
    assert CodingServiceHook().test_connection()[0]


@pytest.mark.parametrize("name", ["login", "password", "auth_host"])
def test_no_message_of_test_connection_contains_the_secret(remote, connect, name):
    connect(
        remote.url,
        **{"password": "wr0ngSecret", name: "http://127.0.0.1:1" if name == "auth_host" else "wr0ngSecret"},
    )
    assert "wr0ngSecret" not in str(CodingServiceHook().test_connection())


def test_an_error_that_is_not_ours_is_shown_without_its_message():
    message = describe_error(ValueError("5ec4e7"), "x")
    assert message.startswith("The test failed (ValueError). Test again")
    assert "5ec4e7" not in message


# ---- secrets and the event loop ----------------------------------------------------------------------------------


def test_the_repr_of_a_step_does_not_contain_its_headers():
    assert "t0ken" not in repr(Send("GET", "http://x", {"Authorization": "t0ken"}))


def test_nothing_secret_is_logged_even_at_debug(connected, input_file, tmp_path):
    class MessageHandler(logging.Handler):
        def emit(self, record):
            if not record.name.startswith("uvicorn"):  # the local service runs in this process and logs as well
                messages.append(record.getMessage())

    messages, root, handler = [], logging.getLogger(), MessageHandler()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        hook = CodingServiceHook()
        connected.fault("expired_link")
        operation_id = finish_operation(hook, input_file)
        hook.download("osca", operation_id, tmp_path / "o", tmp_path / "m")
        asyncio.run(CodingServiceAsyncHook().operation("osca", operation_id))
        link = hook.operation("osca", operation_id).output_url
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    text = "\n".join(messages)
    assert "resuming at byte" in text
    assert "X-Amz-Signature" in link
    assert "X-Amz-Signature" not in text
    assert "local-secret" not in text


class SlowAnswer:
    """An answer that a server delays until the event loop has run often enough."""

    def __init__(self):
        self._requested, self._released = threading.Event(), threading.Event()
        self.was_released = False

    def wait(self):
        """Delay the answer, in the server's thread."""
        self._requested.set()
        self.was_released = self._released.wait(10)

    async def release(self):
        """Release the answer after the request and some rounds of the event loop, which a blocked loop cannot do."""
        while not self._requested.is_set():
            await asyncio.sleep(0.01)
        for _ in range(20):
            await asyncio.sleep(0.01)
        self._released.set()


async def test_a_slow_service_does_not_block_the_event_loop(serve, connect):
    token, status = SlowAnswer(), SlowAnswer()

    def answer(request, reply):
        (token if request.path == "/oauth2/token" else status).wait()
        reply(200, {"access_token": "t0ken", "operationStatus": "in_progress"})

    connect(serve(answer).url)
    await asyncio.gather(
        CodingServiceAsyncHook().operation("osca", "00000000-0000-4000-8000-000000000001"),
        token.release(),
        status.release(),
    )
    assert token.was_released
    assert status.was_released


async def test_waiting_for_a_token_does_not_block_the_event_loop(serve, connect):
    token = SlowAnswer()

    def answer(request, reply):
        if request.path == "/oauth2/token":
            token.wait()
        reply(200, {"access_token": "t0ken", "operationStatus": "in_progress"})

    server = serve(answer)
    connect(server.url)
    calls = (CodingServiceAsyncHook().operation("osca", str(uuid4())) for n in range(5))
    await asyncio.gather(*calls, token.release())
    assert token.was_released
    assert [request.path for request in server.requests].count("/oauth2/token") == 1


async def test_a_429_while_a_token_is_being_fetched_does_not_deadlock_the_event_loop(serve, connect):
    """Both run in one thread: waiting for a lock that the other holds would stop the whole triggerer."""
    fetching, busy_done = (threading.Event() for _ in range(2))

    def answer(request, reply):
        if request.path == "/oauth2/token":
            if len([one for one in server.requests if one.path == "/oauth2/token"]) == 2:
                fetching.set()
                busy_done.wait(10)
            reply(200, {"access_token": f"t{len(server.requests)}"})
        elif request.path.endswith(DENIED) and request.header("Authorization") == "t1":
            reply(403)
        elif request.path.endswith(BUSY):
            fetching.wait(10)
            reply(429, {"message": "Too Many Requests"}, Retry_After="1")
        else:
            reply(200, {"operationStatus": "in_progress"})

    async def busy():
        with pytest.raises(TooManyRequestsError):
            await CodingServiceAsyncHook().operation("osca", BUSY)
        busy_done.set()

    server = serve(answer)
    connect(server.url)
    await CodingServiceAsyncHook().operation("osca", MISSING)
    denied = CodingServiceAsyncHook().operation("osca", DENIED)
    await asyncio.wait_for(asyncio.gather(busy(), denied), 20)


async def test_a_cancelled_call_releases_the_token_lock(serve, connect):
    def answer(request, reply):
        if len(server.requests) == 1:
            release.wait(10)
        reply(200, {"access_token": "t0ken", "operationStatus": "in_progress"})

    release = threading.Event()
    server = serve(answer)
    connect(server.url)
    call = asyncio.create_task(CodingServiceAsyncHook().operation("osca", "00000000-0000-4000-8000-000000000001"))
    while not server.requests:
        await asyncio.sleep(0.01)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    release.set()
    assert (
        await CodingServiceAsyncHook().operation("osca", "00000000-0000-4000-8000-000000000001")
    ).status == "in_progress"
