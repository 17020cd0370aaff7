"""Count the calls to the coding service and the texts of a backfill, on real Airflow processes.

By default of thirty days, which is a part of the page with the details; `year` is 365 days, and writes a page.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import accumulate
from pathlib import Path
from typing import Any

import duckdb

from bench import data
from bench.chart import Panel, draw_panels
from bench.end_to_end import POLL_S, describe_request, list_runs, read_journal
from bench.measure import ROOT
from bench.page import table, write_page
from include.pipeline.names import RECODE_DAG_ID
from include.stack.processes import Stack

RECORDS_PER_DAY, LAST_DAY = 200, date(2026, 10, 31)
OPERATION_S, CONCURRENT_RUNS = 20, 6
CALLS_PER_DAY = 10_000
DAYS_OF_YEAR = 365
TIMEOUT_S = 4 * 3600
PAGE, PICTURE = ROOT / "docs" / "performance-year.md", ROOT / "docs" / "images" / "performance-year.svg"

#: What each run did, in the order in which they landed: its date, its seconds since the start, the distinct texts of
#: its records, its operations and the texts in them, and how many texts of its records are its own.
_DAYS = """
    SELECT from_date, landed_at, texts, operations, texts_sent,
        (SELECT count(*) FROM coding.coded_texts AS texts WHERE texts.run_id = runs.run_id)
    FROM coding.coding_runs AS runs WHERE source = 'days' AND published_by_run = run_id ORDER BY landed_at
"""


@dataclass(frozen=True)
class Day:
    """What the run of a response date did.

    :param minutes: from the start of the backfill until it was published
    :param texts: distinct texts of its records
    :param operations: operations of the service
    :param texts_sent, texts_stored: texts that its operations sent, and those whose result it stored first
    """

    minutes: float
    texts: int
    operations: int
    texts_sent: int
    texts_stored: int


class DaysStack(Stack):
    """The stack with the same number of records for each day of a table `days`, as in a survey: most answers have
    occurred before, but each day has new ones."""

    def __init__(self, folder: Path, days: int) -> None:
        options = ("--coder", "stub", "--progression", "by_time", "--seconds", str(OPERATION_S))
        super().__init__(folder, service_options=options)
        self.days = days

    def _load_sample(self) -> None:
        super()._load_sample()
        source = data.write_records(self.days * RECORDS_PER_DAY)
        with duckdb.connect(str(self.warehouse)) as connection:
            connection.execute(
                f"""
                CREATE TABLE days AS
                SELECT record_id, occp_text, tasks_text,
                    DATE '{LAST_DAY}' - CAST(row_number() OVER () % {self.days} AS INTEGER) AS response_date
                FROM read_parquet(?)
                """,
                [str(source)],
            )


class Backfill:
    """A backfill that has ended: its duration and its calls to the service."""

    def __init__(self, stack: DaysStack, **options: Any) -> None:
        calls_before, start = len(read_journal(stack)), time.monotonic()
        self.start = datetime.now(UTC).replace(tzinfo=None)
        body = {
            "dag_id": RECODE_DAG_ID, "from_date": f"{LAST_DAY - timedelta(stack.days - 1)}T00:00:00Z",
            "to_date": f"{LAST_DAY}T00:00:00Z", "run_backwards": True, "max_active_runs": CONCURRENT_RUNS,
            # of so few records a day, some days have more uncoded ones by chance than the limit allows
            "dag_run_conf": {"source": "days", "max_uncoded_share": 0.5}, **options,
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
    """Run the backfill twice, and yield its part of the page; that of a year is a page of its own."""
    with tempfile.TemporaryDirectory() as folder:
        stack = DaysStack(Path(folder), days)
        stack.start()
        try:
            while not (scheduled_runs := list_runs(stack)):
                time.sleep(POLL_S)
            stack.api.wait(scheduled_runs[0]["dag_run_id"])
            first = Backfill(stack)
            second = Backfill(stack, reprocess_behavior="completed")
            with duckdb.connect(str(stack.warehouse), read_only=True) as warehouse:
                rows = warehouse.execute(_DAYS).fetchall()
        finally:
            stack.stop()
    if len(rows) != days:
        raise RuntimeError(f"the backfill published {len(rows)} of {days} days")
    published = [Day((landed_at - first.start).total_seconds() / 60, *counts) for _, landed_at, *counts in rows]
    texts = [describe_backfill(days), compare_calls(first, second), describe_sending(published, first, second)]
    yield from texts
    if days == DAYS_OF_YEAR:
        draw_panels(list(make_panels(published)), PICTURE, "days published")
        picture = f"![The days of the backfill, in the order in which they were published](images/{PICTURE.name})"
        yield write_page("A backfill of a year", "make bench OPTIONS=year", [*texts, picture], PAGE)


def describe_backfill(days: int) -> str:
    """Return what the backfills do."""
    hint = "" if days == DAYS_OF_YEAR else " `make bench OPTIONS=year` measures a year."
    return f"""\
## Calls of a backfill

A backfill of {days} days with {RECORDS_PER_DAY} records each, newest day first, on real Airflow processes with
{CONCURRENT_RUNS} runs at a time. The local service takes {OPERATION_S} s for an operation. The second backfill covers
the same days (`--reprocess-behavior completed`).{hint}"""


def compare_calls(first: Backfill, second: Backfill) -> str:
    """Return a table of the calls of both backfills."""
    requests = sorted({*first.calls, *second.calls})
    rows = [[f"`{request}`", first.calls[request], second.calls[request]] for request in requests]
    rows.append(["all", first.calls.total(), second.calls.total()])
    return table(["call", "first backfill", "second backfill"], rows)


def describe_sending(published: list[Day], first: Backfill, second: Backfill) -> str:
    """Return how many calls and texts the first backfill needed, and how long both took."""
    days, operations = len(published), sum(day.operations for day in published)
    texts_sent, texts = (sum(getattr(day, name) for day in published) for name in ("texts_sent", "texts_stored"))
    return f"""\
{first.calls.total() / days:.1f} calls for each day of records and {first.calls.total() / operations:.1f} for each of
{operations:,} operations; {first.calls.total() / CALLS_PER_DAY:.1%} of the daily quota of {CALLS_PER_DAY:,} calls.
Each of {texts:,} distinct texts was sent {texts_sent / texts:.2f} times on average: a run does not send a text that
another run in progress is sending. A day has {sum(day.texts for day in published) / days:.0f} distinct texts,
of which {texts / days:.0f} are new. The first backfill took {first.seconds / 60:.0f} min, the second
{second.seconds / 60:.0f} min."""


def make_panels(published: list[Day]) -> Iterator[Panel]:
    """Yield the charts of the backfill over the days that are published."""

    def number(values: Iterable[float]) -> dict[float, float]:
        return dict(enumerate(values, 1))

    yield Panel("duration", "minutes", {"published": number([day.minutes for day in published])})
    yield Panel(
        "texts of a day", "texts",
        {"distinct": number([day.texts for day in published]), "sent": number([day.texts_sent for day in published])},
    )  # fmt: skip
    sent, stored = (
        list(accumulate(getattr(day, name) for day in published)) for name in ("texts_sent", "texts_stored")
    )  # fmt: skip
    yield Panel("texts so far", "texts", {"distinct": number(stored), "sent": number(sent)})
    yield Panel("operations so far", "operations", {"all": number(accumulate(day.operations for day in published))})
