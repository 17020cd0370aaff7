"""The wait for an operation, in the triggerer."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from enum import StrEnum
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from coding_service.errors import CodingServiceError, NotFoundError, SettingsError
from coding_service.hooks import CodingServiceAsyncHook
from coding_service.models import Operation

#: Errors of a status call after which asking again is pointless. Anything else may pass while the operation goes on,
#: a refused token too: others of the organisation may have asked for too many (contract 4).
ENDS_THE_WAIT = (NotFoundError, SettingsError)
#: What a person can do about a wait that ended too early.
TAKE_UP = "clear this task to go on waiting for it: its output is kept for 24 hours at most"
#: Each wait is this much longer than the one before, up to LONGEST_WAIT seconds, and up to JITTER of it longer.
GROWTH, LONGEST_WAIT, JITTER = 1.5, 300.0, 0.1


class Reason(StrEnum):
    """Why the wait ended."""

    COMPLETE = "complete"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    DEADLINE = "deadline"
    REFUSED = "refused"


def end_event(operation: Operation) -> dict[str, Any] | None:
    """The event of an operation that has ended, None while it goes on."""
    if not operation.status.is_terminal:
        return None
    reason = Reason(operation.status.value)
    messages = {
        Reason.COMPLETE: "complete",
        Reason.FAILED: f"the service failed it: {operation.error or 'no reason given'}",
        Reason.TIMED_OUT: "the service timed it out: no input arrived in time",
    }
    return event(reason, operation.operation_id, messages[reason])


def event(reason: Reason, operation_id: str, message: str) -> dict[str, Any]:
    """The payload of the one event: ids and words, no link."""
    status = "success" if reason is Reason.COMPLETE else "error"
    return {
        "status": status,
        "reason": reason.value,
        "operation_id": operation_id,
        "message": str(CodingServiceError(message)),
    }


class BatchCodeTrigger(BaseTrigger):
    """Waits until an operation ends and yields exactly one event.

    A failed status call does not end the wait, unless the service does not know the operation; the deadline does. It
    is a point in time, so a triggerer that restarts cannot extend it.

    :param topic: uriName of the topic
    :param operation_id: GUID of the operation
    :param coding_service_conn_id: Airflow connection of the service
    :param deadline: seconds since the epoch at which the wait is over
    :param poll_interval: seconds between the first two status calls; None: as the connection says
    """

    def __init__(
        self,
        topic: str,
        operation_id: str,
        coding_service_conn_id: str,
        deadline: float,
        poll_interval: float | None = None,
    ) -> None:
        super().__init__()
        self.topic = topic
        self.operation_id = operation_id
        self.coding_service_conn_id = coding_service_conn_id
        self.deadline = deadline
        self.poll_interval = poll_interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        names = ("topic", "operation_id", "coding_service_conn_id", "deadline", "poll_interval")
        return "coding_service.triggers.BatchCodeTrigger", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        try:
            payload = await self._wait()
        except CodingServiceError as error:
            payload = event(Reason.REFUSED, self.operation_id, str(error))
        yield TriggerEvent(payload)

    async def _wait(self) -> dict[str, Any]:
        hook = CodingServiceAsyncHook(self.coding_service_conn_id)
        interval = self.poll_interval or (await hook.settings()).poll_interval
        trouble = ""
        while True:
            await asyncio.sleep(min(interval * (1 + JITTER * random.random()), self._time_left()))
            interval = min(interval * GROWTH, LONGEST_WAIT)
            try:
                operation = await hook.operation(self.topic, self.operation_id)
            except ENDS_THE_WAIT:
                raise
            except CodingServiceError as error:
                self.log.warning("Operation %s: %s; asking again", self.operation_id, error)
                trouble = f" (the last status call failed: {error})"
                interval = max(interval, getattr(error, "retry_after", LONGEST_WAIT) or 0.0)
            else:
                self.log.info("Operation %s is %s", self.operation_id, operation.status)
                if (payload := end_event(operation)) is not None:
                    return payload
            if not self._time_left():
                return event(
                    Reason.DEADLINE, self.operation_id, f"did not end before its deadline{trouble}; {TAKE_UP}"
                )

    def _time_left(self) -> float:
        return max(0.0, self.deadline - time.time())
