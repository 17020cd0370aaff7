"""The limits of a partner client (contract 6)."""

import time

from tests.local_service.conftest import STRANGER, Caller


def test_calls_closer_than_a_second_are_too_many(start):
    caller = start(throttle=True)
    assert caller.get("topics").status_code == 200
    answer = caller.get("topics")
    assert (answer.status_code, answer.json()) == (429, {"message": "Too Many Requests"})
    assert answer.headers["retry-after"] == "1"
    caller.jump(1)
    assert caller.get("topics").status_code == 200


def test_a_day_has_so_many_calls_and_the_next_day_again(start):
    caller = start(throttle=True, requests_per_day=3)
    seconds_left = 86_400 - time.time() % 86_400
    caller.jump(seconds_left)
    for _ in range(3):
        assert caller.get("topics").status_code == 200
        caller.jump(1)
    answer = caller.get("topics")
    assert (answer.status_code, answer.json()) == (429, {"message": "Limit Exceeded"})
    caller.jump(86_400)
    caller.token = None
    assert caller.get("topics").status_code == 200


def test_each_client_has_its_own_budget(start, session):
    caller = start(throttle=True)
    stranger = Caller(caller.url, session, STRANGER)
    assert caller.get("topics").status_code == 200
    assert stranger.get("topics").status_code == 200
    assert caller.get("topics").status_code == 429


def test_without_the_throttle_calls_are_free(caller):
    assert {caller.get("topics").status_code for _ in range(20)} == {200}
