"""An operation and the one table of its states (contract 5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

INPUT_DEADLINE = 3600.0
"""Seconds from creation until an operation without input is timed out (contract, open question 5)."""

OUTPUT_LIFETIME = 24 * 3600.0
"""Seconds from success until the files are deleted (contract 2.10)."""


class State(StrEnum):
    """The states of an operation, as the service names them (contract 2.9)."""

    AWAITING_INPUT = "awaiting_input"
    IN_PROGRESS = "in_progress"
    COMPLETE = "complete"
    TIMED_OUT = "timed_out"
    FAILED = "failed"


class Event(StrEnum):
    """What can happen to an operation."""

    INPUT_RECEIVED = "input_received"
    INPUT_MISSED = "input_missed"
    INPUT_CODED = "input_coded"
    INPUT_REFUSED = "input_refused"
    CODING_GAVE_UP = "coding_gave_up"


TRANSITIONS: Mapping[tuple[State, Event], State] = {
    (State.AWAITING_INPUT, Event.INPUT_RECEIVED): State.IN_PROGRESS,
    (State.AWAITING_INPUT, Event.INPUT_MISSED): State.TIMED_OUT,
    (State.IN_PROGRESS, Event.INPUT_CODED): State.COMPLETE,
    (State.IN_PROGRESS, Event.INPUT_REFUSED): State.FAILED,
    (State.IN_PROGRESS, Event.CODING_GAVE_UP): State.TIMED_OUT,
}


@dataclass(frozen=True)
class Operation:
    """One batch operation; times are seconds since 1970 (UTC).

    :param polls: status calls since the upload.
    :param input_file: name of the file that holds the input; a later PUT to the same URL does not change it.
    :param faults: the named faults that this operation was given, each with its options.
    """

    operation_id: str
    client_id: str
    topic: str
    model_id: str
    created_at: float
    state: State = State.AWAITING_INPUT
    uploaded_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    polls: int = 0
    input_file: str | None = None
    records: int | None = None
    successful: int | None = None
    error: str | None = None
    faults: tuple[Mapping[str, Any], ...] = ()
    files_deleted: bool = False

    def can(self, event: Event) -> bool:
        """Say whether the event means anything to the operation in its present state."""
        return (self.state, event) in TRANSITIONS

    def after(self, event: Event, **changes: Any) -> Operation:
        """Return the operation as it is after the event.

        :raises KeyError: when the event cannot happen in the present state.
        """
        return replace(self, state=TRANSITIONS[self.state, event], **changes)

    def fault(self, name: str) -> Mapping[str, Any] | None:
        """Return the options of a fault that the operation was given, or None."""
        return next((fault for fault in self.faults if fault["name"] == name), None)


def input_key(operation_id: str) -> str:
    """Return the key of an operation's input in the storage."""
    return f"input/{operation_id}.jsonl"


def output_key(operation_id: str) -> str:
    """Return the key of an operation's output file."""
    return f"output/{operation_id}.jsonl"


def metadata_key(operation_id: str) -> str:
    """Return the key of an operation's metadata file."""
    return f"output/{operation_id}.metadata.json"
