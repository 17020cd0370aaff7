"""Decides when status calls show that an operation has ended."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from include.local_service.core.operation import Operation, State
from include.local_service.core.settings import Progression, Settings
from include.local_service.core.store import Store

SETTING_NAME = "progression"


@dataclass(frozen=True)
class StatusDelay:
    """How long status calls still show ``in_progress`` after the upload, even if the operation has ended.

    :param polls: for ``by_polls``: number of status calls.
    :param seconds: for ``by_time``: seconds after the upload.
    """

    progression: Progression
    polls: int
    seconds: float

    @classmethod
    def load(cls, store: Store, settings: Settings) -> StatusDelay:
        """Return the delay that the knob has set, or else the one of the settings."""
        saved = json.loads(store.setting(SETTING_NAME, "{}"))
        values = {"progression": settings.progression, "polls": settings.polls, "seconds": settings.seconds, **saved}
        return cls(**{**values, "progression": Progression(values["progression"])})

    def save(self, store: Store) -> None:
        """Save the delay, so that a restart does not change it."""
        store.save_setting(SETTING_NAME, json.dumps(asdict(self)))

    def visible_state(self, operation: Operation, now: float) -> State:
        """Return the state that a status call shows."""
        if operation.uploaded_at is None:
            return operation.state
        fault = operation.fault("late_status")
        polls = operation.polls - (fault["polls"] if fault else 0)
        if fault and polls <= 0:
            return State.AWAITING_INPUT
        if self._is_delayed(polls, now - operation.uploaded_at):
            return State.IN_PROGRESS
        return operation.state

    def _is_delayed(self, polls: int, seconds: float) -> bool:
        by_polls = self.progression is Progression.BY_POLLS and polls <= self.polls
        return by_polls or (self.progression is Progression.BY_TIME and seconds < self.seconds)
