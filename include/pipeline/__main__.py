"""`python -m include.pipeline check FILE`: what a run would read from a file, without Airflow or the service.

Exit status: 0 if a run could code the file, 1 if it would be refused or is above a limit, 2 if the arguments are
wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.coding.errors import EngineError, PlanError, StagingError
from include.coding.files import create_files_for_owner_only
from include.pipeline.names import TIMEZONE

if TYPE_CHECKING:
    from include.coding.plan import Plan

#: Marks the scratch folders of this command, so that the next check removes those that a killed one has left.
SCRATCH_OWNER = "check"
#: Options whose values are whole numbers where they look like one.
_NUMBERS = ("sheet", "header_row")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m include.pipeline", description="Commands that need neither Airflow nor the service."
    )
    commands = parser.add_subparsers(required=True, metavar="check")
    check = commands.add_parser(
        "check",
        help="show what a run would read from a file",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.add_argument("file", metavar="FILE", help="path of the file, of a folder, or a pattern (docs/sources.md)")
    check.add_argument(
        "--columns", nargs="+", action="extend", default=[], metavar="NAME=COLUMN",
        help="the param `columns`: occp_text=job_title, tasks_text=null, or JSON",
    )  # fmt: skip
    check.add_argument(
        "--read-options", nargs="+", action="extend", default=[], metavar="NAME=VALUE",
        help="the param `read_options`: header_row=5 date_format=%%d/%%m/%%Y, or JSON",
    )  # fmt: skip
    check.add_argument("--response-date", metavar="DATE", help="the date of all records, for a file without dates")
    check.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    try:
        plan = _make_plan(arguments)
    except PlanError as error:
        check.error(str(error))
    with _exit_on_signals(), create_files_for_owner_only():
        return _check(plan, as_json=arguments.json)


def _make_plan(arguments: argparse.Namespace) -> Plan:
    """Return the plan of a run that would read all records of the file.

    :raises PlanError: an argument is impossible
    """
    from include.coding.plan import Plan
    from include.coding.response_dates import MAX_DATE, MIN_DATE

    memory_mb, day = os.environ.get("CODING_MEMORY_MB") or "512", arguments.response_date
    if not memory_mb.isdecimal():
        raise PlanError(f"CODING_MEMORY_MB is {memory_mb!r}; expected a number of megabytes")
    return Plan.from_dict(
        {
            "run_id": "check", "topic": "osca", "model_id": "00000000-0000-0000-0000-000000000000",
            "model_version": None, "from_date": day or MIN_DATE.isoformat(), "to_date": day or MAX_DATE.isoformat(),
            "response_date": day, "source": _find_source(arguments.file), "timezone": TIMEZONE,
            "columns": _parse_values("--columns", arguments.columns),
            "read_options": _parse_values("--read-options", arguments.read_options),
            "memory_mb": int(memory_mb), "dry_run": True,
        }
    )  # fmt: skip


def _find_source(file: str) -> str:
    if file.lower().startswith("s3://"):
        raise PlanError(f"{file!r} is in object storage: copy it to this machine, and check the copy")
    return file if file.lower().startswith("file:") else os.path.abspath(file)  # noqa: PTH100 - keeps links


def _parse_values(argument: str, texts: list[str]) -> dict[str, Any]:
    """Return the value of a param that was given as JSON, or as `name=value` in one or more words."""
    if len(texts) == 1 and texts[0].lstrip().startswith("{"):
        try:
            values = json.loads(texts[0])
        except ValueError:
            raise PlanError(f"{argument} is no valid JSON: check its quotes and braces") from None
        if isinstance(values, dict):
            return values
    values = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not value:
            raise PlanError(f"{argument} has {text!r}; expected NAME=VALUE, or one JSON object")
        if name in values:
            raise PlanError(f"{argument} names {name!r} twice")
        values[name] = _parse_value(name, value)
    return values


def _parse_value(name: str, value: str) -> Any:
    if value == "null":
        return None
    if name == "delimiter" and value == "\\t":
        return "\t"
    return int(value) if name in _NUMBERS and value.isdecimal() and len(value) < 10 else value


def _check(plan: Plan, *, as_json: bool) -> int:
    from rich.console import Console

    from include.coding.scratch import open_scratch, remove_stale_scratch
    from include.pipeline.check import StepProgress, check_file, format_json, print_check

    base = Path(tempfile.gettempdir())
    remove_stale_scratch(base, SCRATCH_OWNER)
    try:
        with open_scratch(base, SCRATCH_OWNER) as folder, StepProgress(Console(stderr=True)) as progress:
            check = check_file(plan, folder, progress.show_step)
    except (StagingError, EngineError) as error:
        print(error, file=sys.stderr)
        return 1
    if as_json:
        print(format_json(check))
    else:
        print_check(check, Console(highlight=False))
    return check.status


@contextmanager
def _exit_on_signals() -> Iterator[None]:
    """Leave the block when a signal ends the process, so that it removes its files; another signal cannot stop that.

    The engine reports a signal as an error of its own.
    """
    exit_status: list[int] = []

    def leave(number: int, _: object) -> None:
        for other in numbers:
            signal.signal(other, signal.SIG_IGN)
        exit_status.append(128 + number)
        sys.exit(exit_status[0])

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        signal.signal(number, leave)
    try:
        yield
    except RuntimeError:
        if exit_status:
            sys.exit(exit_status[0])
        raise


if __name__ == "__main__":
    sys.exit(main())
