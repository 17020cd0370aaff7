"""Limits for publishing: the shares of rejected and of uncoded records above which nothing is published.

A share counts only from `min_records_for_limits` records on, because one record of one proves nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date

from include.coding.errors import AuditError
from include.coding.plan import Plan


class LimitError(AuditError):
    """A share of records is above its limit; nothing was published.

    :param dates: dates to remember as being over a limit, each with the limits that it exceeds
    """

    def __init__(self, message: str, dates: Mapping[date, str] | None = None) -> None:
        super().__init__(message)
        self.dates = dict(dates or {})


def make_limit_error(effect: str, limits: str, dates: Mapping[date, str] | None = None) -> LimitError:
    """Return the error of a run that exceeds limits.

    :param effect: what the run did not do
    :param limits: the result of :func:`describe_exceeded_limits`
    """
    again = "; until it is published, every night reads it again" if dates else ""
    return LimitError(f"{effect}: {limits}: check the source, or raise the limit if this is expected{again}", dates)


def describe_exceeded_limits(
    plan: Plan, read: int, rejected: int, uncoded: int = 0, rejected_by_reason: Mapping[str, int] | None = None
) -> str:
    """Return all limits that these numbers of records exceed, in one sentence; empty if there are none."""
    reasons = f" ({format_reasons(rejected_by_reason)})" if rejected_by_reason else ""
    return "; ".join(
        f"{count:,} of {total:,} records are {outcome} ({count / total:.1%}), which exceeds {name} = {limit}"
        + (reasons if outcome == "rejected" else "")
        for name, limit, outcome, count, total in _find_high_shares(plan, read, rejected, uncoded)
        if total >= plan.min_records_for_limits
    )


def describe_unchecked_limits(plan: Plan, read: int, rejected: int, uncoded: int = 0) -> str:
    """Return the shares that would exceed a limit if there were more records; empty if there are none."""
    return "; ".join(
        f"{count:,} of {total:,} records are {outcome}; limits apply from {plan.min_records_for_limits:,} records"
        for _, _, outcome, count, total in _find_high_shares(plan, read, rejected, uncoded)
        if total < plan.min_records_for_limits
    )


def format_reasons(rejected_by_reason: Mapping[str, int]) -> str:
    """Return the numbers of rejected records by reason, the largest first."""
    counts = sorted(rejected_by_reason.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {reason}" for reason, count in counts)


def _find_high_shares(
    plan: Plan, read: int, rejected: int, uncoded: int
) -> Iterator[tuple[str, float, str, int, int]]:
    """Yield name, limit, outcome, count and total of each share above its limit."""
    for name, outcome, count, total in (
        ("max_uncoded_share", "uncoded", uncoded, read - rejected),
        ("max_rejected_share", "rejected", rejected, read),
    ):
        limit = getattr(plan, name)
        if total and count / total > limit:
            yield name, limit, outcome, count, total
