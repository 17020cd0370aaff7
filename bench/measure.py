"""One way to do a step, in a process of its own: what it took and what it counted.

    python -m bench.measure prepare with_pandas '{"source": "answers.parquet", "folder": ".run/bench/by-hand"}'

A way is a module of :mod:`bench.ways` with a function for each step it knows.
"""

from __future__ import annotations

import importlib
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MEGABYTE = 1_000_000
#: What a way may take before it counts as one that does not finish.
SECONDS, ADDRESS_SPACE_GB = 600, 18
LOOK = 0.1


@dataclass(frozen=True)
class Job:
    """What a way is given.

    :param source: Parquet of the records
    :param folder: its own, to write into
    :param warehouse: DuckDB file, or what libpq is told to reach PostgreSQL; for ours alone
    :param first_day: first response date of the run, which ends with October
    :param coded: folder of a run that was prepared and coded, for `land`
    :param memory_mb: of the plan; all but ours and the bare engine take what they take
    """

    source: str
    folder: str
    warehouse: str = ""
    coded: str = ""
    run_id: str = "first"
    first_day: str = "2026-10-01"
    memory_mb: int = 512


@dataclass(frozen=True)
class Taken:
    """What a way took.

    :param seconds, cpu_seconds: of the work alone, without the imports
    :param memory_mb: the largest resident size of its process, imports included
    :param disk_mb: the most that lay in its folder
    :param problem: why there is nothing of this; None if it finished
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    memory_mb: float = 0.0
    disk_mb: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    problem: str | None = None


def measure(step: str, way: str, job: Job) -> Taken:
    """Let a way do a step in a fresh process, and wait for it."""
    folder = Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "bench.measure", step, way, json.dumps(asdict(job))]
    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
            disk = _watch(process, folder)
            told = process.stdout.read() if process.stdout else ""
        if process.returncode != 0:
            errors.seek(0)
            return Taken(problem=_problem(process.returncode, errors.read()))
    return Taken(**{**json.loads(told), "disk_mb": disk / MEGABYTE})


def _watch(process: subprocess.Popen[str], folder: Path) -> int:
    """Wait for the process to end, kill it if it takes too long, and return the most bytes in its folder."""
    deadline, most = time.monotonic() + SECONDS, 0
    while process.poll() is None:
        most = max(most, size_of(folder.rglob("*")))
        if time.monotonic() > deadline:
            process.kill()
        time.sleep(LOOK)
    return most


def size_of(paths: Iterable[Path]) -> int:
    """Bytes on disk of files that may go meanwhile."""
    total = 0
    for path in paths:
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total


def _problem(status: int, errors: str) -> str:
    if status < 0:
        return f"did not finish: killed after {SECONDS} s or for want of memory (signal {-status})"
    last = (errors.strip().splitlines() or ["no message"])[-1]
    return f"did not finish: {last[:600]}"


def do(step: str, way: str, job: Job) -> Taken:
    """Do a step in this process, and measure it."""
    work = getattr(importlib.import_module(f"bench.ways.{way}"), step)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_GB * 10**9,) * 2)
    began, began_cpu = time.perf_counter(), time.process_time()
    counts = work(job)
    return Taken(time.perf_counter() - began, time.process_time() - began_cpu, most_memory(), counts=counts)


def most_memory() -> float:
    """The largest resident size of this process so far, in MB: `ru_maxrss` would count what its parent had."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024 / MEGABYTE


if __name__ == "__main__":
    print(json.dumps(asdict(do(sys.argv[1], sys.argv[2], Job(**json.loads(sys.argv[3]))))))
