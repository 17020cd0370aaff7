"""What the service does, without any HTTP: each noun has a file of its own, and here they are put together."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from include.local_service.batch import BatchCoder
from include.local_service.catalogue import CLASSIFICATIONS, Catalogue, Model, Topic
from include.local_service.clients import Clients
from include.local_service.clock import Clock
from include.local_service.coders import TRAINED, Coders
from include.local_service.errors import (
    LimitExceededError,
    NoModelsError,
    RequestFailedError,
    TooManyRequestsError,
)
from include.local_service.faults import PendingFaults
from include.local_service.objects import ObjectFiles, Written
from include.local_service.operation import State
from include.local_service.operations import Operations, Shown
from include.local_service.progression import Pace
from include.local_service.records import read_request, synchronous_answer, texts_of
from include.local_service.settings import Settings
from include.local_service.signing import Signer
from include.local_service.store import Store, StoredObject
from include.local_service.throttle import Throttle
from include.local_service.worker import Worker


class CodingService:
    """The behaviour of the coding service over one data folder.

    :param data_dir: holds all state; a service started on it again goes on where the last one ended.
    """

    def __init__(self, data_dir: Path, settings: Settings) -> None:
        self.settings = settings
        self.store = Store(data_dir / "service.sqlite")
        self.objects = ObjectFiles(data_dir / "objects")
        self.objects.sweep(self.store.files_in_use())
        self.clock = Clock(float(self.store.setting("clock_offset", "0")))
        self.faults = PendingFaults(self.store)
        self.clients = Clients(settings.clients, self.store, self.clock)
        self.catalogue = Catalogue(data_dir / CLASSIFICATIONS, self.store)
        self.operations = Operations(self.store, self.objects, self.clock, self.faults)
        self.signer = self._load_signer()
        self.pace = Pace.read(self.store, settings)
        self._throttle = Throttle(self.store, self.clock, settings)
        self._coders = Coders(settings.coder, data_dir / TRAINED)
        self._worker = Worker(BatchCoder(self.operations, self.objects, self.catalogue, self._coders).code)

    def start(self) -> None:
        """Start coding in the background, first what an earlier run left in progress."""
        for operation in self.store.operations(State.IN_PROGRESS):
            self._worker.take(operation.operation_id)
        self._worker.start()

    def close(self) -> None:
        """Stop coding and close the store."""
        self._worker.stop()
        self.store.close()

    # calls

    def admit(self, client_id: str, method: str, path: str) -> None:
        """Let a call of a known client through, or refuse it for a fault or for the throttle.

        :raises RequestFailedError, TooManyRequestsError, LimitExceededError: when it is refused.
        """
        self.strike(method, path)
        self._throttle.admit(client_id)

    def strike(self, method: str, path: str) -> None:
        """Refuse a request when a fault says so.

        :raises RequestFailedError, TooManyRequestsError, LimitExceededError: as the fault is named.
        """
        if self.faults.take_for_request("server_error", method, path):
            raise RequestFailedError
        if fault := self.faults.take_for_request("too_many_requests", method, path):
            raise TooManyRequestsError(fault.retry_after)
        if self.faults.take_for_request("limit_exceeded", method, path):
            raise LimitExceededError

    # models

    def models(self, topic: Topic, path: str) -> tuple[Model, ...]:
        """Return the models of a topic, oldest first.

        :param path: of the request; a fault may be aimed at it.
        :raises NoModelsError: when that fault strikes.
        """
        if self.faults.take_for_request("no_models", "GET", path):
            raise NoModelsError
        self._release_if_struck(topic, path)
        return self.catalogue.models(topic)

    def model(self, topic: Topic, model_id: str | None, path: str) -> Model:
        """Return the topic's model of this GUID, or the latest one.

        :param path: of the request; a fault may be aimed at it.
        :raises UnknownModelError, ModelTopicMismatchError: as contract 4 says.
        """
        if model_id is None:
            self._release_if_struck(topic, path)
        return self.catalogue.model(topic, model_id)

    def _release_if_struck(self, topic: Topic, path: str) -> None:
        if self.faults.take_for_request("new_latest_model", "", path):
            self.catalogue.release(topic)

    # coding

    def code_now(self, model: Model, body: Any) -> dict[str, Any] | list[dict[str, Any]]:
        """Code one record or a small batch, all or nothing (contract 2.6).

        :param body: the request's JSON value.
        :raises InvalidBodyError, MalformedRecordError: when any of it is wrong.
        """
        records, suggestions = read_request(body)
        codings = self._coders.coder(model).code(list(map(texts_of, records)))
        answers = [
            synchronous_answer(record, coding, suggestions) for record, coding in zip(records, codings, strict=True)
        ]
        return answers if "records" in body else answers[0]

    def check_operation(self, client_id: str, topic: Topic, operation_id: str) -> Shown:
        """Answer a status call (contract 2.9).

        :raises UnknownOperationError: when this client has no such operation under this topic.
        """
        return self.operations.check(client_id, topic, operation_id, self.pace)

    def receive_input(self, operation_id: str, written: Written) -> StoredObject:
        """Make a complete upload the input of its operation, and have it coded if it is the first.

        :raises StorageError: ``AccessDenied`` when the operation is no more.
        """
        stored, accepted = self.operations.receive_input(operation_id, written)
        if accepted:
            self._worker.take(operation_id)
        return stored

    # knobs

    def jump(self, seconds: float) -> float:
        """Jump the clock and return the new time; a restart keeps the jump, so that no deadline comes back."""
        self.clock.jump(seconds)
        self.store.keep_setting("clock_offset", repr(self.clock.offset))
        return self.clock.now()

    def set_pace(self, pace: Pace) -> None:
        """Choose when a finished operation is shown as finished; a restart keeps that."""
        pace.keep(self.store)
        self.pace = pace

    def reset(self) -> None:
        """Forget everything but the settings of the start; links given out before are void."""
        with self.store.transaction():
            files = self.store.files_in_use()
            self.store.reset()
            self.signer = self._load_signer()
            self.faults.clear()
        self.pace = Pace.read(self.store, self.settings)
        self.clock.offset = 0.0
        self.objects.delete(files)

    def _load_signer(self) -> Signer:
        with self.store.transaction():
            access_key = self.store.setting("access_key", "") or f"LOCAL{secrets.token_hex(8).upper()}"
            secret_key = self.store.setting("secret_key", "") or secrets.token_urlsafe(30)
            self.store.keep_setting("access_key", access_key)
            self.store.keep_setting("secret_key", secret_key)
        return Signer(access_key, secret_key)
