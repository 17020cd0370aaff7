"""Codes operations: reads the input file, writes the output file and the metadata file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice

import msgspec

from include.local_service.core.catalogue import Catalogue, Model
from include.local_service.core.clock import iso_time
from include.local_service.core.coders import CoderLike, Coders
from include.local_service.core.faulty_output import apply_output_faults
from include.local_service.core.objects import ObjectFiles, StoredFile, Writer
from include.local_service.core.operation import Operation
from include.local_service.core.operations import Operations
from include.local_service.core.progress import LOG, Progress
from include.local_service.core.records import BadRecordError, Record, get_texts, make_output_line, read_lines

BATCH_LINES = 1000


class Interrupted(Exception):
    """The service stops before the operation is coded. Not an error."""


class LineCoder:
    """Codes the records of one input file and counts them.

    :param is_stopping: called before every batch of records; if it returns True, coding stops.
    :param advance: called after every batch with the number of records so far.
    """

    def __init__(
        self, coder: CoderLike, is_stopping: Callable[[], bool], advance: Callable[[int], None] = lambda records: None
    ) -> None:
        self._coder = coder
        self._is_stopping = is_stopping
        self._advance = advance
        self.records = 0
        self.successful = 0

    def code(self, records: Iterable[Record]) -> Iterator[bytes]:
        """Yield one output line per record, in order.

        :raises Interrupted: if the service stops.
        """
        source = iter(records)
        while batch := list(islice(source, BATCH_LINES)):
            if self._is_stopping():
                raise Interrupted
            codings = self._coder.code(list(map(get_texts, batch)))
            self.records += len(batch)
            self.successful += sum(coding.result is not None for coding in codings)
            for record, coding in zip(batch, codings, strict=True):
                yield msgspec.json.encode(make_output_line(record, coding)) + b"\n"
            self._advance(self.records)


class BatchCoder:
    """Codes operations, one at a time."""

    def __init__(self, operations: Operations, objects: ObjectFiles, catalogue: Catalogue, coders: Coders) -> None:
        self._operations = operations
        self._objects = objects
        self._catalogue = catalogue
        self._coders = coders

    def code(self, operation_id: str, is_stopping: Callable[[], bool]) -> None:
        """Code one operation and record its outcome.

        :param is_stopping: called before every batch; if it returns True, the operation stays in progress.
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
        except Exception as error:  # noqa: BLE001 - the operation must end whatever the coder raises
            LOG.exception("operation %s: the coder failed", operation_id)
            self._fail(operation, f"Error performing inference: {error!r}")

    def _code(self, operation: Operation, is_stopping: Callable[[], bool]) -> None:
        if fault := operation.fault("operation_fails"):
            self._fail(operation, fault["error"])
        elif operation.fault("operation_times_out") is not None:
            self._operations.time_out(operation)
        else:
            self._code_input(operation, is_stopping)

    def _code_input(self, operation: Operation, is_stopping: Callable[[], bool]) -> None:
        model = self._catalogue.model(self._catalogue.topic(operation.topic), operation.model_id)
        path = self._objects.path(operation.input_file or "")
        progress = Progress(operation.operation_id, path.stat().st_size)
        with path.open("rb") as source:
            line_coder = LineCoder(
                self._coders.coder(model), is_stopping, lambda records: progress.advance(records, source.tell())
            )
            output = self._write(apply_output_faults(line_coder.code(read_lines(source)), operation))
        operation = replace(operation, records=line_coder.records, successful=line_coder.successful)
        self._operations.complete(operation, output, lambda done: self._write([format_metadata(done, model)]))
        progress.end(line_coder.records)

    def _fail(self, operation: Operation, error: str) -> None:
        LOG.info("operation %s: failed: %s", operation.operation_id, error)
        self._operations.fail(operation, error)

    def _write(self, lines: Iterable[bytes]) -> StoredFile:
        source = iter(lines)
        with Writer(self._objects) as writer:
            while block := b"".join(islice(source, BATCH_LINES)):
                writer.write(block)
            return writer.commit()


def format_metadata(operation: Operation, model: Model) -> bytes:
    """Return the content of a metadata file: model, counts and times (docs/service-contract.md 2.10)."""
    records, successful = operation.records or 0, operation.successful or 0
    metadata = {
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
    if operation.fault("changed_metadata") is not None:
        metadata |= {"modelId": f"urn:uuid:{model.model_id.upper()}", "region": "ap-southeast-2"}
    return json.dumps(metadata, indent=2).encode() + b"\n"
