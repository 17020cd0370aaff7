"""Measure how the throughput of parts and of runs grows with Celery workers, over PostgreSQL and S3.

Each worker gets the same share of a core, so that several of them fit on one machine beside the servers that they
share.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil

from bench.end_to_end import POLL_S, list_runs
from bench.measure import ROOT
from bench.page import table, write_page
from include.pipeline.names import POOL
from include.stack.airflow_api import FINAL_STATES
from include.stack.sample import write_sample
from tests.support.celery_stack import CeleryStack
from tests.support.postgres import Postgres, run_postgres
from tests.support.s3 import S3, run_s3

WORKERS = (1, 2, 4)
#: Cores of each worker, and the tasks that it runs at once.
CORES_PER_WORKER, TASKS_PER_WORKER = 0.25, 2
#: Records of the run with many parts, and the maximum number of texts in each of them.
PARTS_RECORDS, TEXTS_PER_PART = 16_000, 600
#: Small runs that are started at once, each of one day.
RUNS = 6
FIRST_DAY = date(2026, 10, 1)
RECORDS = 100_000
TIMEOUT_S = 1800
PAGE = ROOT / "docs" / "performance-workers.md"
#: Folder of the CPU controller of Linux, in the first and in the second version of control groups.
CGROUPS = (Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup"))
#: Period over which a control group counts the cores that its processes use, in microseconds.
PERIOD_US = 100_000
#: Share of its capacity from which a process can be a bottleneck.
BUSY_SHARE = 0.8
SERVERS = ("scheduler", "api-server", "triggerer", "dag-processor", "local-service")


@dataclass(frozen=True)
class Throughput:
    """What a number of workers did.

    :param count: parts or runs that have ended
    :param minutes: duration of the work
    :param cores: cores that each process used on average meanwhile, by name; those of all workers together
    """

    count: int
    minutes: float
    cores: Mapping[str, float]

    @property
    def per_minute(self) -> float:
        """Parts or runs that ended in a minute."""
        return self.count / self.minutes


class LimitedStack(CeleryStack):
    """A stack with Celery workers each of which gets a share of a core."""

    def _spawn(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        super()._spawn(name, command, environment)
        if name in self.workers:
            limit_cores(name, self.state.processes[name][0], CORES_PER_WORKER)


def limit_cores(name: str, pid: int, cores: float) -> None:
    """Limit a process and its later children to a share of a core.

    :raises RuntimeError: the system does not allow it
    """
    first_version, second_version = CGROUPS
    is_first = first_version.is_dir()
    group = (first_version if is_first else second_version) / f"bench-{name}"
    quota_us = int(cores * PERIOD_US)
    try:
        group.mkdir(exist_ok=True)
        if is_first:
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(quota_us))
        else:
            (group / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")
        (group / "cgroup.procs").write_text(str(pid))
    except OSError as error:
        raise RuntimeError(f"the cores of a worker cannot be limited ({error}): run this as root on Linux") from error


def remove_limits(names: tuple[str, ...]) -> None:
    """Remove the control groups of workers that have ended."""
    for folder in CGROUPS:
        for name in names:
            with suppress(OSError):
                (folder / f"bench-{name}").rmdir()


def sections() -> Iterator[str]:
    """Measure parts and runs with each number of workers, and yield and write the page."""
    parts, runs = [], []
    with run_postgres() as postgres, run_s3() as s3:
        for count in WORKERS:
            with start_stack(count, postgres, s3) as stack:
                servers = {"PostgreSQL": postgres.pid, "S3": s3.pid}
                parts.append(measure_parts(stack, servers))
                runs.append(measure_runs(stack, servers))
    texts = [INTRODUCTION, compare("parts", parts), compare("runs", runs)]
    yield from texts
    yield write_page("Several workers", "make bench OPTIONS=workers", texts, PAGE)


INTRODUCTION = f"""\
Celery workers over PostgreSQL (warehouse, metadata and queue) and S3 (moto), all on this machine. Each worker gets
{CORES_PER_WORKER} of a core and runs {TASKS_PER_WORKER} tasks at once; the servers are not limited.
*Parts* are those of one run, from its first
`create` to its last `download`. *Runs* are of one day each, and start at once; they count until the last has ended.
The last columns are the cores that the processes used on average meanwhile."""


@contextmanager
def start_stack(workers: int, postgres: Postgres, s3: S3) -> Iterator[LimitedStack]:
    """Yield a stack with workers that are ready, after its first scheduled run has ended."""
    names = tuple(f"worker-{number}" for number in range(workers))
    with tempfile.TemporaryDirectory() as folder:
        options = ("--coder", "stub", "--progression", "immediate")
        stack = LimitedStack(Path(folder), postgres, s3, names, options, TASKS_PER_WORKER)
        stack.start()
        try:
            stack.api.create_pool(POOL, 64)
            write_sample(Path(folder) / "survey.parquet", RECORDS)  # without NUL, which PostgreSQL cannot store
            stack.load(Path(folder) / "survey.parquet", "survey")
            while not all(map(stack.is_ready, names)):
                time.sleep(POLL_S)
            while not (states := [run["state"] for run in list_runs(stack)]) or set(states) - set(FINAL_STATES):
                time.sleep(POLL_S)
            yield stack
        finally:
            stack.stop()
            remove_limits(names)


def measure_parts(stack: LimitedStack, servers: Mapping[str, int]) -> Throughput:
    """Measure the parts of one run.

    :param servers: process ids of the servers that the workers share, by name
    """
    days = {"from_date": FIRST_DAY.isoformat(), "to_date": "2026-10-31"}
    run_id = stack.api.trigger(
        {"source": "survey", **days, "max_records": PARTS_RECORDS, "records_per_part": TEXTS_PER_PART}
    )
    wait_for_tasks(stack, run_id, lambda tasks: any(task["start_date"] for task in tasks))
    cpu = CpuTimes(stack, servers)
    tasks = wait_for_tasks(stack, run_id, lambda tasks: all(task["end_date"] for task in tasks))
    cores = cpu.read_cores()
    wait_for_runs(stack, [run_id])
    start = min(datetime.fromisoformat(task["start_date"]) for task in tasks)
    end = max(datetime.fromisoformat(task["end_date"]) for task in tasks)
    return Throughput(len({task["map_index"] for task in tasks}), (end - start).total_seconds() / 60, cores)


def wait_for_tasks(
    stack: LimitedStack, run_id: str, has_happened: Callable[[list[dict[str, Any]]], bool]
) -> list[dict[str, Any]]:
    """Wait until something has happened to the tasks of the parts of a run, and return them."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        tasks = [task for task in stack.api.task_instances(run_id) if task["task_id"].startswith("code.")]
        if tasks and has_happened(tasks):
            return tasks
        if time.monotonic() > deadline:
            raise TimeoutError(f"the parts of run {run_id!r} have not ended; its logs are in {stack.folder}")
        time.sleep(POLL_S)


