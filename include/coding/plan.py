"""The plan of a run, which its first task makes and all others read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from functools import cached_property
from typing import Annotated, Any

from pydantic import Field

from include.coding.errors import PlanError
from include.coding.handoff import (
    Day,
    Guid,
    Handoff,
    Number,
    RunId,
    SchemaName,
    ShortText,
    SourceName,
    Text,
    Topic,
    WholeNumber,
)
from include.coding.misspellings import suggest_names
from include.coding.read_options import ReadOptions, ReadOptionsField, Timezone

#: Columns that a source must have, under these names or under those that `columns` gives them.
COLUMNS = ("record_id", "response_date", "occp_text", "tasks_text")
SELECTIONS = ("uncoded", "all")
#: Endings of the files to which records can be exported, by which their types are known.
EXPORT_ENDINGS = (".parquet", ".csv", ".xlsx")
#: This many lines stay below the 5 GB that the service accepts (docs/service-contract.md 2.8): a line has less than
#: 700 bytes, with a key, the names of its fields, and at most 300 characters of text, all of them escaped.
MAX_RECORDS_PER_PART = 7_000_000
#: Below this limit the data engine cannot spill to disk, because it needs several blocks at once.
MIN_MEMORY_MB = 384


@dataclass(frozen=True)
class Plan(Handoff):
    """What a run codes, with which model, and from which source.

    :param run_id: key of the run (:mod:`include.coding.run_keys`)
    :param topic: uriName of the classification
    :param model_id, model_version: GUID of the model of the whole run, and its number if the service states one
    :param from_date, to_date: response dates, ISO 8601, both inclusive
    :param source: table or view of the warehouse, or URI of a file
    :param columns: the source's names of `COLUMNS`, where they differ; None for one that it does not have
    :param read_options: how the source is read
    :param timezone: whose days are the response dates, unless the options name another one
    :param export: URI of the file to which the records of the run are written with their codes; None for no file
    :param selection: `uncoded`: texts that this model has not coded; `all`: every text again
    :param response_date: date of all records, ISO 8601, for a source without dates; None if it has dates
    :param max_records: number of records in a trial, sampled from all; None to code all
    :param dry_run: whether to stop after the estimate
    :param changed_only: whether to publish only the dates whose records differ from what is published
    :param excluded_dates: dates between the two that are not read, because an unfinished run holds them, ISO 8601
    :param competing_runs: sentences about other runs in progress of the same dates, source, topic and model
    :param unreachable_dates: dates that are not published and too old for the look-back, ISO 8601
    :param records_per_part: maximum number of lines in the input file of one operation
    :param clean: whether texts are converted to printable ASCII before they are validated
    :param max_uncoded_share, max_rejected_share: 0 to 1; above these nothing is published
    :param min_records_for_limits: number of records from which on these shares are checked
    :param force_new: whether every attempt opens a new operation
    :param schema: schema of the project's tables in the warehouse
    :param memory_mb: megabytes that all data engines of a task use before they spill to disk
    :param max_characters: limit for both texts together (docs/service-contract.md 6)
    """

    OBSOLETE_FIELDS = frozenset({"staging"})

    run_id: RunId
    topic: Topic
    model_id: Guid
    model_version: Number | None
    from_date: Day
    to_date: Day
    source: SourceName
    columns: Annotated[dict[ShortText, ShortText | None], Field(max_length=20)] = field(default_factory=dict)
    selection: ShortText = "uncoded"
    response_date: Day | None = None
    max_records: WholeNumber | None = None
    dry_run: bool = False
    changed_only: bool = False
    excluded_dates: tuple[Day, ...] = ()
    unreachable_dates: tuple[Day, ...] = ()
    competing_runs: tuple[Text, ...] = ()
    records_per_part: WholeNumber = 500_000
    clean: bool = True
    max_uncoded_share: Number = 0.5
    max_rejected_share: Number = 0.2
    min_records_for_limits: WholeNumber = 50
    force_new: bool = False
    schema: SchemaName = "coding"
    memory_mb: WholeNumber = 512
    max_characters: Annotated[int, Field(ge=1, le=300)] = 300
    read_options: ReadOptionsField = field(default_factory=ReadOptions)
    timezone: Timezone = "UTC"
    export: SourceName | None = None

    def __post_init__(self) -> None:
        if self.from_date > self.to_date:
            raise PlanError(f"`from_date` {self.from_date!r} is after `to_date` {self.to_date!r}")
        if unknown := sorted(set(self.columns) - set(COLUMNS)):
            raise PlanError(f"`columns` names {suggest_names(unknown, COLUMNS)}; it can name {list(COLUMNS)}")
        self._check_columns()
        if self.response_date and self.columns.get("response_date"):
            raise PlanError(
                f"`columns` names {self.columns['response_date']!r} as the date of each record, but `response_date`"
                f" gives all of them {self.response_date!r}: leave one of the two empty"
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
        if self.min_records_for_limits < 1:
            raise PlanError(f"`min_records_for_limits` is {self.min_records_for_limits}; expected 1 or more")
        if self.export is not None:
            self._check_export(self.export)

    def _check_export(self, export: str) -> None:
        if not export.startswith(("file:///", "s3://", "/")) or not export.lower().endswith(EXPORT_ENDINGS):
            raise PlanError(
                f"`export` is {export!r}; expected the URI of a file, such as 'file:///data/coded.xlsx' or"
                f" 's3://bucket/coded.csv', that ends in {', '.join(EXPORT_ENDINGS)}"
            )
        if self.changed_only:
            raise PlanError(
                f"`export` is {export!r}, but a nightly run with a look-back writes no file: start a run by hand"
            )

    def _check_columns(self) -> None:
        missing = {name for name, column in self.columns.items() if column is None}
        if empty := sorted(name for name, column in self.columns.items() if column == ""):
            raise PlanError(
                f"`columns` gives {empty[0]!r} an empty name; write null for a column that the source does not have"
            )
        if "response_date" in missing and not self.response_date:
            raise PlanError(
                "`columns` says that the source has no 'response_date': set the date of all its records in"
                " `response_date`"
            )
        if missing >= {"occp_text", "tasks_text"}:
            raise PlanError(
                "`columns` says that the source has neither 'occp_text' nor 'tasks_text', so there is nothing to"
                " code: name the column of one of them"
            )

    @property
    def engine_memory_mb(self) -> int:
        """Megabytes for each engine of a task: its own, and that of an embedded warehouse. A quarter remains for the
        rows that pass between them and for what an engine uses beyond its limit."""
        return self.memory_mb * 3 // 8

    @property
    def staging_memory_mb(self) -> int:
        """Megabytes for the engine of a task that only reads staged files for the warehouse."""
        return self.memory_mb // 8

    @property
    def landing_memory_mb(self) -> int:
        """Megabytes for an embedded warehouse that joins the records of a run, beside an engine that only reads."""
        return self.memory_mb * 3 // 4

    @property
    def dates(self) -> tuple[date, date]:
        """First and last response date."""
        return date.fromisoformat(self.from_date), date.fromisoformat(self.to_date)

    @property
    def days(self) -> list[date]:
        """The response dates that the run reads."""
        first, last = self.dates
        days = (first + timedelta(days=number) for number in range((last - first).days + 1))
        return [day for day in days if day.isoformat() not in self._excluded_dates]

    @cached_property
    def _excluded_dates(self) -> frozenset[str]:
        return frozenset(self.excluded_dates)

    @property
    def required_columns(self) -> tuple[str, ...]:
        """Those of `COLUMNS` that the source must have."""
        missing = {name for name, column in self.columns.items() if column is None}
        if self.response_date:
            missing.add("response_date")
        return tuple(name for name in COLUMNS if name not in missing)

    def source_column(self, name: str) -> str:
        """Return the source's name of the column `name`, one of `required_columns`."""
        return self.columns.get(name) or name

    @property
    def source_name(self) -> str:
        """The source as runs are recorded: with its sheet, because two sheets have different records."""
        sheet = self.read_options.sheet
        return self.source if sheet is None else f"{self.source}#sheet={sheet}"

    @property
    def zone(self) -> str:
        """Timezone of the response dates."""
        return self.read_options.timezone or self.timezone


