"""Changes operations and their files (docs/service-contract.md 2.7 to 2.10, 5)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from uuid import uuid4

from include.local_service.core.catalogue import Model, Topic
from include.local_service.core.clients import kms_key
from include.local_service.core.clock import Clock
from include.local_service.core.errors import UnknownOperationError
from include.local_service.core.faults import PendingFaults
from include.local_service.core.objects import ObjectFiles, StoredFile
from include.local_service.core.operation import (
    INPUT_TIMEOUT_S,
    OUTPUT_LIFETIME_S,
    Event,
    Operation,
    State,
    input_key,
    metadata_key,
    output_key,
)
from include.local_service.core.progression import StatusDelay
from include.local_service.core.store import Store, StoredObject


class Operations:
    """The operations of the service; the table in `operation` defines their transitions."""

    def __init__(self, store: Store, objects: ObjectFiles, clock: Clock, faults: PendingFaults) -> None:
        self._store = store
        self._objects = objects
        self._clock = clock
        self._faults = faults

    # for the client

    def create(self, client_id: str, model: Model) -> Operation:
        """Create an operation that awaits its input (docs/service-contract.md 2.7)."""
        operation = Operation(str(uuid4()), client_id, model.topic.uri_name, model.model_id, self._clock.now())
        self._store.add_operation(operation)
        return operation

    def check_status(self, client_id: str, topic: Topic, operation_id: str, delay: StatusDelay) -> Operation:
        """Count a status call and return the operation in the state to show (docs/service-contract.md 2.9).

        :raises UnknownOperationError: if the client has no such operation under this topic.
        """
        self.apply_deadlines()
        with self._store.transaction():
            operation = self._store.operation(operation_id.lower())
            if operation is None or operation.client_id != client_id or operation.topic != topic.uri_name:
                raise UnknownOperationError(operation_id)
            if operation.uploaded_at is not None:
                operation = replace(operation, polls=operation.polls + 1)
                self._store.save_operation(operation)
        return replace(operation, state=delay.visible_state(operation, self._clock.now()))

    # deadlines

    def apply_deadlines(self) -> None:
        """Time out operations without input, and delete the files of operations that ended a day ago."""
        now = self._clock.now()
        with self._store.transaction():
            for operation in self._store.operations_without_input(now - INPUT_TIMEOUT_S):
                self._store.save_operation(operation.after(Event.INPUT_MISSED, finished_at=now))
            expired = self._store.operations_to_delete(now - OUTPUT_LIFETIME_S)
            files = {file for operation in expired for file in self._delete_objects(operation)}
        self._objects.delete(files)

    def _delete_objects(self, operation: Operation) -> set[str]:
        """Delete the objects of an operation from the store and return their files."""
        keys = [key(operation.operation_id) for key in (input_key, output_key, metadata_key)]
        files = {stored.file for stored in map(self._store.object, keys) if stored}
        for key in keys:
            self._store.delete_object(key)
        self._store.save_operation(replace(operation, files_deleted=True))
        return files | ({operation.input_file} if operation.input_file else set())

    # files

    def find_by_input_key(self, key: str) -> Operation | None:
        """Return the operation whose input file has this key, or None."""
        operation_id = key.removeprefix("input/").removesuffix(".jsonl")
        return self._store.operation(operation_id) if key == input_key(operation_id) else None

    def find_object(self, key: str) -> StoredObject | None:
        """Return the object under a key, or None if there is none or if its lifetime is over."""
        self.apply_deadlines()
        return self._store.object(key)

    def receive_input(self, operation_id: str, upload: StoredFile) -> tuple[StoredObject | None, bool]:
        """Store an upload as the input of its operation. A second upload only replaces the object.

        :return: the object, or None if the operation no longer exists; and whether the operation must be coded now.
        """
        with self._store.transaction():
            operation = self._store.operation(operation_id)
            if operation is None:
                return None, False
            previous = self._store.object(input_key(operation_id))
            stored = self._put(input_key(operation_id), upload, operation)
            is_first = operation.accepts(Event.INPUT_RECEIVED)
            if is_first:
                self._store.save_operation(self._with_input(operation, upload))
        if previous:
            self._objects.delete({previous.file} - self._store.files_in_use())
        return stored, is_first

    def _with_input(self, operation: Operation, upload: StoredFile) -> Operation:
        faults = self._faults.trigger_for_operation(lambda text: self._objects.contains(upload.file, text))
        return operation.after(
            Event.INPUT_RECEIVED,
            uploaded_at=self._clock.now(),
            input_file=upload.file,
            faults=tuple(fault.describe() for fault in faults),
        )

    def _put(self, key: str, file: StoredFile, operation: Operation) -> StoredObject:
        # The ETag of an object under a KMS key is not the MD5 of its bytes, so any unique value will do.
        etag = hashlib.md5(file.file.encode(), usedforsecurity=False).hexdigest()
        stored = StoredObject(key, file.file, file.size, etag, kms_key(operation.client_id), self._clock.now())
        self._store.put_object(stored)
        return stored

    # for the worker

    def exists(self, operation_id: str) -> bool:
        """Return whether the operation still exists; a reset deletes all."""
        return self._store.operation(operation_id) is not None

    def begin(self, operation_id: str) -> Operation | None:
        """Return an operation that waits to be coded, with its start time set; None if it does not wait."""
        operation = self._store.operation(operation_id)
        if operation is None or not operation.accepts(Event.INPUT_CODED):
            return None
        return replace(operation, started_at=self._clock.now())

    def complete(
        self, operation: Operation, output: StoredFile, write_metadata: Callable[[Operation], StoredFile]
    ) -> None:
        """Complete an operation with its output file. If it was deleted meanwhile, delete its files.

        :param write_metadata: writes the metadata file of the completed operation.
        """
        done = operation.after(Event.INPUT_CODED, finished_at=self._clock.now())
        metadata = write_metadata(done)
        if not self._end(done, {output_key(done.operation_id): output, metadata_key(done.operation_id): metadata}):
            self._objects.delete({output.file, metadata.file})

    def fail(self, operation: Operation, error: str) -> None:
        """End an operation whose input cannot be coded."""
        self._end(operation.after(Event.INPUT_REFUSED, finished_at=self._clock.now(), error=error), {})

    def time_out(self, operation: Operation) -> None:
        """Time out an operation that has its input."""
        self._end(operation.after(Event.CODING_TIMED_OUT, finished_at=self._clock.now()), {})

    def _end(self, operation: Operation, files: dict[str, StoredFile]) -> bool:
        with self._store.transaction():
            current = self._store.operation(operation.operation_id)
            if current is None or current.state is not State.IN_PROGRESS:
                return False
            for key, file in files.items():
                self._put(key, file, operation)
            # Status calls were counted while the operation was coded.
            self._store.save_operation(replace(operation, polls=current.polls))
        return True
