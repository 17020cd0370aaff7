"""Forty operations in flight, three processes, one budget: what arrives at the service never exceeds it."""

import asyncio
from datetime import datetime

import pytest

from coding_service import CodingServiceAsyncHook, CodingServiceHook
from coding_service.errors import QuotaExceededError, TooManyRequestsError

PER_SECOND = 5
#: Seconds by which an arrival may be late against its moment: what passes between the end of a wait and the first
#: byte at the service (the budget is looked at again, a connection is opened, two cores are shared by all). A late
#: call followed by a punctual one arrives closer to it than their moments are. Measured: 0.05 on a quiet machine; here
#: one interval, so that no stretch of time holds more than one call above the budget.
JITTER = 1 / PER_SECOND

TRIGGERS = """
import asyncio, sys, time
from coding_service import BatchCodeTrigger

async def wait_for(operation_id):
    trigger = BatchCodeTrigger("osca", operation_id, "coding_service_default", time.time() + 60, poll_interval=0.1)
    [event] = [event.payload async for event in trigger.run()]
    return event["reason"]

async def wait_for_all(ids):
    return await asyncio.gather(*map(wait_for, ids))

assert set(asyncio.run(wait_for_all(sys.argv[1:]))) == {"complete"}
"""

HOOK_CALLS = """
import sys
from coding_service import CodingServiceHook

left = sys.argv[1:]
while left:
    left = [one for one in left if not CodingServiceHook().operation("osca", one).status.is_terminal]
"""


@pytest.fixture
def forty_operations(remote, connect, input_file, tmp_path):
    """Forty operations with their input, made by a connection whose budget is another."""
    remote.progression("by_polls", polls=1)
    connect(remote.url, conn_id="setup", state_dir=str(tmp_path / "setup"))
    hook = CodingServiceHook("setup")
    model = hook.latest_model("osca").model_id
    grants = [hook.create_operation("osca", model) for _ in range(40)]
    for grant in grants:
        hook.upload(grant, input_file)
    return [grant.operation_id for grant in grants]


def arrivals(remote):
    calls = [one for one in remote.journal("GET") if "/operations/" in one["path"]]
    return sorted(datetime.fromisoformat(one["time"]).timestamp() for one in calls)


def test_forty_operations_polled_by_three_processes_stay_within_the_budget(
    remote, connect, budget_place, forty_operations, start_python
):
    connect(remote.url, requests_per_second=PER_SECOND, **budget_place)
    processes = [
        start_python(TRIGGERS, *forty_operations[:16]),
        start_python(TRIGGERS, *forty_operations[16:32]),
        start_python(HOOK_CALLS, *forty_operations[32:]),
    ]
    for process in processes:
        process.communicate(timeout=120)
        assert process.returncode == 0
    moments = arrivals(remote)
    assert len(moments) >= 2 * 40
    for number, moment in enumerate(moments):
        for more, later in enumerate(moments[number:]):
            assert later - moment >= more / PER_SECOND - JITTER


# ---- within one process --------------------------------------------------------------------------------------------


@pytest.fixture
def place(remote, connect, budget_place):
    """Where the budget of the default connection lies."""
    connect(remote.url, requests_per_second=PER_SECOND, **budget_place)
    return CodingServiceHook()._flow._budget._state


async def ask(operation_id):
    return await CodingServiceAsyncHook().operation("osca", operation_id)


async def test_a_budget_that_another_holds_does_not_hold_up_the_event_loop(place, forty_operations):
    with place.lock():
        call = asyncio.create_task(ask(forty_operations[0]))
        await asyncio.wait([call], timeout=0.5)  # in one that waits itself, this line would not be reached again
        assert not call.done()
    assert (await call).operation_id == forty_operations[0]


async def test_a_call_cancelled_while_it_waits_for_the_budget_holds_nobody_up(remote, place, forty_operations):
    with place.lock():
        call = asyncio.create_task(ask(forty_operations[0]))
        await asyncio.wait([call], timeout=0.5)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert (await ask(forty_operations[1])).operation_id == forty_operations[1]
    assert len(arrivals(remote)) == 1


async def test_those_who_wait_for_their_moment_do_not_call_after_an_exceeded_limit(remote, place, forty_operations):
    remote.fault("limit_exceeded", path_contains="/operations/")
    results = await asyncio.gather(*map(ask, forty_operations[:10]), return_exceptions=True)
    assert {type(result) for result in results} == {QuotaExceededError}
    assert len(arrivals(remote)) == 1


async def test_too_many_requests_hold_everybody_up(remote, place, forty_operations):
    remote.fault("too_many_requests", path_contains="/operations/", retry_after=1)
    with pytest.raises(TooManyRequestsError):
        await ask(forty_operations[0])
    CodingServiceHook().operation("osca", forty_operations[1])
    first, second = arrivals(remote)
    assert second - first >= 1
