"""The two data steps, `prepare` and `land`, beside other ways to do them in the same run: `make bench`.

    python -m bench.data_work --rows 1000000

Every measured way runs in a fresh process of its own (:mod:`bench.measure`).
"""

from __future__ import annotations

import argparse
import ast
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bench import data
from bench.measure import MEGABYTE, ROOT, Job, Taken, measure, size_of
from bench.page import table

STEPS = ("prepare", "land")
NAMES = {
    "ours": "**this pipeline**",
    "bare_engine": "DuckDB alone",
    "with_polars": "polars",
    "with_msgspec": "msgspec loop",
    "plain_json": "json loop",
    "with_pandas": "pandas",
}
MILLION = 1_000_000
#: The sizes of a whole run, and the ways that are worth their time there.
SIZES: dict[int, Sequence[str]] = {
    MILLION: tuple(NAMES),
    3 * MILLION: ("ours",),
    10 * MILLION: ("ours", "bare_engine", "with_polars", "with_pandas"),
}
#: Runs of ours and of the bare engine, of which the better one counts: their ratio is looked at closely.
ROUNDS = 2
NIGHT = 100_000
LIMITS = (384, 512, 1024)


@dataclass
class Size:
    """What was measured with so many records.

    :param folder: of the files; ours lie in `ours-0`
    :param taken: by step and way
    """

    rows: int
    source: Path
    folder: Path
    taken: dict[tuple[str, str], Taken] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The size in words."""
        return f"{self.rows / MILLION:g} M"

    @property
    def ours(self) -> Path:
        """Folder of our first run."""
        return self.folder / "ours-0"

    def job(self, name: str, **other: str | int) -> Job:
        """A job in a folder of this name, over the warehouse that lies there."""
        folder = self.folder / name
        settled = {"source": str(self.source), "folder": str(folder), "coded": str(self.ours)}
        return Job(**{**settled, "warehouse": str(folder / "warehouse.duckdb"), **other})  # type: ignore[arg-type]

    def rate(self, step: str) -> float:
        """Records a second of ours."""
        return self.rows / self.taken[step, "ours"].seconds


def main(sizes: dict[int, Sequence[str]]) -> None:
    for section in sections(sizes):
        print(section, end="\n\n", flush=True)


def sections(sizes: dict[int, Sequence[str]]) -> Iterator[str]:
    """Measure, and yield what the page says of it, piece by piece."""
    work = data.FOLDER / "work"
    shutil.rmtree(work, ignore_errors=True)
    yield "## The data steps\n\n" + describe_ways()
    measured = []
    try:
        for rows, ways in sizes.items():
            size = Size(rows, data.records(rows), work / str(rows))
            for step in STEPS:
                compare(size, step, ways)
                if len(ways) > 1:
                    yield f"### {step}, {size.name} records\n\n" + compared(size, step, ways)
            measured.append(size)
        yield "## A second run over the same records\n\n" + run_again(measured[-1])
        yield "## A night\n\n" + run_night(measured[-1])
        yield "## Memory\n\n" + memory(measured)
        yield "## Size\n\n" + scaling(measured)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def describe_ways() -> str:
    """The ways in the words of their modules."""
    lines = []
    for way, name in NAMES.items():
        text = ast.get_docstring(ast.parse((ROOT / "bench" / "ways" / f"{way}.py").read_text())) or ""
        lines.append(f"- {name}: {' '.join(text.split())}")
    return WAYS + "\n".join(lines)


WAYS = f"""\
Each way runs in a process of its own. Seconds and processor seconds are those of the work without the imports,
memory is the largest resident size of the process, disk the most that lay in its folder. Ours and DuckDB alone are
the better of {ROUNDS} runs and keep a limit of 512 MB: 192 MB for the engine and, with ours, as much for the embedded
warehouse. The others take the memory they take.