def resolve_dates(
    params: Mapping[str, Any], partition_key: str | None, run_after: datetime, look_back_days: int = 0
) -> tuple[str, str]:
    """Return the first and last response date of a run, ISO 8601.

    The partition of a scheduled run or a backfill comes first, then the dates of the form (one of them alone means
    that day; `response_date` is the date of all records), then the day before `run_after`.

    :param params: params of the form: `from_date`, `to_date`, `response_date`, `max_records`, `dry_run`
    :param run_after: when the run was due, in the timezone of the response dates
    :param look_back_days: days before the partition to include
    :raises PlanError: a value that is no date, dates in the wrong order, or params that contradict each other
    """
    first, last, single = (params.get(name) or None for name in ("from_date", "to_date", "response_date"))
    if partition_key:
        _check_partition(params, partition_key)
        day = _parse_date("the partition key", partition_key)
        return (day - timedelta(days=look_back_days)).isoformat(), day.isoformat()
    if single:
        if first or last:
            raise PlanError(
                f"`response_date` gives all records the date {single!r}, but the form also selects the dates"
                f" {first!r} to {last!r}: leave one of the two empty"
            )
        day = _parse_date("response_date", single)
        return day.isoformat(), day.isoformat()
    if not first and not last:
        yesterday = (run_after.date() - timedelta(days=1)).isoformat()
        return yesterday, yesterday
    begin, end = _parse_date("from_date", str(first or last)), _parse_date("to_date", str(last or first))
    if begin > end:
        raise PlanError(f"from_date {begin.isoformat()!r} is after to_date {end.isoformat()!r}: swap them")
    return begin.isoformat(), end.isoformat()


