"""The call budget: how many calls a second and a day one account makes, counted across processes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from coding_service.errors import QuotaExceededError, TooManyRequestsError, utc
from coding_service.shared_state import SharedFile, SharedRow

HOUR_S = 3600
DAY_S = 24 * HOUR_S
#: Share of the daily budget that must be free again before refused callers retry. If it were only a few calls, most
#: callers would be refused again, and each refusal costs one of their attempts.
DAILY_HEADROOM = 0.1
#: Share of the daily budget that only calls for existing operations can use: without it, new operations could use up
#: the calls that fetch what is already paid for.
RESERVED_SHARE = 0.2
#: After "Limit Exceeded", one call in this time shows whether calls are accepted again
#: (docs/service-contract.md 10.9).
PROBE_INTERVAL_S = HOUR_S
#: Periods without calls are kept for this long: no wait lasts longer.
PAUSES_KEPT_S = 30 * DAY_S


@dataclass(frozen=True)
class Reservation:
    """The right to make one call.

    :param seconds: how long to wait before the call
    :param is_probe: whether the call shows if calls are accepted again; its success ends the stop
    """

    seconds: float
    is_probe: bool = False


class CallBudget:
    """Reserves evenly spaced moments for calls, across all processes that share the state.

    The service does not document when its day begins (docs/service-contract.md 8.9), so the daily budget applies to
    any 24 hours. Calls are counted by the hour, and an hour counts until 24 hours after its end. After "Limit
    Exceeded" there are no calls until the next UTC midnight at most, except for a probe an hour: a call of any
    process, which ends the stop if it is accepted. A stored time beyond any possible wait comes from a wrong clock
    and is ignored.

    :param state: where the budget is kept, with a clock that is the same for all callers
    :param per_second, per_day: calls a second, and calls in any 24 hours
    """

    def __init__(self, state: SharedFile | SharedRow, per_second: float, per_day: int) -> None:
        self._state, self._interval, self._per_day = state, 1.0 / per_second, per_day

    def reserve(self, *, is_for_operation: bool = False, max_wait: float = math.inf) -> Reservation:
        """Reserve the next free moment.

        :param is_for_operation: whether the call is for an existing operation, and can use the reserved share
        :param max_wait: how many seconds the caller can wait for it
        :raises QuotaExceededError: the daily budget is used up, or the service has reported "Limit Exceeded"
        :raises TooManyRequestsError: the next free moment comes too late for the caller; none is reserved
        """
        with self._state.lock() as (state, now):
            is_stopped = _is_stopped(state, now)
            is_probe = is_stopped and not 0 <= now - state.get("last_probe", 0.0) < PROBE_INTERVAL_S
            if is_stopped and not is_probe:
                raise _stop_error(state, now)
            refusal = self._check_day(state, now, is_for_operation)
            if refusal is None and not is_probe:
                _check_wait(state, now, max_wait)
            if refusal is None:
                hour = str(int(now // HOUR_S))
                state["calls"][hour] = state["calls"].get(hour, 0) + 1
                if is_probe:  # the moments reserved so far are void, because their callers are refused
                    state |= {"last_probe": now, "next": now}
                moment = self._take_moment(state, now)
        if refusal is not None:  # raised after the lock, so that the state is saved
            raise refusal
        return Reservation(moment - now, is_probe)

    def confirm(self, max_wait: float = math.inf) -> float:
        """Check, when a reserved moment has come, that the call can be made.

        :param max_wait: how many seconds the caller can wait for another moment
        :return: 0; or, if the service has reported "Too Many Requests" since, the seconds until another moment
        :raises QuotaExceededError: the service has reported "Limit Exceeded" since
        :raises TooManyRequestsError: the other moment comes too late for the caller; none is reserved
        """
        with self._state.lock() as (state, now):
            if _is_stopped(state, now):
                raise _stop_error(state, now)
            if _plausible(state.get("slow_until", 0.0), now) > now:
                _check_wait(state, now, max_wait)
                return self._take_moment(state, now) - now
        return 0.0

    def slow_down(self, seconds: float) -> None:
        """Delay all further calls by `seconds`, because the service reported "Too Many Requests"."""
        with self._state.lock() as (state, now):
            for name in ("next", "slow_until"):
                state[name] = max(state.get(name, 0.0), now + seconds)

    def stop(self, seconds: float | None = None) -> QuotaExceededError:
        """Refuse all calls but the probes, because the service reported "Limit Exceeded", and return the refusal.

        :param seconds: how long the service asks to wait; None, or longer than the UTC day: until the next midnight
        """
        with self._state.lock() as (state, now):
            midnight = (now // DAY_S + 1) * DAY_S
            end = min(midnight, now + (DAY_S if seconds is None else seconds))
            state["stopped_until"] = max(_plausible(state.get("stopped_until", 0.0), now), end)
            state["last_probe"] = now
            _add_pause(state, now, state["stopped_until"])
            return _stop_error(state, now)

    def resume(self) -> None:
        """End a stop, because the service has accepted a call."""
        with self._state.lock() as (state, now):
            if state.get("stopped_until", 0.0) > now:
                state["stopped_until"] = now
                state["pauses"] = [[start, min(end, now)] for start, end in state.get("pauses", [])]

    def paused_seconds(self, since: float) -> float:
        """Return for how long no calls were allowed from `since` (seconds since the epoch) until now."""
        with self._state.lock() as (state, now):
            return sum(max(0.0, min(end, now) - max(start, since)) for start, end in state.get("pauses", []))

    def _take_moment(self, state: dict[str, Any], now: float) -> float:
        moment = _next_moment(state, now)
        state["next"] = moment + self._interval
        return moment

    def _check_day(self, state: dict[str, Any], now: float, is_for_operation: bool) -> QuotaExceededError | None:
        """Remove the hours that no longer count, and return the refusal of a call above the daily budget."""
        oldest, latest = int((now - DAY_S) // HOUR_S), int((now + DAY_S) // HOUR_S)
        calls = {hour: count for hour, count in state.get("calls", {}).items() if oldest <= int(hour) <= latest}
        state["calls"] = calls
        limit = self._per_day - (0 if is_for_operation else int(RESERVED_SHARE * self._per_day))
        total = sum(calls.values())
        if total < limit:
            return None
        end = self._find_headroom(calls, total - limit)
        if is_for_operation:
            _add_pause(state, now, end)
        reason = f"all {self._per_day} calls allowed in 24 hours have been made"
        if total < self._per_day:
            reason = (
                f"{total} of the {self._per_day} calls allowed in 24 hours have been made, and the rest is reserved"
                " for operations that have been created"
            )
        return _quota_error(reason, end - now, end - now, now)

    def _find_headroom(self, calls: dict[str, int], surplus: int) -> float:
        """Return when enough of these calls have expired to free the headroom (seconds since the epoch).

        :param surplus: number of calls above the limit
        """
        hours = sorted(map(int, calls))
        totals = accumulate(calls[str(hour)] for hour in hours)
        pairs = zip(hours, totals, strict=True)
        last = next(hour for hour, total in pairs if total >= surplus + DAILY_HEADROOM * self._per_day)
        return (last + 1) * HOUR_S + DAY_S


def _next_moment(state: dict[str, Any], now: float) -> float:
    return max(now, _plausible(state.get("next", now), now))


def _check_wait(state: dict[str, Any], now: float, max_wait: float) -> None:
    """Raise an error if the next free moment comes later than a caller can wait.

    :raises TooManyRequestsError: with the seconds until then
    """
    wait = _next_moment(state, now) - now
    if wait <= max_wait:
        return
    is_slow = _plausible(state.get("slow_until", 0.0), now) > now
    reason = 'the service reported "Too Many Requests"' if is_slow else "the calls of others come first"
    raise TooManyRequestsError(
        f"no call to the coding service is free for {wait:.0f} s: {reason}; the next attempt is made then",
        retry_after=wait,
    )


def _is_stopped(state: dict[str, Any], now: float) -> bool:
    return _plausible(state.get("stopped_until", 0.0), now) > now


def _add_pause(state: dict[str, Any], start: float, end: float) -> None:
    """Store that no calls are allowed from `start` to `end`, as far as no stored pause covers it."""
    pauses = [
        pause for pause in state.get("pauses", []) if start - PAUSES_KEPT_S < pause[1] == _plausible(pause[1], start)
    ]
    start = max([start, *(latest for _, latest in pauses)])
    state["pauses"] = [*pauses, [start, end]] if end > start else pauses


def _stop_error(state: dict[str, Any], now: float) -> QuotaExceededError:
    end = state["stopped_until"]
    probe = min(end, state["last_probe"] + PROBE_INTERVAL_S)
    return _quota_error('the service reported "Limit Exceeded"', probe - now, end - now, now)


def _quota_error(reason: str, retry_after: float, ends_after: float, now: float) -> QuotaExceededError:
    return QuotaExceededError(
        f"no calls to the coding service before {utc(now + ends_after)}: {reason}",
        retry_after=retry_after,
        ends_after=ends_after,
    )


def _plausible(moment: float, now: float) -> float:
    return moment if moment <= now + 2 * DAY_S else now
