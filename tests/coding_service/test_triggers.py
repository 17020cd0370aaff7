"""The wait in the triggerer: exactly one event, whatever happens during the wait."""

import asyncio
import errno
import json
import math
import re
import time
from datetime import UTC, datetime

import pytest
from airflow.models.trigger import Trigger

from coding_service import BatchCodeTrigger, CodingServiceAsyncHook, CodingServiceHook, polling
from coding_service.call_budget import CallBudget
from coding_service.calls import CallFlow
from coding_service.models import Operation
from coding_service.shared_state import SharedFile
from coding_service.triggers import Reason, completion_event

CONN_ID = "coding_service_default"
MISSING = "c0ffee00-0000-4000-8000-000000000000"


def trigger_for(operation_id, seconds=60.0, **options):
    return BatchCodeTrigger("osca", operation_id, CONN_ID, time.time() + seconds, poll_interval=0.01, **options)


async def collect_events(trigger):
    return [event.payload async for event in trigger.run()]


@pytest.fixture
def operation_id(connected):
    hook = CodingServiceHook()
    return hook.create_operation("osca", hook.latest_model("osca").model_id).operation_id


@pytest.fixture
def uploaded(connected, input_file):
    """Return a function that opens an operation, sends its input and returns its id."""

    def upload():
        hook = CodingServiceHook()
        grant = hook.create_operation("osca", hook.latest_model("osca").model_id)
        hook.upload(grant, input_file)
        return grant.operation_id

    return upload


# ---- serialization ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("poll_interval", [None, 5.0])
def test_a_trigger_can_be_stored_by_airflow_and_restored(encrypted, poll_interval):
    trigger = BatchCodeTrigger(
        "osca", "00000000-0000-4000-8000-000000000001", CONN_ID, 1_800_000_000.5, poll_interval, 90.5, 1_799_990_000.5
    )
    path, arguments = trigger.serialize()
    stored = Trigger(path, arguments)
    again = BatchCodeTrigger(**stored.kwargs)
    assert again.serialize() == trigger.serialize()
    assert path == f"{BatchCodeTrigger.__module__}.{BatchCodeTrigger.__qualname__}"


def test_only_ids_and_times_are_stored():
    _, arguments = BatchCodeTrigger(
        "osca", "00000000-0000-4000-8000-000000000001", CONN_ID, 1_800_000_000.0, started=1_799_990_000.0
    ).serialize()
    assert arguments == {
        "topic": "osca",
        "operation_id": "00000000-0000-4000-8000-000000000001",
        "coding_service_conn_id": CONN_ID,
        "deadline": 1_800_000_000.0,
        "poll_interval": None,
        "expected_seconds": None,
        "started": 1_799_990_000.0,
    }


# ---- one event ---------------------------------------------------------------------------------------------------


async def test_a_complete_operation_gives_one_event_without_a_link(connected, uploaded):
    connected.progression("by_polls", polls=2)
    operation_id = uploaded()
    start = time.time()
    [payload] = await collect_events(trigger_for(operation_id))
    assert 0 < payload.pop("seconds") <= time.time() - start + 0.001
    assert payload == {
        "status": "success",
        "reason": "complete",
        "operation_id": operation_id,
        "message": "complete",
    }
    assert len(connected.journal("GET", operation_id)) >= 3


async def test_the_log_of_a_wait_says_how_long_it_takes_and_when_it_looks_next(connected, uploaded, capsys):
    connected.progression("by_polls", polls=2)
    operation_id = uploaded()
    await collect_events(trigger_for(operation_id, expected_seconds=0.1))
    log = capsys.readouterr().out
    words = "less than a second so far, less than a second expected, next look in less than a second"
    assert f"Operation {operation_id} is waited for: {words}" in log
    assert f"Operation {operation_id} is in_progress: {words}" in log
    assert f"Operation {operation_id} is complete, after less than a second" in log


