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
from coding_service.models import OperationOutcome
from coding_service.polling import next_wait, seconds_or_none
from coding_service.retry import CodingServiceRetryPolicy
from coding_service.triggers import FATAL_POLL_ERRORS, BatchCodeTrigger, Reason, completion_event

#: XCom key of the outcome of an operation, a :class:`coding_service.models.OperationOutcome` as a dict.
OPERATION_KEY = "operation"


class BatchCodeSensor(BaseSensorOperator):
    """Waits until a batch coding operation ends, and succeeds if it is complete.

    By default it is deferred: it waits in the triggerer and does not occupy a worker. With `deferrable=False` it is
    rescheduled between status calls (`mode="reschedule"`), for deployments without a triggerer. The outcome is pushed
    as XCom `operation` (:class:`coding_service.models.OperationOutcome`), also when the operation has failed.

    :param operation_id: GUID of the operation
    :param topic: uriName of the topic; None: the topic of the part
    :param part: the part that is coded; provides `topic` and `expected_seconds` where these are not set
    :param coding_service_conn_id: Airflow connection of the service
    :param timeout: maximum wait, in seconds or as timedelta; the service states none (docs/service-contract.md 5)
    :param poll_interval: seconds between the first two status calls; later intervals grow from it. None: the value in
        the connection (rescheduled: 60)
    :param expected_seconds: how long the operation is expected to take; the first status call (rescheduled: the
        second) is made a little earlier. None: the value of the part, if any. Not used by later attempts
    :param deferrable: whether to wait in the triggerer
    :raises OperationFailedError: the operation failed, timed out, or did not end before the timeout (rescheduled:
        Airflow raises AirflowSensorTimeout after the timeout)
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
        self._last_error: CodingServiceError | None = None
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
            # a later attempt polls at once, because the operation may have ended long ago
            expected_seconds=self._expected_seconds if context["ti"].try_number == 1 else None,
            started=now,
        )
        # Airflow's own timeout must come later, because it would end the task without the state of the operation
        self.defer(trigger=trigger, method_name="resume", timeout=timedelta(seconds=self.timeout + 600))

    @property
    def _topic(self) -> str:
        return str(self.topic or self.part["topic"])

    @property
    def _expected_seconds(self) -> float | None:
        return seconds_or_none(self.expected_seconds or (self.part or {}).get("expected_seconds"))

    def poke(self, context: Any) -> bool:
        try:
            operation = CodingServiceHook(self.coding_service_conn_id).operation(self._topic, self.operation_id)
        except FATAL_POLL_ERRORS:
            raise
        except CodingServiceError as error:
            self.log.warning("Status call for operation %s failed, will retry: %s", self.operation_id, error)
            self._last_error = error
            return False
        self._last_error = None
        self.log.info("Operation %s is %s", self.operation_id, operation.status)
        start = context["ti"].get_first_reschedule_date(context) or context["ti"].start_date
        payload = completion_event(operation, time.time() - start.timestamp())
        if payload is not None:
            self.resume(context, payload)
        return payload is not None

    def _get_next_poke_interval(self, started_at: Any, run_duration: Callable[[], float], poke_count: int) -> float:
        """Return the interval that the trigger would use, instead of Airflow's fixed or doubling one."""
        elapsed = run_duration()
        wait = next_wait(self.poke_interval, self._expected_seconds, elapsed, self._last_error, random.random)
        return max(0.0, min(wait, self.timeout - elapsed))

    def resume(self, context: Any, event: dict[str, Any] | None = None) -> None:
        """Handle the trigger's event: push the outcome, and fail unless the operation is complete."""
        try:
            if event is None or event["operation_id"] != self.operation_id:
                raise KeyError(self.operation_id)
            reason, message, seconds = Reason(event["reason"]), event["message"], event.get("seconds")
        except (KeyError, TypeError, ValueError):
            raise ProtocolError(f"unexpected event for operation {self.operation_id!r}: {event!r}") from None
        if context["ti"].try_number > 1:
            seconds = None  # it covers this attempt only
        outcome = OperationOutcome(self.operation_id, reason.value, message, seconds, ended_at=time.time())
        context["ti"].xcom_push(key=OPERATION_KEY, value=outcome.to_dict())
        if reason is not Reason.COMPLETE:
            raise OperationFailedError(f"operation {self.operation_id!r}: {message}")
