"""What a run is going to send and what that takes, before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from math import ceil
from statistics import median
from typing import Any

from include.coding.parts import Part
from include.coding.plan import Plan
from include.coding.tables import table
from include.warehouse.warehouse import Session

#: Earlier operations of which the middle one tells how long the next will take.
ALIKE = 5


def expect_seconds(session: Session, plan: Plan, records: int) -> float | None:
    """How long an operation of so many records takes from its upload to its end: the median of the complete
    operations of this topic that are most alike in size; None if there are none.
    """
    rows = session.execute(
        f"""
        SELECT seconds FROM {table(plan.schema, "coding_operations")}
        WHERE topic = ? AND state = 'complete' AND seconds IS NOT NULL AND records > 0
        ORDER BY abs(ln(records) - ln(?)), landed_at DESC LIMIT {ALIKE}
        """,
        [plan.topic, float(records)],
    )
    return median(seconds for (seconds,) in rows) if rows else None


@dataclass(frozen=True)
class Estimate:
    """What a run sends.

    :param read, undated, rejected: records
    :param texts, known: distinct texts, and how many of them are coded already
    :param sent: distinct texts to send
    :param bytes: of all parts
    :param parts: operations to open
    :param calls: of the service, those to plan the run included
    :param call_seconds: that so many calls take at the budget
    :param coding_seconds: that the service takes, after what it took before; None if nothing is known of that
    """

    read: int
    undated: int
    rejected: int
    texts: int
    known: int
    sent: int
    bytes: int
    parts: int
    calls: int
    call_seconds: float
    coding_seconds: float | None

    @property
    def as_markdown(self) -> str:
        """For people."""
        took = "not known: no operation of this topic has been waited for yet"
        if self.coding_seconds is not None:
            took = f"about {_shown(self.coding_seconds)}, after what earlier operations took"
        return "\n".join(
            [
                f"- Records: {self.read}, of them {self.rejected} rejected; {self.undated} more have no date.",
                f"- Distinct texts: {self.texts}, of them {self.known} coded already: **{self.sent} to send**.",
                f"- {self.bytes} bytes in {self.parts} parts, one operation each.",
                f"- Calls of the service: about {self.calls}; at the budget they take {_shown(self.call_seconds)}.",
                f"- Coding itself: {took}.",
            ]
        )


def estimate(
    prepared: Mapping[str, Any],
    parts: Sequence[Part],
    calls_of_plan: int,
    calls_of_part: int,
    calls_per_second: float,
    at_once: int | None,
) -> Estimate:
    """What a run sends that has been prepared.

    :param prepared: what `prepare` counted (:meth:`include.coding.prepare.Prepared.as_dict`)
    :param calls_of_plan, calls_of_part: of the service, to plan a run and to code a part
    :param calls_per_second: the budget
    :param at_once: operations that may be under way at once; None: as many as there are parts
    """
    calls = calls_of_plan + calls_of_part * len(parts)
    known = [part.expected_seconds for part in parts if part.expected_seconds is not None]
    rounds = ceil(len(parts) / (at_once or max(len(parts), 1)))
    return Estimate(
        **{name: prepared[name] for name in ("read", "undated", "rejected", "texts", "known")},
        sent=sum(part.records for part in parts),
        bytes=sum(part.bytes for part in parts),
        parts=len(parts),
        calls=calls,
        call_seconds=calls / calls_per_second,
        coding_seconds=max(known, default=0.0) * rounds if known or not parts else None,
    )


def _shown(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
