"""The call budget: how many calls a second and a day one account makes, counted across processes."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

from coding_service.errors import QuotaExceededError, utc
from coding_service.shared_state import SharedFile, SharedRow

HOUR_S = 3600
DAY_S = 24 * HOUR_S
#: Share of the daily budget that must be free again before refused callers retry. If it were only a few calls, most
#: callers would be refused again, and each refusal costs one of their attempts.
DAILY_HEADROOM = 0.1


class CallBudget:
    """Reserves evenly spaced moments for calls, across all processes that share the state.

    The service does not document when its day begins (docs/service-contract.md 8.9), so the daily budget applies to
    any 24 hours. Calls are counted by the hour, and an hour counts until 24 hours after its end. A stored time beyond
    any possible wait comes from a wrong clock and is ignored.

    :param state: where the budget is kept, with a clock that is the same for all callers
    :param per_second, per_day: calls a second, and calls in any 24 hours
    """

    def __init__(self, state: SharedFile | SharedRow, per_second: float, per_day: int) -> None:
        self._state, self._interval, self._per_day = state, 1.0 / per_second, per_day

    def reserve(self) -> float:
        """Reserve the next free moment and return how many seconds away it is.

        :raises QuotaExceededError: the daily budget is used up, or the service has reported "Limit Exceeded"
        """
        with self._state.lock() as (state, now):
            _check_stop(state, now)
            calls = self._check_day(state, now)
            moment = max(now, _plausible(state.get("next", now), now))
            state["next"] = moment + self._interval
            hour = str(int(now // HOUR_S))
            state["calls"] = calls | {hour: calls.get(hour, 0) + 1}
        return moment - now

    def confirm(self) -> None:
        """Check, when a reserved moment has come, that the call can still be made.

        :raises QuotaExceededError: the service has reported "Limit Exceeded" to another caller since
        """
        with self._state.lock() as (state, now):
            _check_stop(state, now)

    def slow_down(self, seconds: float) -> None:
        """Delay all further calls by `seconds`, because the service reported "Too Many Requests"."""
        with self._state.lock() as (state, now):
            state["next"] = max(state.get("next", 0.0), now + seconds)

    def stop(self, seconds: float) -> None:
        """Refuse all calls for the next `seconds`, because the service reported "Limit Exceeded"."""
        with self._state.lock() as (state, now):
            state["stopped_until"] = max(state.get("stopped_until", 0.0), now + seconds)

    def _check_day(self, state: dict[str, Any], now: float) -> dict[str, int]:
        """Return the number of calls in each hour that still counts."""
        oldest, latest = int((now - DAY_S) // HOUR_S), int((now + DAY_S) // HOUR_S)
        calls = {hour: count for hour, count in state.get("calls", {}).items() if oldest <= int(hour) <= latest}
        if sum(calls.values()) >= self._per_day:
            reason = f"all {self._per_day} calls allowed in 24 hours have been made"
            raise _quota_error(reason, self._find_headroom(calls), now)
        return calls

    def _find_headroom(self, calls: dict[str, int]) -> float:
        """Return when enough of these calls have expired to free the headroom (seconds since the epoch)."""
        hours = sorted(map(int, calls))
        totals = accumulate(calls[str(hour)] for hour in hours)
        pairs = zip(hours, totals, strict=True)
        last = next(hour for hour, total in pairs if total >= DAILY_HEADROOM * self._per_day)
        return (last + 1) * HOUR_S + DAY_S


def _check_stop(state: dict[str, Any], now: float) -> None:
    end = _plausible(state.get("stopped_until", 0.0), now)
    if end > now:
        raise _quota_error('the service reported "Limit Exceeded"', end, now)


def _quota_error(reason: str, end: float, now: float) -> QuotaExceededError:
    return QuotaExceededError(f"no calls to the coding service before {utc(end)}: {reason}", retry_after=end - now)


def _plausible(moment: float, now: float) -> float:
    return moment if moment <= now + 2 * DAY_S else now
