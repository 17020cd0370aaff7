"""The call limits of a partner client (contract 6)."""

from __future__ import annotations

import json

from include.local_service.clock import Clock
from include.local_service.errors import LimitExceededError, TooManyRequestsError
from include.local_service.settings import Settings
from include.local_service.store import Store

TOLERANCE = 0.1
"""Share of the interval by which a call may come early: networks jitter; the long-run rate still holds."""

DAY = 86_400


class Throttle:
    """Holds each client to so many calls a second and a day (UTC); off unless the settings ask for it.

    :param store: keeps the counts, so that a restart is no way round them.
    """

    def __init__(self, store: Store, clock: Clock, settings: Settings) -> None:
        self._store = store
        self._clock = clock
        self._settings = settings

    def admit(self, client_id: str) -> None:
        """Count a call.

        :raises LimitExceededError: when the day's calls are used up.
        :raises TooManyRequestsError: when the call comes too soon after the one before.
        """
        if self._settings.throttle:
            with self._store.transaction():
                self._count(f"throttle/{client_id}", self._clock.now())

    def _count(self, place: str, now: float) -> None:
        day, calls, due = json.loads(self._store.setting(place, "[0, 0, 0]"))
        today = int(now // DAY)
        calls = calls if day == today else 0
        if calls >= self._settings.requests_per_day:
            raise LimitExceededError
        interval = 1 / self._settings.requests_per_second
        if now < due - TOLERANCE * interval:
            raise TooManyRequestsError(retry_after=max(1, round(interval)))
        self._store.keep_setting(place, json.dumps([today, calls + 1, max(now, due) + interval]))
