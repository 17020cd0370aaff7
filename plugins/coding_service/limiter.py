"""The call budget: so many calls a second and a day for one account, whichever process of this machine calls."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from coding_service.errors import QuotaExceededError
from coding_service.shared_file import locked

HOUR = 3600
DAY = 24 * HOUR


class CallBudget:
    """Hands out moments at which a call may be made, evenly spaced, across processes.

    When the service's day begins is not documented (contract 8, question 9), so the daily budget holds for any 24
    hours, counted by the hour: an hour's calls count until its last minute is 24 hours ago. What lies further ahead
    than any wait comes from a clock that was wrong, and is forgotten.

    :param path: the file that the processes share
    :param per_second: calls a second
    :param per_day: calls in any 24 hours
    :param clock: seconds since the epoch; wall clock, since it is compared across processes
    """

    def __init__(self, path: Path, per_second: float, per_day: int, clock: Callable[[], float] = time.time) -> None:
        self._path, self._interval, self._per_day, self._clock = path, 1.0 / per_second, per_day, clock

    def reserve(self) -> float:
        """Take the next free moment and return how many seconds away it is.

        :raises QuotaExceededError: the budget of the day is used up, or the service said so to another process
        """
        now = self._clock()
        with locked(self._path) as state:
            assert state is not None
            self._check_quota(state, now)
            moment = max(now, _plausible(state.get("next", now), now))
            state["next"] = moment + self._interval
            hour = str(int(now // HOUR))
            state["calls"] = state.get("calls", {}) | {hour: state.get("calls", {}).get(hour, 0) + 1}
        return moment - now

    def slow_down(self, seconds: float) -> None:
        """Let nobody call for the next `seconds`: the service said "Too Many Requests"."""
        with locked(self._path) as state:
            assert state is not None
            state["next"] = max(state.get("next", 0.0), self._clock() + seconds)

    def stop(self, seconds: float) -> None:
        """Let nobody call for the next `seconds`, at once an error: the service said "Limit Exceeded"."""
        with locked(self._path) as state:
            assert state is not None
            state["stopped_until"] = max(state.get("stopped_until", 0.0), self._clock() + seconds)

    def _check_quota(self, state: dict, now: float) -> None:
        oldest, latest = int((now - DAY) // HOUR), int((now + DAY) // HOUR)
        calls = {hour: count for hour, count in state.get("calls", {}).items() if oldest <= int(hour) <= latest}
        state["calls"] = calls
        until = _plausible(state.get("stopped_until", 0.0), now)
        if sum(calls.values()) >= self._per_day:
            until = max(until, (min(map(int, calls)) + 1) * HOUR + DAY)
        if until > now:
            moment = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(until))
            raise QuotaExceededError(
                f"no calls to the coding service before {moment}: {sum(calls.values())} of {self._per_day} calls"
                " made in the last 24 hours, or the service said that its limit is exceeded",
                retry_after=until - now,
            )


def _plausible(moment: float, now: float) -> float:
    return moment if moment <= now + 2 * DAY else now
