"""When a finished operation is shown as finished."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from include.local_service.operation import Operation, State
from include.local_service.settings import Progression, Settings
from include.local_service.store import Store

PLACE = "progression"


@dataclass(frozen=True)
class Pace:
    """What stands between the end of an operation and the status call that shows it.

    :param polls: for ``by_polls``: status calls after the upload that still show ``in_progress``.
    :param seconds: for ``by_time``: seconds after the upload that still show ``in_progress``.
    """

    progression: Progression
    polls: int
    seconds: float

    @classmethod
    def read(cls, store: Store, settings: Settings) -> Pace:
        """Return the pace that the knob was turned to, or else the one of the settings."""
        kept = json.loads(store.setting(PLACE, "{}"))
        chosen = {"progression": settings.progression, "polls": settings.polls, "seconds": settings.seconds, **kept}
        return cls(**{**chosen, "progression": Progression(chosen["progression"])})

    def keep(self, store: Store) -> None:
        """Let the pace survive a restart."""
        store.keep_setting(PLACE, json.dumps(asdict(self)))

    def state(self, operation: Operation, now: float) -> State:
        """Return the state that a status call shows of an operation."""
        if operation.uploaded_at is None:
            return operation.state
        late = operation.fault("late_status")
        polls = operation.polls - (late["polls"] if late else 0)
        if late and polls <= 0:
            return State.AWAITING_INPUT
        if self._holds(polls, now - operation.uploaded_at):
            return State.IN_PROGRESS
        return operation.state

    def _holds(self, polls: int, seconds: float) -> bool:
        by_polls = self.progression is Progression.BY_POLLS and polls <= self.polls
        return by_polls or (self.progression is Progression.BY_TIME and seconds < self.seconds)
