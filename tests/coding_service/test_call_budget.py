"""The call budget: spacing and daily limit across processes, also with wrong clocks and damaged files."""

import json
import stat
from contextlib import suppress

import pytest
from airflow.sdk.definitions.retry_policy import RetryAction

from coding_service import CodingServiceRetryPolicy
from coding_service.call_budget import DAY_S, HOUR_S, CallBudget, Reservation
from coding_service.errors import QuotaExceededError, TooManyRequestsError
from coding_service.shared_state import SharedFile
from coding_service.tokens import TokenStore

NOW = 1_800_000_000.0
MIDNIGHT = NOW - NOW % 86_400 + 86_400  # 16 hours later


class FakeClock:
    """A clock that a test sets."""

    def __init__(self):
        self.now = NOW

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "account.calls"


@pytest.fixture
def budget(path, clock):
    return CallBudget(SharedFile(path, clock), per_second=2, per_day=100)


def test_calls_are_evenly_spaced(budget):
    assert [budget.reserve().seconds for _ in range(4)] == [0, 0.5, 1, 1.5]


def test_a_call_after_a_pause_is_not_delayed(budget, clock):
    budget.reserve()
    clock.now += 60
    assert budget.reserve().seconds == 0
    assert budget.reserve().seconds == 0.5


def test_two_budgets_with_the_same_file_share_it(budget, path, clock):
    other = CallBudget(SharedFile(path, clock), per_second=2, per_day=100)
    assert [budget.reserve().seconds, other.reserve().seconds, budget.reserve().seconds] == [0, 0.5, 1]


def test_other_accounts_have_budgets_of_their_own(budget, path, clock):
    other = CallBudget(SharedFile(path.with_name("other.calls"), clock), per_second=2, per_day=100)
    assert [budget.reserve().seconds, other.reserve().seconds] == [0, 0]


def test_calls_above_the_daily_budget_are_refused(path, clock):
    budget = CallBudget(SharedFile(path, clock), per_second=1000, per_day=3)
    for _ in range(3):
        budget.reserve()
    with pytest.raises(
        QuotaExceededError, match=r"no calls .* before 20\d\d-.* UTC: all 3 calls allowed in 24 hours have been made"
    ) as caught:
        budget.reserve()
    clock.now += caught.value.retry_after
    assert budget.reserve().seconds == 0


def test_a_refused_call_is_not_counted(path, clock):
    budget = CallBudget(SharedFile(path, clock), per_second=1000, per_day=1)
    budget.reserve()
    for _ in range(5):
        with pytest.raises(QuotaExceededError):
            budget.reserve()
    clock.now += 25 * HOUR_S
    assert budget.reserve().seconds == 0


