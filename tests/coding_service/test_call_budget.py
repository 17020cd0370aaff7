"""The call budget: spacing and daily limit, across processes, whatever happens to clock and file."""

import json
import stat

import pytest
from airflow.sdk.definitions.retry_policy import RetryAction

from coding_service import CodingServiceRetryPolicy
from coding_service.call_budget import DAY_S, HOUR_S, CallBudget
from coding_service.errors import QuotaExceededError
from coding_service.shared_state import SharedFile
from coding_service.tokens import TokenStore

NOW = 1_800_000_000.0


class FakeClock:
    """A clock that goes where a test sends it."""

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
    assert [budget.reserve() for _ in range(4)] == [0, 0.5, 1, 1.5]


def test_a_call_after_a_pause_goes_at_once(budget, clock):
    budget.reserve()
    clock.now += 60
    assert budget.reserve() == 0
    assert budget.reserve() == 0.5


def test_two_budgets_on_one_file_share_it(budget, path, clock):
    other = CallBudget(SharedFile(path, clock), per_second=2, per_day=100)
    assert [budget.reserve(), other.reserve(), budget.reserve()] == [0, 0.5, 1]


def test_other_accounts_have_their_own(budget, path, clock):
    other = CallBudget(SharedFile(path.with_name("other.calls"), clock), per_second=2, per_day=100)
    assert [budget.reserve(), other.reserve()] == [0, 0]


def test_the_day_s_calls_run_out(path, clock):
    budget = CallBudget(SharedFile(path, clock), per_second=1000, per_day=3)
    for _ in range(3):
        budget.reserve()
    with pytest.raises(
        QuotaExceededError, match=r"no calls .* before 20\d\d-.* UTC: all 3 calls allowed in 24 hours have been made"
    ) as caught:
        budget.reserve()
    clock.now += caught.value.retry_after
    assert budget.reserve() == 0


def test_a_refused_call_is_not_counted(path, clock):
    budget = CallBudget(SharedFile(path, clock), per_second=1000, per_day=1)
    budget.reserve()
    for _ in range(5):
        with pytest.raises(QuotaExceededError):
            budget.reserve()
    clock.now += 25 * HOUR_S
    assert budget.reserve() == 0


@pytest.mark.parametrize("offset", [0, 1, HOUR_S // 2, HOUR_S - 1])
def test_no_24_hours_have_more_calls_than_the_day_s(path, clock, offset):
    clock.now = NOW - NOW % HOUR_S + offset
    budget = CallBudget(SharedFile(path, clock), per_second=1000, per_day=5)
    made = []
    for _ in range(3 * 24 * 12):
        try:
            budget.reserve()
            made.append(clock.now)
        except QuotaExceededError:
            pass
        clock.now += 300
    assert len(made) >= 15 - 5
    for moment in made:
        assert sum(moment <= other < moment + DAY_S for other in made) <= 5


def test_calls_spread_over_the_day_are_freed_as_they_age(path, clock):
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


def test_forty_tasks_of_three_retries_outlive_a_used_up_day(path, clock):
    budget = CallBudget(SharedFile(path, clock), per_second=1000, per_day=100)
    for calls in (2, 2, 2, 2, 2, 90):  # some quiet hours, then a busy one
        for _ in range(calls):
            budget.reserve()
        clock.now += HOUR_S
    waiting, tries = 40, 0
    while waiting and tries < 4:
        tries, delay = tries + 1, 0.0
        for _ in range(waiting):
            try:
                budget.reserve()
                waiting -= 1
            except QuotaExceededError as error:
                decision = CodingServiceRetryPolicy().evaluate(error, try_number=tries, max_tries=3)
                assert decision.action is RetryAction.RETRY
                delay = max(delay, decision.retry_delay.total_seconds())
        clock.now += delay
    assert (waiting, tries) == (0, 3)


def test_slowing_down_holds_everybody_for_a_while(budget, path, clock):
    budget.reserve()
    budget.slow_down(7)
    other = CallBudget(SharedFile(path, clock), per_second=2, per_day=100)
    assert [other.reserve(), budget.reserve()] == [7, 7.5]


def test_slowing_down_never_speeds_up(budget):
    budget.slow_down(60)
    budget.slow_down(1)
    assert budget.reserve() == 60


def test_stopping_refuses_everybody_until_it_is_over(budget, path, clock):
    budget.stop(DAY_S)
    other = CallBudget(SharedFile(path, clock), per_second=2, per_day=100)
    for one in (budget, other):
        with pytest.raises(QuotaExceededError, match='the service reported "Limit Exceeded"') as caught:
            one.reserve()
        assert caught.value.retry_after == DAY_S
    clock.now += DAY_S
    assert other.reserve() == 0


@pytest.mark.parametrize("back", [10, HOUR_S, DAY_S, 400 * DAY_S])
def test_a_clock_that_was_wrong_blocks_nobody_for_longer_than_two_days(path, clock, back):
    budget = CallBudget(SharedFile(path, clock), per_second=1, per_day=2)
    budget.reserve()
    budget.reserve()
    budget.stop(DAY_S)
    clock.now -= back
    with_waits = 0.0
    for _ in range(5):
        try:
            with_waits += budget.reserve()
            break
        except QuotaExceededError as error:
            with_waits += error.retry_after
            clock.now += error.retry_after
    assert with_waits <= 2 * DAY_S + HOUR_S


def test_a_clock_that_was_far_ahead_makes_nobody_wait(budget, clock):
    clock.now += 400 * DAY_S
    budget.reserve()
    clock.now -= 400 * DAY_S
    assert budget.reserve() == 0


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b"null", b"\xff\xfe\x00", b'{"next": 1', b'"text"'], ids=lambda damage: repr(damage)
)
def test_a_damaged_file_reads_as_empty(budget, path, damage):
    budget.reserve()
    path.write_bytes(damage)
    assert [budget.reserve(), budget.reserve()] == [0, 0.5]
    assert json.loads(path.read_text())["next"] == NOW + 1


def test_only_the_owner_may_read_the_files(budget, path):
    budget.reserve()
    assert {stat.S_IMODE(one.stat().st_mode) for one in path.parent.iterdir()} == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_budget_can_be_used_while_another_holds_the_token(budget, path):
    tokens = TokenStore(path.with_suffix(".token"), "client", "secret")
    with tokens.slot() as slot:
        assert slot is not None
        assert budget.reserve() == 0  # waiting here would be for ever: in a triggerer both run in one thread
        budget.slow_down(1)
        budget.stop(1)


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
    (out / str(number)).write_text("\\n".join(str(budget.reserve()) for _ in range(calls)))
    os._exit(0)
for child in children:
    assert os.waitpid(child, 0)[1] == 0
"""


def test_processes_that_call_at_once_get_moments_of_their_own(path, tmp_path, run_python):
    run_python(SHARED_FILE_PROGRAM, path, tmp_path, 4, 50)
    moments = [float(line) for number in range(4) for line in (tmp_path / str(number)).read_text().split()]
    assert sorted(moments) == [0.5 * number for number in range(200)]
    assert sum(json.loads(path.read_text())["calls"].values()) == 200
