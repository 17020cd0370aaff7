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
    :param response_date: the date of all records, ISO 8601, for a source that has no dates; None: it has
    :param max_records: records of a trial, drawn from all; None: code all
    :param dry_run: whether the run ends when it is known what would be sent
    :param changed_only: whether only those dates are published whose records differ from what stands published
    :param records_per_part: lines of one operation's input file at most
    :param clean: whether texts are brought to printable ASCII before they are judged
    :param max_uncoded_share, max_rejected_share: 0..1; above these nothing is published
    :param force_new: whether every try opens a new operation
    :param schema: of the project's tables in the warehouse
    :param staging: folder of the run's files, a `file://` or `s3://` URI
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
    response_date: str | None = None
    max_records: int | None = None
    dry_run: bool = False
    changed_only: bool = False
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
        if self.response_date and "response_date" in self.columns:
            raise PlanError(
                f"`columns` names {self.columns['response_date']!r} as the date of each record, `response_date` gives"
                f" all of them {self.response_date!r}: leave one of the two empty"
            )
        if self.max_records is not None and self.max_records < 1:
            raise PlanError(f"`max_records` is {self.max_records}; expected 1 or more, or nothing")
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
    params: Mapping[str, Any], partition_key: str | None, run_after: datetime, look_back_days: int = 0
) -> tuple[str, str]:
    """Return the first and last response date of a run, ISO 8601.

    The partition of a scheduled run or a backfill goes first, then the dates of the form (one of them alone is one
    day; `response_date` is that of all records), then the day before `run_after`.

    :param params: of the form: `from_date`, `to_date`, `response_date`, `max_records`, `dry_run`
    :param run_after: when the run was due, in the timezone whose days count
    :param look_back_days: days before the partition that are looked at again
    :raises PlanError: a date that is none, dates the wrong way round, or what does not go together
    """
    first, last, only = (params.get(name) or None for name in ("from_date", "to_date", "response_date"))
    if partition_key:
        _check_partition(params, partition_key)
        day = _date("the partition key", partition_key)
        return (day - timedelta(days=look_back_days)).isoformat(), day.isoformat()
    if only:
        if first or last:
            raise PlanError(
                f"`response_date` gives all records the date {only!r}, but the form also names the dates {first!r} to"
                f" {last!r} of those to take: leave one of the two empty"
            )
        day = _date("response_date", only)
        return day.isoformat(), day.isoformat()
    if not first and not last:
        yesterday = (run_after.date() - timedelta(days=1)).isoformat()
        return yesterday, yesterday
    begin, end = _date("from_date", str(first or last)), _date("to_date", str(last or first))
    if begin > end:
        raise PlanError(f"from_date {begin.isoformat()!r} is after to_date {end.isoformat()!r}: swap them")
    return begin.isoformat(), end.isoformat()


def _check_partition(params: Mapping[str, Any], partition_key: str) -> None:
    """Refuse what a run of one partition, which is scheduled or a backfill's, cannot mean."""
    first, last = params.get("from_date"), params.get("to_date")
    if (first or last) and {first or partition_key, last or partition_key} != {partition_key}:
        raise PlanError(
            f"the run is for the partition {partition_key!r} but its form names the dates {first!r} to {last!r}:"
            " leave the dates empty, or run without a partition"
        )
    if params.get("response_date"):
        raise PlanError(
            f"the run is for the partition {partition_key!r}, so it takes the records of that day, but"
            " `response_date` says that the source has no dates: run it by hand, without a partition"
        )
    if asked := [name for name in ("max_records", "dry_run") if params.get(name)]:
        raise PlanError(
            f"{' and '.join(asked)} would code nothing, or not all, of the partition {partition_key!r}, and Airflow"
            " would take it for done: run without a partition, and name the dates"
        )


def _date(name: str, value: str) -> date:
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise PlanError(f"{name} is {value!r}; expected a date such as '2026-10-31'") from None
