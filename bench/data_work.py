"""Measure the two data steps, `prepare` and `land`, side by side with other ways to do the same work.

Each measurement runs in a process of its own (:mod:`bench.measure`).
"""

from __future__ import annotations

import ast
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bench import data
from bench.measure import MEGABYTE, ROOT, Job, Measurement, count_bytes, measure
from bench.page import table

STEPS = ("prepare", "land")
NAMES = {
    "ours": "**this pipeline**",
    "bare_engine": "DuckDB alone",
    "with_polars": "polars",
    "with_pandas": "pandas",
}
MILLION = 1_000_000
#: The sizes of the page, each with the ways that are measured at this size.
SIZES: dict[int, Sequence[str]] = {MILLION: tuple(NAMES), 3 * MILLION: ("ours",), 10 * MILLION: tuple(NAMES)}
#: Runs of this pipeline and of DuckDB alone, whose ratio has to be precise; the faster one counts.
ROUNDS = 2
RECORDS_OF_ADDITIONAL_DAY = 100_000
MEMORY_LIMITS_MB = (384, 512, 1024)


@dataclass
class Size:
    """The measurements with one number of records.

    :param folder: of the files; those of this pipeline are in `ours-0`
    :param measurements: by step and way
    """

    rows: int
    source: Path
    folder: Path
    measurements: dict[tuple[str, str], Measurement] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The number of records for people, such as "3 M"."""
        return f"{self.rows / MILLION:g} M"

    @property
    def ours(self) -> Path:
        """Folder of the first run of this pipeline."""
        return self.folder / "ours-0"

    def job(self, name: str, **options: str | int) -> Job:
        """Return a job in a folder of this name, with the warehouse in it."""
        folder = self.folder / name
        defaults = {"source": str(self.source), "folder": str(folder), "coded": str(self.ours)}
        return Job(**{**defaults, "warehouse": str(folder / "warehouse.duckdb"), **options})  # type: ignore[arg-type]

    def rate(self, step: str) -> float:
        """Return the records per second of this pipeline."""
        return self.rows / self.measurements[step, "ours"].seconds


def sections(rows: int | None = None) -> Iterator[str]:
    """Measure the sizes of the page, or one number of records, and yield the part of the page."""
    sizes = {rows: tuple(NAMES)} if rows else SIZES
    work = data.FOLDER / "work"
    shutil.rmtree(work, ignore_errors=True)
    yield "## The data steps\n\n" + describe_ways()
    measured_sizes = []
    try:
        for size_rows, ways in sizes.items():
            size = Size(size_rows, data.write_records(size_rows), work / str(size_rows))
            for step in STEPS:
                measure_ways(size, step, ways)
                if len(ways) > 1:
                    yield f"### {step}, {size.name} records\n\n" + compare_ways(size, step, ways)
            measured_sizes.append(size)
        yield "## A second run over the same records\n\n" + run_again(measured_sizes[-1])
        yield "## One more day\n\n" + run_additional_day(measured_sizes[-1])
        yield "## Memory\n\n" + compare_memory(measured_sizes)
        yield "## Size\n\n" + compare_sizes(measured_sizes)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def describe_ways() -> str:
    """Return a list of the ways, each with the docstring of its module."""
    lines = []
    for way, name in NAMES.items():
        text = ast.get_docstring(ast.parse((ROOT / "bench" / "ways" / f"{way}.py").read_text())) or ""
        lines.append(f"- {name}: {' '.join(text.split())}")
    return WAYS + "\n".join(lines)


WAYS = f"""\
Each way runs in a process of its own. Seconds and CPU seconds are those of the work, without the imports. Memory is
the peak resident size of the process, disk the peak size of the files in its folder. This pipeline and DuckDB alone
show the faster of {ROUNDS} runs and have a memory limit of 512 MB: 192 MB for the engine and, for this pipeline, the
same for the embedded warehouse. The other ways have no memory limit.

