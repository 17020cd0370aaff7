"""The wait for an operation, as a task."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

from airflow.sdk import BaseSensorOperator, XComArg
from airflow.sdk.configuration import conf

from coding_service.errors import CodingServiceError, OperationFailedError, ProtocolError, utc
from coding_service.hooks import CONN_ID, CodingServiceHook
from coding_service.lineage import OperationLineageMixin
from coding_service.links import OperationLink, check_operation_link, push_operation_link
from coding_service.models import OperationOutcome, check_guid
from coding_service.polling import (
    ErrorSeries,
    describe_seconds,
    describe_wait,
    extend_series,
    next_wait,
    seconds_or_none,
)
from coding_service.retry import CodingServiceRetryPolicy
from coding_service.triggers import (
    DEFAULT_INTERVAL_S,
    MAX_EXTENSION_S,
    BatchCodeTrigger,
    Reason,
    completion_event,
    make_event,
)
from coding_service.upstream import UpstreamResultsMixin

#: XCom key of the outcome of an operation, a :class:`coding_service.models.OperationOutcome` as a dict.
OPERATION_KEY = "operation"
#: Key in the task state store of the failed status calls of a rescheduled wait, which are counted across processes.
ERRORS_STATE_KEY = "status_errors"
#: Airflow's own timeout of the wait comes this much later than ours, which it must not anticipate.
TIMEOUT_MARGIN_S = 600.0

log = logging.getLogger(__name__)


class BatchCodeSensor(OperationLineageMixin, UpstreamResultsMixin, BaseSensorOperator):
    """Waits until a batch coding operation ends, and succeeds if it is complete.

    If it is deferrable, it waits in the triggerer and does not occupy a worker. Otherwise it is rescheduled between
    status calls (`mode="reschedule"`), for deployments without a triggerer. The outcome is pushed as XCom `operation`
    (:class:`coding_service.models.OperationOutcome`), also when the operation has failed.

    :param operation_id: GUID of the operation
    :param topic: uriName of the topic; None: the topic of the part
    :param part: the part that is coded; provides `topic` and `expected_seconds` where these are not set
    :param coding_service_conn_id: Airflow connection of the service
    :param timeout: maximum wait, in seconds or as timedelta; the service states none (docs/service-contract.md 5)
    :param poll_interval: seconds between the first two status calls; later intervals grow from it. None: the value in
        the connection (rescheduled: 60)
    :param expected_seconds: how long the operation is expected to take; the first status call (rescheduled: the
        second) is made a little earlier. None: the value of the part, if any. Not used by later attempts
    :param deferrable: whether to wait in the triggerer; None: as Airflow's `[operators] default_deferrable` says
    :param operation_link: as for :class:`coding_service.CodingServiceOperator`
    :raises OperationFailedError: the operation failed, timed out, or did not end before the timeout (rescheduled:
        Airflow raises AirflowSensorTimeout after the timeout)
    """

    template_fields: Sequence[str] = ("topic", "part", "operation_id", "coding_service_conn_id", "expected_seconds")
    required_fields: Sequence[str] = ("part", "operation_id")
    optional_fields: Sequence[str] = ("expected_seconds",)
    operator_extra_links = (OperationLink(),)
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
        deferrable: bool | None = None,
        operation_link: str | None = None,
        **kwargs: Any,
    ) -> None:
        if topic is None and part is None:
            raise TypeError("a wait for an operation needs its topic: set `topic`")
        kwargs.setdefault("retry_policy", CodingServiceRetryPolicy())
        kwargs.setdefault("mode", "reschedule")
        kwargs.setdefault("poke_interval", poll_interval or 60.0)
        super().__init__(timeout=timeout, **kwargs)
        self._timeout: float = self.timeout
        self.topic = topic
        self.part: Any = part
        self.operation_id: Any = operation_id
        self.coding_service_conn_id = coding_service_conn_id
        self.poll_interval = poll_interval
        self.expected_seconds: Any = expected_seconds
        self._last_error: CodingServiceError | None = None
        self.deferrable = read_deferrable(deferrable)
        self.operation_link = check_operation_link(operation_link)

    def execute(self, context: Any) -> None:
        check_guid(self.operation_id, "the operation id of the wait")
        push_operation_link(context["ti"], self.operation_link, self.operation_id)
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
        log_deferral(trigger)
        self.defer(trigger=trigger, method_name="resume", timeout=airflow_timeout(self.timeout))

    @property
    def _topic(self) -> str:
        return str(self.topic or self.part["topic"])

    @property
    def _expected_seconds(self) -> float | None:
        return seconds_or_none(self.expected_seconds or (self.part or {}).get("expected_seconds"))

    def poke(self, context: Any) -> bool:
        start = (context["ti"].get_first_reschedule_date(context) or context["ti"].start_date).timestamp()
        hook, store = CodingServiceHook(self.coding_service_conn_id), context["task_state_store"]
        check_guid(self.operation_id, "the operation id of the wait")
        try:
            operation = hook.operation(self._topic, self.operation_id)
        except CodingServiceError as error:
            series = self._count_error(store, error)
            if series.ends_wait(error):
                message = series.describe(error)
                self.resume(context, make_event(Reason.REFUSED, self.operation_id, message, time.time() - start))
            self.log.warning("Status call for operation %s failed, will retry: %s", self.operation_id, error)
            self._last_error = error
            self._extend_timeout(hook, start)
            return False
        self._last_error = None
        if store.get(ERRORS_STATE_KEY):
            store.set(ERRORS_STATE_KEY, {})  # None cannot be stored
        self.log.info("Operation %s is %s", self.operation_id, operation.status)
        payload = completion_event(operation, time.time() - start)
        if payload is not None:
            self.resume(context, payload)
        self._extend_timeout(hook, start)
        return payload is not None

    def _count_error(self, store: Any, error: CodingServiceError) -> ErrorSeries:
        """Store the error of a status call, and return the series that ends with it."""
        stored = store.get(ERRORS_STATE_KEY) or {}
        is_same_wait = stored.get("operation_id") == self.operation_id
        series = extend_series(ErrorSeries.from_dict(stored) if is_same_wait else None, error, time.time())
        store.set(ERRORS_STATE_KEY, {"operation_id": self.operation_id, **series.to_dict()})
        return series

    def _extend_timeout(self, hook: CodingServiceHook, start: float) -> None:
        """Let Airflow's timeout come later by the time in which no calls were allowed since the start of the wait.

        It is needed only once the timeout has passed, so that other status calls do not lock the budget once more.
        """
        if time.time() - start <= self._timeout:
            return
        with suppress(CodingServiceError):
            self.timeout = self._timeout + min(hook.paused_seconds(start), MAX_EXTENSION_S)

    def _get_next_poke_interval(self, started_at: Any, run_duration: Callable[[], float], poke_count: int) -> float:
        """Return the interval that the trigger would use, instead of Airflow's fixed or doubling one."""
        elapsed = run_duration()
        wait = next_wait(self.poke_interval, self._expected_seconds, elapsed, self._last_error, random.random)
        wait = max(0.0, min(wait, self.timeout - elapsed))
        words = describe_wait(elapsed, self._expected_seconds, wait)
        self.log.info("Operation %s is waited for: %s", self.operation_id, words)
        return wait

    def resume(self, context: Any, event: dict[str, Any] | None = None) -> None:
        """Handle the trigger's event: push the outcome, and fail unless the operation is complete."""
        self.remember_for_lineage(self.operation_id)
        end_wait(context["ti"], self.operation_id, event)


