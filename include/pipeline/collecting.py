"""The task that keeps the results of a run, and codes again what has none."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk import BaseOperator, timezone
from airflow.sdk.exceptions import AirflowRescheduleException, AirflowSkipException

from coding_service import BatchCodeTrigger, CodingServiceHook
from coding_service.errors import CodingServiceError, ExpiredError, FinalError, SettingsError
from coding_service.hooks import CONN_ID
from coding_service.models import InputPart
from coding_service.part_operation import PartOperation
from coding_service.polling import describe_seconds, describe_wait, next_wait
from coding_service.redaction import redact
from coding_service.sensors import log_deferral
from coding_service.triggers import Reason

if TYPE_CHECKING:
    from include.coding.isolation import Piece
    from include.coding.recoding import ClaimsWait, Recoding
    from include.pipeline.handoffs import WaitEvent


class CollectResultsOperator(BaseOperator):
    """Keeps the results of every part, codes again what has none, and returns a
    :class:`include.coding.recoding.CollectSummary` as a dict.

    It waits in the triggerer for the operations that it opens. Its state is in the task state store, so the next
    attempt continues, whatever dies, and no piece is given to a second operation. If the task is cleared, it waits
    again for the operations whose end is not known.

    :param coding_service_conn_id: Airflow connection of the service
    :param storage_conn_id: Airflow connection (aws) for `s3://`; None: the credentials that AWS finds on the machine
    :param timeout: maximum wait for the operations of one round
    :param poll_interval: seconds between the first two status calls; None: the value in the connection
    :param deferrable: whether to wait in the triggerer; False: in the worker, which is occupied meanwhile
    """

    template_fields: Sequence[str] = ("coding_service_conn_id", "storage_conn_id")
    ui_color = "#e3eefa"

    def __init__(
        self,
        *,
        coding_service_conn_id: str = CONN_ID,
        storage_conn_id: str | None = None,
        timeout: timedelta = timedelta(hours=24),
        poll_interval: float | None = None,
        deferrable: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.coding_service_conn_id = coding_service_conn_id
        self.storage_conn_id = storage_conn_id
        self.timeout = timeout
        self.poll_interval = poll_interval
        self.deferrable = deferrable

    def execute(self, context: Any) -> dict[str, Any]:
        return self._collect(context)

    def resume(self, context: Any, event: dict[str, Any]) -> dict[str, Any]:
        """Continue with the trigger's event, the end of one operation."""
        from include.pipeline import handoffs

        return self._collect(context, handoffs.WaitEvent.from_dict(event, task=handoffs.COLLECT))

    def _collect(self, context: Any, end: WaitEvent | None = None) -> dict[str, Any]:
        """Work until an operation, or another run, has to be waited for, or nothing is left to do.

        :param end: end of the operation that was waited for; None in a new attempt, or after the task was rescheduled
        """
        from include.coding.abandoned import record_abandoned_operations
        from include.coding.recoding import Recoding
        from include.pipeline import handoffs
        from include.pipeline.run_metadata import is_in_progress
        from include.pipeline.settings import open_staging, open_warehouse, read_run_key

        if not handoffs.has_operations(context["ti"]):
            raise AirflowSkipException("nothing was sent, so there is nothing to collect")
        plan, prepared = handoffs.pull_plan(context["ti"]), handoffs.pull_prepared(context["ti"])
        part_results = handoffs.pull_part_results(context["ti"], prepared.parts)
        hook, store = CodingServiceHook(self.coding_service_conn_id), context["task_state_store"]
        with open_staging(read_run_key(context["ti"])) as staging:
            warehouse = open_warehouse(plan.engine_memory_mb)
            recoding = Recoding(
                plan, prepared, part_results, warehouse, staging, store,
                lambda operation_id: self._read_error(hook, plan.topic, operation_id), is_in_progress,
            )  # fmt: skip
            if end is None:
                recoding.resume_waiting(time.time() + self.timeout.total_seconds())
            while True:
                while pieces := recoding.next_pieces():
                    for piece in pieces:
                        self._advance(piece, recoding, hook, store, end)
                    end = None
                    self._wait(recoding, hook)
                if wait := recoding.settle_claims(time.time()):
                    self._reschedule(wait, hook)
                if not recoding.running_pieces:
                    break
            summary = recoding.finish()
            record_abandoned_operations(lambda: warehouse, plan.schema, staging, plan.run_id)
            self.log.info(
                "Kept the results of %s of %s texts, from %s operations",
                f"{summary.usable:,}", f"{summary.texts_sent:,}", f"{summary.operations:,}",
            )  # fmt: skip
            return summary.to_dict()

    def _advance(
        self, piece: Piece, recoding: Recoding, hook: CodingServiceHook, store: Any, event: WaitEvent | None
    ) -> None:
        """Send a piece, or find out whether its operation has ended, and download what it coded."""
        from include.pipeline import handoffs

        plan = recoding.plan
        part = InputPart(plan.topic, plan.model_id, piece.input_uri, piece.sha256)
        key = f"operation-{piece.number}"
        labels = {"run_id": plan.run_id, "part": piece.part}
        operation = PartOperation(hook, part, store, self.storage_conn_id, key, labels)
        if piece.operation_id is None:
            operation_id = handoffs.check_operation_id(
                operation.find_ended() or operation.upload(*operation.open()), handoffs.COLLECT
            )
            recoding.update(piece, operation_id=operation_id, deadline=time.time() + self.timeout.total_seconds())
            return
        if event is not None and event.operation_id == piece.operation_id:
            state, message = event.reason, event.message
        else:
            end = self._check(piece, plan.topic, hook)
            if end is None:
                return
            state, message = end
        if state is Reason.COMPLETE and piece.has_output:
            try:
                files = operation.download(piece.operation_id)
            except (FinalError, ExpiredError) as error:
                recoding.update(piece, state=state.value, problem=f"its output was not downloaded: {error}")
            else:
                uris = {"output_uri": files.output_uri, "metadata_uri": files.metadata_uri}
                recoding.update(piece, state=state.value, **uris)
        else:
            has_ended = state in (Reason.COMPLETE, Reason.FAILED, Reason.TIMED_OUT)
            recoding.update(piece, state=state.value, problem=None if has_ended else message)

    def _check(self, piece: Piece, topic: str, hook: CodingServiceHook) -> tuple[Reason, str] | None:
        """Return how the operation of a piece ended; None if it has not, or the service does not say."""
        try:
            status = hook.operation(topic, str(piece.operation_id)).status
        except SettingsError:
            raise
        except CodingServiceError as error:
            self.log.warning("Status call for operation %s failed, will retry: %s", piece.operation_id, error)
        else:
            self.log.info("Operation %s is %s", piece.operation_id, status)
            if status.is_terminal:
                return Reason(status.value), status.value
        if time.time() > piece.deadline:
            return Reason.DEADLINE, "it did not end before its deadline; clear this task to continue waiting"
        return None

    def _wait(self, recoding: Recoding, hook: CodingServiceHook) -> None:
        """Wait for an operation that has not ended, if there is one: deferred, or until the next status call."""
        piece = next(iter(recoding.running_pieces), None)
        if piece is None:
            return
        started = piece.deadline - self.timeout.total_seconds()
        if not self.deferrable:
            first_interval = self.poll_interval or hook.settings.poll_interval
            elapsed = max(0.0, time.time() - started)
            wait = next_wait(first_interval, None, elapsed, None, random.random)
            self.log.info("Operation %s is waited for: %s", piece.operation_id, describe_wait(elapsed, None, wait))
            time.sleep(wait)
            return
        trigger = BatchCodeTrigger(
            topic=recoding.plan.topic,
            operation_id=str(piece.operation_id),
            coding_service_conn_id=self.coding_service_conn_id,
            deadline=piece.deadline,
            poll_interval=self.poll_interval,
            started=started,
        )
        log_deferral(trigger)
        # Airflow's own timeout must come later, because it would end the task without the state of the operation.
        timeout = timedelta(seconds=max(0.0, piece.deadline - time.time()) + 600)
        self.defer(trigger=trigger, method_name="resume", timeout=timeout)

    def _reschedule(self, wait: ClaimsWait, hook: CodingServiceHook) -> NoReturn:
        """End this attempt, to look later whether other runs have delivered the results that this one awaits.

        The task is rescheduled instead of deferred, because a deferred task keeps its slot of the pool, for which the
        other runs may wait. Everything that it knows is in the task state store.
        """
        first_interval = self.poll_interval or hook.settings.poll_interval
        seconds = min(next_wait(first_interval, None, wait.elapsed_s, None, random.random), wait.remaining_s)
        self.log.info(
            "Looking for these results again in %s; if some are missing after %s, this run sends the texts itself",
            describe_seconds(seconds), describe_seconds(wait.remaining_s),
        )  # fmt: skip
        raise AirflowRescheduleException(timezone.utcnow() + timedelta(seconds=seconds))

    def _read_error(self, hook: CodingServiceHook, topic: str, operation_id: str) -> str | None:
        """Return what the service says about a failed operation. It can quote a text, so it is never logged."""
        try:
            error = hook.operation(topic, operation_id).error
        except CodingServiceError as problem:
            self.log.warning("The reason why operation %s failed could not be read: %s", operation_id, problem)
            return None
        return redact(error) if error else None
