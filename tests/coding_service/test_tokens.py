"""One token for all processes of a machine, until it expires."""

import asyncio
import errno
import json
import stat
from contextlib import nullcontext

import pytest

from coding_service import CodingServiceAsyncHook, CodingServiceHook
from coding_service.calls import CallFlow
from coding_service.errors import (
    AccessDeniedError,
    AuthorizationError,
    LocalFaultError,
    QuotaExceededError,
    ServiceUnavailableError,
    TooManyRequestsError,
)
from coding_service.shared_state import SharedFile
from coding_service.tokens import RENEWAL_MARGIN_S, TokenStore

NOW = 1_800_000_000.0


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "account.token"


def store(path, secret="secret123", now=NOW):
    return TokenStore(path, "client1", secret, clock=lambda: now)


def get(store, refused_token=None):
    slot = store.lock()
    try:
        return slot.get(refused_token)
    finally:
        slot.release()


def save(store, token, seconds=3600.0):
    slot = store.lock()
    slot.save(token, seconds)
    slot.release()


def test_a_stored_token_is_available_to_the_next_process(path):
    assert get(store(path)) is None
    save(store(path), "t0ken")
    assert get(store(path)) == "t0ken"


def test_a_token_is_renewed_before_it_expires(path):
    save(store(path), "t0ken")
    assert get(store(path, now=NOW + 3600 - RENEWAL_MARGIN_S - 1)) == "t0ken"
    assert get(store(path, now=NOW + 3600 - RENEWAL_MARGIN_S)) is None


@pytest.mark.parametrize("seconds", [1.0, 60.0, 200.0])
def test_a_short_lived_token_is_used_for_half_its_lifetime(path, seconds):
    save(store(path), "t0ken", seconds)
    assert get(store(path, now=NOW + seconds * 0.49)) == "t0ken"
    assert get(store(path, now=NOW + seconds * 0.51)) is None


def test_a_refused_token_is_not_returned_but_a_newer_one_is(path):
    save(store(path), "old")
    assert get(store(path), refused_token="old") is None
    save(store(path), "new")
    assert get(store(path), refused_token="old") == "new"


def test_only_one_process_can_lock_the_token(path):
    first = store(path).lock()
    assert first is not None
    assert store(path).lock() is None
    first.release()
    assert store(path).lock() is not None


def test_a_lock_that_nobody_holds_any_more_is_released(path):
    assert store(path).lock() is not None  # as after a call that was cancelled while a thread acquired the lock
    assert store(path).lock() is not None


def test_the_file_is_private_and_encrypted_with_the_secret(path):
    save(store(path), "t0ken")
    assert "t0ken" not in path.read_text()
    assert {stat.S_IMODE(one.stat().st_mode) for one in path.parent.iterdir()} == {0o600}
    assert get(store(path, secret="changed")) is None


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b"\xff\xfe", b'{"until": 9e99}', b'{"until": 9e99, "token": "x"}']
)
def test_a_damaged_file_reads_as_no_token(path, damage):
    save(store(path), "t0ken")
    path.write_bytes(damage)
    assert get(store(path)) is None


# ---- against the service -------------------------------------------------------------------------------------------

MANY_PROCESSES = """
import os, sys
from coding_service import CodingServiceAsyncHook, CodingServiceHook

children = []
for _ in range(int(sys.argv[1])):
    if child := os.fork():
        children.append(child)
        continue
    try:
        assert CodingServiceHook().topics()
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
assert [os.waitpid(child, 0)[1] for child in children] == [0] * len(children)
"""

REPORT_TOKENS = """
import os
from coding_service.call_budget import CallBudget

def report_and_reserve(self, reserve=CallBudget.reserve, **options):
    os.write(1, b"has a token\\n")  # one write, so that lines of several processes do not mix
    return reserve(self, **options)

CallBudget.reserve = report_and_reserve
"""


def token_requests(remote):
    return remote.journal("POST", "/oauth2/token")


def test_twenty_simultaneous_processes_fetch_one_token(connected, run_python):
    run_python(MANY_PROCESSES, 20)
    assert len(token_requests(connected)) == 1
    assert [one["status"] for one in connected.journal("GET", "/v1/topics")] == [200] * 20


