"""The limits of a partner client (docs/service-contract.md 6)."""

import time

from tests.local_service.conftest import OTHER_CLIENT, Caller


def test_two_calls_within_a_second_are_too_many(start):
    caller = start(throttle=True)
    assert caller.get("topics").status_code == 200
    response = caller.get("topics")
    assert (response.status_code, response.json()) == (429, {"message": "Too Many Requests"})
    assert response.headers["retry-after"] == "1"
    caller.jump(1)
    assert caller.get("topics").status_code == 200


def test_the_daily_limit_is_reset_the_next_day(start):
    caller = start(throttle=True, requests_per_day=3)
    seconds_left = 86_400 - time.time() % 86_400
    caller.jump(seconds_left)
    for _ in range(3):
        assert caller.get("topics").status_code == 200
        caller.jump(1)
    response = caller.get("topics")
    assert (response.status_code, response.json()) == (429, {"message": "Limit Exceeded"})
    caller.jump(86_400)
    caller.token = None
    assert caller.get("topics").status_code == 200


def test_each_client_has_its_own_budget(start, session):
    caller = start(throttle=True)
    other_caller = Caller(caller.url, session, OTHER_CLIENT)
    assert caller.get("topics").status_code == 200
    assert other_caller.get("topics").status_code == 200
    assert caller.get("topics").status_code == 429


def test_without_the_throttle_calls_are_not_limited(caller):
    assert {caller.get("topics").status_code for _ in range(20)} == {200}
