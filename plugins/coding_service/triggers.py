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
from coding_service.polling import next_wait

#: Errors of a status call after which asking again is pointless. Anything else may pass while the operation goes on,
#: a refused token too: others of the organisation may have asked for too many (contract 4).
ENDS_THE_WAIT = (NotFoundError, SettingsError)
#: What a person can do about a wait that ended too early.
TAKE_UP = "clear this task to go on waiting for it: its output is kept for 24 hours at most"


class Reason(StrEnum):
    """Why the wait ended."""

    COMPLETE = "complete"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    DEADLINE = "deadline"
    REFUSED = "refused"


def end_event(operation: Operation, seconds: float) -> dict[str, Any] | None:
    """The event of an operation that has ended, None while it goes on.

    :param seconds: how long it has been waited for
    """
    if not operation.status.is_terminal:
        return None
    reason = Reason(operation.status.value)
    messages = {
        Reason.COMPLETE: "complete",
        Reason.FAILED: f"the service failed it: {operation.error or 'no reason given'}",
        Reason.TIMED_OUT: "the service timed it out: no input arrived in time",
    }
    return event(reason, operation.operation_id, messages[reason], seconds)


def event(reason: Reason, operation_id: str, message: str, seconds: float) -> dict[str, Any]:
    """The payload of the one event: ids, words and how long the wait took, no link."""
    status = "success" if reason is Reason.COMPLETE else "error"
    return {
        "status": status,
        "reason": reason.value,
        "operation_id": operation_id,
        "message": str(CodingServiceError(message)),
        "seconds": round(seconds, 3),
    }


class BatchCodeTrigger(BaseTrigger):
    """Waits until an operation ends and yields exactly one event.

    A failed status call does not end the wait, unless the service does not know the operation; the deadline does. It
    is a point in time, so a triggerer that restarts cannot extend it. Nor does a restart begin anew with frequent
    calls: how often is asked follows from when the wait started.

    :param topic: uriName of the topic
    :param operation_id: GUID of the operation
    :param coding_service_conn_id: Airflow connection of the service
    :param deadline: seconds since the epoch at which the wait is over
    :param poll_interval: seconds between the first two status calls; None: as the connection says
    :param expected_seconds: how long the operation is expected to take: the first call is a little before
    :param started: seconds since the epoch at which the wait began; None: now
    """

    def __init__(
        self,
        topic: str,
        operation_id: str,
        coding_service_conn_id: str,
        deadline: float,
        poll_interval: float | None = None,
        expected_seconds: float | None = None,
        started: float | None = None,
    ) -> None:
        super().__init__()
        self.topic = topic
        self.operation_id = operation_id
        self.coding_service_conn_id = coding_service_conn_id
        self.deadline = deadline
        self.poll_interval = poll_interval
        self.expected_seconds = expected_seconds
        self.started = time.time() if started is None else started

    def serialize(self) -> tuple[str, dict[str, Any]]:
        names = (
            "topic", "operation_id", "coding_service_conn_id", "deadline", "poll_interval", "expected_seconds",
            "started",
        )  # fmt: skip
        return "coding_service.triggers.BatchCodeTrigger", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        try:
            payload = await self._wait()
        except CodingServiceError as error:
            payload = event(Reason.REFUSED, self.operation_id, str(error), self._elapsed())
        yield TriggerEvent(payload)

    async def _wait(self) -> dict[str, Any]:
        hook = CodingServiceAsyncHook(self.coding_service_conn_id)
        start = self.poll_interval or (await hook.settings()).poll_interval
        trouble: CodingServiceError | None = None
        while True:
            wait = next_wait(start, self.expected_seconds, self._elapsed(), trouble, random.random)
            await asyncio.sleep(min(wait, self._time_left()))
            try:
                operation = await hook.operation(self.topic, self.operation_id)
            except ENDS_THE_WAIT:
                raise
            except CodingServiceError as error:
                self.log.warning("Operation %s: %s; asking again", self.operation_id, error)
                trouble = error
            else:
                self.log.info("Operation %s is %s", self.operation_id, operation.status)
                trouble = None
                if (payload := end_event(operation, self._elapsed())) is not None:
                    return payload
            if not self._time_left():
                said = f" (the last status call failed: {trouble})" if trouble else ""
                message = f"did not end before its deadline{said}; {TAKE_UP}"
                return event(Reason.DEADLINE, self.operation_id, message, self._elapsed())

    def _elapsed(self) -> float:
        return max(0.0, time.time() - self.started)

    def _time_left(self) -> float:
        return max(0.0, self.deadline - time.time())
