"""The service without HTTP: assembles the modules of this package over one data folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from include.local_service.core import errors
from include.local_service.core.batch import BatchCoder
from include.local_service.core.catalogue import Catalogue, Model, Topic
from include.local_service.core.clients import AccessKeys, Clients
from include.local_service.core.clock import Clock
from include.local_service.core.coders import Coders
from include.local_service.core.faults import PendingFaults
from include.local_service.core.objects import ObjectFiles, StoredFile
from include.local_service.core.operation import State
from include.local_service.core.operations import Operations
from include.local_service.core.progression import StatusDelay
from include.local_service.core.records import get_texts, make_synchronous_response, read_request
from include.local_service.core.settings import Settings
from include.local_service.core.store import Store, StoredObject
from include.local_service.core.throttle import Throttle
from include.local_service.core.worker import Worker


class CodingService:
    """The coding service without HTTP, over one data folder.

    :param data_dir: stores all state; a service with the same folder continues where the last one stopped.
    """

    def __init__(self, data_dir: Path, settings: Settings) -> None:
        self.settings = settings
        self.store = Store(data_dir / "service.sqlite")
        self.objects = ObjectFiles(data_dir / "objects")
        self.objects.delete_unused(self.store.files_in_use())
        self.clock = Clock(float(self.store.setting("clock_offset", "0")))
        self.faults = PendingFaults(self.store)
        self.clients = Clients(settings.clients, self.store, self.clock)
        self.catalogue = Catalogue(data_dir, self.store)
        self.operations = Operations(self.store, self.objects, self.clock, self.faults)
        self.access_keys = AccessKeys.load(self.store)
        self.status_delay = StatusDelay.load(self.store, settings)
        self._throttle = Throttle(self.store, self.clock, settings)
        self._coders = Coders(settings.coder, data_dir)
        self._worker = Worker(BatchCoder(self.operations, self.objects, self.catalogue, self._coders).code)

    def start(self) -> None:
        """Start coding in the background, first the operations that the last run did not finish."""
        for operation in self.store.operations(State.IN_PROGRESS):
            self._worker.enqueue(operation.operation_id)
        self._worker.start()

    def close(self) -> None:
        """Stop coding and close the store."""
        self._worker.stop()
        self.store.close()

    # calls

    def admit(self, client_id: str, method: str, path: str) -> None:
        """Admit a call of a client, or refuse it because of a fault or the throttle.

        :raises RequestFailedError, TooManyRequestsError, LimitExceededError, AccessDeniedError: if it is refused.
        """
        self.apply_request_faults(method, path)
        self._throttle.admit(client_id)

    def apply_request_faults(self, method: str, path: str) -> None:
        """Refuse a request if a pending fault affects it.

        :raises RequestFailedError, TooManyRequestsError, LimitExceededError, AccessDeniedError: what the fault says.
        """
        if self.faults.trigger_for_request("server_error", method, path):
            raise errors.RequestFailedError
        if fault := self.faults.trigger_for_request("too_many_requests", method, path):
            raise errors.TooManyRequestsError(fault.retry_after)
        if self.faults.trigger_for_request("limit_exceeded", method, path):
            raise errors.LimitExceededError
        if self.faults.trigger_for_request("access_denied", method, path):
            raise errors.AccessDeniedError

    # models

    def models(self, topic: Topic, path: str) -> tuple[Model, ...]:
        """Return the models of a topic, oldest first.

        :param path: of the request, for faults with `path_contains`.
        :raises NoModelsError: if that fault affects the request.
        """
        if self.faults.trigger_for_request("no_models", "GET", path):
            raise errors.NoModelsError
        self._apply_release_fault(topic, path)
        return self.catalogue.models(topic)

    def model(self, topic: Topic, model_id: str | None, path: str) -> Model:
        """Return the topic's model with this GUID, or the latest one.

        :param path: of the request, for faults with `path_contains`.
        :raises UnknownModelError, ModelTopicMismatchError: see docs/service-contract.md 4.
        """
        if model_id is None:
            self._apply_release_fault(topic, path)
        return self.catalogue.model(topic, model_id)

    def _apply_release_fault(self, topic: Topic, path: str) -> None:
        if self.faults.trigger_for_request("new_latest_model", "", path):
            self.catalogue.release(topic)

    # coding

    def code_synchronously(self, model: Model, body: Any) -> dict[str, Any] | list[dict[str, Any]]:
        """Code one record or a small batch, all or none (docs/service-contract.md 2.6).

        :param body: the request's JSON value.
        :raises InvalidBodyError, MalformedRecordError: if any of it is invalid.
        """
        records, suggestions = read_request(body)
        codings = self._coders.coder(model).code(list(map(get_texts, records)))
        responses = [
            make_synchronous_response(record, coding, suggestions)
            for record, coding in zip(records, codings, strict=True)
        ]
        return responses if "records" in body else responses[0]

    def receive_input(self, operation_id: str, upload: StoredFile) -> StoredObject | None:
        """Store an upload as the input of its operation, and queue the operation if it is the first upload.

        :return: the object, or None if the operation no longer exists.
        """
        stored, is_first = self.operations.receive_input(operation_id, upload)
        if is_first:
            self._worker.enqueue(operation_id)
        return stored

    # knobs

    def jump(self, seconds: float) -> float:
        """Move the clock forward and return the new time. A restart does not undo the jump."""
        self.clock.jump(seconds)
        self.store.save_setting("clock_offset", repr(self.clock.offset))
        return self.clock.now()

    def set_status_delay(self, delay: StatusDelay) -> None:
        """Set when status calls show that an operation has ended. A restart does not undo this."""
        delay.save(self.store)
        self.status_delay = delay

    def reset(self) -> None:
        """Delete all state except the settings of the start; earlier presigned URLs become invalid."""
        with self.store.transaction():
            files = self.store.files_in_use()
            self.store.reset()
            self.access_keys = AccessKeys.load(self.store)
            self.faults.clear()
        self.status_delay = StatusDelay.load(self.store, self.settings)
        self.clock.offset = 0.0
        self.objects.delete(files)
