"""The call limits of a partner client (docs/service-contract.md 6)."""

from __future__ import annotations

import json

from include.local_service.core.clock import Clock
from include.local_service.core.errors import LimitExceededError, TooManyRequestsError
from include.local_service.core.settings import Settings
from include.local_service.core.store import Store

# Share of the interval by which a call can be early, because networks jitter. The long-term rate still holds.
TOLERANCE = 0.1
DAY_S = 86_400


class Throttle:
    """Limits the calls of each client by second and by day (UTC), if the settings enable it.

    :param store: stores the counts, so that a restart does not reset the limits.
    """

    def __init__(self, store: Store, clock: Clock, settings: Settings) -> None:
        self._store = store
        self._clock = clock
        self._settings = settings

    def admit(self, client_id: str) -> None:
        """Count a call.

        :raises LimitExceededError: if the client has used all its calls for the day.
        :raises TooManyRequestsError: if the call comes too soon after the previous one.
        """
        if self._settings.throttle:
            with self._store.transaction():
                self._count(f"throttle/{client_id}", self._clock.now())

    def _count(self, setting_name: str, now: float) -> None:
        day, calls, due = json.loads(self._store.setting(setting_name, "[0, 0, 0]"))
        today = int(now // DAY_S)
        calls = calls if day == today else 0
        if calls >= self._settings.requests_per_day:
            raise LimitExceededError
        interval = 1 / self._settings.requests_per_second
        if now < due - TOLERANCE * interval:
            raise TooManyRequestsError(retry_after=max(1, round(interval)))
        self._store.save_setting(setting_name, json.dumps([today, calls + 1, max(now, due) + interval]))