@pytest.mark.parametrize("offset", [0, 1, HOUR_S // 2, HOUR_S - 1])
def test_no_24_hours_contain_more_calls_than_the_daily_budget(path, clock, offset):
    clock.now = NOW - NOW % HOUR_S + offset
    budget = CallBudget(SharedFile(path, clock), per_second=1000, per_day=5)
    moments = []
    for _ in range(3 * 24 * 12):
        try:
            budget.reserve()
            moments.append(clock.now)
        except QuotaExceededError:
            pass
        clock.now += 300
    assert len(moments) >= 15 - 5
    for moment in moments:
        assert sum(moment <= other < moment + DAY_S for other in moments) <= 5


def test_calls_spread_over_a_day_become_available_again_one_day_later(path, clock):
    budget = CallBudget(SharedFile(path, clock), per_second=1000, per_day=4)
    for _ in range(4):
        budget.reserve()
        clock.now += 6 * HOUR_S
    waits = []
    for _ in range(2):
        try:
            budget.reserve()
        except QuotaExceededError as error:
            waits.append(error.retry_after)
            clock.now += error.retry_after
            budget.reserve()
    assert all(wait <= 7 * HOUR_S for wait in waits)


def test_forty_tasks_with_three_retries_survive_a_used_up_daily_budget(path, clock):
    budget = CallBudget(SharedFile(path, clock), per_second=1000, per_day=100)
    for calls in (2, 2, 2, 2, 2, 90):  # some quiet hours, then a busy one
        for _ in range(calls):
            budget.reserve(is_for_operation=True)
        clock.now += HOUR_S
    waiting, attempts = 40, 0
    while waiting and attempts < 4:
        attempts, delay = attempts + 1, 0.0
        for _ in range(waiting):
            try:
                budget.reserve(is_for_operation=True)
                waiting -= 1
            except QuotaExceededError as error:
                decision = CodingServiceRetryPolicy().evaluate(error, try_number=attempts, max_tries=3)
                assert decision.action is RetryAction.RETRY
                delay = max(delay, decision.retry_delay.total_seconds())
        clock.now += delay
    assert (waiting, attempts) == (0, 3)


def test_slow_down_delays_all_callers(budget, path, clock):
    budget.reserve()
    budget.slow_down(7)
    other = CallBudget(SharedFile(path, clock), per_second=2, per_day=100)
    assert [other.reserve().seconds, budget.reserve().seconds] == [7, 7.5]


def test_a_shorter_slow_down_does_not_shorten_a_longer_one(budget):
    budget.slow_down(60)
    budget.slow_down(1)
    assert budget.reserve().seconds == 60


def refusal(budget, **options):
    with pytest.raises(QuotaExceededError) as caught:
        budget.reserve(**options)
    return caught.value


@pytest.mark.parametrize(("seconds", "end"), [(None, MIDNIGHT - NOW), (DAY_S, MIDNIGHT - NOW), (600, 600)])
def test_a_stop_refuses_all_callers_until_the_next_utc_midnight_at_most(budget, path, clock, seconds, end):
    budget.stop(seconds)
    other = CallBudget(SharedFile(path, clock), per_second=2, per_day=100)
    for one in (budget, other):
        assert 'the service reported "Limit Exceeded"' in str(refusal(one))
        assert refusal(one).retry_after == min(HOUR_S, end)
        assert refusal(one).ends_after == end
    clock.now += end
    assert other.reserve() == Reservation(0)


def test_during_a_stop_one_caller_an_hour_probes(budget, path, clock):
    budgets = [budget, *(CallBudget(SharedFile(path, clock), per_second=2, per_day=100) for _ in range(9))]
    budget.stop()
    probes = []
    while clock.now < MIDNIGHT:
        for one in budgets:
            try:
                assert one.reserve() == Reservation(0, is_probe=True)
                probes.append(clock.now - NOW)
            except QuotaExceededError:
                pass
        clock.now += 300
    assert probes == [HOUR_S * n for n in range(1, 16)]


def test_a_probe_that_is_accepted_lets_all_callers_go_on(budget, path, clock):
    budget.stop()
    clock.now += HOUR_S
    assert budget.reserve().is_probe
    other = CallBudget(SharedFile(path, clock), per_second=2, per_day=100)
    assert refusal(other)
    budget.resume()
    assert other.reserve() == Reservation(0.5)


def test_a_probe_that_is_refused_is_followed_by_another_after_an_hour(budget, clock):
    budget.stop()
    clock.now += HOUR_S
    assert budget.reserve().is_probe
    assert budget.stop().retry_after == HOUR_S
    clock.now += HOUR_S - 1
    assert refusal(budget).retry_after == 1
    clock.now += 1
    assert budget.reserve().is_probe


def test_the_seconds_without_calls_are_counted_once_and_from_the_start_of_a_wait(budget, clock):
    assert budget.paused_seconds(NOW - DAY_S) == 0
    budget.stop()
    clock.now += 600
    budget.stop()  # reported to a second caller
    clock.now += 1200
    assert budget.paused_seconds(NOW - DAY_S) == 1800
    assert budget.paused_seconds(NOW + 900) == 900
    budget.resume()
    clock.now += 10_000
    assert budget.paused_seconds(NOW - DAY_S) == 1800
    budget.stop()
    clock.now += 100
    assert budget.paused_seconds(NOW - DAY_S) == 1900
    assert budget.paused_seconds(clock.now) == 0


def test_a_stop_that_ends_by_itself_is_counted_until_its_end(budget, clock):
    budget.stop(600)
    clock.now += HOUR_S
    assert budget.paused_seconds(NOW) == 600


def test_a_fifth_of_the_day_is_reserved_for_calls_for_existing_operations(path, clock):
    budget = CallBudget(SharedFile(path, clock), per_second=1000, per_day=10)
    for _ in range(8):
        budget.reserve()
    assert "8 of the 10 calls allowed in 24 hours have been made, and the rest is reserved" in str(refusal(budget))
    for _ in range(2):
        budget.reserve(is_for_operation=True)
    for options in ({}, {"is_for_operation": True}):
        assert "all 10 calls allowed in 24 hours have been made" in str(refusal(budget, **options))


def test_new_operations_wait_until_the_reserve_is_free_again(path, clock):
    budget = CallBudget(SharedFile(path, clock), per_second=1000, per_day=10)
    for _ in range(10):
        budget.reserve(is_for_operation=True)
        clock.now += HOUR_S
    clock.now += refusal(budget).retry_after
    assert budget.reserve().seconds == 0


def test_a_daily_budget_that_is_used_up_counts_as_time_without_calls(path, clock):
    budget = CallBudget(SharedFile(path, clock), per_second=1000, per_day=2)
    for _ in range(2):
        budget.reserve(is_for_operation=True)
    refusal(budget, is_for_operation=True)
    clock.now += 5000
    refusal(budget, is_for_operation=True)
    assert budget.paused_seconds(NOW) == 5000


def test_too_many_requests_delays_callers_that_wait_for_their_moment(budget, path, clock):
    assert [budget.reserve().seconds for _ in range(4)] == [0, 0.5, 1, 1.5]
    budget.slow_down(7)
    clock.now += 0.5
    waits = []
    for _ in range(3):  # each checks when its moment comes
        waits.append(clock.now + budget.confirm() - NOW)
        clock.now += 0.5
    assert waits == [7, 7.5, 8]
    clock.now = NOW + 7
    assert budget.confirm() == 0


@pytest.mark.parametrize("back", [10, HOUR_S, DAY_S, 400 * DAY_S])
def test_a_clock_that_was_wrong_delays_callers_by_at_most_two_days(path, clock, back):
    budget = CallBudget(SharedFile(path, clock), per_second=1, per_day=2)
    budget.reserve()
    budget.reserve()
    budget.stop(DAY_S)
    clock.now -= back
    delay = 0.0
    for _ in range(5):
        try:
            delay += budget.reserve().seconds
            break
        except QuotaExceededError as error:
            delay += error.retry_after
            clock.now += error.retry_after
    assert delay <= 2 * DAY_S + HOUR_S


def test_a_clock_that_was_far_ahead_does_not_delay_callers(budget, clock):
    clock.now += 400 * DAY_S
    budget.reserve()
    clock.now -= 400 * DAY_S
    assert budget.reserve().seconds == 0


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b"null", b"\xff\xfe\x00", b'{"next": 1', b'"text"'], ids=lambda damage: repr(damage)
)
def test_a_damaged_file_reads_as_empty(budget, path, damage):
    budget.reserve()
    path.write_bytes(damage)
    assert [budget.reserve().seconds, budget.reserve().seconds] == [0, 0.5]
    assert json.loads(path.read_text())["next"] == NOW + 1


