"""The plan of a run: settled once, then read by every task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import date, datetime, timedelta
from typing import Any, Self

from include.coding.errors import PlanError

#: What the source must tell of a record.
COLUMNS = ("record_id", "response_date", "occp_text", "tasks_text")
SELECTIONS = ("uncoded", "all")
#: A line is at most 300 characters, all escaped, with its key and the names of its fields: below 700 bytes. So many
#: of them stay below the 5 GB that the service takes (contract 2.8).
MAX_RECORDS_PER_PART = 7_000_000
#: Below this the engines cannot spill: they need some blocks at once.
MIN_MEMORY_MB = 384


@dataclass(frozen=True)
class Plan:
    """What a run codes, with which model, from where.

    :param run_id: of the Airflow run
    :param topic: uriName of the classification
    :param model_id: GUID of the model; one for the whole run
    :param model_version: the service's number of that model, if it gives one
    :param from_date, to_date: response dates, ISO 8601, both inclusive
    :param source: table or view of the warehouse, or URI of a file
    :param columns: source columns that stand for `COLUMNS`
    :param selection: `uncoded`: texts that this model has not coded; `all`: every text again
    :param records_per_part: lines of one operation's input file at most
    :param clean: whether texts are brought to printable ASCII before they are judged
    :param max_uncoded_share, max_rejected_share: 0..1; above these nothing is published
    :param force_new: whether every try opens a new operation
    :param schema: of the project's tables in the warehouse
    :param staging: folder of the run's files, a `file://` URI
    :param memory_mb: megabytes that the data engines of a task take together before they spill to disk
    :param max_characters: of both texts together (contract 6)
    """

    run_id: str
    topic: str
    model_id: str
    model_version: float | None
    from_date: str
    to_date: str
    source: str
    staging: str
    columns: dict[str, str] = field(default_factory=dict)
    selection: str = "uncoded"
    records_per_part: int = 500_000
    clean: bool = True
    max_uncoded_share: float = 0.5
    max_rejected_share: float = 0.2
    force_new: bool = False
    schema: str = "coding"
    memory_mb: int = 512
    max_characters: int = 300

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.columns) - set(COLUMNS)):
            raise PlanError(f"`columns` names {unknown}; it may name {list(COLUMNS)}")
        if self.selection not in SELECTIONS:
            raise PlanError(f"`selection` is {self.selection!r}; expected one of {list(SELECTIONS)}")
        if not 1 <= self.records_per_part <= MAX_RECORDS_PER_PART:
            raise PlanError(f"`records_per_part` is {self.records_per_part}; expected 1 to {MAX_RECORDS_PER_PART}")
        if self.memory_mb < MIN_MEMORY_MB:
            raise PlanError(f"`memory_mb` is {self.memory_mb}; expected {MIN_MEMORY_MB} or more")
        for name in ("max_uncoded_share", "max_rejected_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise PlanError(f"`{name}` is {getattr(self, name)!r}; expected a share from 0 to 1")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`as_dict` wrote."""
        return cls(**{item.name: data[item.name] for item in fields(cls) if item.name in data})

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON values, small and without a secret."""
        return asdict(self)

    @property
    def engine_memory_mb(self) -> int:
        """Megabytes for each of a task's engines: its own, and that of an embedded warehouse. A quarter is left for
        the rows that pass between them, and for what an engine takes beyond its limit."""
        return self.memory_mb * 3 // 8

    def column(self, name: str) -> str:
        """The source column that stands for `name`."""
        return self.columns.get(name, name)


def settle_dates(
    partition_key: str | None, from_date: str | None, to_date: str | None, run_after: datetime
) -> tuple[str, str]:
    """Return the first and last response date of a run, ISO 8601.

    The partition of a scheduled run or a backfill goes first, then the dates of the form (one of them alone is one
    day), then the day before `run_after`.

    :param run_after: when the run was due, in the timezone whose days count
    :raises PlanError: a date that is none, dates the wrong way round, or a date that contradicts the partition
    """
    if partition_key:
        day = _date("the partition key", partition_key)
        if (from_date or to_date) and {from_date or partition_key, to_date or partition_key} != {partition_key}:
            raise PlanError(
                f"the run is for the partition {partition_key!r} but its form names the dates {from_date!r} to"
                f" {to_date!r}: leave the dates empty, or run without a partition"
            )
        return day.isoformat(), day.isoformat()
    if not from_date and not to_date:
        yesterday = (run_after.date() - timedelta(days=1)).isoformat()
        return yesterday, yesterday
    first = _date("from_date", str(from_date or to_date))
    last = _date("to_date", str(to_date or from_date))
    if first > last:
        raise PlanError(f"from_date {first.isoformat()!r} is after to_date {last.isoformat()!r}: swap them")
    return first.isoformat(), last.isoformat()


def _date(name: str, value: str) -> date:
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise PlanError(f"{name} is {value!r}; expected a date such as '2026-10-31'") from None
