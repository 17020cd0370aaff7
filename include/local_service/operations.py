"""What happens to operations and their files (contract 2.7 to 2.10, 5)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from uuid import uuid4

from include.local_service.catalogue import Model, Topic
from include.local_service.clients import kms_key
from include.local_service.clock import Clock
from include.local_service.errors import StorageError, UnknownOperationError
from include.local_service.faults import PendingFaults
from include.local_service.objects import ObjectFiles, Written
from include.local_service.operation import (
    INPUT_DEADLINE,
    OUTPUT_LIFETIME,
    Event,
    Operation,
    State,
    input_key,
    metadata_key,
    output_key,
)
from include.local_service.progression import Pace
from include.local_service.store import Store, StoredObject


@dataclass(frozen=True)
class Shown:
    """An operation as a status call shows it; the keys are there when the files can be downloaded."""

    state: State
    error: str | None = None
    output_key: str | None = None
    metadata_key: str | None = None


class Operations:
    """The operations of the service, each moved from state to state by the table in `operation`."""

    def __init__(self, store: Store, objects: ObjectFiles, clock: Clock, faults: PendingFaults) -> None:
        self._store = store
        self._objects = objects
        self._clock = clock
        self._faults = faults

    # for the client

    def create(self, client_id: str, model: Model) -> Operation:
        """Make a new operation that awaits its input (contract 2.7)."""
        operation = Operation(str(uuid4()), client_id, model.topic.uri_name, model.model_id, self._clock.now())
        self._store.add_operation(operation)
        return operation

    def check(self, client_id: str, topic: Topic, operation_id: str, pace: Pace) -> Shown:
        """Answer a status call: settle what the clock has decided, count the call, show the state (contract 2.9).

        :raises UnknownOperationError: when this client has no such operation under this topic.
        """
        self.settle()
        with self._store.transaction():
            operation = self._store.operation(operation_id.lower())
            if operation is None or operation.client_id != client_id or operation.topic != topic.uri_name:
                raise UnknownOperationError(operation_id)
            if operation.uploaded_at is not None:
                operation = replace(operation, polls=operation.polls + 1)
                self._store.save_operation(operation)
        return _show(operation, pace.state(operation, self._clock.now()))

    # what the clock decides

    def settle(self) -> None:
        """Time out operations without input, and delete files after a day."""
        now = self._clock.now()
        with self._store.transaction():
            for operation in self._store.operations_without_input(now - INPUT_DEADLINE):
                self._store.save_operation(operation.after(Event.INPUT_MISSED, finished_at=now))
            aged = self._store.operations_to_delete(now - OUTPUT_LIFETIME)
            files = {file for operation in aged for file in self._forget_files(operation)}
        self._objects.delete(files)

    def _forget_files(self, operation: Operation) -> set[str]:
        keys = [key(operation.operation_id) for key in (input_key, output_key, metadata_key)]
        files = {stored.file for stored in map(self._store.object, keys) if stored}
        for key in keys:
            self._store.delete_object(key)
        self._store.save_operation(replace(operation, files_deleted=True))
        return files | ({operation.input_file} if operation.input_file else set())

    # files

    def of_input_key(self, key: str) -> Operation | None:
        """Return the operation whose input belongs under this key, or None."""
        folder, _, name = key.partition("/")
        identifier, dot, ending = name.partition(".")
        if (folder, dot, ending) != ("input", ".", "jsonl"):
            return None
        return self._store.operation(identifier)

    def find_object(self, key: str) -> StoredObject:
        """Return an object.

        :raises StorageError: ``NoSuchKey`` when there is none, or none any more.
        """
        self.settle()
        stored = self._store.object(key)
        if stored is None:
            raise StorageError("NoSuchKey", "The specified key does not exist.", Key=key)
        return stored

    def receive_input(self, operation_id: str, written: Written) -> tuple[StoredObject, bool]:
        """Make a complete upload the input of its operation; a second upload only replaces the object.

        :return: the object, and whether the operation is now to be coded.
        :raises StorageError: ``AccessDenied`` when the operation is no more.
        """
        with self._store.transaction():
            operation = self._store.operation(operation_id)
            if operation is None:
                raise StorageError("AccessDenied", "Access Denied")
            replaced = self._store.object(input_key(operation_id))
            stored = self._put(input_key(operation_id), written, operation)
            accepted = operation.can(Event.INPUT_RECEIVED)
            if accepted:
                self._store.save_operation(self._with_input(operation, written))
        if replaced:
            self._objects.delete({replaced.file} - self._store.files_in_use())
        return stored, accepted

    def _with_input(self, operation: Operation, written: Written) -> Operation:
        faults = self._faults.take_for_operation(lambda text: self._objects.contains(written.file, text))
        return operation.after(
            Event.INPUT_RECEIVED,
            uploaded_at=self._clock.now(),
            input_file=written.file,
            faults=tuple(fault.describe() for fault in faults),
        )

    def _put(self, key: str, written: Written, operation: Operation) -> StoredObject:
        # The ETag of an object under a KMS key is not the MD5 of its bytes; here it is merely a name.
        etag = hashlib.md5(written.file.encode(), usedforsecurity=False).hexdigest()
        encrypted = kms_key(operation.client_id)
        stored = StoredObject(key, written.file, written.size, etag, encrypted, self._clock.now())
        self._store.put_object(stored)
        return stored

    # for the worker

    def exists(self, operation_id: str) -> bool:
        """Say whether the operation is still known; a reset forgets all."""
        return self._store.operation(operation_id) is not None

    def begin(self, operation_id: str) -> Operation | None:
        """Return an operation that waits to be coded, as begun now; None when it waits no more."""
        operation = self._store.operation(operation_id)
        if operation is None or not operation.can(Event.INPUT_CODED):
            return None
        return replace(operation, started_at=self._clock.now())

    def complete(self, operation: Operation, output: Written, describe: Callable[[Operation], Written]) -> None:
        """Keep the output of an operation and end it; when it is no more, the files go as well.

        :param describe: writes the metadata file of the completed operation.
        """
        done = operation.after(Event.INPUT_CODED, finished_at=self._clock.now())
        metadata = describe(done)
        if not self._end(done, Event.INPUT_CODED, {output_key: output, metadata_key: metadata}):
            self._objects.delete({output.file, metadata.file})

    def fail(self, operation: Operation, error: str) -> None:
        """End an operation whose input could not be coded."""
        ended = operation.after(Event.INPUT_REFUSED, finished_at=self._clock.now(), error=error)
        self._end(ended, Event.INPUT_REFUSED, {})

    def give_up(self, operation: Operation) -> None:
        """Time out an operation that has its input."""
        ended = operation.after(Event.CODING_GAVE_UP, finished_at=self._clock.now())
        self._end(ended, Event.CODING_GAVE_UP, {})

    def _end(self, ended: Operation, event: Event, files: dict[Callable[[str], str], Written]) -> bool:
        with self._store.transaction():
            current = self._store.operation(ended.operation_id)
            if current is None or not current.can(event):
                return False
            for key, written in files.items():
                self._put(key(ended.operation_id), written, ended)
            # Status calls went on while the operation was coded.
            self._store.save_operation(replace(ended, polls=current.polls))
        return True


def _show(operation: Operation, state: State) -> Shown:
    if state is State.FAILED:
        return Shown(state, error=operation.error)
    if state is State.COMPLETE and not operation.files_deleted:
        identifier = operation.operation_id
        return Shown(state, output_key=output_key(identifier), metadata_key=metadata_key(identifier))
    return Shown(state)
