"""What a case did."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Result:
    """What a case did, and which invariants it broke.

    :param runs: the states of its runs; a failed one may be followed by another without faults.
    :param operations: number of operations that were created.
    :param uploads: number of input files that the storage accepted.
    """

    name: str
    runs: tuple[str, ...]
    operations: int
    uploads: int
    violations: list[str] = field(default_factory=list)
