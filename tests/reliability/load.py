"""The load: many runs and operations at once, through one triggerer, with PostgreSQL for warehouse and metadata."""

from __future__ import annotations

import statistics
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import requests

from bench.end_to_end import describe_request
from include.pipeline.names import CODING_SERVICE_CONN_ID, POOL, RECODE_DAG_ID
from include.stack.airflow_api import FINAL_STATES
from include.stack.processes import StackState
from tests.end_to_end.conftest import FastStack, run_stack, wait_until
from tests.support.postgres import Postgres

RUNS, PARTS, RECORDS_PER_PART = 20, 10, 4
FIRST_DAY = date(2020, 1, 1)
CALLS_PER_SECOND = 5
#: Seconds for which all operations stay in progress, and between two measurements of the triggerer.
HOLD_S, SAMPLE_INTERVAL_S = 120, 2
TIMEOUT_S = 2400
#: Long enough that no operation ends before the test says so.
HELD_OPERATION_S = 50_000


@dataclass(frozen=True)
class Sample:
    """The triggerer at one moment.

    :param operations: number of operations in progress
    :param memory_bytes: resident memory of its processes
    :param descriptors: number of open files and sockets of its processes
    """

    operations: int
    memory_bytes: int
    descriptors: int


@dataclass(frozen=True)
class Load:
    """What was measured.

    :param states: number of runs by their final state
    :param published: number of records that were published
    :param sends: number of texts that were uploaded, and of distinct ones
    :param samples: the triggerer, from the first operation to the last
    :param hold: the samples while all operations were in progress
    :param calls: calls of the coding API by what they ask for
    :param peak_calls: the most calls within ten seconds
    :param creations: seconds that each task `create` took, in the order of their starts
    :param retries: number of attempts that failed
    """

    states: Counter[str]
    published: int
    sends: tuple[int, int]
    samples: Sequence[Sample]
    hold: Sequence[Sample]
    calls: Counter[str]
    peak_calls: int
    creations: Sequence[float]
    retries: int

    @property
    def violations(self) -> list[str]:
        """One sentence for each expectation that does not hold."""
        records, (sent, distinct) = RUNS * PARTS * RECORDS_PER_PART, self.sends
        first, last = split_hold(self.hold)
        checks = {
            f"runs ended as {dict(self.states)}": self.states == Counter(success=RUNS),
            f"{self.published} of {records} records were published": self.published == records,
            f"{sent} texts were sent, {distinct} of them distinct": sent == distinct,
            "not all operations were in progress at once": max(s.operations for s in self.samples) == RUNS * PARTS,
            "descriptors of the triggerer grow": last.descriptors <= first.descriptors + 5,
            "memory of the triggerer grows": last.memory_bytes <= 1.1 * first.memory_bytes,
            f"{self.peak_calls} calls in ten seconds": self.peak_calls <= 11 * CALLS_PER_SECOND + 1,
        }
        return [text for text, holds in checks.items() if not holds]


def split_hold(samples: Sequence[Sample]) -> tuple[Sample, Sample]:
    """Return the medians of the first and of the last third of the samples."""
    third = max(1, len(samples) // 3)
    first, last = (
        Sample(*(int(statistics.median(values)) for values in zip(*map(_values, part), strict=True)))
        for part in (samples[:third], samples[-third:])
    )
    return first, last


def _values(sample: Sample) -> tuple[int, int, int]:
    return sample.operations, sample.memory_bytes, sample.descriptors


class LoadStack(FastStack):
    """A stack whose operations stay in progress until they are released."""

    def __init__(self, folder: Path, postgres: Postgres) -> None:
        self._postgres, metadata = postgres, postgres.create_database()
        self._database = postgres.create_database()
        address = f"postgres@/{metadata}?host={postgres.socket_folder}"
        settings = {
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{address}",
            "AIRFLOW__CORE__PARALLELISM": "12",  # the scheduler starts as many tasks in each of its long loops
            "AIRFLOW_CONN_WAREHOUSE_DEFAULT": postgres.connection(self._database),
        }
        super().__init__(folder, settings, ("--coder", "stub"))

    def connections(self, state: StackState) -> dict[str, dict[str, Any]]:
        connections = super().connections(state)
        connections[CODING_SERVICE_CONN_ID]["extra"]["requests_per_second"] = CALLS_PER_SECOND
        return connections

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self._postgres.conninfo(self._database)) as connection:
            return connection.execute(sql).fetchall()

    def control(self, knob: str, **body: Any) -> None:
        requests.post(f"{self.service_url}/_local/{knob}", json=body, timeout=10).raise_for_status()

    def read(self, name: str) -> list[dict[str, Any]]:
        """Return the `operations` of the service, or the `entries` of its journal."""
        path = {"operations": "operations", "entries": "journal"}[name]
        return list(requests.get(f"{self.service_url}/_local/{path}", timeout=30).json()[name])

    def measure_triggerer(self, operations: int) -> Sample:
        triggerer = self.process("triggerer")
        family = [triggerer, *triggerer.children(recursive=True)]
        return Sample(
            operations,
            sum(process.memory_info().rss for process in family),
            sum(process.num_fds() for process in family),
        )

    def _load_sample(self) -> None:
        with psycopg.connect(self._postgres.conninfo(self._database)) as connection:
            connection.execute(
                "CREATE TABLE survey_responses AS SELECT 'R' || n AS record_id, 'job ' || n AS occp_text,"
                " 'tasks' AS tasks_text, CAST(%s AS DATE) + (n - 1) / %s AS response_date"
                " FROM generate_series(1, %s) AS numbers(n)",
                (FIRST_DAY, PARTS * RECORDS_PER_PART, RUNS * PARTS * RECORDS_PER_PART),
            )


