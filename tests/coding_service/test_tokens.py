"""One token an hour, for however many processes."""

import json
import stat

import pytest

from coding_service import CodingServiceHook
from coding_service.calls import CallFlow
from coding_service.errors import AuthorizationError
from coding_service.shared_state import SharedFile
from coding_service.tokens import RENEWAL_MARGIN_S, TokenStore

NOW = 1_800_000_000.0


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "account.token"


def store(path, secret="secret123", now=NOW):
    return TokenStore(path, "client1", secret, clock=lambda: now)


def get(store, refused=None):
    with store.slot() as slot:
        return slot.get(refused)


def put(store, token, seconds=3600.0):
    with store.slot() as slot:
        slot.save(token, seconds)


def test_a_token_is_there_for_the_next_process(path):
    assert get(store(path)) is None
    put(store(path), "t0ken")
    assert get(store(path)) == "t0ken"


def test_a_token_is_renewed_before_it_ends(path):
    put(store(path), "t0ken")
    assert get(store(path, now=NOW + 3600 - RENEWAL_MARGIN_S - 1)) == "t0ken"
    assert get(store(path, now=NOW + 3600 - RENEWAL_MARGIN_S)) is None


@pytest.mark.parametrize("seconds", [1.0, 60.0, 200.0])
def test_a_short_lived_token_is_used_for_half_its_life(path, seconds):
    put(store(path), "t0ken", seconds)
    assert get(store(path, now=NOW + seconds * 0.49)) == "t0ken"
    assert get(store(path, now=NOW + seconds * 0.51)) is None


def test_a_refused_token_is_not_handed_out_again_but_a_newer_one_is(path):
    put(store(path), "old")
    assert get(store(path), refused="old") is None
    put(store(path), "new")
    assert get(store(path), refused="old") == "new"


def test_the_place_is_one_at_a_time(path):
    with store(path).slot() as first, store(path).slot() as second:
        assert first is not None
        assert second is None
    with store(path).slot() as third:
        assert third is not None


def test_a_place_left_with_an_error_keeps_what_was_there(path):
    put(store(path), "t0ken")

    def break_off():
        with store(path).slot() as slot:
            slot.save("other", 3600)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off()
    assert get(store(path)) == "t0ken"


def test_the_file_is_its_owner_s_and_tells_nothing_without_the_secret(path):
    put(store(path), "t0ken")
    assert "t0ken" not in path.read_text()
    assert {stat.S_IMODE(one.stat().st_mode) for one in path.parent.iterdir()} == {0o600}
    assert get(store(path, secret="changed")) is None


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b"\xff\xfe", b'{"until": 9e99}', b'{"until": 9e99, "token": "x"}']
)
def test_a_damaged_file_costs_a_new_token_and_no_error(path, damage):
    put(store(path), "t0ken")
    path.write_bytes(damage)
    assert get(store(path)) is None


# ---- against the service -------------------------------------------------------------------------------------------

MANY_PROCESSES = """
import os, sys
from coding_service import CodingServiceHook

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

TELL_WHO_HAS_A_TOKEN = """
import os
from coding_service.call_budget import CallBudget

def told(self, reserve=CallBudget.reserve):
    os.write(1, b"has a token\\n")  # at once and whole, however many write
    return reserve(self)

CallBudget.reserve = told
"""


def token_requests(remote):
    return remote.journal("POST", "/oauth2/token")


def test_twenty_processes_at_once_ask_for_one_token(connected, run_python):
    run_python(MANY_PROCESSES, 20)
    assert len(token_requests(connected)) == 1
    assert [one["status"] for one in connected.journal("GET", "/v1/topics")] == [200] * 20


def test_the_token_file_of_a_real_call_holds_no_token_and_no_credentials(remote, connect, tmp_path):
    state = connect(remote.url)
    hook = CodingServiceHook()
    hook.topics()
    [path] = state.glob("*.token")
    with CallFlow(hook.settings, state)._tokens.slot() as slot:
        token = slot.get()
    assert len(token) > 20
    for file in state.iterdir():
        assert token not in file.read_text()
        assert "local-secret" not in file.read_text()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(path.read_text())["until"] > 0


def test_a_withdrawn_token_is_replaced_once_and_the_call_goes_through(connected):
    hook = CodingServiceHook()
    hook.topics()
    connected.forget_tokens()
    hook.topics()
    assert [one["status"] for one in connected.journal("GET", "/v1/topics")] == [200, 403, 200]
    assert len(token_requests(connected)) == 2


def test_twenty_processes_whose_token_is_refused_at_once_replace_it_once(remote, connect, start_python):
    state = connect(remote.url)
    CodingServiceHook().topics()
    [path] = state.glob("*.calls")
    with SharedFile(path).lock():  # each takes the token, then waits for the budget
        processes = start_python(TELL_WHO_HAS_A_TOKEN + MANY_PROCESSES, 20)
        assert [processes.stdout.readline() for _ in range(20)] == ["has a token\n"] * 20
        remote.forget_tokens()
    processes.communicate(timeout=60)
    assert processes.returncode == 0
    assert len(token_requests(remote)) == 2
    statuses = [one["status"] for one in remote.journal("GET", "/v1/topics")]
    assert sorted(statuses) == [200] * 21 + [403] * 20


def test_a_token_refused_when_new_is_not_replaced_a_second_time(serve, connect):
    def answer(request, reply):
        if request.path == "/oauth2/token":
            reply(200, {"access_token": f"t{len(server.requests)}", "expires_in": 3600})
        else:
            reply(403, {"Message": "User is not authorized to access this resource with an explicit deny"})

    server = serve(answer)
    connect(server.url)
    with pytest.raises(AuthorizationError, match=r"explicit deny.*credentials belong to the tier"):
        CodingServiceHook().topics()
    paths = [request.path for request in server.requests]
    assert paths == ["/oauth2/token", "/v1/topics", "/oauth2/token", "/v1/topics"]
    sent = [request.header("Authorization") for request in server.requests if request.path == "/v1/topics"]
    assert sent == ["t1", "t3"]


def test_a_token_that_could_not_be_had_leaves_the_place_free(connected):
    connected.fault("server_error", path_contains="/oauth2/token")
    with pytest.raises(Exception, match="the token request was answered with HTTP 500"):
        CodingServiceHook().topics()
    assert CodingServiceHook().topics()
