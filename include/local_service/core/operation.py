"""An operation and the table of its states (docs/service-contract.md 5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

INPUT_TIMEOUT_S = 3600.0  # from creation until an operation without input is timed out (docs/service-contract.md 8.5)
OUTPUT_LIFETIME_S = 24 * 3600.0  # from success until the files are deleted (docs/service-contract.md 2.10)


class State(StrEnum):
    """The states of an operation, as the service names them (docs/service-contract.md 2.9)."""

    AWAITING_INPUT = "awaiting_input"
    IN_PROGRESS = "in_progress"
    COMPLETE = "complete"
    TIMED_OUT = "timed_out"
    FAILED = "failed"


class Event(StrEnum):
    """The events that change the state of an operation."""

    INPUT_RECEIVED = "input_received"
    INPUT_MISSED = "input_missed"
    INPUT_CODED = "input_coded"
    INPUT_REFUSED = "input_refused"
    CODING_TIMED_OUT = "coding_timed_out"


TRANSITIONS: Mapping[tuple[State, Event], State] = {
    (State.AWAITING_INPUT, Event.INPUT_RECEIVED): State.IN_PROGRESS,
    (State.AWAITING_INPUT, Event.INPUT_MISSED): State.TIMED_OUT,
    (State.IN_PROGRESS, Event.INPUT_CODED): State.COMPLETE,
    (State.IN_PROGRESS, Event.INPUT_REFUSED): State.FAILED,
    (State.IN_PROGRESS, Event.CODING_TIMED_OUT): State.TIMED_OUT,
}


@dataclass(frozen=True)
class Operation:
    """One batch operation; times are seconds since 1970 (UTC).

    :param polls: number of status calls since the upload.
    :param input_file: name of the file that holds the input; a second PUT to the same URL does not change it.
    :param faults: the named faults of this operation, each with its options.
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

    def accepts(self, event: Event) -> bool:
        """Return whether the event is possible in the present state."""
        return (self.state, event) in TRANSITIONS

    def after(self, event: Event, **changes: Any) -> Operation:
        """Return the operation in the state after the event.

        :raises KeyError: if the event is not possible in the present state.
        """
        return replace(self, state=TRANSITIONS[self.state, event], **changes)

    def fault(self, name: str) -> Mapping[str, Any] | None:
        """Return the options of a fault of this operation, or None."""
        return next((fault for fault in self.faults if fault["name"] == name), None)


def input_key(operation_id: str) -> str:
    """Return the key of an operation's input file in the storage."""
    return f"input/{operation_id}.jsonl"


def output_key(operation_id: str) -> str:
    """Return the key of an operation's output file."""
    return f"output/{operation_id}.jsonl"


def metadata_key(operation_id: str) -> str:
    """Return the key of an operation's metadata file."""
    return f"output/{operation_id}.metadata.json"
