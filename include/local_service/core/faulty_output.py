"""Makes output files faulty, for the faults of an operation."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from itertools import chain, islice

from include.local_service.core.operation import Operation

SHUFFLE_BATCH_LINES = 1000
Lines = Iterator[bytes]


def apply_output_faults(lines: Lines, operation: Operation) -> Lines:
    """Return the output lines, changed by the faults of the operation."""
    for name, make_faulty in OUTPUT_FAULTS.items():
        if operation.fault(name) is not None:
            lines = make_faulty(lines, operation.operation_id)
    if fault := operation.fault("missing_line"):
        text = (fault["part_contains"] or "").encode()
        lines = (line for line in lines if text not in line)
    return lines


def _short_output(lines: Lines, operation_id: str) -> Lines:
    previous = next(lines, b"")
    for line in lines:
        yield previous
        previous = line


def _garbage_line(lines: Lines, operation_id: str) -> Lines:
    first = next(lines, b"")
    return chain([first[: len(first) // 2] + b"\n"], lines)


def _duplicate_line(lines: Lines, operation_id: str) -> Lines:
    first = next(lines, b"")
    return chain([first, first], lines)


def _shuffled_lines(lines: Lines, operation_id: str) -> Lines:
    rng = random.Random(operation_id)
    while batch := list(islice(lines, SHUFFLE_BATCH_LINES)):
        rng.shuffle(batch)
        yield from batch


def _changed_input(lines: Lines, operation_id: str) -> Lines:
    """Change the returned input as services do that clean their input: case, quotes, white space, another field."""
    for line in lines:
        response = json.loads(line)
        texts = {name: f" {text.upper().replace(chr(34), chr(39))}  " for name, text in response["input"].items()}
        response["input"] = {**texts, "recordId": response["recordId"], "language": "en"}
        yield json.dumps(response).encode() + b"\n"


OUTPUT_FAULTS: dict[str, Callable[[Lines, str], Lines]] = {
    "duplicate_line": _duplicate_line,
    "shuffled_lines": _shuffled_lines,
    "garbage_line": _garbage_line,
    "short_output": _short_output,
    "changed_input": _changed_input,
}
