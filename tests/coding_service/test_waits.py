"""A call waits for a minute at most, says in the log what it waits for, and otherwise gives back its worker."""

import pytest

from coding_service import CodingServiceAsyncHook, CodingServiceHook, protocol
from coding_service.calls import MAX_POLL_WAIT_S, MAX_WAIT_S, Wait
from coding_service.errors import ServiceUnavailableError, TooManyRequestsError

MISSING = "c0ffee00-0000-4000-8000-000000000000"


def first_wait(hook, call):
    """Perform the steps of a call until its first wait, and return how long it is."""
    steps = hook._flow.steps(call)
    step = next(steps)
    while not isinstance(step, Wait):
        step = steps.send(hook._perform(step))
    steps.close()
    return step.seconds


def messages_of_calls(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "coding_service.calls"]


@pytest.fixture(params=[CodingServiceHook, CodingServiceAsyncHook])
def ask(request):
    """Return a function that makes a status call: with the synchronous hook, then with the asynchronous one."""

    async def make_call():
        if request.param is CodingServiceAsyncHook:
            return await CodingServiceAsyncHook().operation("osca", MISSING)
        return CodingServiceHook().operation("osca", MISSING)

    return make_call


async def test_a_long_retry_after_puts_no_caller_to_sleep(connected, ask):
    connected.fault("too_many_requests", retry_after=7200)
    with pytest.raises(TooManyRequestsError) as caught:
        await ask()
    assert caught.value.retry_after == 3600
    for _ in range(3):
        with pytest.raises(TooManyRequestsError, match="no call to the coding service is free for") as caught:
            await ask()
        assert 3500 < caught.value.retry_after <= 3600
    assert len(connected.journal("GET", MISSING)) == 1


def test_a_wait_above_ten_seconds_is_logged_with_its_reason(connected, caplog):
    hook = CodingServiceHook()
    hook.topics()
    caplog.set_level("INFO", "coding_service.calls")
    hook._flow._budget.slow_down(42)
    seconds = first_wait(hook, protocol.list_topics())
    assert 40 < seconds <= 42
    assert messages_of_calls(caplog) == [f"waiting {seconds:.0f} s for a free call of the budget"]


def test_a_short_wait_is_not_logged(connected, caplog):
    hook = CodingServiceHook()
    hook.topics()
    caplog.set_level("INFO", "coding_service.calls")
    hook._flow._budget.slow_down(5)
    assert first_wait(hook, protocol.list_topics()) <= 5
    assert messages_of_calls(caplog) == []


def test_the_waits_of_one_call_are_limited_together(connected):
    hook = CodingServiceHook()
    hook.topics()
    budget = hook._flow._budget
    steps = hook._flow.steps(protocol.list_topics())
    budget.slow_down(40)
    step = next(steps)
    while not isinstance(step, Wait):
        step = steps.send(hook._perform(step))
    assert 38 < step.seconds <= 40
    check = steps.send(None)
    budget.slow_down(45)  # each wait alone would be allowed
    with pytest.raises(TooManyRequestsError, match="is free for 4[45] s"):
        hook._perform(check)


def test_a_token_that_another_process_is_fetching_is_waited_for_a_minute_at_most(connected, caplog):
    hook = CodingServiceHook()
    caplog.set_level("INFO", "coding_service.calls")
    slot = hook._flow._tokens.lock()
    waits = []

    def perform_all_steps():
        steps, result = hook._flow.steps(protocol.list_topics()), None
        while True:
            step = steps.send(result)
            if is_wait := isinstance(step, Wait):
                waits.append(step.seconds)
            result = None if is_wait else hook._perform(step)

    with pytest.raises(ServiceUnavailableError, match="has been fetching a token for 60 s"):
        perform_all_steps()
    slot.release()
    assert sum(waits) == pytest.approx(MAX_WAIT_S, abs=0.2)
    assert messages_of_calls(caplog) == ["waiting 10 s so far for a token that another process is fetching"]


def test_calls_of_workers_come_before_polls():
    assert MAX_POLL_WAIT_S < MAX_WAIT_S
