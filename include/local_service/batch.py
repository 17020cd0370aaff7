"""The coding of one operation: its input file in, its output and metadata files out (contract 2.10, 3.4)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import msgspec

from include.local_service.catalogue import Catalogue, Model
from include.local_service.clock import iso_time
from include.local_service.coders import CoderLike, Coders
from include.local_service.objects import ObjectFiles, Written
from include.local_service.operation import Operation
from include.local_service.operations import Operations
from include.local_service.progress import LOG, Progress
from include.local_service.records import BadRecordError, Record, batch_answer, read_lines, texts_of
from include.local_service.spoiling import spoil

BATCH = 1000


class Interrupted(Exception):
    """The service stops before the operation is coded. Not an error."""


class Coding:
    """The coding of one input file: yields the lines of the output file and counts them.

    :param is_stopping: asked before every batch of records.
    :param advance: told after every batch how many records there were so far.
    """

    def __init__(
        self, coder: CoderLike, is_stopping: Callable[[], bool], advance: Callable[[int], None] = lambda records: None
    ) -> None:
        self._coder = coder
        self._is_stopping = is_stopping
        self._advance = advance
        self.records = 0
        self.successful = 0

    def lines(self, records: Iterable[Record]) -> Iterator[bytes]:
        """Yield one output line per record, in order.

        :raises Interrupted: when the service stops.
        """
        source = iter(records)
        while batch := list(islice(source, BATCH)):
            if self._is_stopping():
                raise Interrupted
            codings = self._coder.code(list(map(texts_of, batch)))
            self.records += len(batch)
            self.successful += sum(coding.result is not None for coding in codings)
            for record, coding in zip(batch, codings, strict=True):
                yield msgspec.json.encode(batch_answer(record, coding)) + b"\n"
            self._advance(self.records)


class BatchCoder:
    """Codes operations, one at a time."""

    def __init__(self, operations: Operations, objects: ObjectFiles, catalogue: Catalogue, coders: Coders) -> None:
        self._operations = operations
        self._objects = objects
        self._catalogue = catalogue
        self._coders = coders

    def code(self, operation_id: str, is_stopping: Callable[[], bool]) -> None:
        """Code one operation in progress and keep its outcome, whatever that is.

        :param is_stopping: asked before every batch; when it says so the operation stays in progress.
        """
        operation = self._operations.begin(operation_id)
        if operation is None:
            return
        try:
            self._code(operation, lambda: is_stopping() or not self._operations.exists(operation_id))
        except Interrupted:
            return
        except BadRecordError as error:
            self._fail(operation, str(error))
        except Exception as error:  # noqa: BLE001 - whatever the coder does, the operation must end
            LOG.exception("operation %s: the coder failed", operation_id)
            self._fail(operation, f"Error performing inference: {error!r}")

    def _code(self, operation: Operation, is_stopping: Callable[[], bool]) -> None:
        if fault := operation.fault("operation_fails"):
            self._fail(operation, fault["error"])
        elif operation.fault("operation_times_out") is not None:
            self._operations.give_up(operation)
        else:
            self._code_input(operation, is_stopping)

    def _code_input(self, operation: Operation, is_stopping: Callable[[], bool]) -> None:
        model = self._catalogue.model(self._catalogue.topic(operation.topic), operation.model_id)
        path = self._objects.path(operation.input_file or "")
        progress = Progress(operation.operation_id, path.stat().st_size)
        with path.open("rb") as source:
            coding = Coding(
                self._coders.coder(model), is_stopping, lambda records: progress.advance(records, source.tell())
            )
            output = self._write(spoil(coding.lines(read_lines(source)), operation))
        coded = replace(operation, records=coding.records, successful=coding.successful)
        self._operations.complete(coded, output, lambda done: self._write([_metadata(done, model)]))
        progress.end(coding.records)

    def _fail(self, operation: Operation, error: str) -> None:
        LOG.info("operation %s: failed: %s", operation.operation_id, error)
        self._operations.fail(operation, error)

    def _write(self, lines: Iterable[bytes]) -> Written:
        source = iter(lines)
        with self._objects.begin() as writer:
            while block := b"".join(islice(source, BATCH)):
                writer.write(block)
            return writer.commit()


def describe_coding(operation: Operation, model: Model) -> dict[str, Any]:
    """Return the content of a metadata file: the model, the counts and the times (contract 2.10)."""
    records, successful = operation.records or 0, operation.successful or 0
    return {
        "operationId": operation.operation_id,
        "topic": operation.topic,
        **model.describe(),
        "records": records,
        "successful": successful,
        "unsuccessful": records - successful,
        "createdAt": iso_time(operation.created_at),
        "uploadedAt": iso_time(operation.uploaded_at or 0),
        "startedAt": iso_time(operation.started_at or 0),
        "finishedAt": iso_time(operation.finished_at or 0),
    }


def _metadata(operation: Operation, model: Model) -> bytes:
    return json.dumps(describe_coding(operation, model), indent=2).encode() + b"\n"
