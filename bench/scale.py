"""Measure a run of many records, by default a hundred million, with DuckDB or PostgreSQL as the warehouse.

The time per record is compared with that of a tenth of the records, measured just before. Memory and disk over time
are drawn as a picture.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import data
from bench.chart import Panel, draw_panels
from bench.data_work import MILLION, STEPS, Size
from bench.measure import ROOT, Measurement, measure
from bench.page import table, write_page
from tests.support.postgres import run_postgres

RECORDS = 100 * MILLION
#: Names of the page and of the picture, and the section of `python -m bench`, by warehouse.
NAMES = {"DuckDB": ("performance-scale", "scale"), "PostgreSQL": ("performance-scale-postgres", "scale-postgres")}
TIMEOUT_S = 4 * 3600
#: Maximum number of points of a line in the picture.
MAX_POINTS = 300


@dataclass(frozen=True)
class Cost:
    """The measurements of the steps of one run, by step."""

    rows: int
    steps: dict[str, Measurement]

    def microseconds(self, step: str) -> float:
        """Return the time per record."""
        return self.steps[step].seconds / self.rows * 1e6


def sections(rows: int | None, warehouse: str) -> Iterator[str]:
    """Measure runs with a warehouse, and yield the page. It is written if its number of records is measured."""
    rows = rows or RECORDS
    work = data.FOLDER / "scale"
    shutil.rmtree(work, ignore_errors=True)
    try:
        costs = [run(warehouse, size_rows, work) for size_rows in (rows // 10, rows)]
    finally:
        shutil.rmtree(work, ignore_errors=True)
    text = compare_sizes(costs)
    yield text
    if rows == RECORDS:
        name, section = NAMES[warehouse]
        title = f"A run of {rows / MILLION:g} M records, with {warehouse} as the warehouse"
        picture = f"![Memory and disk over time](images/{name}.svg)"
        panels = list(make_panels(costs[-1], warehouse))
        draw_panels(panels, ROOT / "docs" / "images" / f"{name}.svg", "seconds")
        texts = [ABOUT, text, picture]
        yield write_page(title, f"make bench OPTIONS={section}", texts, ROOT / "docs" / f"{name}.md")


ABOUT = """\
This runs `prepare`, a stub in place of the service, and `land` with `collect`, once for each
number of records, at the default limit of 512 MB. Memory is the peak resident size of the process of the step,
without the server of PostgreSQL; disk is the peak size of the files of the run, of the embedded warehouse, and of the
server's folder, its log included. The server runs on the same cores, with default settings except that it does not
sync."""


def run(warehouse: str, rows: int, work: Path) -> Cost:
    """Run both steps over records once, and remove what they leave."""
    folder = work / f"{warehouse}-{rows}"
    size = Size(rows, data.write_records(rows), folder)
    try:
        if warehouse == "DuckDB":
            return Cost(rows, dict(run_steps(size, "", [])))
        with run_postgres() as server:
            conninfo = server.conninfo(server.create_database())
            return Cost(rows, dict(run_steps(size, conninfo, [server.data_folder])))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_steps(size: Size, conninfo: str, folders: Sequence[Path]) -> Iterator[tuple[str, Measurement]]:
    """Yield each step with its measurement.

    :param conninfo: connection string of PostgreSQL; empty for DuckDB
    :param folders: folders of the server
    """
    job = size.job("ours-0", **({"warehouse": conninfo} if conninfo else {}))
    for step in STEPS:
        measurement = measure(step, "ours", job, folders=folders, timeout_s=TIMEOUT_S)
        if measurement.problem:
            raise RuntimeError(f"{step} of {size.rows} records {measurement.problem}")
        yield step, measurement
        if step == "prepare":
            data.code_parts(size.ours)


def compare_sizes(costs: Sequence[Cost]) -> str:
    """Return a table with a row for each step and number of records."""
    rows = []
    for step in STEPS:
        for cost in costs:
            one = cost.steps[step]
            time, first_time = cost.microseconds(step), costs[0].microseconds(step)
            rows.append(
                [
                    f"{step}, {cost.rows / MILLION:g} M records", f"{one.seconds:,.0f}", f"{time:.2f}",
                    f"{time / first_time:.2f}", f"{one.memory_mb:,.0f}", f"{one.disk_mb:,.0f}",
                    f"{one.counts['texts']:,}",
                ]
            )  # fmt: skip
    return table(["step", "s", "µs per record", "ratio", "MB", "disk MB", "texts"], rows)


def make_panels(cost: Cost, warehouse: str) -> Iterator[Panel]:
    """Yield the charts of memory and of disk over time."""
    for step in STEPS:
        samples = cost.steps[step].samples
        samples = samples[:: max(1, -(-len(samples) // MAX_POINTS))]
        for name, figure in (("memory", "memory_mb"), ("disk", "disk_mb")):
            line = {sample.seconds: getattr(sample, figure) for sample in samples}
            yield Panel(f"{step}: {name}", "MB", {warehouse: line})
