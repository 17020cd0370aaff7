"""The calls of forty operations and three processes together never exceed the one budget that they share."""

import asyncio
from datetime import datetime
from itertools import pairwise

import pytest

from coding_service import CodingServiceAsyncHook, CodingServiceHook
from coding_service.errors import QuotaExceededError, TooManyRequestsError

PER_SECOND = 5
#: Seconds by which a call can arrive later than its reserved moment: after the wait, the budget is checked again and a
#: connection is opened, on two busy cores. A late call and a punctual one arrive closer together than their moments
#: are. Measured: 0.05 on an idle machine. One interval is allowed here, so that no period contains more than one call
#: above the budget.
JITTER = 1 / PER_SECOND
#: A call of one of several busy processes can be later than that. A budget that is not shared would be exceeded by far
#: more in the whole test.
PROCESS_JITTER_S = 1.0

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

ids = sys.argv[1:]
while ids:
    ids = [one for one in ids if not CodingServiceHook().operation("osca", one).status.is_terminal]
"""


@pytest.fixture
def forty_operations(remote, connect, input_file, tmp_path):
    """Return the ids of forty operations that have their input, created through a connection with another budget."""
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
    remote, connect, budget_extra, forty_operations, start_python
):
    connect(remote.url, requests_per_second=PER_SECOND, **budget_extra)
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
            assert later - moment >= more / PER_SECOND - PROCESS_JITTER_S


# ---- within one process --------------------------------------------------------------------------------------------


@pytest.fixture
def budget_state(remote, connect, budget_extra):
    """The state of the budget of the default connection."""
    connect(remote.url, requests_per_second=PER_SECOND, **budget_extra)
    return CodingServiceHook()._flow._budget._state


async def get_operation(operation_id):
    return await CodingServiceAsyncHook().operation("osca", operation_id)


async def test_a_locked_budget_does_not_block_the_event_loop(budget_state, forty_operations):
    with budget_state.lock():
        call = asyncio.create_task(get_operation(forty_operations[0]))
        await asyncio.wait([call], timeout=0.5)  # if the loop were blocked, this line would not be reached again
        assert not call.done()
    assert (await call).operation_id == forty_operations[0]


async def test_a_call_that_is_cancelled_while_it_waits_for_the_budget_delays_no_other_call(
    remote, budget_state, forty_operations
):
    with budget_state.lock():
        call = asyncio.create_task(get_operation(forty_operations[0]))
        await asyncio.wait([call], timeout=0.5)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert (await get_operation(forty_operations[1])).operation_id == forty_operations[1]
    assert len(arrivals(remote)) == 1


@pytest.fixture
def slow_budget(remote, connect, budget_extra):
    """One call a second, so that a refusal arrives before the next call is due, also on a busy machine."""
    connect(remote.url, requests_per_second=1, **budget_extra)


async def test_calls_that_wait_for_their_moment_are_not_sent_after_limit_exceeded(
    remote, slow_budget, forty_operations
):
    remote.fault("limit_exceeded", path_contains="/operations/")
    results = await asyncio.gather(*map(get_operation, forty_operations[:4]), return_exceptions=True)
    assert {type(result) for result in results} == {QuotaExceededError}
    assert len(arrivals(remote)) == 1


async def test_too_many_requests_delays_calls_that_wait_for_their_moment(remote, slow_budget, forty_operations):
    remote.fault("too_many_requests", path_contains="/operations/", retry_after=3)
    results = await asyncio.gather(*map(get_operation, forty_operations[:4]), return_exceptions=True)
    assert [type(result) for result in results].count(TooManyRequestsError) == 1
    refused, *others = arrivals(remote)
    assert len(others) == 3
    assert others[0] - refused >= 3 - JITTER
    for earlier, later in pairwise(others):
        assert later - earlier >= 1 - JITTER


async def test_too_many_requests_delays_all_callers(remote, budget_state, forty_operations):
    remote.fault("too_many_requests", path_contains="/operations/", retry_after=1)
    with pytest.raises(TooManyRequestsError):
        await get_operation(forty_operations[0])
    CodingServiceHook().operation("osca", forty_operations[1])
    first, second = arrivals(remote)
    assert second - first >= 1
