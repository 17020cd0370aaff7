"""The response dates of a topic: what is published of each one, or what became of its run."""

from __future__ import annotations

import calendar
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta

from include.page.runs import CodingRun, DateFacts, PlanFacts, read_day

#: States of a date, with their name and the character that stands for it beside its colour.
STATES = {
    "landed": ("landed", "✓"),
    "over_limit": ("exceeds a limit", "!"),
    "approval": ("waits for approval", "?"),
    "active": ("under way", "…"),
    "failed": ("failed", "✕"),
    "none": ("no run", ""),
}
#: Longest range of dates that the page shows.
MAX_DAYS = 366
#: How many runs of a backfill are active at once, as in the runbook.
BACKFILL_RUNS = 4


@dataclass(frozen=True)
class DayState:
    """A response date.

    :param state: key of :data:`STATES`
    :param counts: of the records that are published; None if nothing is, or if no run reports them any more
    :param plan: of the run that published them
    :param reason: the limits that the date exceeds
    """

    day: date
    state: str = "none"
    counts: DateFacts | None = None
    plan: PlanFacts | None = None
    reason: str = ""

    @property
    def share(self) -> float | None:
        """Coded records as a share of all; None if there are none."""
        return self.counts.coded / self.counts.read if self.counts and self.counts.read else None


def list_topics(runs: Iterable[CodingRun]) -> list[str]:
    """Return the topics of runs that have planned; that of the newest night first.

    :param runs: newest first
    """
    runs_with_plan = [run for run in runs if run.plan and run.topic]
    return list(
        dict.fromkeys(str(run.topic) for run in sorted(runs_with_plan, key=lambda run: run.kind != "scheduled"))
    )


def read_days(
    runs: Sequence[CodingRun], topic: str | None, first: date, last: date, waiting: Collection[str] = ()
) -> list[DayState]:
    """Return the state of each date from `first` to `last`.

    A date that is published stays so if a later run of it fails or is under way, because only a run that lands
    changes what is published.

    :param runs: all runs of the dates, newest first
    :param topic: None if no run has planned
    :param waiting: ids of the runs that wait for an approval
    """
    days = {day: DayState(day) for day in _list_days(first, last)}
    over_limit: Mapping[date, str] | None = None
    for run in runs:
        if run.mode or run.topic not in (None, topic):
            continue
        if run.landing:
            for counts in run.landing.dates:
                day = read_day(counts.day)
                if day in days and not days[day].counts:
                    days[day] = DayState(day, "landed", counts, run.plan)
            if over_limit is None:
                over_limit = {read_day(entry.day): entry.limits for entry in run.landing.dates_over_limit}
        for day in run.list_own_days(first, last):
            if days[day].counts is None and (days[day].state == "none" or _has_landed(run)):
                days[day] = DayState(day, _find_state(run, waiting), plan=run.plan)
    for day, reason in (over_limit or {}).items():
        if day in days:
            days[day] = replace(days[day], state="over_limit", reason=reason)
    return list(days.values())


def _has_landed(run: CodingRun) -> bool:
    return run.landing is not None or run.state == "success"


def _find_state(run: CodingRun, waiting: Collection[str]) -> str:
    if _has_landed(run):
        return "landed"
    if run.is_unfinished:
        return "approval" if run.run_id in waiting else "active"
    return "failed"


def _list_days(first: date, last: date) -> Iterator[date]:
    return (first + timedelta(days=number) for number in range((last - first).days + 1))


# ---- what the page draws -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Month:
    """A month of the calendar.

    :param name: such as November 2026
    :param days: those that the page shows
    """

    name: str
    days: tuple[DayState, ...]


def group_by_month(days: Iterable[DayState]) -> list[Month]:
    """Return the months of the calendar, the newest first."""
    months: dict[tuple[int, int], list[DayState]] = {}
    for day in days:
        months.setdefault((day.day.year, day.day.month), []).append(day)
    return [
        Month(f"{calendar.month_name[month]} {year}", tuple(days))
        for (year, month), days in sorted(months.items(), reverse=True)
    ]


def make_backfill_command(dag_id: str, first: date, last: date, days: Iterable[DayState]) -> str:
    """Return the command that codes all dates from `first` to `last`.

    :param days: the dates that the page shows. If any has had a run, the command repeats those that have ended,
        because Airflow leaves them out otherwise
    """
    has_runs = any(day.state != "none" for day in days if first <= day.day <= last)
    # A DAG that does not run at midnight loses the last day without the time.
    options = {
        "--dag-id": dag_id, "--from-date": first.isoformat(), "--to-date": f"{last}T23:59:00",
        "--max-active-runs": str(BACKFILL_RUNS),
    }  # fmt: skip
    command = ["airflow", "backfill", "create", *(word for option in options.items() for word in option)]
    command += ["--run-backwards", *(("--reprocess-behavior", "completed") if has_runs else ())]
    return shlex.join(command)


@dataclass(frozen=True)
class ShareLine:
    """The share of coded records over time, as a line in an SVG.

    :param points: of each piece of the line without a gap, as `points` of a polyline
    :param dots: (x, y) of dates without neighbours, which no line shows
    :param first, last: the dates at the left and the right, the first and the last that have a share
    :param lowest, highest: the shares of the lowest and the highest point
    """

    width: int
    height: int
    points: tuple[str, ...]
    dots: tuple[tuple[float, float], ...]
    first: date
    last: date
    lowest: float
    highest: float


def draw_shares(days: Sequence[DayState], width: int = 720, height: int = 160) -> ShareLine | None:
    """Return the line of the shares; None if no date has one."""
    values = [(number, day.share) for number, day in enumerate(days) if day.share is not None]
    if not values:
        return None
    start, end = values[0][0], values[-1][0]
    shares = [day.share for day in days[start : end + 1]]
    lowest, highest = min(share for _, share in values), max(share for _, share in values)
    low = lowest - 0.02
    high = highest + 0.02
    pieces: list[list[tuple[float, float]]] = [[]]
    for number, share in enumerate(shares):
        if share is None:
            pieces.append([])
        else:
            x = width * number / max(1, len(shares) - 1)
            pieces[-1].append((round(x, 1), round(height * (high - share) / (high - low), 1)))
    lines = tuple(" ".join(f"{x},{y}" for x, y in piece) for piece in pieces if len(piece) > 1)
    dots = tuple(piece[0] for piece in pieces if len(piece) == 1)
    return ShareLine(width, height, lines, dots, days[start].day, days[end].day, lowest, highest)