async def test_a_failed_operation_gives_one_event_without_the_words_of_the_service(connected, uploaded):
    connected.fault("operation_fails", error="see https://s3/log?X-Amz-Signature=5ec4e7 for more")
    operation_id = uploaded()
    [payload] = await collect_events(trigger_for(operation_id))
    assert (payload["status"], payload["reason"], payload["operation_id"]) == ("error", "failed", operation_id)
    assert payload["message"] == "the service failed it"


async def test_a_timed_out_operation_gives_one_event(connected, operation_id):
    connected.jump(3601)
    [payload] = await collect_events(trigger_for(operation_id))
    assert (payload["status"], payload["reason"]) == ("error", "timed_out")
    assert "no input arrived in time" in payload["message"]


async def test_the_deadline_gives_one_event(connected, operation_id):
    [payload] = await collect_events(trigger_for(operation_id, seconds=1.5))
    assert (payload["status"], payload["reason"]) == ("error", "deadline")
    assert payload["operation_id"] == operation_id
    assert len(connected.journal("GET", operation_id)) > 1


async def test_a_deadline_that_has_passed_still_allows_one_call(connected, uploaded):
    operation_id = uploaded()
    while CodingServiceHook().operation("osca", operation_id).status != "complete":
        pass
    [payload] = await collect_events(trigger_for(operation_id, seconds=-3600))
    assert payload["reason"] == "complete"


async def test_a_restart_does_not_extend_the_deadline(connected, operation_id):
    trigger = trigger_for(operation_id, seconds=0.3)
    await asyncio.sleep(0.35)
    restarted = BatchCodeTrigger(**trigger.serialize()[1])
    [payload] = await collect_events(restarted)
    assert payload["reason"] == "deadline"
    assert len(connected.journal("GET", operation_id)) == 1  # and not as often as 0.3 seconds allow


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"auth_host": None}, "`auth_host` in the extra"),
        ({"requests_per_second": 0}, "expected a number above 0"),
    ],
)
async def test_a_settings_error_gives_one_event(remote, connect, fields, words):
    connect(remote.url, **fields)
    [payload] = await collect_events(trigger_for("00000000-0000-4000-8000-000000000001"))
    assert (payload["status"], payload["reason"], payload["operation_id"]) == (
        "error",
        "refused",
        "00000000-0000-4000-8000-000000000001",
    )
    assert words in payload["message"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"password": "wrong"}, "check login"), ({"authorization_prefix": "Bearer"}, "explicit deny")],
)
async def test_a_refused_token_does_not_end_the_wait_before_the_deadline(remote, connect, fields, words):
    connect(remote.url, **fields)
    [payload] = await collect_events(trigger_for("00000000-0000-4000-8000-000000000001", seconds=0.5))
    assert payload["reason"] == "deadline"
    assert words in payload["message"]
    assert "clear this task to continue waiting" in payload["message"]


async def test_a_missing_connection_gives_one_event(monkeypatch):
    monkeypatch.delenv("AIRFLOW_CONN_CODING_SERVICE_DEFAULT", raising=False)
    [payload] = await collect_events(
        BatchCodeTrigger("osca", "00000000-0000-4000-8000-000000000001", CONN_ID, time.time() + 60)
    )
    assert payload["reason"] == "refused"
    assert f"no Airflow connection '{CONN_ID}'" in payload["message"]


async def test_an_operation_is_gone_after_several_404_in_a_row_and_not_before(connected, monkeypatch):
    monkeypatch.setattr(polling, "MIN_NOT_FOUND_SPAN_S", 0.3)
    [payload] = await collect_events(trigger_for(MISSING))
    assert payload["reason"] == "refused"
    calls = len(connected.journal("GET", MISSING))
    assert calls >= polling.MIN_NOT_FOUND_COUNT
    assert payload["seconds"] >= 0.3
    assert payload["message"].startswith("HTTP 404 'The specified operation does not exist' (GET ")
    assert f"; {calls} status calls in a row failed like this, over " in payload["message"]


