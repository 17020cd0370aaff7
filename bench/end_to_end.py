"""A million records and ten through real Airflow processes and the local service, twice: `make bench`."""

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
from bench.measure import MEGABYTE
from bench.page import table
from include.pipeline.names import RECODE_DAG_ID as DAG_ID
from include.stack.airflow_api import FINAL_STATES as ENDED
from include.stack.processes import Stack

#: Records of the runs, and most texts of a part.
SIZES = {1_000_000: 100_000, 10_000_000: 500_000}
SECONDS = 1800
LOOK = 0.2
#: Title of the process that runs a task; those of the executor's workers go on with words.
TASK = re.compile(r"airflow worker -- ([0-9a-f-]{36})")
STEPS = ("create", "upload", "poll", "download")


def main() -> None:
    for section in sections():
        print(section, end="\n\n", flush=True)


def sections() -> Iterator[str]:
    """Run each size twice, and yield what the page says of it, piece by piece."""
    yield INTRODUCTION
    for rows, rows_of_part in SIZES.items():
        conf = {
            "source": data.records(rows).as_uri(),
            "from_date": "2026-10-01",
            "to_date": "2026-10-30",
            "records_per_part": rows_of_part,
        }
        with running() as stack:
            first, second = Run(stack, conf), Run(stack, conf)
        yield f"### {rows:,} records, at most {rows_of_part:,} texts a part"
        yield f"{first.by_task()}\n\n{first.overhead()}"
        yield f"The second run over the same records:\n\n{second.by_task()}\n\n{second.overhead()}"
        yield f"Calls to the service:\n\n{calls(first, second)}"


INTRODUCTION = """\
## End to end

Records of 30 days from a Parquet file through the scheduler, the triggerer, the API server and the local service with
its trivial coder, all on this machine. Seconds are those of the task from start to end, the wait of `poll` included;
memory is the largest resident size of the task's process, Airflow included. Of a mapped task, the longest and the
largest instance is shown."""


@contextmanager
def running() -> Iterator[Stack]:
    """A stack in a folder of its own, when the run that its schedule brings has ended."""
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder), service_options=("--coder", "stub"))
        stack.start()
        try:
            while not (states := [run["state"] for run in runs(stack)]) or set(states) - set(ENDED):
                time.sleep(LOOK)
            yield stack
        finally:
            stack.stop()


def runs(stack: Stack) -> list[dict[str, Any]]:
    """All runs of the DAG."""
    found: list[dict[str, Any]] = stack.api.request("GET", f"/dags/{DAG_ID}/dagRuns")["dag_runs"]
    return found


class Run:
    """A run that has ended: its tasks, their memory and the calls it made.

    :param conf: params of the DAG
    """

    def __init__(self, stack: Stack, conf: dict[str, Any]) -> None:
        before = len(journal(stack))
        with watched(stack.process("scheduler")) as self._memory:
            run_id = stack.api.trigger(conf)
            state = stack.api.wait(run_id, SECONDS)
        if state != "success":
            raise RuntimeError(f"run {run_id!r} is {state!r}; its logs were in {stack.folder}")
        run = stack.api.run(run_id)
        self.seconds = (_time(run["end_date"]) - _time(run["start_date"])).total_seconds()
        self.tasks = [task for task in stack.api.task_instances(run_id) if task["state"] == "success"]
        self.calls = Counter(kind(entry) for entry in journal(stack)[before:])

    @property
    def parts(self) -> int:
        """Operations of the run."""
        return sum(task["task_id"] == "code.create" for task in self.tasks)

    def by_task(self) -> str:
        """A row for each task; the instances of a mapped task in one."""
        groups = defaultdict(list)
        for task in sorted(self.tasks, key=lambda task: str(task["start_date"])):
            groups[task["task_id"]].append(task)
        rows = [
            [
                f"`{name}`", len(tasks), max(task["try_number"] for task in tasks),
                f"{max(task['duration'] for task in tasks):.1f}",
                f"{max(self._memory.get(task['id'], 0) for task in tasks) / MEGABYTE:.0f}",
            ]
            for name, tasks in groups.items()
        ]  # fmt: skip
        return table(["task", "instances", "tries", "s", "MB"], rows)

    def overhead(self) -> str:
        """What the run took beyond the work of its tasks."""
        took: dict[str, dict[int, float]] = defaultdict(dict)
        for task in self.tasks:
            took[task["task_id"]][task["map_index"]] = task["duration"]
        steps = [took[f"code.{step}"] for step in STEPS]
        part = max((sum(step[number] for step in steps) for number in steps[0]), default=0.0)
        chain = part + sum(took[name].get(-1, 0.0) for name in ("plan", "prepare", "land", "report"))
        return (
            f"{self.seconds:.1f} s from start to end, of which the longest chain of tasks is {chain:.1f} s;"
            f" Airflow's own share\nbetween the tasks is {self.seconds - chain:.1f} s."
        )


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


@contextmanager
def watched(scheduler: psutil.Process) -> Iterator[dict[str, int]]:
    """Look at the processes of tasks while the block runs; yields the most bytes of each, by task instance."""
    most: dict[str, int] = {}
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK):
            for process in scheduler.children(recursive=True):
                note(process, most)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield most
    finally:
        over.set()
        watcher.join()


def note(process: psutil.Process, most: dict[str, int]) -> None:
    """Note the largest resident size so far of a process that runs a task."""
    try:
        title = TASK.fullmatch(" ".join(process.cmdline()).strip())
        found = title and re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
    except (psutil.Error, OSError):  # it has ended
        return
    if title and found:
        most[title[1]] = max(most.get(title[1], 0), int(found[1]) * 1024)


def journal(stack: Stack) -> list[dict[str, Any]]:
    """Requests that the service has seen."""
    answer = requests.get(f"{stack.service_url}/_local/journal", timeout=30)
    entries: list[dict[str, Any]] = answer.json()["entries"]
    return entries


def kind(entry: dict[str, Any]) -> str:
    """Method and path of a request, without what is of one operation or file."""
    path = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "…", entry["path"])
    return f"{entry['method']} {path}"


def calls(first: Run, second: Run) -> str:
    """Calls by kind."""
    kinds = sorted({*first.calls, *second.calls})
    rows = [[f"`{kind}`", first.calls[kind], second.calls[kind]] for kind in kinds]
    rows.append(["all", first.calls.total(), second.calls.total()])
    return table(["call", f"first run, {first.parts} parts", "second run"], rows)


if __name__ == "__main__":
    main()