def read_deferrable(value: bool | None) -> bool:
    """Return whether a task waits in the triggerer; None: as Airflow's `[operators] default_deferrable` says."""
    return conf.getboolean("operators", "default_deferrable", fallback=False) if value is None else value


def airflow_timeout(seconds: float) -> timedelta:
    """Return the time after which Airflow ends a wait that has so many seconds.

    It must come later than the end of the wait itself, because it would end the task without the state of the
    operation.
    """
    return timedelta(seconds=seconds + MAX_EXTENSION_S + TIMEOUT_MARGIN_S)


def log_deferral(trigger: BatchCodeTrigger) -> None:
    """Say in the log of a task, before it is deferred, what it waits for, how long that takes, and until when."""
    interval = trigger.poll_interval or DEFAULT_INTERVAL_S
    with suppress(CodingServiceError):  # the trigger says what is wrong with the connection
        interval = trigger.poll_interval or CodingServiceHook(trigger.coding_service_conn_id).settings.poll_interval
    elapsed = max(0.0, time.time() - trigger.started)
    wait = next_wait(interval, trigger.expected_seconds, elapsed, None, lambda: 0.0)
    log.info(
        "Operation %s is waited for in the triggerer, until %s at the latest: %s",
        trigger.operation_id, utc(trigger.deadline), describe_wait(elapsed, trigger.expected_seconds, wait),
    )  # fmt: skip


def end_wait(ti: Any, operation_id: str | None, event: dict[str, Any] | None) -> None:
    """Push how the wait for an operation ended as XCom, and fail unless the operation is complete.

    :param ti: task instance of the wait
    :param event: payload of the trigger's event
    :raises ProtocolError: it is not the event of this operation
    :raises OperationFailedError: the operation is not complete
    """
    try:
        if operation_id is None or event is None or event["operation_id"] != operation_id:
            raise KeyError(operation_id)
        reason, message, seconds = Reason(event["reason"]), event["message"], event.get("seconds")
    except (KeyError, TypeError, ValueError):
        raise ProtocolError(f"unexpected event for operation {operation_id!r}: {event!r}") from None
    if ti.try_number > 1:
        seconds = None  # it covers this attempt only
    outcome = OperationOutcome(operation_id, reason.value, message, seconds, ended_at=time.time())
    ti.xcom_push(key=OPERATION_KEY, value=outcome.to_dict())
    waited = "" if seconds is None else f", after a wait of {describe_seconds(seconds)}"
    log.info("Operation %s is %s%s", operation_id, reason.value, waited)
    if reason is not Reason.COMPLETE:
        raise OperationFailedError(f"operation {operation_id!r}: {message}")