def test_only_the_owner_can_read_the_files(budget, path):
    budget.reserve()
    assert {stat.S_IMODE(one.stat().st_mode) for one in path.parent.iterdir()} == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_budget_can_be_used_while_the_token_is_locked(budget, path):
    tokens = TokenStore(path.with_suffix(".token"), "client", "secret")
    slot = tokens.lock()
    assert slot is not None
    assert budget.reserve().seconds == 0  # a wait here would never end, if one thread did both
    budget.slow_down(1)
    budget.stop(1)
    slot.release()


SHARED_FILE_PROGRAM = """
import os, sys
from pathlib import Path
from coding_service.call_budget import CallBudget
from coding_service.shared_state import SharedFile

path, out, processes, calls = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
children = []
for number in range(processes):
    if child := os.fork():
        children.append(child)
        continue
    budget = CallBudget(SharedFile(path, clock=lambda: 1_800_000_000.0), per_second=2, per_day=10_000)
    (out / str(number)).write_text("\\n".join(str(budget.reserve().seconds) for _ in range(calls)))
    os._exit(0)
for child in children:
    assert os.waitpid(child, 0)[1] == 0
"""


def test_simultaneous_processes_reserve_different_moments(path, tmp_path, run_python):
    run_python(SHARED_FILE_PROGRAM, path, tmp_path, 4, 50)
    moments = [float(line) for number in range(4) for line in (tmp_path / str(number)).read_text().split()]
    assert sorted(moments) == [0.5 * number for number in range(200)]
    assert sum(json.loads(path.read_text())["calls"].values()) == 200


# ---- waits that are too long -------------------------------------------------------------------------------------


def test_a_caller_that_cannot_wait_so_long_is_told_when_to_return_and_uses_no_call(budget, path, clock):
    budget.slow_down(7200)
    other = CallBudget(SharedFile(path, clock), per_second=2, per_day=1)
    for _ in range(3):
        with pytest.raises(TooManyRequestsError, match="is free for 7200 s: the service reported") as caught:
            other.reserve(max_wait=60)
        assert caught.value.retry_after == 7200
    clock.now += 7200
    assert other.reserve(max_wait=60) == Reservation(0)  # the only call of the day


def test_callers_that_cannot_wait_leave_no_gap(budget):
    waits = []
    for _ in range(10):
        with suppress(TooManyRequestsError):
            waits.append(budget.reserve(max_wait=1).seconds)
    assert waits == [0, 0.5, 1]
    with pytest.raises(TooManyRequestsError, match="is free for 2 s: the calls of others come first"):
        budget.reserve(max_wait=1)
    assert budget.reserve().seconds == 1.5


def test_a_caller_whose_moment_is_moved_too_far_is_told_when_to_return(budget):
    budget.reserve()
    budget.slow_down(600)
    with pytest.raises(TooManyRequestsError) as caught:
        budget.confirm(max_wait=60)
    assert caught.value.retry_after == 600
