"""The check of a file before it is coded: what a run would read, reject and send, without Airflow or the service.

It reads a file with the code of `prepare`, but neither the settings of a deployment nor its warehouse, so it does not
know whether runs may read the file, and which texts are coded already. What it shows contains no person's text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import pyarrow as pa
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from include.coding.checksums import compute_checksum
from include.coding.column_names import has_names, shorten_names
from include.coding.engine import Engine, open_engine
from include.coding.errors import DataError
from include.coding.estimate import CALLS_PER_PART, CALLS_PER_SECOND, PLANNING_CALLS, Estimate, estimate_run
from include.coding.file_scan import FileScan, LocalFile
from include.coding.limits import describe_exceeded_limits, describe_unchecked_limits
from include.coding.parts import write_parts
from include.coding.plan import COLUMNS, Plan
from include.coding.prepare import Prepared, find_new_texts, find_rejected_rows, validate_answers
from include.coding.response_dates import describe_skipped_rows, mask_text
from include.coding.source import (
    SourceSnapshot,
    create_file_view,
    create_numbered_view,
    explain_file_errors,
    find_first_rows,
    find_undated_rows,
    materialize_source,
    shorten_texts,
)
from include.coding.source_access import SourceAccess, SourceFile
from include.coding.source_files import find_file, find_places, open_local_file, scan_file
from include.coding.staging import Staging
from include.coding.texts import install_rules
from include.pipeline.names import POOL_SLOTS

#: Number of rows that are shown as examples, and of places of the records with one problem.
EXAMPLE_ROWS, MAX_PLACES = 5, 5
_MAX_TYPE_CHARACTERS = 40
#: Whoever runs the command can read the file anyway, so it may be in any folder.
_ANY_FILE = SourceAccess(folders=(Path("/"),))


@dataclass(frozen=True)
class Column:
    """A column of a file.

    :param use: our names of the columns for which it stands
    """

    name: str
    type: str
    use: tuple[str, ...]


@dataclass(frozen=True)
class Rejection:
    """Records that are rejected for one reason, and where the first ones are."""

    reason: str
    records: int
    places: tuple[str, ...]


@dataclass
class Check:
    """What is known about a file. A file that is refused is known up to the step that refuses it.

    :param problem: why it is refused, or which limits its records exceed; None if neither
    :param is_readable: whether its records could be read
    :param column_count, columns: number of its columns, and the first ones; none if they have no names
    :param missing_columns: our names of the columns that it does not have, because the arguments say so
    :param examples: the place and the shape of each needed value of the first rows
    :param first_date, last_date, dates: first and last response date, ISO 8601, and how many there are
    :param undated_places: where the first records without a date are
    """

    source: str
    problem: str | None = None
    is_readable: bool = False
    column_count: int = 0
    columns: list[Column] = field(default_factory=list)
    missing_columns: list[str] = field(default_factory=list)
    examples: list[dict[str, str]] = field(default_factory=list)
    first_date: str | None = None
    last_date: str | None = None
    dates: int = 0
    undated_places: list[str] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)
    estimate: Estimate | None = None

    @property
    def status(self) -> int:
        """Exit status of the command: 0 if a run could code the file, else 1."""
        return 0 if self.problem is None else 1


class ShowStep(Protocol):
    """Shows what is done now, and the progress of the engine that does it."""

    def __call__(self, step: str, engine: Engine | None) -> None: ...


def check_file(plan: Plan, folder: Path, show_step: ShowStep) -> Check:
    """Return what a run of this plan would read, reject and send.

    :param plan: its source is a file
    :param folder: for files in progress
    :raises StagingError: the disk or the memory is full
    :raises EngineError: the engine rejects a statement
    """
    check = Check(plan.source, missing_columns=[name for name in COLUMNS if name not in plan.required_columns])
    try:
        file = find_file(plan.source, _ANY_FILE)
        if file is None:
            raise DataError(f"source {plan.source!r} is a table: only a file can be checked")
        with open_engine(folder, "check", plan.engine_memory_mb, file.paths) as engine:
            try:
                _check_records(check, plan, engine, file, folder, show_step)
            finally:
                show_step("Removing the files in progress", None)
    except DataError as error:
        check.problem = str(error)
    return check


def _check_records(
    check: Check, plan: Plan, engine: Engine, file: SourceFile, folder: Path, show_step: ShowStep
) -> None:
    install_rules(engine)
    show_step("Opening the file", engine)
    with open_local_file(file, plan, engine, _ANY_FILE) as local_file, explain_file_errors(local_file, plan):
        scan = scan_file(local_file, plan, engine)
        _describe_columns(check, plan, scan)

        def name_places(rows: list[tuple[str | None, int]]) -> list[str]:
            return _name_places(local_file, plan, scan, rows)

        if len(scan.names) == len(plan.required_columns):
            rows = find_first_rows(engine, scan, EXAMPLE_ROWS)
            places = name_places([(row["source_part"], row["source_row"]) for row in rows])
            check.examples = [
                {"place": place} | {name: mask_text(row[name] or "") for name in scan.names}
                for place, row in zip(places, rows, strict=True)
            ]
        show_step("Reading the records", engine)
        snapshot = create_file_view(plan, engine, local_file, scan)
        read, _, longest_bytes = compute_checksum(engine, plan)
        _describe_dates(check, plan, snapshot, read)
        if snapshot.undated:
            check.undated_places = name_places(find_undated_rows(engine, scan, MAX_PLACES))
        shorten_texts(engine, plan, longest_bytes)
        materialize_source(plan, engine)
        show_step("Checking the texts", engine)
        condition = validate_answers(engine, plan, read)
        show_step("Looking for rejected records", engine)
        create_numbered_view(plan, engine, scan)
        shorten_texts(engine, plan, longest_bytes, "numbered_source")
        check.rejections = [
            Rejection(reason, records, tuple(name_places([(row["part"], row["row"]) for row in rows])))
            for reason, records, rows in find_rejected_rows(engine, condition, MAX_PLACES)
        ]
    check.is_readable = True
    show_step("Counting the texts", engine)
    check.estimate = _estimate(check, plan, engine, folder, snapshot, read)
    rejected = check.estimate.rejected
    limits = describe_exceeded_limits(plan, read, rejected, rejected_by_reason=check.estimate.rejected_by_reason)
    check.problem = limits or None


def _estimate(
    check: Check, plan: Plan, engine: Engine, folder: Path, snapshot: SourceSnapshot, read: int
) -> Estimate:
    texts, known_texts = find_new_texts(engine, plan, None)
    parts = write_parts(engine, plan, Staging.in_folder(folder))
    reasons = {rejection.reason: rejection.records for rejection in check.rejections}
    rejected = sum(reasons.values())
    unchecked_limits = describe_unchecked_limits(plan, read, rejected)
    prepared = Prepared(
        snapshot.read_at, "", False, None, None, parts, read, snapshot.undated, rejected, texts, known_texts,
        snapshot.unreadable_dates, snapshot.unreadable_examples, snapshot.empty_rows, reasons,
        warnings=(unchecked_limits,) if unchecked_limits else (), notes=tuple(snapshot.describe(plan, read)),
    )  # fmt: skip
    return estimate_run(prepared, PLANNING_CALLS, CALLS_PER_PART, CALLS_PER_SECOND, POOL_SLOTS)


def _describe_columns(check: Check, plan: Plan, scan: FileScan) -> None:
    names = scan.schema.names
    check.column_count = len(names)
    is_complete = len(scan.names) == len(plan.required_columns)
    if not (is_complete or has_names(names, scan)):
        return
    uses = {name: plan.source_column(name) for name in plan.required_columns}
    check.columns = [
        Column(short_name, _name_type(kind.type), tuple(use for use, column in uses.items() if column == kind.name))
        for short_name, kind in zip(shorten_names(names), scan.schema, strict=False)
    ]


def _name_type(kind: pa.DataType) -> str:
    """Return what people call a type."""
    names: list[tuple[Callable[[pa.DataType], bool], str]] = [
        (pa.types.is_string, "text"),
        (pa.types.is_large_string, "text"),
        (pa.types.is_integer, "whole number"),
        (pa.types.is_floating, "number"),
        (pa.types.is_boolean, "true or false"),
        (pa.types.is_date, "date"),
        (pa.types.is_null, "nothing but null"),
    ]
    return next((name for is_kind, name in names if is_kind(kind)), str(kind)[:_MAX_TYPE_CHARACTERS])


def _describe_dates(check: Check, plan: Plan, snapshot: SourceSnapshot, read: int) -> None:
    if plan.response_date:
        check.first_date = check.last_date = plan.response_date
        check.dates = 1 if read else 0
        return
    first, last, check.dates = snapshot.find_dates()
    check.first_date, check.last_date = (str(day) if day else None for day in (first, last))


def _name_places(file: LocalFile, plan: Plan, scan: FileScan, rows: Collection[tuple[str | None, int]]) -> list[str]:
    """Return where rows are, in words that a person can look for.

    :param rows: the part and the number of each
    """
    if scan.row:
        return [f"row {row}" + (f" of {part!r}" if part else "") for part, row in rows]
    lines = find_places(file, plan, {row for _, row in rows})
    return [f"{file.place} {lines[row]}" if row in lines else f"record {row}" for _, row in rows]


# ---- for machines and for people -----------------------------------------------------------------------------------


def format_json(check: Check) -> str:
    """Return the check as JSON."""
    estimate = check.estimate.to_dict() if check.estimate else None
    return json.dumps({**asdict(check), "estimate": estimate, "status": check.status}, indent=2)


def print_check(check: Check, console: Console) -> None:
    """Print the check for people."""

    def say(sentence: str) -> None:  # without a terminal, a sentence stays on one line for other programs
        console.print(_escape(sentence), soft_wrap=not console.is_terminal)

    if check.column_count:
        say(f"Columns: {check.column_count}")
        if check.columns:
            console.print(_make_columns_table(check))
        if len(check.columns) < check.column_count:
            say(f"Columns that are not shown: {check.column_count - len(check.columns)}")
        if check.missing_columns:
            say(f"The file has no column for {', '.join(check.missing_columns)}, as the arguments say.")
    if check.examples:
        console.print("\nThe first rows (a: a letter, 9: a digit)")
        console.print(_make_table(list(check.examples[0]), [list(example.values()) for example in check.examples]))
    if check.estimate:
        console.print()
        for sentence in _describe_records(check, check.estimate):
            say(sentence)
    console.print()
    if check.problem is None:
        say("A run can read this file, and no limit is exceeded.")
    else:
        say(f"{'Above a limit' if check.is_readable else 'Refused'}: {check.problem}")


def _describe_records(check: Check, estimate: Estimate) -> list[str]:
    dates = f"{check.dates}, from {check.first_date} to {check.last_date}" if check.dates else "none"
    undated = f" ({', '.join(check.undated_places)})" if check.undated_places else ""
    records = f"Records: {estimate.read}"
    return [
        f"Dates: {dates}",
        *([f"Records without a date, which no run codes: {estimate.undated}{undated}"] if estimate.undated else []),
        *describe_skipped_rows(estimate.unreadable_dates, estimate.unreadable_examples, estimate.empty_rows),
        f"{records}, of which {estimate.rejected} are rejected" if estimate.read else records,
        *(
            f"  {rejection.reason}: {rejection.records} ({', '.join(rejection.places)}"
            f"{', ...' if rejection.records > len(rejection.places) else ''})"
            for rejection in check.rejections
        ),
        *estimate.warnings,
        *(estimate.notes if estimate.read else ()),
        f"Distinct texts: {estimate.texts}; a run sends only those that its model has not coded yet",
        f"Upload: at most {estimate.bytes} bytes in {estimate.parts} parts, one operation each",
        f"Calls of the service: at most about {estimate.calls}; at {CALLS_PER_SECOND:g} a second they take"
        f" {estimate.call_seconds:.0f} seconds",
        "Coding time: not known here; a dry run of the DAG estimates it from earlier operations",
    ]


def _make_columns_table(check: Check) -> Table:
    rows = [[column.name, column.type, ", ".join(column.use)] for column in check.columns]
    return _make_table(["name", "type", "used as"], rows)


def _make_table(names: list[str], rows: list[list[str]]) -> Table:
    table = Table(box=SIMPLE, show_edge=False, pad_edge=False)
    for name in names:
        table.add_column(_escape(name), overflow="fold")
    for row in rows:
        table.add_row(*map(_escape, row))
    return table


def _escape(value: str) -> Text:
    """Return a text that contains neither markup nor a character that a terminal obeys."""
    return Text("".join(character if character.isprintable() else "\ufffd" for character in value))


class _StatementBar(ProgressColumn):
    """How much of its statement the engine has executed; the time of the rest cannot be known."""

    engine: Engine | None = None

    def render(self, task: Task) -> ProgressBar:
        percent = _read_progress(self.engine)
        return ProgressBar(total=None if percent is None else 100, completed=percent or 0, width=30)


def _read_progress(engine: Engine | None) -> float | None:
    try:
        percent = engine.query_progress() if engine else -1
    except Exception:  # noqa: BLE001 - of an engine that has just been closed
        return None
    return percent if percent >= 0 else None


class StepProgress(Progress):
    """Shows the steps of a check on a terminal, and nothing anywhere else."""

    def __init__(self, console: Console) -> None:
        self._bar = _StatementBar()
        columns = (SpinnerColumn(), TextColumn("{task.description}"), self._bar, TimeElapsedColumn())
        super().__init__(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._step = self.add_task("", total=None)

    def show_step(self, step: str, engine: Engine | None) -> None:
        self._bar.engine = engine
        self.update(self._step, description=step)
