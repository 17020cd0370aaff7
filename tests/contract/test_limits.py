"""Contract 4 and 6: how often a client may call. Only at the local service: nobody exceeds the real limits."""

import pytest

from tests.contract.conftest import message, needs_knobs

pytestmark = needs_knobs


@pytest.fixture
def throttled(start_local):
    return start_local(throttle=True)


def test_calls_within_a_second_are_too_many(throttled):
    assert throttled.get("topics").status_code == 200
    answer = throttled.get("topics")
    assert (answer.status_code, message(answer)) == (429, "too many requests")
    throttled.knob("clock", jump_seconds=1)
    assert throttled.get("topics").status_code == 200


def test_a_day_has_a_quota_and_the_message_tells_it_from_the_rate(start_local):
    service = start_local(throttle=True, requests_per_day=2)
    for _ in range(2):
        assert service.get("topics").status_code == 200
        service.knob("clock", jump_seconds=1)
    answer = service.get("topics")
    assert (answer.status_code, message(answer)) == (429, "limit exceeded")
    service.knob("clock", jump_seconds=24 * 3600)
    service.forget_token()
    assert service.get("topics").status_code == 200


@pytest.mark.parametrize(
    ("fault", "status", "told"),
    [
        ("too_many_requests", 429, "too many requests"),
        ("limit_exceeded", 429, "limit exceeded"),
        ("server_error", 500, "error performing request"),
    ],
)
def test_every_refusal_of_the_table_can_be_met(movable, fault, status, told):
    movable.knob("faults", name=fault)
    answer = movable.get("topics")
    assert (answer.status_code, message(answer)) == (status, told)
    assert movable.get("topics").status_code == 200