def test_the_state_files_of_a_real_call_contain_no_token_and_no_credentials(remote, connect, tmp_path):
    state = connect(remote.url)
    hook = CodingServiceHook()
    hook.topics()
    [path] = state.glob("*.token")
    token = get(CallFlow(hook.settings, state)._tokens)
    assert len(token) > 20
    for file in state.iterdir():
        assert token not in file.read_text()
        assert "local-secret" not in file.read_text()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(path.read_text())["until"] > 0


def test_a_revoked_token_is_replaced_once_and_the_call_succeeds(connected):
    hook = CodingServiceHook()
    hook.topics()
    connected.forget_tokens()
    hook.topics()
    assert [one["status"] for one in connected.journal("GET", "/v1/topics")] == [200, 403, 200]
    assert len(token_requests(connected)) == 2


def test_twenty_processes_whose_token_is_refused_replace_it_once(remote, connect, start_python):
    state = connect(remote.url)
    CodingServiceHook().topics()
    [path] = state.glob("*.calls")
    with SharedFile(path).lock():  # every process gets the token, then waits for the budget
        processes = start_python(REPORT_TOKENS + MANY_PROCESSES, 20)
        assert [processes.stdout.readline() for _ in range(20)] == ["has a token\n"] * 20
        remote.forget_tokens()
    processes.communicate(timeout=60)
    assert processes.returncode == 0
    assert len(token_requests(remote)) == 2
    statuses = [one["status"] for one in remote.journal("GET", "/v1/topics")]
    assert sorted(statuses) == [200] * 21 + [403] * 20


def test_a_new_token_that_is_refused_is_not_replaced_again(serve, connect):
    def answer(request, reply):
        if request.path == "/oauth2/token":
            reply(200, {"access_token": f"t{len(server.requests)}", "expires_in": 3600})
        else:
            reply(403, {"Message": "User is not authorized to access this resource with an explicit deny"})

    server = serve(answer)
    connect(server.url)
    with pytest.raises(AccessDeniedError, match=r"explicit deny.*credentials belong to the tier"):
        CodingServiceHook().topics()
    paths = [request.path for request in server.requests]
    assert paths == ["/oauth2/token", "/v1/topics", "/oauth2/token", "/v1/topics"]
    sent = [request.header("Authorization") for request in server.requests if request.path == "/v1/topics"]
    assert sent == ["t1", "t3"]


# ---- refusals --------------------------------------------------------------------------------------------------------


def advance(hook, monkeypatch, seconds):
    """Let the clock of the token of this hook go forward."""
    store = hook._flow._tokens
    now = store._clock()
    monkeypatch.setattr(store, "_clock", lambda: now + seconds)


@pytest.mark.parametrize(
    ("fault", "options", "error", "pause"),
    [
        ("server_error", {}, ServiceUnavailableError, 60),
        ("access_denied", {}, AccessDeniedError, 600),
        ("too_many_requests", {"retry_after": 90}, TooManyRequestsError, 90),
        ("limit_exceeded", {}, QuotaExceededError, 60),
    ],
)
def test_after_a_failed_token_request_no_hook_makes_another_before_the_pause_is_over(
    connected, monkeypatch, fault, options, error, pause
):
    connected.fault(fault, path_contains="/oauth2/token", **options)
    for _ in range(3):
        with pytest.raises(error, match=r"HTTP .* \(the token request\)"):
            CodingServiceHook().topics()
    assert len(token_requests(connected)) == 1
    hook = CodingServiceHook()
    advance(hook, monkeypatch, pause - 5)
    with pytest.raises(error, match=r"no token is requested before 20\d\d-.* UTC") as caught:
        hook.topics()
    assert 0 < caught.value.retry_after <= 5
    advance(hook, monkeypatch, 6)
    assert hook.topics()
    assert len(token_requests(connected)) == 2


