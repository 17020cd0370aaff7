"""A backfill through real Airflow processes: what it asks of the coding service.

python -m bench.backfill [--days 365]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb

from bench.end_to_end import DAG_ID, LOOK, journal, kind, runs
from bench.page import table
from include.stack.processes import Stack

DAYS = 30
#: Records of a day, and the last of the days.
RECORDS, LAST = 200, date(2026, 10, 31)
#: Seconds that the service takes for an operation, and how many runs are under way at once.
SECONDS, AT_ONCE = 20, 6
PER_DAY = 10_000
LONGEST = 4 * 3600


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.backfill", description=__doc__)
    parser.add_argument("--days", type=int, default=DAYS)
    for section in sections(parser.parse_args().days):
        print(section, end="\n\n", flush=True)


class Days(Stack):
    """The stack with so many days of answers, the same number for each."""

    def __init__(self, folder: Path, days: int) -> None:
        options = ("--coder", "stub", "--progression", "by_time", "--seconds", str(SECONDS))
        super().__init__(folder, service_options=options)
        self.days = days

    def _load_sample(self) -> None:
        super()._load_sample()
        with duckdb.connect(str(self.warehouse)) as connection:
            # another part of the sample each day: most texts come again, as people's answers do
            connection.execute(
                f"""
                CREATE TABLE days AS
                SELECT 'D' || day || '-' || record_id AS record_id, occp_text, tasks_text,
                    DATE '{LAST}' - CAST(day AS INTEGER) AS response_date
                FROM (
                    SELECT *, row_number() OVER (PARTITION BY day ORDER BY hash(record_id || day)) AS place
                    FROM survey_responses, range(?) AS days(day)
                ) WHERE place <= {RECORDS}
                """,
                [self.days],
            )


class Backfill:
    """A backfill that has ended: how long it took, and the calls it made."""

    def __init__(self, stack: Days, **options: Any) -> None:
        before, begun = len(journal(stack)), time.monotonic()
        body = {
            "dag_id": DAG_ID, "from_date": f"{LAST - timedelta(stack.days - 1)}T00:00:00Z",
            "to_date": f"{LAST}T00:00:00Z", "run_backwards": True, "max_active_runs": AT_ONCE,
            "dag_run_conf": {"source": "days"}, **options,
        }  # fmt: skip
        number = stack.api.request("POST", "/backfills", json=body)["id"]
        while not stack.api.request("GET", f"/backfills/{number}")["completed_at"]:
            if time.monotonic() - begun > LONGEST:
                raise TimeoutError(f"the backfill is not over after {LONGEST} s; its logs are in {stack.folder}")
            time.sleep(1)
        self.seconds = time.monotonic() - begun
        self.calls = Counter(kind(entry) for entry in journal(stack)[before:] if "/v1/" in entry["path"])


def sections(days: int) -> Iterator[str]:
    """Run the backfill twice, and yield what the page says of it, piece by piece."""
    with tempfile.TemporaryDirectory() as folder:
        stack = Days(Path(folder), days)
        stack.start()
        try:
            while not (nights := runs(stack)):
                time.sleep(LOOK)
            stack.api.wait(nights[0]["dag_run_id"])
            first = Backfill(stack)
            tasks = len(stack.api.task_instances(runs(stack)[-1]["dag_run_id"]))
            second = Backfill(stack, reprocess_behavior="completed")
            with duckdb.connect(str(stack.warehouse), read_only=True) as warehouse:
                ((operations, sent, texts),) = warehouse.execute(
                    "SELECT count(*), sum(records), (SELECT count(*) FROM coding.coded_texts)"
                    " FROM coding.coding_operations"
                ).fetchall()
                ((published,),) = warehouse.execute(
                    "SELECT count(DISTINCT response_date) FROM coding.coded_records"
                ).fetchall()
        finally:
            stack.stop()
    if published != days:
        raise RuntimeError(f"{published} of {days} days are published")
    year = 365 * first.calls.total() / days
    kinds = sorted({*first.calls, *second.calls})
    rows = [[f"`{name}`", first.calls[name], second.calls[name]] for name in kinds]
    rows.append(["all", first.calls.total(), second.calls.total()])
    yield f"""\
## Calls

A backfill of {days} days of {RECORDS} records each, the newest first, {AT_ONCE} runs at once, on real Airflow
processes; the local service takes {SECONDS} s for an operation. The second one is over the same days
(`--reprocess-behavior completed`). `python -m bench.backfill --days 365` is a year."""
    yield table(["call", f"{days} days", "again"], rows)
    yield f"""\
{first.calls.total() / days:.1f} calls a day of answers, {first.calls.total() / operations:.1f} an operation;
{first.calls.total() / PER_DAY:.1%} of the {PER_DAY:,} calls that a day allows. {tasks} tasks a run of one part.
365 such days, which is computed, make {year:,.0f} calls: {year / PER_DAY:.0%} of a day's.
{texts:,} distinct texts were sent {sent / texts:.2f} times each: runs that overlap may send the same text.
From start to end {first.seconds / 60:.0f} min, and {second.seconds / 60:.0f} min again."""


if __name__ == "__main__":
    main()
