"""The estimate of a run before anything is sent: how much it would send, and how long that would take."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING

import pendulum

from include.coding.handoff import Count, Handoff, Seconds, ShortText, Text
from include.coding.limits import format_reasons
from include.coding.response_dates import describe_skipped_rows

if TYPE_CHECKING:
    from include.coding.prepare import Prepared


#: Calls of the service to plan a run (topics, model), and to code a part without errors (create; the status before
#: the upload, twice while the operation runs, and for the links).
PLANNING_CALLS, CALLS_PER_PART = 2, 5
#: Call budget, unless the connection has another one.
CALLS_PER_SECOND = 1.0
#: Fields of what was prepared that an estimate has under the same name.
PREPARED_FIELDS = (
    "read", "undated", "rejected", "texts", "known_texts", "rejected_by_reason", "warnings", "unreadable_dates",
    "unreadable_examples", "empty_rows", "notes", "awaited",
)  # fmt: skip


@dataclass(frozen=True)
class Estimate(Handoff):
    """What a run would send: counts of records, of distinct texts, and of parts (one operation each).

    :param known_texts: texts that are coded already
    :param texts_to_send, awaited: the other texts, and how many of them other runs in progress send: this run sends
        them only if those do not
    :param rejected_by_reason: numbers of rejected records
    :param warnings: what a person should know about the limits for publishing
    :param notes: what a person should know about the source
    :param unreadable_dates, unreadable_examples, empty_rows: rows of the source that no run codes, as in
        :class:`~include.coding.prepare.Prepared`
    :param bytes: size of all parts
    :param calls: calls of the service, planning included
    :param call_seconds: time that these calls take within the call budget
    :param coding_seconds: time that the service needs, judging by earlier operations; None if unknown
    """

    read: Count
    undated: Count
    rejected: Count
    texts: Count
    known_texts: Count
    texts_to_send: Count
    bytes: Count
    parts: Count
    calls: Count
    call_seconds: Seconds
    coding_seconds: Seconds | None
    rejected_by_reason: dict[ShortText, Count] = field(default_factory=dict)
    warnings: tuple[Text, ...] = ()
    unreadable_dates: Count = 0
    unreadable_examples: tuple[Text, ...] = ()
    empty_rows: Count = 0
    notes: tuple[Text, ...] = ()
    awaited: Count = 0

    @property
    def duration(self) -> str:
        """How long it takes to code the texts, in words. The service works while calls wait for the budget."""
        if self.coding_seconds is None:
            return "an unknown time, because no operation of this topic has completed yet"
        return format_duration(max(self.coding_seconds, self.call_seconds))

    @property
    def as_markdown(self) -> str:
        """The estimate as a list for people."""
        return "\n".join(
            [*(f"- **{warning}.**" for warning in self.warnings), *(f"- {line}" for line in self.sentences)]
        )

    @property
    def sentences(self) -> list[str]:
        """The estimate for people, without its warnings."""
        skipped = describe_skipped_rows(self.unreadable_dates, self.unreadable_examples, self.empty_rows)
        coding = "unknown, because no operation of this topic has completed yet"
        if self.coding_seconds is not None:
            coding = f"{format_duration(self.coding_seconds)}, judging by earlier operations"
        reasons = f" ({format_reasons(self.rejected_by_reason)})" if self.rejected_by_reason else ""
        claims = (
            f", {self.awaited:,} of them only if other runs, which send them now, do not deliver"
            if self.awaited
            else ""
        )
        return [
            *self.notes,
            f"Records: {self.read:,}, of which {self.rejected:,} are rejected{reasons}; {self.undated:,} more have no"
            " date.",
            *skipped,
            f"Distinct texts: {self.texts:,}, of which {self.known_texts:,} are coded already:"
            f" **{self.texts_to_send:,} to send**{claims}.",
            f"Upload: {self.bytes:,} bytes in {self.parts:,} parts, one operation each.",
            f"Calls of the service: about {self.calls:,}; within the call budget they take"
            f" {format_duration(self.call_seconds)}.",
            f"Coding time: {coding}.",
        ]


def estimate_run(
    prepared: Prepared, planning_calls: int, calls_per_part: int, calls_per_second: float, max_operations: int | None
) -> Estimate:
    """Return what a prepared run would send.

    :param planning_calls, calls_per_part: calls of the service to plan a run and to code one part
    :param calls_per_second: call budget
    :param max_operations: operations that can be in progress at once; None: as many as there are parts
    """
    parts = prepared.parts
    calls = planning_calls + calls_per_part * len(parts)
    durations = [part.expected_seconds for part in parts if part.expected_seconds is not None]
    rounds = ceil(len(parts) / (max_operations or max(len(parts), 1)))
    return Estimate(
        **{name: getattr(prepared, name) for name in PREPARED_FIELDS},
        texts_to_send=sum(part.records for part in parts) + prepared.awaited,
        bytes=sum(part.bytes for part in parts),
        parts=len(parts),
        calls=calls,
        call_seconds=calls / calls_per_second,
        coding_seconds=max(durations, default=0.0) * rounds if durations or not parts else None,
    )


def format_duration(seconds: float) -> str:
    """Return a duration in words, such as `about 2 minutes 5 seconds`; from an hour on, in whole minutes."""
    whole_seconds = round(seconds / 60) * 60 if seconds >= 3600 else round(seconds)
    return f"about {pendulum.duration(seconds=whole_seconds).in_words()}" if whole_seconds else "less than a second"
