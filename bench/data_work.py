"""Measure the two data steps, `prepare` and `land`, side by side with other ways to do the same work.

Each measurement runs in a process of its own (:mod:`bench.measure`). The ways take turns, so that a machine whose
speed changes is as fast for one as for the other.
"""

from __future__ import annotations

import ast
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from bench import data
from bench.chart import Panel, draw_panels
from bench.measure import MEGABYTE, ROOT, Job, Measurement, count_bytes, measure
from bench.page import table
from bench.ratios import Ratio

PICTURE = ROOT / "docs" / "images" / "performance.svg"
STEPS = ("prepare", "land")
NAMES = {
    "ours": "this pipeline",
    "bare_engine": "DuckDB alone",
    "with_polars": "polars",
    "with_pandas": "pandas",
}
MILLION = 1_000_000
#: The sizes of the page. Further ones are behind `--rows`.
SIZES = (MILLION // 10, MILLION, 10 * MILLION)
#: Rounds in which each way is measured once.
ROUNDS = 3
#: Records from which pandas, which takes minutes, is measured in the first round only.
ONE_ROUND_RECORDS = 5 * MILLION
RECORDS_OF_ADDITIONAL_DAY = 100_000
MEMORY_LIMITS_MB = (384, 512, 1024)


@dataclass
class Size:
    """The measurements with one number of records.

    :param folder: folder of the files; those of this pipeline are in `ours-0`
    :param measurements: those of all rounds, by step and way
    """

    rows: int
    source: Path
    folder: Path
    measurements: dict[tuple[str, str], list[Measurement]] = field(default_factory=dict)

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

    def figures(self, step: str, way: str, figure: Callable[[Measurement], float]) -> list[float]:
        """Return a figure of each round in which the way has finished."""
        return [figure(one) for one in self.measurements[step, way] if one.problem is None]

    def median(self, step: str, way: str, figure: Callable[[Measurement], float]) -> float:
        """Return the median of a figure of a way that has finished."""
        return median(self.figures(step, way, figure))

    def ratio(self, step: str, way: str, figure: Callable[[Measurement], float]) -> Ratio:
        """Return the ratio of this pipeline to another way, in the rounds of that way."""
        pairs = zip(self.measurements[step, "ours"], self.measurements[step, way], strict=False)
        return Ratio([figure(ours) / figure(other) for ours, other in pairs if other.problem is None])


def read_seconds(one: Measurement) -> float:
    """Return the duration of a step."""
    return one.seconds


def read_memory_mb(one: Measurement) -> float:
    """Return the peak memory of a step."""
    return one.memory_mb


def sections(rows: int | None, ratios: dict[str, Ratio], *, with_picture: bool) -> Iterator[str]:
    """Measure the sizes of the page, or one number of records, and yield the part of the page.

    :param ratios: receives the ratios of this pipeline to the other ways by name
    :param with_picture: whether to draw the picture of the page
    """
    work = data.FOLDER / "work"
    shutil.rmtree(work, ignore_errors=True)
    picture = f"\n\n![Time and memory against records](images/{PICTURE.name})" if with_picture else ""
    yield "## The data steps\n\n" + describe_ways() + picture
    measured_sizes = []
    try:
        for size_rows in (rows,) if rows else SIZES:
            size = Size(size_rows, data.write_records(size_rows), work / str(size_rows))
            for step in STEPS:
                measure_ways(size, step)
                ratios |= list_ratios(size, step)
                yield f"### {step}, {size.name} records\n\n" + compare_ways(size, step)
            measured_sizes.append(size)
        yield "## A second run over the same records\n\n" + run_again(measured_sizes[-1], ratios)
        yield "## One more day\n\n" + run_additional_day(measured_sizes[-1])
        yield "## Memory\n\n" + compare_limits(measured_sizes[-2:][0])
        yield "## Size\n\n" + compare_sizes(measured_sizes)
        if with_picture:
            draw_panels(list(make_panels(measured_sizes)), PICTURE)
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
Each way runs in a process of its own, in {ROUNDS} rounds in which the ways take turns; pandas runs once from
{ONE_ROUND_RECORDS // MILLION} M records on. A figure is the median of the rounds, in parentheses the lowest and the highest one. Seconds are those
of the work, without the imports. Memory is the peak resident size of the process, disk the peak size of the files in
its folder. This pipeline and DuckDB alone have a memory limit of 512 MB: 192 MB for the engine and, for this pipeline,
the same for the embedded warehouse (64 and 384 MB when it publishes). The other ways have no memory limit. The ratios
are those of this pipeline to the other way: below 1, it takes less.

"""  # noqa: E501


def measure_ways(size: Size, step: str) -> None:
    """Measure a step of each way in turn, and code the parts that this pipeline has prepared."""
    for number in range(ROUNDS):
        for way in NAMES:
            if way == "with_pandas" and number and size.rows >= ONE_ROUND_RECORDS:
                continue
            job = size.job(f"{way}-{number}")
            measurement = measure_ours(step, job) if way == "ours" else measure(step, way, job)
            size.measurements.setdefault((step, way), []).append(measurement)
            if way != "ours" or (number and step == "land"):
                shutil.rmtree(job.folder)
    if step == "prepare":
        data.code_parts(size.ours)
        data.write_keyed_records(size.ours)


def measure_ours(step: str, job: Job) -> Measurement:
    """Measure a step of this pipeline, which has to finish."""
    measurement = measure(step, "ours", job)
    if measurement.problem:
        raise RuntimeError(f"{step} of {job.source} {measurement.problem}")
    return measurement


def list_ratios(size: Size, step: str) -> dict[str, Ratio]:
    """Return the ratios of this pipeline to each other way that has finished, by name."""
    return {
        f"{step}, {size.name} records: {figure} to {NAMES[way]}": size.ratio(step, way, read)
        for way in NAMES
        if way != "ours" and size.figures(step, way, read_seconds)
        for figure, read in (("time", read_seconds), ("memory", read_memory_mb))
    }


def compare_ways(size: Size, step: str) -> str:
    """Return the table of a step with a row for each way."""
    rows = []
    for way, name in NAMES.items():
        finished = [one for one in size.measurements[step, way] if one.problem is None]
        if not finished:
            rows.append([name, size.measurements[step, way][0].problem, *[""] * 5])
            continue
        is_ours = way == "ours"
        seconds = size.figures(step, way, read_seconds)
        spread = f" ({min(seconds):.1f} to {max(seconds):.1f})" if len(seconds) > 1 else ""
        rows.append(
            [
                f"**{name}**" if is_ours else name, f"{median(seconds):.1f}{spread}",
                "" if is_ours else str(size.ratio(step, way, read_seconds)),
                f"{size.median(step, way, read_memory_mb):.0f}",
                "" if is_ours else str(size.ratio(step, way, read_memory_mb)),
                f"{size.median(step, way, lambda one: one.disk_mb):.0f}",
                f"{finished[0].counts['coded' if step == 'land' else 'texts']:,}",
            ]
        )  # fmt: skip
    result = "records coded" if step == "land" else "texts"
    return table(["way", "s", "time ratio", "MB", "memory ratio", "disk MB", result], rows)


def make_panels(sizes: Sequence[Size]) -> Iterator[Panel]:
    """Yield the charts of time and of memory of each step."""
    for step in STEPS:
        for title, unit, read in (("time", "seconds", read_seconds), ("peak memory", "MB", read_memory_mb)):
            lines: dict[str, dict[float, float]] = {
                name: {
                    size.rows: size.median(step, way, read) for size in sizes if size.figures(step, way, read_seconds)
                }
                for way, name in NAMES.items()
            }
            yield Panel(f"{step}: {title}", unit, lines)


def run_again(size: Size, ratios: dict[str, Ratio]) -> str:
    """Measure this pipeline over records that are published, and what it saves by sending each text once.

    :param ratios: receives the ratios of the second run, and of one over a copy of the file, to the first run
    """
    copy = shutil.copy(size.source, size.folder / "copy.parquet")
    second_runs: dict[str, list[float]] = {step: [] for step in STEPS}
    copy_seconds = []
    for number in range(ROUNDS):
        name = f"second-{number}"
        job = size.job(
            name, warehouse=str(size.ours / "warehouse.duckdb"), run_id=name, coded=str(size.folder / name)
        )
        for step in STEPS:
            second_run = measure_ours(step, job)
            assert not second_run.counts.get("bytes"), "a second run sends nothing"
            second_runs[step].append(second_run.seconds)
        copy_seconds.append(measure_ours("prepare", replace(job, source=str(copy), run_id=f"copy-{number}")).seconds)
    first_run = {step: size.median(step, "ours", read_seconds) for step in STEPS}
    first_run["both"] = sum(first_run.values())
    second_runs["both"] = [sum(seconds) for seconds in zip(*second_runs.values(), strict=True)]
    to_first = {step: Ratio([one / first_run[step] for one in seconds]) for step, seconds in second_runs.items()}
    ratios[f"second run, {size.name} records: time to the first run"] = to_first["both"]
    ratios[f"second run over a copy, {size.name} records: time of prepare to the first run"] = Ratio(
        [one / first_run["prepare"] for one in copy_seconds]
    )
    rows = [
        [step, f"{first:.1f}", f"{median(second_runs[step]):.1f}", f"{median(to_first[step].rounds):.3f}"]
        for step, first in first_run.items()
    ]
    bytes_sent, bytes_of_all = (
        size.measurements["prepare", "ours"][0].counts["bytes"], data.count_bytes_of_all_records(size.ours)
    )  # fmt: skip
    return (
        table([f"{size.name} records", "first run, s", "second run, s", "ratio"], rows)
        + "\n\nThe second run recognizes the file by its checksum. If the same records come in another file,"
        f"\nthey are read: `prepare` then takes {median(copy_seconds):.1f} s for a copy of the file."
        "\n\nThe second run sends nothing. The first run sends"
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
    coded_texts = size.measurements["prepare", "ours"][0].counts["texts"]
    counts = prepare.counts
    return (
        f"A run over {records:,} records of one more day, one in {data.RECORDS_PER_NEW_TEXT} with a new text."
        f"\nThe warehouse contains {coded_texts:,} coded texts and {size.rows:,} records."
        f" `prepare` takes {prepare.seconds:.1f} s and {prepare.memory_mb:.0f} MB, `land` {land.seconds:.1f} s and"
        f" {land.memory_mb:.0f} MB.\n{counts['sent']:,} of {counts['texts']:,} texts are sent,"
        f" {counts['bytes'] / MEGABYTE:.1f} MB."
    )


def compare_limits(size: Size) -> str:
    """Return the peak memory and the time of this pipeline by memory limit."""
    rows = []
    for limit in MEMORY_LIMITS_MB:
        costs = [measure_ours(step, size.job(f"limit-{limit}", memory_mb=limit)) for step in STEPS]
        rows.append([f"{limit} MB", *(f"{one.memory_mb:.0f} ({one.seconds:.1f} s)" for one in costs)])
    return (
        f"Peak resident size in MB of a process that runs the step over {size.name} records, Python and its\n"
        "libraries included, by memory limit (`CODING_MEMORY_MB`, default 512).\n\n" + table(["limit", *STEPS], rows)
    )


def compare_sizes(sizes: Sequence[Size]) -> str:
    """Return the records per second by number of records."""
    rows = [
        [
            size.name, *(f"{size.rows / size.median(step, 'ours', read_seconds):,.0f}" for step in STEPS),
            *(f"{size.median(step, 'ours', read_memory_mb):,.0f}" for step in STEPS),
            *(f"{size.median(step, 'ours', lambda one: one.disk_mb):,.0f}" for step in STEPS),
            f"{warehouse_mb(size):,.0f}",
        ]
        for size in sizes
    ]  # fmt: skip
    headers = ["records", *(f"{step}, {unit}" for unit in ("records/s", "MB", "disk MB") for step in STEPS)]
    return table([*headers, "warehouse MB"], rows) + "\n\n" + LIMITS


LIMITS = """\
The first limits of a growing run, and how to move them:

1. The disk of the worker holds the records of a run, its parts and what its engines spill, until the run has landed.
   Split the run into fewer days at a time, as a backfill does, or use S3 for staging instead of the worker's disk.
2. The embedded warehouse allows one writer, so concurrent runs wait for each other. Use PostgreSQL or Redshift,
   which allow many; for Redshift, UNLOAD and COPY move the records between the cluster and S3.
3. The cores of one machine: a task uses all of them, and parts and runs are separate tasks, so add workers."""


def warehouse_mb(size: Size) -> float:
    """Return the size of the embedded warehouse after the first run of this pipeline."""
    return count_bytes([size.ours / "warehouse.duckdb"]) / MEGABYTE
