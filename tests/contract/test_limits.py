"""Call limits and refusals (docs/service-contract.md 4, 6). Local service only: the real limits are never exceeded."""

import pytest

from tests.contract.conftest import message, needs_knobs

pytestmark = needs_knobs


@pytest.fixture
def throttled(start_local):
    return start_local(throttle=True)


def test_two_calls_within_a_second_are_too_many(throttled):
    assert throttled.get("topics").status_code == 200
    response = throttled.get("topics")
    assert (response.status_code, message(response)) == (429, "too many requests")
    throttled.knob("clock", jump_seconds=1)
    assert throttled.get("topics").status_code == 200


def test_the_daily_limit_has_a_different_message_than_the_rate_limit(start_local):
    service = start_local(throttle=True, requests_per_day=2)
    for _ in range(2):
        assert service.get("topics").status_code == 200
        service.knob("clock", jump_seconds=1)
    response = service.get("topics")
    assert (response.status_code, message(response)) == (429, "limit exceeded")
    service.knob("clock", jump_seconds=24 * 3600)
    service.forget_token()
    assert service.get("topics").status_code == 200


@pytest.mark.parametrize(
    ("fault", "status", "text"),
    [
        ("too_many_requests", 429, "too many requests"),
        ("limit_exceeded", 429, "limit exceeded"),
        ("server_error", 500, "error performing request"),
    ],
)
def test_every_refusal_can_be_triggered(own_service, fault, status, text):
    own_service.knob("faults", name=fault)
    response = own_service.get("topics")
    assert (response.status_code, message(response)) == (status, text)
    assert own_service.get("topics").status_code == 200
