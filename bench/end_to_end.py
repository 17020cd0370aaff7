"""Measure whole runs on real Airflow processes and the local service, each twice."""

from __future__ import annotations

import re
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import requests

from bench import data
from bench.measure import MEGABYTE, read_peak_bytes
from bench.page import table
from include.pipeline.names import RECODE_DAG_ID
from include.stack.airflow_api import FINAL_STATES
from include.stack.processes import Stack

#: The sizes of the page: records of a run, and the maximum number of texts in a part.
SIZES = {1_000_000: 100_000, 10_000_000: 500_000}
TIMEOUT_S = 1800
POLL_S = 0.2
#: Title of the process that runs a task; the titles of the executor's workers have more words.
TASK_TITLE = re.compile(r"airflow worker -- ([0-9a-f-]{36})")
STEPS = ("create", "upload", "poll", "download")


def sections(rows: int | None = None) -> Iterator[str]:
    """Run the sizes of the page, or one number of records, twice each, and yield the part of the page."""
    yield INTRODUCTION
    for records, records_per_part in ({rows: 100_000} if rows else SIZES).items():
        conf = {
            "source": data.write_records(records).as_uri(),
            "from_date": "2026-10-01",
            "to_date": "2026-10-30",
            "records_per_part": records_per_part,
        }
        with start_stack() as stack:
            first, second = Run(stack, conf), Run(stack, conf)
        yield f"### {records:,} records, at most {records_per_part:,} texts per part"
        yield f"{first.by_task()}\n\n{first.overhead()}"
        yield f"The second run over the same records:\n\n{second.by_task()}\n\n{second.overhead()}"
        yield f"Calls to the service:\n\n{compare_calls(first, second)}"


INTRODUCTION = """\
## End to end

Records of 30 days from a Parquet file, through the scheduler, the triggerer, the API server and the local service
with its stub coder, all on this machine. Seconds are the duration of the task, for `poll` including the wait. Memory
is the peak resident size of the task's process, Airflow included. A row of a mapped task shows its longest and its
largest instance."""


@contextmanager
def start_stack() -> Iterator[Stack]:
    """Yield a stack in a temporary folder, after its first scheduled run has ended."""
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder), {"CODING_SOURCE_FOLDERS": str(data.FOLDER)}, service_options=("--coder", "stub"))
        stack.start()
        try:
            while not (states := [run["state"] for run in list_runs(stack)]) or set(states) - set(FINAL_STATES):
                time.sleep(POLL_S)
            yield stack
        finally:
            stack.stop()


def list_runs(stack: Stack) -> list[dict[str, Any]]:
    """Return all runs of the DAG."""
    runs: list[dict[str, Any]] = stack.api.request("GET", f"/dags/{RECODE_DAG_ID}/dagRuns")["dag_runs"]
    return runs


class Run:
    """A run that has ended: its tasks, their memory and its calls to the service.

    :param conf: params of the DAG
    """

    def __init__(self, stack: Stack, conf: dict[str, Any]) -> None:
        calls_before = len(read_journal(stack))
        with watch_tasks(stack.process("scheduler")) as self._peak_bytes:
            run_id = stack.api.trigger(conf)
            state = stack.api.wait(run_id, TIMEOUT_S)
        if state != "success":
            raise RuntimeError(f"run {run_id!r} is {state!r}; its logs were in {stack.folder}")
        run = stack.api.run(run_id)
        start, end = (datetime.fromisoformat(run[name]) for name in ("start_date", "end_date"))
        self.seconds = (end - start).total_seconds()
        self.tasks = [task for task in stack.api.task_instances(run_id) if task["state"] == "success"]
        self.calls = Counter(describe_request(entry) for entry in read_journal(stack)[calls_before:])

    @property
    def parts(self) -> int:
        """Number of operations of the run."""
        return sum(task["task_id"] == "code.create" for task in self.tasks)

    def by_task(self) -> str:
        """Return a table with a row for each task; the instances of a mapped task share one."""
        groups = defaultdict(list)
        for task in sorted(self.tasks, key=lambda task: str(task["start_date"])):
            groups[task["task_id"]].append(task)
        rows = [
            [
                f"`{name}`", len(tasks), max(task["try_number"] for task in tasks),
                f"{max(task['duration'] for task in tasks):.1f}",
                f"{max(self._peak_bytes.get(task['id'], 0) for task in tasks) / MEGABYTE:.0f}",
            ]
            for name, tasks in groups.items()
        ]  # fmt: skip
        return table(["task", "instances", "attempts", "s", "MB"], rows)

    def overhead(self) -> str:
        """Return a sentence with the time that the run takes beyond the work of its tasks."""
        durations: dict[str, dict[int, float]] = defaultdict(dict)
        for task in self.tasks:
            durations[task["task_id"]][task["map_index"]] = task["duration"]
        steps = [durations[f"code.{step}"] for step in STEPS]
        part = max((sum(step[number] for step in steps) for number in steps[0]), default=0.0)
        chain = part + sum(durations[name].get(-1, 0.0) for name in ("plan", "prepare", "land", "report"))
        return (
            f"The run takes {self.seconds:.1f} s: {chain:.1f} s for its longest chain of tasks, and\n"
            f"{self.seconds - chain:.1f} s for Airflow between the tasks."
        )


@contextmanager
def watch_tasks(scheduler: psutil.Process) -> Iterator[dict[str, int]]:
    """Watch the processes of tasks during the block; yield the peak bytes of each by task instance id."""
    peak_bytes: dict[str, int] = {}
    is_over = threading.Event()

    def poll() -> None:
        while not is_over.wait(POLL_S):
            for process in scheduler.children(recursive=True):
                update_peak(process, peak_bytes)

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield peak_bytes
    finally:
        is_over.set()
        thread.join()


def update_peak(process: psutil.Process, peak_bytes: dict[str, int]) -> None:
    """Update the peak resident size of a process if it runs a task."""
    try:
        title = TASK_TITLE.fullmatch(" ".join(process.cmdline()).strip())
        if title:
            peak_bytes[title[1]] = max(peak_bytes.get(title[1], 0), read_peak_bytes(process.pid))
    except (psutil.Error, OSError):  # the process has ended
        return


def read_journal(stack: Stack) -> list[dict[str, Any]]:
    """Return the requests that the service has received."""
    response = requests.get(f"{stack.service_url}/_local/journal", timeout=30)
    entries: list[dict[str, Any]] = response.json()["entries"]
    return entries


def describe_request(entry: dict[str, Any]) -> str:
    """Return method and path of a request, without the ids of operations, models and files."""
    path = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "…", entry["path"])
    return f"{entry['method']} {path}"


def compare_calls(first: Run, second: Run) -> str:
    """Return a table of the calls of both runs."""
    names = sorted({*first.calls, *second.calls})
    rows = [[f"`{name}`", first.calls[name], second.calls[name]] for name in names]
    rows.append(["all", first.calls.total(), second.calls.total()])
    return table(["call", f"first run, {first.parts} parts", "second run"], rows)
