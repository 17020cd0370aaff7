"""Output files that are not as they should be, as a fault asks for."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import chain, islice

from include.local_service.operation import Operation

SHUFFLED_TOGETHER = 1000
Lines = Iterator[bytes]


def spoil(lines: Lines, operation: Operation) -> Lines:
    """Apply to the output lines the faults that the operation was given."""
    for name, faulty in FAULTY_OUTPUTS.items():
        if operation.fault(name) is not None:
            lines = faulty(lines, operation.operation_id)
    return lines


def _short_output(lines: Lines, operation_id: str) -> Lines:
    held = next(lines, b"")
    for line in lines:
        yield held
        held = line


def _garbage_line(lines: Lines, operation_id: str) -> Lines:
    first = next(lines, b"")
    return chain([first[: len(first) // 2] + b"\n"], lines)


def _duplicate_line(lines: Lines, operation_id: str) -> Lines:
    first = next(lines, b"")
    return chain([first, first], lines)


def _shuffled_lines(lines: Lines, operation_id: str) -> Lines:
    chance = random.Random(operation_id)
    while batch := list(islice(lines, SHUFFLED_TOGETHER)):
        chance.shuffle(batch)
        yield from batch


FAULTY_OUTPUTS: dict[str, Callable[[Lines, str], Lines]] = {
    "duplicate_line": _duplicate_line,
    "shuffled_lines": _shuffled_lines,
    "garbage_line": _garbage_line,
    "short_output": _short_output,
}
