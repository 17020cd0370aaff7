"""Measure one step of one way in a process of its own.

    python -m bench.measure prepare with_pandas '{"source": "answers.parquet", "folder": ".run/bench/manual"}'

A way is a module of :mod:`bench.ways` with the functions `prepare` and `land`.
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
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
MEGABYTE = 1_000_000
#: Limits of a process; beyond them the way counts as one that does not finish.
TIMEOUT_S, ADDRESS_SPACE_GB = 600, 18
POLL_S = 0.1


@dataclass(frozen=True)
class Job:
    """The input of a step.

    :param source: Parquet file of the records
    :param folder: where this way writes its files
    :param warehouse: DuckDB file or connection string of PostgreSQL; only this pipeline uses it
    :param first_day: first response date of the run, whose last one is 31 October
    :param coded: for `land` and `export`: folder of a run that is prepared and coded
    :param export: for `export`: name of the file in the folder
    :param memory_mb: memory limit of the plan; only this pipeline and DuckDB alone obey it
    """

    source: str
    folder: str
    warehouse: str = ""
    coded: str = ""
    export: str = ""
    run_id: str = "first"
    first_day: str = "2026-10-01"
    memory_mb: int = 512


@dataclass(frozen=True)
class Sample:
    """What a step uses at a moment.

    :param seconds: since the start of its process
    :param memory_mb: resident size of its process
    :param disk_mb: files in the watched folders
    """

    seconds: float
    memory_mb: float
    disk_mb: float


@dataclass(frozen=True)
class Measurement:
    """The cost of a step.

    :param seconds: of the work alone, without the imports
    :param memory_mb: peak resident size of the process, imports included
    :param disk_mb: peak size of the files in its folder
    :param samples: what it used over time, imports included
    :param problem: why the way did not finish; None if it did
    """

    seconds: float = 0.0
    memory_mb: float = 0.0
    disk_mb: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    samples: Sequence[Sample] = ()
    problem: str | None = None


def measure(
    step: str, way: str, job: Job, *, folders: Sequence[Path] = (), timeout_s: float = TIMEOUT_S
) -> Measurement:
    """Run a step in a new process, and wait for it.

    :param folders: folders beside its own whose files count as well
    """
    folder = Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "bench.measure", step, way, json.dumps(asdict(job))]
    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
            samples = _watch(process, [folder, *folders], timeout_s)
            output = process.stdout.read() if process.stdout else ""
        if process.returncode != 0:
            errors.seek(0)
            return Measurement(problem=_describe_failure(process.returncode, errors.read()))
    disk_mb = max((sample.disk_mb for sample in samples), default=0.0)
    return Measurement(**{**json.loads(output), "disk_mb": disk_mb, "samples": samples})


def _watch(process: subprocess.Popen[str], folders: Sequence[Path], timeout_s: float) -> list[Sample]:
    """Wait until the process ends, kill it at the time limit, and return what it used meanwhile."""
    start, samples = time.monotonic(), []
    while process.poll() is None:
        seconds = time.monotonic() - start
        disk_bytes = sum(count_bytes(folder.rglob("*")) for folder in folders)
        samples.append(Sample(seconds, _read_resident_bytes(process.pid) / MEGABYTE, disk_bytes / MEGABYTE))
        if seconds > timeout_s:
            process.kill()
        time.sleep(POLL_S)
    return samples


def _read_resident_bytes(pid: int) -> int:
    """Return the resident size of a process, 0 if it has ended."""
    try:
        return psutil.Process(pid).memory_info().rss
    except psutil.Error:
        return 0


def count_bytes(paths: Iterable[Path]) -> int:
    """Return the bytes on disk of files, without those that are deleted meanwhile."""
    total = 0
    for path in paths:
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total


def _describe_failure(status: int, errors: str) -> str:
    if status < 0:
        return f"did not finish: killed by signal {-status}, at the time limit or out of memory"
    last_line = (errors.strip().splitlines() or ["no message"])[-1]
    return f"did not finish: {last_line[:600]}"


def run_step(step: str, way: str, job: Job) -> Measurement:
    """Run a step in this process, and measure it."""
    work = getattr(importlib.import_module(f"bench.ways.{way}"), step)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_GB * 10**9,) * 2)
    start = time.perf_counter()
    counts = work(job)
    seconds = time.perf_counter() - start
    return Measurement(seconds, read_peak_bytes("self") / MEGABYTE, counts=counts)


def read_peak_bytes(pid: int | str) -> int:
    """Return the peak resident size of a process. `ru_maxrss` would include its parent's size before the fork."""
    match = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(match[1]) * 1024 if match else 0


if __name__ == "__main__":
    print(json.dumps(asdict(run_step(sys.argv[1], sys.argv[2], Job(**json.loads(sys.argv[3]))))))