def test_a_token_endpoint_that_does_not_answer_is_asked_once_by_all(serve, connect):
    server = serve(lambda request, reply: reply.cut())
    connect(server.url)
    for _ in range(3):
        with pytest.raises(ServiceUnavailableError, match="failed without an answer"):
            CodingServiceHook().topics()
    assert len(server.requests) == 1


def test_wrong_credentials_are_sent_once_by_all_and_new_ones_at_once(remote, connect):
    connect(remote.url, password="wrong")
    for _ in range(3):
        with pytest.raises(AuthorizationError, match="invalid_client"):
            CodingServiceHook().topics()
    assert len(token_requests(remote)) == 1
    connect(remote.url)
    assert CodingServiceHook().topics()


@pytest.mark.parametrize(
    ("status", "error"), [(401, AuthorizationError), (403, AccessDeniedError)], ids=["401", "403"]
)
def test_a_new_token_that_is_refused_is_not_replaced_by_the_next_callers_either(serve, connect, status, error):
    def answer(request, reply):
        if request.path == "/oauth2/token":
            reply(200, {"access_token": f"t{len(server.requests)}", "expires_in": 3600})
        else:
            reply(status, {"Message": "User is not authorized to access this resource with an explicit deny"})

    server = serve(answer)
    connect(server.url)
    for _ in range(5):
        with pytest.raises(error, match="explicit deny"):
            CodingServiceHook().topics()
    paths = [request.path for request in server.requests]
    assert paths.count("/oauth2/token") == 2
    assert paths.count("/v1/topics") == 2 + 4


def test_a_denial_of_one_call_does_not_keep_other_calls_from_using_the_token(connected):
    hook = CodingServiceHook()
    hook.topics()
    connected.fault("access_denied", path_contains="/models", count=2)
    with pytest.raises(AccessDeniedError) as caught:
        hook.models("osca")
    assert caught.value.retry_after == 600
    assert hook.topics()
    assert hook.models("osca")
    assert len(token_requests(connected)) == 2


MANY_REFUSED_PROCESSES = MANY_PROCESSES.replace(
    "        assert CodingServiceHook().topics()",
    "        CodingServiceHook().topics()\n        os._exit(2)\n    except CodingServiceError:\n        os._exit(0)",
).replace("import os, sys\n", "import os, sys\nfrom coding_service.errors import CodingServiceError\n")


@pytest.mark.parametrize("fault", ["access_denied", "server_error", "limit_exceeded"])
def test_twenty_simultaneous_processes_make_one_token_request_that_fails(connected, run_python, fault):
    connected.fault(fault, path_contains="/oauth2/token", count=100)
    run_python(MANY_REFUSED_PROCESSES, 20)
    assert len(token_requests(connected)) == 1
    assert connected.journal("GET") == []


def test_twenty_simultaneous_processes_with_wrong_credentials_make_one_token_request(remote, connect, run_python):
    connect(remote.url, password="wrong")
    run_python(MANY_REFUSED_PROCESSES, 20)
    assert len(token_requests(remote)) == 1


async def test_twenty_simultaneous_waits_make_one_token_request_that_fails(connected):
    connected.fault("access_denied", path_contains="/oauth2/token", count=100)
    calls = [CodingServiceAsyncHook().operation("osca", "00000000-0000-4000-8000-000000000001") for _ in range(20)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(result) for result in results} == {AccessDeniedError}
    assert len(token_requests(connected)) == 1


def test_no_token_is_requested_that_could_not_be_stored(connected, monkeypatch):
    def fail(path, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("coding_service.shared_state._write_atomically", fail)
    with pytest.raises(LocalFaultError, match="No space left on device.*check free space"):
        CodingServiceHook().topics()
    assert token_requests(connected) == []


def test_the_stored_refusal_contains_no_credentials_and_is_not_readable_with_others(path):
    slot = store(path).lock()
    slot.save_failure(AuthorizationError("check login"))
    slot.release()
    assert "login" not in path.read_text()
    for secret, is_refused in (("secret123", True), ("changed", False)):
        slot = store(path, secret).lock()
        with pytest.raises(AuthorizationError, match="check login") if is_refused else nullcontext():
            slot.prepare_request()
        slot.release()