def run_load(folder: Path, postgres: Postgres, show: Callable[[str], None]) -> Load:
    """Start all runs as one backfill, hold their operations, release them, and return what was measured."""
    with run_stack(LoadStack(folder, postgres)) as stack:
        assert isinstance(stack, LoadStack)
        wait_until(lambda: _count_runs(stack, "scheduled") != {}, "a new deployment starts its scheduled run")
        wait_until(lambda: not set(_count_runs(stack, "scheduled")) - set(FINAL_STATES), "the scheduled run ends")
        pool = {"pool": POOL, "slots": 2 * RUNS * PARTS, "include_deferred": True}
        stack.api.request("PATCH", f"/pools/{POOL}", json=pool, params={"update_mask": ["slots"]})
        stack.control("progression", progression="by_time", seconds=HELD_OPERATION_S)
        _start_backfill(stack)
        samples: list[Sample] = []
        _sample_until(lambda: _count_operations(stack) == RUNS * PARTS, stack, samples)
        show(f"load: {RUNS * PARTS} operations of {RUNS} runs are in progress")
        end, before = time.monotonic() + HOLD_S, len(samples)
        _sample_until(lambda: time.monotonic() > end, stack, samples)
        hold = samples[before:]
        stack.control("progression", progression="immediate")
        _sample_until(lambda: not set(_count_runs(stack, "backfill")) - set(FINAL_STATES), stack, samples)
        return _collect(stack, samples, hold)


def _start_backfill(stack: LoadStack) -> None:
    last_day = FIRST_DAY + timedelta(days=RUNS - 1)
    body = {
        "dag_id": RECODE_DAG_ID, "from_date": f"{FIRST_DAY}T00:00:00Z", "to_date": f"{last_day}T23:59:00Z",
        "max_active_runs": RUNS, "dag_run_conf": {"records_per_part": RECORDS_PER_PART},
    }  # fmt: skip
    stack.api.request("POST", "/backfills", json=body)


def _count_runs(stack: LoadStack, run_type: str) -> Counter[str]:
    params = {"limit": 100, "run_type": run_type}
    runs = stack.api.request("GET", f"/dags/{RECODE_DAG_ID}/dagRuns", params=params)["dag_runs"]
    return Counter(run["state"] for run in runs if run["run_type"] == run_type)


def _count_operations(stack: LoadStack) -> int:
    """Return the number of operations that have their input: until they are released, all of them are in progress."""
    return sum(operation["uploaded_at"] is not None for operation in stack.read("operations"))


def _sample_until(condition: Callable[[], bool], stack: LoadStack, samples: list[Sample]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {TIMEOUT_S} s; runs: {dict(_count_runs(stack, 'backfill'))}")
        samples.append(stack.measure_triggerer(_count_operations(stack)))
        time.sleep(SAMPLE_INTERVAL_S)


def _collect(stack: LoadStack, samples: list[Sample], hold: list[Sample]) -> Load:
    calls = [entry for entry in stack.read("entries") if "/v1/" in entry["path"]]
    params = {"limit": 100, "run_type": "backfill"}
    runs = stack.api.request("GET", f"/dags/{RECODE_DAG_ID}/dagRuns", params=params)["dag_runs"]
    tasks = [task for run in runs for task in stack.api.task_instances(run["dag_run_id"])]
    creations = sorted((task["start_date"], task["duration"]) for task in tasks if task["task_id"] == "code.create")
    ((published,),) = stack.query("SELECT count(*) FROM coding.coded_records")
    ((sent,),) = stack.query("SELECT sum(records) FROM coding.coding_operations")
    ((distinct,),) = stack.query("SELECT count(*) FROM coding.coded_texts")
    return Load(
        states=_count_runs(stack, "backfill"),
        published=published,
        sends=(int(sent), distinct),
        samples=samples,
        hold=hold,
        calls=Counter(map(describe_request, calls)),
        peak_calls=_find_peak([datetime.fromisoformat(call["time"]).timestamp() for call in calls]),
        creations=[seconds for _, seconds in creations],
        retries=sum(max(0, task["try_number"] - 1) for task in tasks),
    )


def _find_peak(times: Sequence[float]) -> int:
    """Return the largest number of these times (in seconds, ascending) within ten seconds."""
    return max(bisect_left(times, time + 10) - index for index, time in enumerate(times))