"""


def compare(size: Size, step: str, ways: Sequence[str]) -> None:
    """Let each way do the step, and code what ours prepared."""
    for way in ways:
        rounds = ROUNDS if way in ("ours", "bare_engine") else 1
        work = do_ours if way == "ours" else partial(measure, way=way)
        tries = [work(step, job=size.job(f"{way}-{number}")) for number in range(rounds)]
        size.taken[step, way] = min(tries, key=lambda taken: (taken.problem is not None, taken.seconds))
        if way != "ours":
            for number in range(rounds):
                shutil.rmtree(size.folder / f"{way}-{number}")
    if step == "prepare":
        data.code(size.ours)


def do_ours(step: str, job: Job) -> Taken:
    """Ours, which must finish."""
    taken = measure(step, "ours", job)
    if taken.problem:
        raise RuntimeError(f"{step} of {job.source}: {taken.problem}")
    return taken


def compared(size: Size, step: str, ways: Sequence[str]) -> str:
    """The table of a step."""
    ours = size.taken[step, "ours"]
    rows = []
    for way in ways:
        one = size.taken[step, way]
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
    counted = "records coded" if step == "land" else "texts"
    return table(["way", "s", "s / ours", "CPU s", "MB", "MB / ours", "disk MB", counted], rows)


def run_again(size: Size) -> str:
    """Ours over records that stand published, and what the dictionary saves within a run."""
    warehouse = str(size.ours / "warehouse.duckdb")
    again = size.job("second", warehouse=warehouse, run_id="second", coded=str(size.folder / "second"))
    second = {step: do_ours(step, again) for step in STEPS}
    rows = []
    for step in STEPS:
        first = size.taken[step, "ours"].seconds
        rows.append([step, f"{first:.1f}", f"{second[step].seconds:.1f}", f"{second[step].seconds / first:.3f}"])
    first, repeated = (float(sum(column)) for column in zip(*(map(float, row[1:3]) for row in rows), strict=True))
    rows.append(["both", f"{first:.1f}", f"{repeated:.1f}", f"{repeated / first:.3f}"])
    sent, every = size.taken["prepare", "ours"].counts["bytes"], data.bytes_of_every_record(size.ours)
    return (
        table([f"{size.name} records", "first run, s", "second run, s", "ratio"], rows)
        + f"\n\nThe second run sends {second['prepare'].counts['bytes']} bytes in no operation. The first one sends"
        f" {sent / MEGABYTE:,.0f} MB;\neach record sent with its text would be {every / MEGABYTE:,.0f} MB,"
        f" {every / sent:.1f} times as much."
    )


def run_night(size: Size) -> str:
    """One more day over the dictionary of the first run."""
    source = size.folder / "night.parquet"
    data.night(size.source, NIGHT, source)
    job = size.job(
        "night", source=str(source), warehouse=str(size.ours / "warehouse.duckdb"), run_id="night",
        first_day="2026-10-31", coded=str(size.folder / "night"),
    )  # fmt: skip
    prepared = do_ours("prepare", job)
    data.code(Path(job.folder))
    landed = do_ours("land", job)
    known = size.taken["prepare", "ours"].counts["texts"]
    counts = prepared.counts
    return (
        f"{NIGHT:,} records of one more day, one in {data.UNSEEN} with a text that nobody gave before, over a"
        f" dictionary of {known:,} texts\nand a table of {size.rows:,} records:"
        f" `prepare` {prepared.seconds:.1f} s and {prepared.memory_mb:.0f} MB, `land` {landed.seconds:.1f} s and"
        f" {landed.memory_mb:.0f} MB;\n{counts['sent']:,} of {counts['texts']:,} texts are sent,"
        f" {counts['bytes'] / MEGABYTE:.1f} MB."
    )


def memory(sizes: Sequence[Size]) -> str:
    """Largest resident size of ours as the records and the limit grow."""
    rows = [
        [f"{size.name} records, 512 MB", *(f"{size.taken[step, 'ours'].memory_mb:.0f}" for step in STEPS)]
        for size in sizes
    ]
    size = sizes[min(1, len(sizes) - 1)]
    for limit in LIMITS:
        taken = [do_ours(step, size.job(f"limit-{limit}", memory_mb=limit)) for step in STEPS]
        rows.append(
            [f"{size.name} records, {limit} MB", *(f"{one.memory_mb:.0f} ({one.seconds:.1f} s)" for one in taken)]
        )
    return (
        "Largest resident size in MB of a process that does the step, Python and its libraries included, as the"
        " records grow\nand as the limit does (`CODING_MEMORY_MB`, 512 unless told).\n\n"
        + table(["records, limit", *STEPS], rows)
    )


def scaling(sizes: Sequence[Size]) -> str:
    """Records a second, and what follows for sizes that were not measured."""
    rows = [
        [
            size.name, *(f"{size.rate(step):,.0f}" for step in STEPS),
            *(f"{size.taken[step, 'ours'].disk_mb:,.0f}" for step in STEPS), f"{warehouse_mb(size):,.0f}",
        ]
        for size in sizes
    ]  # fmt: skip
    last = sizes[-1]
    for rows_then in (100 * MILLION, 1000 * MILLION):
        times = rows_then / last.rows
        minutes = [rows_then / last.rate(step) / 60 for step in STEPS]
        rows.append(
            [
                f"*{rows_then // MILLION:,} M, projected*", *(f"*{one:,.0f} min*" for one in minutes),
                *(f"*{last.taken[step, 'ours'].disk_mb * times:,.0f}*" for step in STEPS),
                f"*{warehouse_mb(last) * times:,.0f}*",
            ]
        )  # fmt: skip
    headers = ["records", *(f"{step}, records/s" for step in STEPS), *(f"{step}, disk MB" for step in STEPS)]
    return table([*headers, "warehouse MB"], rows) + "\n\n" + PROJECTED


PROJECTED = """\
The projected rows were not measured: they are the largest measured size times a factor. Distinct texts grow more
slowly than records, so that texts, lines and operations are fewer than that. The service's own time is not in them.

What would break first, and what takes over:

1. The disk of the worker: the records of a run, what its engines spill and its parts lie there until the run has
   landed. Runs of fewer days bound it, as a backfill makes them; then staging in S3 instead of the worker's disk.
2. The one writer of the embedded warehouse: runs side by side wait for each other. A warehouse that is a server takes
   many writers; on Redshift, UNLOAD and COPY move the records between the cluster and S3.
3. The cores of one machine: parts and runs are tasks of their own, so that more workers share them; within a task
   DuckDB takes the cores that it finds."""


def warehouse_mb(size: Size) -> float:
    """Size of the embedded warehouse after our first run."""
    return size_of([size.ours / "warehouse.duckdb"]) / MEGABYTE


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, help="one size instead of 1, 3 and 10 million records; all ways do it")
    asked = parser.parse_args().rows
    main({asked: tuple(NAMES)} if asked else SIZES)