async def test_a_404_of_an_operation_that_exists_does_not_end_the_wait(serve, connect, monkeypatch):
    monkeypatch.setattr(polling, "MIN_NOT_FOUND_SPAN_S", 0.1)
    answers = [404] * 4 + [500] + [404] * 4 + [200]

    def answer(request, reply):
        if request.path == "/oauth2/token":
            reply(200, {"access_token": "t0ken"})
        else:
            reply(answers.pop(0), {"message": "busy", "operationStatus": "complete"})

    connect(serve(answer).url)
    [payload] = await collect_events(trigger_for("00000000-0000-4000-8000-000000000001"))
    assert payload["reason"] == "complete"
    assert answers == []


async def test_an_unknown_state_gives_one_event(serve, connect):
    connect(serve(lambda request, reply: reply(200, {"access_token": "t", "operationStatus": "paused"})).url)
    [payload] = await collect_events(trigger_for("00000000-0000-4000-8000-000000000001", seconds=0.5))
    assert payload["reason"] == "deadline"
    assert "unknown status 'paused'" in payload["message"]


def test_every_event_can_be_stored_as_json_and_has_the_same_fields():
    for status in ("complete", "failed", "timed_out"):
        payload = completion_event(
            Operation.from_json("00000000-0000-4000-8000-000000000001", {"operationStatus": status}), 12.5
        )
        assert json.loads(json.dumps(payload)) == payload
        assert list(payload) == ["status", "reason", "operation_id", "message", "seconds"]
        assert payload["seconds"] == 12.5
        assert payload["reason"] in [str(reason) for reason in Reason]


@pytest.mark.parametrize("status", ["awaiting_input", "in_progress"])
def test_an_operation_that_continues_has_no_event(status):
    assert (
        completion_event(
            Operation.from_json("00000000-0000-4000-8000-000000000001", {"operationStatus": status}), 12.5
        )
        is None
    )


# ---- faults of this machine ---------------------------------------------------------------------------------------


@pytest.fixture
def damage(remote, connect, monkeypatch, tmp_path):
    """Return a function that brings about a fault of this machine by its name."""

    def bring_about(fault):
        extra = {}
        if fault == "state folder is a file":
            (tmp_path / "file").touch()
            extra = {"state_dir": str(tmp_path / "file")}
        elif fault == "state folder is below a file":
            (tmp_path / "file").touch()
            extra = {"state_dir": str(tmp_path / "file" / "state")}
        elif fault == "budget database is gone":
            monkeypatch.setenv("AIRFLOW_CONN_BUDGET", "postgres://me@127.0.0.1:1/coding")
            extra = {"budget_conn_id": "budget"}
        elif fault == "no connection for the budget":
            extra = {"budget_conn_id": "nowhere"}
        elif fault == "connection cannot be read":
            monkeypatch.setattr(CodingServiceAsyncHook, "aget_connection", fail_with(RuntimeError("5ec4e7")))
        elif fault == "disk is full":
            full = fail_with(OSError(errno.ENOSPC, "No space left on device"))
            monkeypatch.setattr("coding_service.shared_state._write_atomically", full)
        elif fault == "something unexpected":
            monkeypatch.setattr(CallFlow, "steps", fail_with(ZeroDivisionError("5ec4e7")))
        connect(remote.url, **extra)

    return bring_about


def fail_with(error):
    def fail(*args, **kwargs):
        raise error

    return fail


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("state folder is a file", "cannot be kept in '.*file'.*let the user of the Airflow processes write to this"),
        ("state folder is below a file", "cannot be kept in '.*state'.*let the user of the Airflow processes write"),
        ("no connection for the budget", "no Airflow connection 'nowhere'"),
        (
            "something unexpected",
            r"failed in the triggerer \(ZeroDivisionError\), whose log says more; clear this task",
        ),
    ],
)
async def test_a_fault_of_this_machine_that_lasts_ends_the_wait_with_a_sentence(damage, fault, words):
    damage(fault)
    [payload] = await collect_events(trigger_for("00000000-0000-4000-8000-000000000001"))
    assert payload["reason"] == "refused"
    assert re.search(words, payload["message"])
    assert "5ec4e7" not in payload["message"]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("budget database is gone", "not available in the database of connection 'budget'"),
        ("connection cannot be read", "'coding_service_default' could not be read (RuntimeError)"),
        ("disk is full", "(No space left on device): check free space"),
    ],
)
async def test_a_fault_of_this_machine_that_can_pass_does_not_end_the_wait(damage, fault, words):
    damage(fault)
    [payload] = await collect_events(trigger_for("00000000-0000-4000-8000-000000000001", seconds=0.5))
    assert payload["reason"] == "deadline"
    assert words in payload["message"]
    assert "5ec4e7" not in payload["message"]


