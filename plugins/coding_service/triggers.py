"""The wait for an operation, in the triggerer."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from enum import StrEnum
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from coding_service.errors import CodingServiceError, NotFoundError, SettingsError, redact
from coding_service.hooks import CodingServiceAsyncHook
from coding_service.models import Operation
from coding_service.polling import next_wait

#: Errors of a status call that end the wait. Any other error can be temporary while the operation continues, even a
#: refused token: the organisation may have requested too many tokens (docs/service-contract.md 4).
FATAL_POLL_ERRORS = (NotFoundError, SettingsError)
RESUME_HINT = "clear this task to continue waiting: the output is kept for 24 hours at most"


class Reason(StrEnum):
    """Why the wait ended."""

    COMPLETE = "complete"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    DEADLINE = "deadline"
    REFUSED = "refused"


def completion_event(operation: Operation, seconds: float) -> dict[str, Any] | None:
    """Return the event for an operation that has ended; None while it continues.

    :param seconds: how long the wait has taken
    """
    if not operation.status.is_terminal:
        return None
    reason = Reason(operation.status.value)
    messages = {
        Reason.COMPLETE: "complete",
        Reason.FAILED: "the service failed it",  # its reason can quote a text, and the event is logged
        Reason.TIMED_OUT: "the service timed it out: no input arrived in time",
    }
    return make_event(reason, operation.operation_id, messages[reason], seconds)


def make_event(reason: Reason, operation_id: str, message: str, seconds: float) -> dict[str, Any]:
    """Return the payload of a trigger event. It contains no link."""
    return {
        "status": "success" if reason is Reason.COMPLETE else "error",
        "reason": reason.value,
        "operation_id": operation_id,
        "message": redact(message),
        "seconds": round(seconds, 3),
    }


class BatchCodeTrigger(BaseTrigger):
    """Waits until an operation ends and yields exactly one event.

    A failed status call ends the wait only for one of :data:`FATAL_POLL_ERRORS`. Deadline and start are points in
    time, so a restart of the triggerer neither extends the wait nor polls more often.

    :param deadline: when to stop waiting, in seconds since the epoch
    :param started: when the wait began, in seconds since the epoch; None: now

    The other parameters are those of :class:`coding_service.sensors.BatchCodeSensor`.
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
            payload = make_event(Reason.REFUSED, self.operation_id, str(error), self._elapsed())
        yield TriggerEvent(payload)

    async def _wait(self) -> dict[str, Any]:
        hook = CodingServiceAsyncHook(self.coding_service_conn_id)
        first_interval = self.poll_interval or (await hook.settings()).poll_interval
        last_error: CodingServiceError | None = None
        while True:
            wait = next_wait(first_interval, self.expected_seconds, self._elapsed(), last_error, random.random)
            await asyncio.sleep(min(wait, self._time_left()))
            try:
                operation = await hook.operation(self.topic, self.operation_id)
            except FATAL_POLL_ERRORS:
                raise
            except CodingServiceError as error:
                self.log.warning("Status call for operation %s failed, will retry: %s", self.operation_id, error)
                last_error = error
            else:
                self.log.info("Operation %s is %s", self.operation_id, operation.status)
                last_error = None
                if (payload := completion_event(operation, self._elapsed())) is not None:
                    return payload
            if not self._time_left():
                detail = f" (the last status call failed: {last_error})" if last_error else ""
                message = f"did not end before its deadline{detail}; {RESUME_HINT}"
                return make_event(Reason.DEADLINE, self.operation_id, message, self._elapsed())

    def _elapsed(self) -> float:
        return max(0.0, time.time() - self.started)

    def _time_left(self) -> float:
        return max(0.0, self.deadline - time.time())
