"""The wait in the triggerer: exactly one event, whatever happens during the wait."""

import asyncio
import json
import math
import time
from datetime import UTC, datetime

import pytest
from airflow.models.trigger import Trigger

from coding_service import BatchCodeTrigger, CodingServiceHook
from coding_service.call_budget import CallBudget
from coding_service.models import Operation
from coding_service.shared_state import SharedFile
from coding_service.triggers import Reason, completion_event

CONN_ID = "coding_service_default"


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
    trigger = BatchCodeTrigger("osca", "op-1", CONN_ID, 1_800_000_000.5, poll_interval, 90.5, 1_799_990_000.5)
    path, arguments = trigger.serialize()
    stored = Trigger(path, arguments)
    again = BatchCodeTrigger(**stored.kwargs)
    assert again.serialize() == trigger.serialize()
    assert path == f"{BatchCodeTrigger.__module__}.{BatchCodeTrigger.__qualname__}"


def test_only_ids_and_times_are_stored():
    _, arguments = BatchCodeTrigger("osca", "op-1", CONN_ID, 1_800_000_000.0, started=1_799_990_000.0).serialize()
    assert arguments == {
        "topic": "osca",
        "operation_id": "op-1",
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
    [payload] = await collect_events(trigger_for(operation_id, seconds=0.2))
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
    [payload] = await collect_events(trigger_for("op-1"))
    assert (payload["status"], payload["reason"], payload["operation_id"]) == ("error", "refused", "op-1")
    assert words in payload["message"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"password": "wrong"}, "check login"), ({"authorization_prefix": "Bearer"}, "explicit deny")],
)
async def test_a_refused_token_does_not_end_the_wait_before_the_deadline(remote, connect, fields, words):
    connect(remote.url, **fields)
    [payload] = await collect_events(trigger_for("op-1", seconds=0.5))
    assert payload["reason"] == "deadline"
    assert words in payload["message"]
    assert "clear this task to continue waiting" in payload["message"]


async def test_a_missing_connection_gives_one_event(monkeypatch):
    monkeypatch.delenv("AIRFLOW_CONN_CODING_SERVICE_DEFAULT", raising=False)
    [payload] = await collect_events(BatchCodeTrigger("osca", "op-1", CONN_ID, time.time() + 60))
    assert payload["reason"] == "refused"
    assert f"no Airflow connection '{CONN_ID}'" in payload["message"]


async def test_an_operation_that_the_service_does_not_know_gives_one_event(connected):
    [payload] = await collect_events(trigger_for("c0ffee00-0000-4000-8000-000000000000"))
    assert payload["reason"] == "refused"
    assert "The specified operation does not exist" in payload["message"]


async def test_an_unknown_state_gives_one_event(serve, connect):
    connect(serve(lambda request, reply: reply(200, {"access_token": "t", "operationStatus": "paused"})).url)
    [payload] = await collect_events(trigger_for("op-1", seconds=0.5))
    assert payload["reason"] == "deadline"
    assert "unknown status 'paused'" in payload["message"]


def test_every_event_can_be_stored_as_json_and_has_the_same_fields():
    for status in ("complete", "failed", "timed_out"):
        payload = completion_event(Operation.from_json("op-1", {"operationStatus": status}), 12.5)
        assert json.loads(json.dumps(payload)) == payload
        assert list(payload) == ["status", "reason", "operation_id", "message", "seconds"]
        assert payload["seconds"] == 12.5
        assert payload["reason"] in [str(reason) for reason in Reason]


@pytest.mark.parametrize("status", ["awaiting_input", "in_progress"])
def test_an_operation_that_continues_has_no_event(status):
    assert completion_event(Operation.from_json("op-1", {"operationStatus": status}), 12.5) is None


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
    [payload] = await collect_events(trigger_for("op-1"))
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
    [payload] = await collect_events(trigger_for("op-1"))
    assert payload["reason"] == "complete"
    assert 1 <= moments[1] - moments[0] < 3


async def test_after_limit_exceeded_no_call_is_made_until_the_deadline(connected, operation_id):
    connected.fault("limit_exceeded")
    [payload] = await collect_events(trigger_for(operation_id, seconds=0.5))
    assert payload["reason"] == "deadline"
    assert [one["status"] for one in connected.journal("GET", operation_id)] == [429]


async def test_while_calls_are_stopped_no_call_is_made_and_one_warning_is_logged(remote, connect, uploaded, capsys):
    state = connect(remote.url)
    operation_id = uploaded()
    [path] = state.glob("*.calls")
    over = math.ceil(time.time()) + 1
    CallBudget(SharedFile(path), 1, 1).stop(over - 0.5 - time.time())
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