def measure_runs(stack: LimitedStack, servers: Mapping[str, int]) -> Throughput:
    """Measure runs of one day each.

    :param servers: process ids of the servers that the workers share, by name
    """
    cpu, start = CpuTimes(stack, servers), time.monotonic()
    days = [(FIRST_DAY + timedelta(days=number)).isoformat() for number in range(RUNS)]
    wait_for_runs(stack, [stack.api.trigger({"source": "survey", "from_date": day, "to_date": day}) for day in days])
    return Throughput(RUNS, (time.monotonic() - start) / 60, cpu.read_cores())


def wait_for_runs(stack: LimitedStack, run_ids: list[str]) -> None:
    """Wait until runs have succeeded."""
    for run_id in run_ids:
        if (state := stack.api.wait(run_id, TIMEOUT_S)) != "success":
            raise RuntimeError(f"run {run_id!r} is {state!r}; its logs were in {stack.folder}")


class CpuTimes:
    """The CPU time of the processes of a stack from now on."""

    def __init__(self, stack: LimitedStack, servers: Mapping[str, int]) -> None:
        self._stack, self._servers = stack, servers
        self._start, self._before = time.monotonic(), self._read()

    def read_cores(self) -> dict[str, float]:
        """Return the cores that processes have used on average."""
        seconds, after = time.monotonic() - self._start, self._read()
        return {name: (after[name] - self._before[name]) / seconds for name in after}

    def _read(self) -> dict[str, float]:
        processes = {name: [self._stack.process(name)] for name in SERVERS}
        processes |= {name: [psutil.Process(pid)] for name, pid in self._servers.items()}
        processes["workers"] = [self._stack.process(name) for name in self._stack.workers]
        seconds = {name: sum(map(read_cpu_seconds, group)) for name, group in processes.items()}
        busy = psutil.cpu_times()
        return {**seconds, "machine": sum(busy) - busy.idle - busy.iowait - busy.guest - busy.guest_nice}


def read_cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU time of a process and of its descendants, also of those that have ended."""
    seconds = 0.0
    for one in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            seconds += sum(one.cpu_times()[:4])  # user, system, and both of children that have ended
    return seconds


def compare(what: str, results: list[Throughput]) -> str:
    """Return a table with a row for each number of workers, and the sentence that names the bottleneck."""
    names = [name for name in results[0].cores if name != "workers"]
    rows = [
        [
            count, one.count, f"{one.per_minute:.1f}", f"{one.per_minute / results[0].per_minute:.2f}",
            *(f"{one.cores[name]:.2f}" for name in ("workers", *names)),
        ]
        for count, one in zip(WORKERS, results, strict=True)
    ]  # fmt: skip
    headers = ["workers", what, f"{what} per minute", "ratio", *(f"{name}, cores" for name in ("workers", *names))]
    return f"{table(headers, rows)}\n\n{name_bottleneck(what, results[-1])}"


def name_bottleneck(what: str, result: Throughput) -> str:
    """Return what limits the throughput of the largest number of workers: what uses most of the cores that it has, or
    the time between the tasks if nothing uses most of them. Each server mostly uses one thread."""
    count = max(WORKERS)
    shares = {name: cores for name, cores in result.cores.items() if name not in ("workers", "machine")}
    shares["the workers"] = result.cores["workers"] / (CORES_PER_WORKER * count)
    shares["the cores of the machine"] = result.cores["machine"] / (os.cpu_count() or 1)
    name, share = max(shares.items(), key=lambda item: item[1])
    if share < BUSY_SHARE:
        workers_share = "" if name == "the workers" else f", the workers ({shares['the workers']:.0%})"
        return (
            f"With {count} workers, no process limits the {what}. Most used: {name} ({share:.0%}){workers_share}.\n"
            "The bottleneck is the time from one task to the next: the loop of the scheduler, and the queue, a\n"
            "table here that each worker looks at once a second."
        )
    return f"With {count} workers, the bottleneck of the {what} is {name}, used to {share:.0%}."
