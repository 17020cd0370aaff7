"""Count the calls that a backfill makes to the coding service, on real Airflow processes."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb

from bench.end_to_end import POLL_S, describe_request, list_runs, read_journal
from bench.page import table
from include.pipeline.names import RECODE_DAG_ID
from include.stack.processes import Stack

RECORDS_PER_DAY, LAST_DAY = 200, date(2026, 10, 31)
OPERATION_S, CONCURRENT_RUNS = 20, 6
CALLS_PER_DAY = 10_000
TIMEOUT_S = 4 * 3600


class DaysStack(Stack):
    """The stack with the same number of records for each day of a table `days`."""

    def __init__(self, folder: Path, days: int) -> None:
        options = ("--coder", "stub", "--progression", "by_time", "--seconds", str(OPERATION_S))
        super().__init__(folder, service_options=options)
        self.days = days

    def _load_sample(self) -> None:
        super()._load_sample()
        with duckdb.connect(str(self.warehouse)) as connection:
            # a different part of the sample for each day: most texts occur again, as in real surveys
            connection.execute(
                f"""
                CREATE TABLE days AS
                SELECT 'D' || day || '-' || record_id AS record_id, occp_text, tasks_text,
                    DATE '{LAST_DAY}' - CAST(day AS INTEGER) AS response_date
                FROM (
                    SELECT *, row_number() OVER (PARTITION BY day ORDER BY hash(record_id || day)) AS place
                    FROM survey_responses, range(?) AS days(day)
                ) WHERE place <= {RECORDS_PER_DAY}
                """,
                [self.days],
            )


class Backfill:
    """A backfill that has ended: its duration and its calls to the service."""

    def __init__(self, stack: DaysStack, **options: Any) -> None:
        calls_before, start = len(read_journal(stack)), time.monotonic()
        body = {
            "dag_id": RECODE_DAG_ID, "from_date": f"{LAST_DAY - timedelta(stack.days - 1)}T00:00:00Z",
            "to_date": f"{LAST_DAY}T00:00:00Z", "run_backwards": True, "max_active_runs": CONCURRENT_RUNS,
            "dag_run_conf": {"source": "days"}, **options,
        }  # fmt: skip
        backfill_id = stack.api.request("POST", "/backfills", json=body)["id"]
        while not stack.api.request("GET", f"/backfills/{backfill_id}")["completed_at"]:
            if time.monotonic() - start > TIMEOUT_S:
                raise TimeoutError(f"the backfill has not ended after {TIMEOUT_S} s; its logs are in {stack.folder}")
            time.sleep(1)
        self.seconds = time.monotonic() - start
        entries = read_journal(stack)[calls_before:]
        self.calls = Counter(describe_request(entry) for entry in entries if "/v1/" in entry["path"])


def sections(days: int) -> Iterator[str]:
    """Run the backfill twice, and yield its part of the page."""
    with tempfile.TemporaryDirectory() as folder:
        stack = DaysStack(Path(folder), days)
        stack.start()
        try:
            while not (scheduled_runs := list_runs(stack)):
                time.sleep(POLL_S)
            stack.api.wait(scheduled_runs[0]["dag_run_id"])
            first = Backfill(stack)
            tasks = len(stack.api.task_instances(list_runs(stack)[-1]["dag_run_id"]))
            second = Backfill(stack, reprocess_behavior="completed")
            with duckdb.connect(str(stack.warehouse), read_only=True) as warehouse:
                ((operations, texts_sent, texts),) = warehouse.execute(
                    "SELECT count(*), sum(records), (SELECT count(*) FROM coding.coded_texts)"
                    " FROM coding.coding_operations"
                ).fetchall()
                ((published_days,),) = warehouse.execute(
                    "SELECT count(DISTINCT response_date) FROM coding.coded_records"
                ).fetchall()
        finally:
            stack.stop()
    if published_days != days:
        raise RuntimeError(f"the backfill published {published_days} of {days} days")
    calls_per_year = 365 * first.calls.total() / days
    requests = sorted({*first.calls, *second.calls})
    rows = [[f"`{request}`", first.calls[request], second.calls[request]] for request in requests]
    rows.append(["all", first.calls.total(), second.calls.total()])
    yield f"""\
## Calls of a backfill

A backfill of {days} days with {RECORDS_PER_DAY} records each, newest day first, on real Airflow processes with
{CONCURRENT_RUNS} runs at a time. The local service takes {OPERATION_S} s for an operation. The second backfill covers
the same days (`--reprocess-behavior completed`). `python -m bench backfill --days 365` measures a year."""
    yield table(["call", "first backfill", "second backfill"], rows)
    yield f"""\
{first.calls.total() / days:.1f} calls per day of records and {first.calls.total() / operations:.1f} per operation;
{first.calls.total() / CALLS_PER_DAY:.1%} of the daily quota of {CALLS_PER_DAY:,} calls. A run of one part has
{tasks} tasks. Computed, not measured: 365 such days make {calls_per_year:,.0f} calls,
{calls_per_year / CALLS_PER_DAY:.0%} of a daily quota. Each of {texts:,} distinct texts was sent
{texts_sent / texts:.2f} times on average, because concurrent runs can send the same text.
The first backfill took {first.seconds / 60:.0f} min, the second {second.seconds / 60:.0f} min."""
