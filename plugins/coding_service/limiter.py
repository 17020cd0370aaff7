"""The call budget: so many calls a second and a day for one account, whichever process calls."""

from __future__ import annotations

from contextlib import AbstractContextManager
from itertools import accumulate
from typing import Any, Protocol

from coding_service.errors import QuotaExceededError, utc

HOUR = 3600
DAY = 24 * HOUR
#: Who meets the end of the day's budget waits until this share of it is free again: the calls of one quiet hour would
#: be gone at once, and each task that is refused again has one try less.
ROOM = 0.1


class SharedState(Protocol):
    """A place that all who share a budget can reach: a file of their machine, or a row of a database."""

    def held(self) -> AbstractContextManager[tuple[dict[str, Any], float]]:
        """Yield the state to change and the time there, in seconds since the epoch, while nobody else may."""


class CallBudget:
    """Hands out moments at which a call may be made, evenly spaced, across processes.

    When the service's day begins is not documented (contract 8, question 9), so the daily budget holds for any 24
    hours, counted by the hour: an hour's calls count until its last minute is 24 hours ago. What lies further ahead
    than any wait comes from a clock that was wrong, and is forgotten.

    :param place: where the state lies, with a clock that is the same for all
    :param per_second: calls a second
    :param per_day: calls in any 24 hours
    """

    def __init__(self, place: SharedState, per_second: float, per_day: int) -> None:
        self._place, self._interval, self._per_day = place, 1.0 / per_second, per_day

    def reserve(self) -> float:
        """Take the next free moment and return how many seconds away it is.

        :raises QuotaExceededError: the budget of the day is used up, or the service said so to another process
        """
        with self._place.held() as (state, now):
            _check_stop(state, now)
            calls = self._check_day(state, now)
            moment = max(now, _plausible(state.get("next", now), now))
            state["next"] = moment + self._interval
            hour = str(int(now // HOUR))
            state["calls"] = calls | {hour: calls.get(hour, 0) + 1}
        return moment - now

    def confirm(self) -> None:
        """Look again when a reserved moment has come that was some time away.

        :raises QuotaExceededError: meanwhile the service has said "Limit Exceeded" to another
        """
        with self._place.held() as (state, now):
            _check_stop(state, now)

    def slow_down(self, seconds: float) -> None:
        """Let nobody take a moment within the next `seconds`: the service said "Too Many Requests"."""
        with self._place.held() as (state, now):
            state["next"] = max(state.get("next", 0.0), now + seconds)

    def stop(self, seconds: float) -> None:
        """Let nobody call for the next `seconds`, at once an error: the service said "Limit Exceeded"."""
        with self._place.held() as (state, now):
            state["stopped_until"] = max(state.get("stopped_until", 0.0), now + seconds)

    def _check_day(self, state: dict[str, Any], now: float) -> dict[str, int]:
        """Return the calls of each hour that still counts."""
        oldest, latest = int((now - DAY) // HOUR), int((now + DAY) // HOUR)
        calls = {hour: count for hour, count in state.get("calls", {}).items() if oldest <= int(hour) <= latest}
        if sum(calls.values()) >= self._per_day:
            raise _no_calls(f"all {self._per_day} calls of 24 hours are made", self._room_again(calls), now)
        return calls

    def _room_again(self, calls: dict[str, int]) -> float:
        hours = sorted(map(int, calls))
        freed = accumulate(calls[str(hour)] for hour in hours)
        last = next(hour for hour, count in zip(hours, freed, strict=True) if count >= ROOM * self._per_day)
        return (last + 1) * HOUR + DAY


def _check_stop(state: dict[str, Any], now: float) -> None:
    until = _plausible(state.get("stopped_until", 0.0), now)
    if until > now:
        raise _no_calls("the service said that its limit is exceeded", until, now)


def _no_calls(why: str, until: float, now: float) -> QuotaExceededError:
    return QuotaExceededError(f"no calls to the coding service before {utc(until)}: {why}", retry_after=until - now)


def _plausible(moment: float, now: float) -> float:
    return moment if moment <= now + 2 * DAY else now