def extend_look_back(plan: Plan, unfinished: Iterable[str], unpublished: Iterable[str], max_days: int) -> Plan:
    """Return the plan of a night that reads back to the oldest unpublished date, except dates of unfinished nights.

    An unfinished night reads and publishes its own date, possibly after an approval that takes days; this run would
    pay for the same texts a second time. But that night also looks back, so several nights can read a late record of
    a date between, and each sends its text until one of them has landed. This costs little, and no late record has to
    wait. Whichever lands last, the latest reading of a date stays published (`find_later_spans`).

    :param unfinished: dates of unfinished nights
    :param unpublished: dates that are not published, because their night failed or because they exceed a limit
    :param max_days: maximum number of days before the last date to read
    """
    bound = (plan.dates[1] - timedelta(days=max_days)).isoformat()
    unfinished_days = {day for day in unfinished if day < plan.to_date}
    missing = {day for day in unpublished if day < plan.to_date} - unfinished_days
    first = min([plan.from_date, *(day for day in missing if day >= bound)])
    return replace(
        plan,
        from_date=first,
        excluded_dates=tuple(sorted(day for day in unfinished_days if day >= first)),
        unreachable_dates=tuple(sorted(day for day in missing if day < bound)),
    )


def _check_partition(params: Mapping[str, Any], partition_key: str) -> None:
    """Refuse params that make no sense for a run of one partition, which is scheduled or part of a backfill."""
    first, last = params.get("from_date"), params.get("to_date")
    if (first or last) and {first or partition_key, last or partition_key} != {partition_key}:
        raise PlanError(
            f"the run is for the partition {partition_key!r} but its form selects the dates {first!r} to {last!r}:"
            " leave the dates empty, or run without a partition"
        )
    if params.get("response_date"):
        raise PlanError(
            f"the run is for the partition {partition_key!r}, so it reads the records of that day, but"
            " `response_date` says that the source has no dates: start a manual run without a partition"
        )
    if params.get("export"):
        raise PlanError(
            f"`export` names one file, {params['export']!r}, which the run of each partition would replace: start a"
            " manual run without a partition, and set its dates"
        )
    if names := [name for name in ("max_records", "dry_run") if params.get(name)]:
        raise PlanError(
            f"{' and '.join(names)} would leave records of the partition {partition_key!r} uncoded, but Airflow would"
            " mark it as done: start a manual run without a partition, and set its dates"
        )


def _parse_date(name: str, value: str) -> date:
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise PlanError(f"{name} is {value!r}; expected a date such as '2026-10-31'") from None
