"""Writes docs/reliability.md from the results of a run."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import psutil

from bench.measure import MEGABYTE
from bench.page import table
from tests.reliability.crashes import list_crashes
from tests.reliability.faults import OUTAGE_WAITS, TIMEOUT_S, list_single_cases
from tests.reliability.load import CALLS_PER_SECOND, HOLD_S, PARTS, RUNS, Load, split_hold
from tests.reliability.results import Result

INTRODUCTION = """# Reliability

`make soak` runs the cases below again and writes this page; no figure is typed in. A sample of them runs in
`make test`. Every case is a whole run of `recode_occupations`: from a source to published records, against the local
coding service over HTTP.

After every case the same invariants are checked by one function (`tests/reliability/invariants.py`):

- Every record of the source is published exactly once, and read = coded + uncoded + rejected.
- No key occurs twice in `coded_records` or `coded_texts`.
- No text is sent more than once, except after the service itself failed an operation that it had accepted.
- No token, signature of a link, client secret or text of a person appears in logs, in Airflow's metadata database (its
  XComs, trigger arguments and task states included, and deleted rows), or in the reports.
- No file of the run is left in the staging area, and no descriptor is left open.
"""
LOAD = f"""## Load

A backfill of {RUNS} days, all at once, with {PARTS} operations each: {RUNS * PARTS} operations in progress, held for
{HOLD_S} s, through one triggerer, with {CALLS_PER_SECOND} calls a second, and PostgreSQL for warehouse and metadata.
"""
CRASHES = """## Crashes

Real Airflow processes (API server, scheduler with LocalExecutor, DAG processor, triggerer) and PostgreSQL. A proxy in
front of the service, or a lock in the warehouse, holds the run at the named point; then the process is killed with SIGKILL
(the warehouse is shut down immediately) and, unless it is a task, started again. *Machine* means all processes of Airflow at once.
The run has to succeed without any help.
"""
FAULTS = f"""## Faults

The whole DAG in one process, as in `airflow dags test`, with 60 texts and DuckDB. The faults are those of the local service
(`include/local_service/README.md`), the rows of [the contract's section 10](service-contract.md), and those of a network:
closed, reset (before the service sees the request, or after it handled it), stalled for longer than the timeout of {TIMEOUT_S} s,
slow, truncated or wrong in length, for each kind of request; and no connection (refused, or the name of the host is unknown) until {OUTAGE_WAITS} waits
have passed. If a run fails, the next run of the same date, without faults, has to publish everything.
"""


def write_page(path: Path, seed: int, load: Load | None, crashes: Sequence[Result], faults: Sequence[Result]) -> None:
    """Write the page: totals, and one row for each case."""
    singles = {case.name for case in list_single_cases()}
    single = [result for result in faults if result.name in singles]
    pairs = [result for result in faults if result.name not in singles]
    parts = [
        ("crashes", crashes, len(list_crashes())),
        ("single faults", single, len(singles)),
        ("pairs of faults", pairs, len(pairs)),
    ]
    totals = table(
        ["matrix", "cases run", "of", "runs", "invariants broken"],
        [
            [name, len(results), count, sum(len(result.runs) for result in results),
             sum(len(result.violations) for result in results)]
            for name, results, count in parts
        ],
    )  # fmt: skip
    machine = (
        f"{datetime.now(UTC):%Y-%m-%d} (UTC), seed {seed}, {os.cpu_count()} cores,"
        f" {psutil.virtual_memory().total / 10**9:.0f} GB of memory, {platform.system()}, Python"
        f" {platform.python_version()}."
    )
    sections = [INTRODUCTION, machine, totals, *(describe_load(load) if load else [])]
    sections += [CRASHES, _rows(crashes), FAULTS, _rows(single)]
    sections += ["### Pairs, chosen at random", _rows(pairs)]
    path.write_text("\n\n".join(section.strip() for section in sections) + "\n", encoding="utf-8")


def describe_load(load: Load) -> list[str]:
    """Return the part of the page about the load."""
    first, last = split_hold(load.hold)
    quarter = max(1, len(load.creations) // 4)
    waits = [
        f"{statistics.median(part):.1f} s, at most {max(part):.1f} s"
        for part in (load.creations[:quarter], load.creations[-quarter:])
    ]
    triggerer = table(
        ["triggerer, with all operations in progress", "first third", "last third"],
        [
            ["memory", *(f"{sample.memory_bytes / MEGABYTE:.0f} MB" for sample in (first, last))],
            ["open files and sockets", first.descriptors, last.descriptors],
        ],
    )
    calls = table(["call", "number"], [[f"`{name}`", count] for name, count in sorted(load.calls.items())])
    figures = f"""\
All {load.published:,} records were published, and {load.sends[0]:,} texts sent, {load.sends[1]:,} of them distinct. At
most {load.peak_calls} calls were made within ten seconds. A task `create` took {waits[0]} in the first quarter of the
operations, and {waits[1]} in the last quarter, beside the status calls of all others. {load.retries} attempts of tasks
failed and were repeated. Expectations that did not hold: {"; ".join(load.violations) or "none"}."""
    return [LOAD, triggerer, calls, figures]


def _rows(results: Sequence[Result]) -> str:
    headers = ["case", "operations", "uploads", "runs", "invariants"]
    rows = [
        [result.name, result.operations, result.uploads, ", ".join(result.runs),
         "; ".join(result.violations) or "hold"]
        for result in results
    ]  # fmt: skip
    return table(headers, rows)
