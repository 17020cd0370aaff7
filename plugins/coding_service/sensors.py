"""The wait for an operation, as a task."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from airflow.sdk import BaseSensorOperator, XComArg

from coding_service.errors import CodingServiceError, OperationFailedError, ProtocolError
from coding_service.hooks import CONN_ID, CodingServiceHook
from coding_service.polling import next_wait, seconds_or_none
from coding_service.retry import CodingServiceRetryPolicy
from coding_service.triggers import ENDS_THE_WAIT, BatchCodeTrigger, Reason, end_event


class BatchCodeSensor(BaseSensorOperator):
    """Waits until a batch coding operation ends; succeeds if it is complete.

    Deferrable by default: the wait runs in the triggerer and holds no worker. With `deferrable=False` it is
    rescheduled between status calls (`mode="reschedule"`), for deployments without a triggerer. How an operation
    ended is pushed as XCom `operation` (`operation_id`, `state`, `message`, `seconds` of the wait), a failed
    one's as well.

    :param operation_id: GUID of the operation
    :param topic: uriName of the topic; None: the part's
    :param part: what is being coded, as the other steps know it: its `topic` and `expected_seconds` are taken where
        they are not given
    :param coding_service_conn_id: Airflow connection of the service
    :param timeout: how long to wait at most, in seconds or as timedelta; the service states no maximum (contract 5)
    :param poll_interval: seconds between the first two status calls, from which the intervals grow; None: as the
        connection says (rescheduled: 60)
    :param expected_seconds: how long the operation is expected to take: the first status call is made a little before
        (rescheduled: the second). None: the part's, or nobody knows. Another try asks at once
    :param deferrable: whether to wait in the triggerer
    :raises OperationFailedError: the operation failed, timed out, or did not end in time (when rescheduled, Airflow
        raises its AirflowSensorTimeout for the last)
    """

    template_fields: Sequence[str] = ("topic", "part", "operation_id", "coding_service_conn_id", "expected_seconds")
    ui_color = "#d8e6f3"

    def __init__(
        self,
        *,
        operation_id: str | XComArg,
        topic: str | None = None,
        part: Mapping[str, Any] | XComArg | None = None,
        coding_service_conn_id: str = CONN_ID,
        timeout: float | timedelta = timedelta(hours=24),
        poll_interval: float | None = None,
        expected_seconds: float | str | XComArg | None = None,
        deferrable: bool = True,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("retry_policy", CodingServiceRetryPolicy())
        kwargs.setdefault("mode", "reschedule")
        kwargs.setdefault("poke_interval", poll_interval or 60.0)
        super().__init__(timeout=timeout, **kwargs)
        self.topic = topic
        self.part: Any = part
        self.operation_id: Any = operation_id
        self.coding_service_conn_id = coding_service_conn_id
        self.poll_interval = poll_interval
        self.expected_seconds: Any = expected_seconds
        self._trouble: CodingServiceError | None = None
        self.deferrable = deferrable

    def execute(self, context: Any) -> None:
        if not self.deferrable:
            super().execute(context)
            return
        now = time.time()
        trigger = BatchCodeTrigger(
            topic=self._topic,
            operation_id=self.operation_id,
            coding_service_conn_id=self.coding_service_conn_id,
            deadline=now + self.timeout,
            poll_interval=self.poll_interval,
            # on another try the operation has had its time
            expected_seconds=self._expected if context["ti"].try_number == 1 else None,
            started=now,
        )
        # Airflow's own timeout comes later: it ends the task without telling how the operation stands
        self.defer(trigger=trigger, method_name="resume", timeout=timedelta(seconds=self.timeout + 600))

    @property
    def _topic(self) -> str:
        return str(self.topic or self.part["topic"])

    @property
    def _expected(self) -> float | None:
        return seconds_or_none(self.expected_seconds or (self.part or {}).get("expected_seconds"))

    def poke(self, context: Any) -> bool:
        try:
            operation = CodingServiceHook(self.coding_service_conn_id).operation(self._topic, self.operation_id)
        except ENDS_THE_WAIT:
            raise
        except CodingServiceError as error:
            self.log.warning("Operation %s: %s; asking again", self.operation_id, error)
            self._trouble = error
            return False
        self._trouble = None
        self.log.info("Operation %s is %s", self.operation_id, operation.status)
        began = context["ti"].get_first_reschedule_date(context) or context["ti"].start_date
        payload = end_event(operation, time.time() - began.timestamp())
        if payload is not None:
            self.resume(context, payload)
        return payload is not None

    def _get_next_poke_interval(self, started_at: Any, run_duration: Callable[[], float], poke_count: int) -> float:
        """In place of Airflow's fixed interval or doubling: as the trigger waits, with an error of the last poke."""
        elapsed = run_duration()
        wait = next_wait(self.poke_interval, self._expected, elapsed, self._trouble, random.random)
        return max(0.0, min(wait, self.timeout - elapsed))

    def resume(self, context: Any, event: dict[str, Any] | None = None) -> None:
        """Take the trigger's event: push how the operation ended, and fail unless it is complete."""
        try:
            if event is None or event["operation_id"] != self.operation_id:
                raise KeyError(self.operation_id)
            reason, message, seconds = Reason(event["reason"]), event["message"], event.get("seconds")
        except (KeyError, TypeError, ValueError):
            raise ProtocolError(f"the wait for operation {self.operation_id!r} was resumed with {event!r}") from None
        if context["ti"].try_number > 1:
            seconds = None  # of this try alone
        told = {"operation_id": self.operation_id, "state": reason.value, "message": message, "seconds": seconds}
        context["ti"].xcom_push(key="operation", value=told)
        if reason is not Reason.COMPLETE:
            raise OperationFailedError(f"operation {self.operation_id!r}: {message}")