async def test_a_wait_goes_on_when_the_disk_is_no_longer_full(connected, uploaded, monkeypatch):
    operation_id = uploaded()
    with monkeypatch.context() as patch:
        patch.setattr("coding_service.shared_state._write_atomically", fail_with(OSError(errno.ENOSPC, "full")))
        wait = asyncio.create_task(collect_events(trigger_for(operation_id)))
        await asyncio.sleep(0.3)
        assert connected.journal("GET", operation_id) == []
    [payload] = await wait
    assert payload["reason"] == "complete"


HOLD_LOCKS = """
import sys, time
from contextlib import ExitStack
from pathlib import Path
from coding_service.shared_state import lock_file

files = [lock_file(Path(name)) for name in sys.argv[1:]]
print("locked", flush=True)
time.sleep(4)
"""


@pytest.mark.parametrize("locked", [("token",), ("calls",), ("token", "calls")], ids=" and ".join)
async def test_a_lock_that_another_process_holds_does_not_stop_the_event_loop(
    remote, connect, uploaded, start_python, locked
):
    state = connect(remote.url)
    operations = [uploaded() for _ in range(20)]
    for path in state.glob("*.token"):  # so that every wait needs a new token
        path.unlink()
    account = next(state.glob("*.calls")).stem
    holder = start_python(HOLD_LOCKS, *(state / f"{account}.{suffix}" for suffix in locked))
    assert holder.stdout.readline() == "locked\n"
    waits = asyncio.gather(*(collect_events(trigger_for(one)) for one in operations))
    gaps, last = [], time.monotonic()
    while not waits.done():
        await asyncio.sleep(0.01)
        gaps.append(time.monotonic() - last)
        last = time.monotonic()
    assert {payload["reason"] for [payload] in await waits} == {"complete"}
    assert sum(gaps) > 2  # the waits needed the lock
    assert max(gaps) < 2


# ---- during the wait --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["server_error", "too_many_requests"])
async def test_a_failed_status_call_does_not_end_the_wait(connected, uploaded, fault):
    operation_id = uploaded()
    connected.fault(fault)
    [payload] = await collect_events(trigger_for(operation_id))
    assert payload["reason"] == "complete"
    first, *_ = connected.journal("GET", operation_id)
    assert first["status"] in (500, 429)


async def test_a_service_that_is_down_for_a_while_does_not_end_the_wait(serve, connect):
    def answer(request, reply):
        if request.path == "/oauth2/token":
            reply(200, {"access_token": "t0ken"})
        elif len(server.requests) < 5:
            reply.cut()
        else:
            reply(200, {"operationStatus": "complete"})

    server = serve(answer)
    connect(server.url)
    [payload] = await collect_events(trigger_for("00000000-0000-4000-8000-000000000001"))
    assert payload["reason"] == "complete"


async def test_the_wait_respects_the_retry_after_of_the_service(serve, connect):
    moments = []

    def answer(request, reply):
        if request.path == "/oauth2/token":
            reply(200, {"access_token": "t0ken"})
            return
        moments.append(time.monotonic())
        if len(moments) == 1:
            reply(503, {"message": "busy"}, Retry_After="1")
        else:
            reply(200, {"operationStatus": "complete"})

    connect(serve(answer).url)
    [payload] = await collect_events(trigger_for("00000000-0000-4000-8000-000000000001"))
    assert payload["reason"] == "complete"
    assert 1 <= moments[1] - moments[0] < 3


@pytest.fixture
def stop_until(remote, connect):
    """Return a function that stops all calls until a moment, as after "Limit Exceeded"."""
    state = connect(remote.url)

    def stop(moment):
        [path] = state.glob("*.calls")
        CallBudget(SharedFile(path), 1, 1).stop(moment - time.time())

    return stop


