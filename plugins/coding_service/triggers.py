"""The wait for an operation, in the triggerer."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from enum import StrEnum
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from coding_service.errors import CodingServiceError, LocalFaultError, QuotaExceededError
from coding_service.hooks import CodingServiceAsyncHook
from coding_service.models import Operation, check_guid, check_topic
from coding_service.polling import ErrorSeries, describe_seconds, describe_wait, extend_series, next_wait
from coding_service.redaction import redact, redact_traceback

#: First interval of a wait whose connection cannot be read yet.
DEFAULT_INTERVAL_S = 10.0
#: The time without calls, after "Limit Exceeded", extends a wait by this at most.
MAX_EXTENSION_S = 7 * 86400.0
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

    A failed status call ends the wait only if its error cannot pass
    (:meth:`coding_service.polling.ErrorSeries.ends_wait`), and no error leaves the trigger, because Airflow would
    fail the task without the state of the operation. Deadline and start are points in time, so a restart of the
    triggerer neither extends the wait nor polls more often. The time in which no calls are allowed moves the deadline
    (docs/service-contract.md 10.9).

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
        except Exception as error:  # noqa: BLE001 - whatever it is, the task has to be told
            # not with the exception itself, whose text, or that of its cause, can contain an address
            self.log.error("The wait for operation %s failed: %s", self.operation_id, redact_traceback(error))
            message = f"the wait failed in the triggerer ({type(error).__name__}), whose log says more; {RESUME_HINT}"
            payload = make_event(Reason.REFUSED, self.operation_id, message, self._elapsed())
        yield TriggerEvent(payload)

    def run_in_worker(self) -> dict[str, Any]:
        """Wait here, for a task that occupies its worker meanwhile, and return the payload of the event."""

        async def first_payload() -> dict[str, Any]:
            async for event in self.run():
                payload: dict[str, Any] = event.payload
                return payload
            raise AssertionError("a wait ends with an event")

        return asyncio.run(first_payload())

    async def _wait(self) -> dict[str, Any]:
        check_topic(self.topic)
        check_guid(self.operation_id, "the operation id of the wait")
        hook = CodingServiceAsyncHook(self.coding_service_conn_id)
        first_interval = await self._first_interval(hook)
        extension = 0.0
        last_error: CodingServiceError | None = None
        series: ErrorSeries | None = None
        wait = self._next_wait(first_interval, extension)
        self.log.info("Operation %s is waited for: %s", self.operation_id, self._describe_wait(wait))
        while True:
            await asyncio.sleep(wait)
            try:
                operation = await hook.operation(self.topic, self.operation_id)
            except CodingServiceError as error:
                series = extend_series(series, error, time.time())
                if series.ends_wait(error):
                    return make_event(Reason.REFUSED, self.operation_id, series.describe(error), self._elapsed())
                is_news = str(error) != str(last_error) or not isinstance(error, QuotaExceededError)
                if is_news:
                    self.log.warning("Status call for operation %s failed, will retry: %s", self.operation_id, error)
                last_error, status = error, "waited for"
            else:
                last_error = series = None
                is_news, status = True, operation.status
                if (payload := completion_event(operation, self._elapsed())) is not None:
                    waited = describe_seconds(self._elapsed())
                    self.log.info("Operation %s is %s, after %s", self.operation_id, operation.status, waited)
                    return payload
            if not self._time_left(extension):
                extension = await find_extension(hook, self.started)
            if not self._time_left(extension):
                detail = f" (the last status call failed: {last_error})" if last_error else ""
                message = f"did not end before its deadline{detail}; {RESUME_HINT}"
                return make_event(Reason.DEADLINE, self.operation_id, message, self._elapsed())
            wait = self._next_wait(first_interval, extension, last_error)
            if is_news:
                self.log.info("Operation %s is %s: %s", self.operation_id, status, self._describe_wait(wait))

    def _next_wait(self, first_interval: float, extension: float, error: CodingServiceError | None = None) -> float:
        wait = next_wait(first_interval, self.expected_seconds, self._elapsed(), error, random.random)
        return min(wait, self._time_left(extension))

    def _describe_wait(self, wait: float) -> str:
        return describe_wait(self._elapsed(), self.expected_seconds, wait)

    async def _first_interval(self, hook: CodingServiceAsyncHook) -> float:
        """Return the first interval; a default if the connection, which has it, cannot be read at the moment."""
        try:
            return self.poll_interval or (await hook.settings()).poll_interval
        except LocalFaultError:
            return DEFAULT_INTERVAL_S

    def _elapsed(self) -> float:
        return max(0.0, time.time() - self.started)

    def _time_left(self, extension: float) -> float:
        return max(0.0, self.deadline + extension - time.time())


async def find_extension(hook: CodingServiceAsyncHook, started: float) -> float:
    """Return by how many seconds a deadline moves, because no calls were allowed since `started`.

    It is 0 if the call budget is not available.
    """
    try:
        return min(await hook.paused_seconds(started), MAX_EXTENSION_S)
    except CodingServiceError:
        return 0.0