"""


def measure_ways(size: Size, step: str, ways: Sequence[str]) -> None:
    """Measure a step of each way, and code the parts that this pipeline has prepared."""
    for way in ways:
        rounds = ROUNDS if way in ("ours", "bare_engine") else 1
        measure_step = measure_ours if way == "ours" else partial(measure, way=way)
        attempts = [measure_step(step, job=size.job(f"{way}-{number}")) for number in range(rounds)]
        size.measurements[step, way] = min(attempts, key=lambda one: (one.problem is not None, one.seconds))
        if way != "ours":
            for number in range(rounds):
                shutil.rmtree(size.folder / f"{way}-{number}")
    if step == "prepare":
        data.code_parts(size.ours)


def measure_ours(step: str, job: Job) -> Measurement:
    """Measure a step of this pipeline, which has to finish."""
    measurement = measure(step, "ours", job)
    if measurement.problem:
        raise RuntimeError(f"{step} of {job.source} {measurement.problem}")
    return measurement


def compare_ways(size: Size, step: str, ways: Sequence[str]) -> str:
    """Return the table of a step with a row for each way."""
    ours = size.measurements[step, "ours"]
    rows = []
    for way in ways:
        one = size.measurements[step, way]
        if one.problem:
            rows.append([NAMES[way], one.problem, *[""] * 6])
            continue
        rows.append(
            [
                NAMES[way], f"{one.seconds:.1f}", f"{one.seconds / ours.seconds:.2f}", f"{one.cpu_seconds:.1f}",
                f"{one.memory_mb:.0f}", f"{one.memory_mb / ours.memory_mb:.2f}", f"{one.disk_mb:.0f}",
                f"{one.counts['coded' if step == 'land' else 'texts']:,}",
            ]
        )  # fmt: skip
    result = "records coded" if step == "land" else "texts"
    return table(["way", "s", "s / pipeline", "CPU s", "MB", "MB / pipeline", "disk MB", result], rows)


def run_again(size: Size) -> str:
    """Measure this pipeline over records that are published, and what it saves by sending each text once."""
    warehouse = str(size.ours / "warehouse.duckdb")
    job = size.job("second", warehouse=warehouse, run_id="second", coded=str(size.folder / "second"))
    second_run = {step: measure_ours(step, job) for step in STEPS}
    seconds = [(size.measurements[step, "ours"].seconds, second_run[step].seconds) for step in STEPS]
    seconds.append((sum(first for first, _ in seconds), sum(second for _, second in seconds)))
    rows = [
        [step, f"{first:.1f}", f"{second:.1f}", f"{second / first:.3f}"]
        for step, (first, second) in zip([*STEPS, "both"], seconds, strict=True)
    ]
    bytes_sent, bytes_of_all = (
        size.measurements["prepare", "ours"].counts["bytes"], data.count_bytes_of_all_records(size.ours)
    )  # fmt: skip
    return (
        table([f"{size.name} records", "first run, s", "second run, s", "ratio"], rows)
        + f"\n\nThe second run sends {second_run['prepare'].counts['bytes']} bytes. The first run sends"
        f" {bytes_sent / MEGABYTE:,.0f} MB;\nwith a line for each record it would be"
        f" {bytes_of_all / MEGABYTE:,.0f} MB, {bytes_of_all / bytes_sent:.1f} times as much."
    )


def run_additional_day(size: Size) -> str:
    """Measure this pipeline over one more day, with the texts of the first run already coded."""
    source, records = size.folder / "day.parquet", min(RECORDS_OF_ADDITIONAL_DAY, size.rows)
    data.write_additional_day(size.source, records, source)
    job = size.job(
        "day", source=str(source), warehouse=str(size.ours / "warehouse.duckdb"), run_id="day",
        first_day="2026-10-31", coded=str(size.folder / "day"),
    )  # fmt: skip
    prepare = measure_ours("prepare", job)
    data.code_parts(Path(job.folder))
    land = measure_ours("land", job)
    coded_texts = size.measurements["prepare", "ours"].counts["texts"]
    counts = prepare.counts
    return (
        f"A run over {records:,} records of one more day, one in {data.RECORDS_PER_NEW_TEXT} with a new text."
        f"\nThe warehouse contains {coded_texts:,} coded texts and {size.rows:,} records."
        f" `prepare` takes {prepare.seconds:.1f} s and {prepare.memory_mb:.0f} MB, `land` {land.seconds:.1f} s and"
        f" {land.memory_mb:.0f} MB.\n{counts['sent']:,} of {counts['texts']:,} texts are sent,"
        f" {counts['bytes'] / MEGABYTE:.1f} MB."
    )


def compare_memory(sizes: Sequence[Size]) -> str:
    """Return the peak memory of this pipeline by number of records and by memory limit."""
    rows = [
        [f"{size.name} records, 512 MB", *(f"{size.measurements[step, 'ours'].memory_mb:.0f}" for step in STEPS)]
        for size in sizes
    ]
    size = sizes[min(1, len(sizes) - 1)]
    for limit in MEMORY_LIMITS_MB:
        costs = [measure_ours(step, size.job(f"limit-{limit}", memory_mb=limit)) for step in STEPS]
        rows.append(
            [f"{size.name} records, {limit} MB", *(f"{one.memory_mb:.0f} ({one.seconds:.1f} s)" for one in costs)]
        )
    return (
        "Peak resident size in MB of a process that runs the step, Python and its libraries included, by number of"
        " records\nand by memory limit (`CODING_MEMORY_MB`, default 512).\n\n"
        + table(["records, limit", *STEPS], rows)
    )


def compare_sizes(sizes: Sequence[Size]) -> str:
    """Return the records per second by number of records, with projections to larger numbers."""
    rows = [
        [
            size.name, *(f"{size.rate(step):,.0f}" for step in STEPS),
            *(f"{size.measurements[step, 'ours'].disk_mb:,.0f}" for step in STEPS), f"{warehouse_mb(size):,.0f}",
        ]
        for size in sizes
    ]  # fmt: skip
    last = sizes[-1]
    for total in (100 * MILLION, 1000 * MILLION):
        factor = total / last.rows
        minutes = [total / last.rate(step) / 60 for step in STEPS]
        rows.append(
            [
                f"*{total // MILLION:,} M, projected*", *(f"*{one:,.0f} min*" for one in minutes),
                *(f"*{last.measurements[step, 'ours'].disk_mb * factor:,.0f}*" for step in STEPS),
                f"*{warehouse_mb(last) * factor:,.0f}*",
            ]
        )  # fmt: skip
    headers = ["records", *(f"{step}, records/s" for step in STEPS), *(f"{step}, disk MB" for step in STEPS)]
    return table([*headers, "warehouse MB"], rows) + "\n\n" + PROJECTED


PROJECTED = """\
The projected rows are not measured: they are the largest measured size times a factor. Distinct texts grow more
slowly than records, so the real numbers of texts, lines and operations are smaller. The time of the service is not
included.

The first limits of a growing run, and how to move them:

1. The disk of the worker holds the records of a run, its parts and what its engines spill, until the run has landed.
   Split the run into fewer days at a time, as a backfill does, or use S3 for staging instead of the worker's disk.
2. The embedded warehouse allows one writer, so concurrent runs wait for each other. Use PostgreSQL or Redshift,
   which allow many; for Redshift, UNLOAD and COPY move the records between the cluster and S3.
3. The cores of one machine: a task uses all of them, and parts and runs are separate tasks, so add workers."""


def warehouse_mb(size: Size) -> float:
    """Return the size of the embedded warehouse after the first run of this pipeline."""
    return count_bytes([size.ours / "warehouse.duckdb"]) / MEGABYTE