async def test_the_time_in_which_no_calls_are_allowed_moves_the_deadline(remote, stop_until, operation_id):
    start = time.time()
    stop_until(start + 3)
    [payload] = await collect_events(trigger_for(operation_id, seconds=1))
    assert payload["reason"] == "deadline"
    assert 3.9 < payload["seconds"] < 10
    calls = [datetime.fromisoformat(one["time"]).timestamp() for one in remote.journal("GET", operation_id)]
    assert calls
    assert min(calls) >= start + 2.99


async def test_a_restart_during_a_stop_does_not_shorten_the_wait(stop_until, operation_id):
    start = time.time()
    stop_until(start + 2)
    trigger = trigger_for(operation_id, seconds=1)
    await asyncio.sleep(1.5)
    [payload] = await collect_events(BatchCodeTrigger(**trigger.serialize()[1]))
    assert payload["seconds"] > 2.9


async def test_a_stop_before_the_wait_does_not_move_its_deadline(stop_until, operation_id):
    stop_until(time.time() + 0.5)
    await asyncio.sleep(0.6)
    [payload] = await collect_events(trigger_for(operation_id, seconds=0.2))
    assert payload["seconds"] < 0.5


async def test_while_calls_are_stopped_no_call_is_made_and_one_warning_is_logged(
    remote, uploaded, stop_until, capsys
):
    operation_id = uploaded()
    over = math.ceil(time.time()) + 1
    stop_until(over - 0.5)
    [payload] = await collect_events(trigger_for(operation_id))
    assert payload["reason"] == "complete"
    [call] = remote.journal("GET", operation_id)
    assert datetime.fromisoformat(call["time"]).timestamp() >= over - 0.5 - 0.01
    warnings = [
        line for line in capsys.readouterr().out.splitlines() if "no calls to the coding service before" in line
    ]
    assert len(warnings) == 1
    assert f"{datetime.fromtimestamp(over, UTC):%Y-%m-%d %H:%M:%S} UTC" in warnings[0]


async def test_no_call_is_made_before_the_expected_end(connected, operation_id):
    [payload] = await collect_events(trigger_for(operation_id, seconds=0.3, expected_seconds=60))
    assert payload["reason"] == "deadline"
    assert len(connected.journal("GET", operation_id)) == 1  # at the deadline


async def test_an_operation_that_ends_a_little_before_the_expected_end_needs_one_call(connected, uploaded):
    operation_id = uploaded()
    [payload] = await collect_events(trigger_for(operation_id, expected_seconds=0.5))
    assert payload["reason"] == "complete"
    assert 0.4 <= payload["seconds"] < 5
    assert len(connected.journal("GET", operation_id)) == 1


async def test_a_resumed_wait_polls_as_rarely_as_before(connected, operation_id):
    began = time.time() - 3600
    [payload] = await collect_events(trigger_for(operation_id, seconds=0.3, started=began))
    assert payload["reason"] == "deadline"
    assert 3600 <= payload["seconds"] < 3700
    assert len(connected.journal("GET", operation_id)) == 1  # at the deadline


async def test_the_interval_of_the_connection_is_the_default(remote, connect, uploaded):
    connect(remote.url, poll_interval=0.01)
    [payload] = await collect_events(BatchCodeTrigger("osca", uploaded(), CONN_ID, time.time() + 60))
    assert payload["reason"] == "complete"


async def test_many_waits_share_one_loop_and_one_budget(remote, connect, uploaded):
    connect(remote.url, requests_per_second=50)
    operations = [uploaded() for _ in range(10)]
    start = time.monotonic()
    results = await asyncio.gather(*(collect_events(trigger_for(one)) for one in operations))
    assert [payload["operation_id"] for [payload] in results] == operations
    assert all(payload["reason"] == "complete" for [payload] in results)
    calls = len([one for one in remote.journal("GET") if "/operations/" in one["path"]])
    assert time.monotonic() - start >= (calls - 1) / 50 - 0.05
