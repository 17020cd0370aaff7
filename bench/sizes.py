"""Look for sizes and memory limits with which a step fails: 60 runs of `prepare`, `land` and a comparison.

    python -m bench.sizes [--first 1] [--last 60]

At any memory limit the most critical numbers of records are those whose hash tables just fit. So the numbers grow by
8 % from 100,000 to 10 million, and the limits alternate. Each step runs in a process of its own. The exit status is 1
if one fails. It takes about an hour on two cores, and 5 GB of disk.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb

from bench import data
from bench.measure import Job, Measurement, measure
from bench.page import table

FIRST_ROWS, LAST_ROWS, RUNS = 100_000, 10_000_000, 60
LIMITS_MB = (384, 512, 448, 1024, 576)
STEPS = ("prepare", "land", "compare")
#: A second model has coded the records of the first one; it moved one in this many.
RECORDS_PER_MOVE = 9


@dataclass(frozen=True)
class Point:
    """A number of records and a memory limit."""

    rows: int
    memory_mb: int

    def __str__(self) -> str:
        return f"{self.rows:,} records, {self.memory_mb} MB"


def list_points() -> list[Point]:
    """Return the points, from the smallest number of records to the largest."""
    growth = (LAST_ROWS / FIRST_ROWS) ** (1 / (RUNS - 1))
    return [Point(round(FIRST_ROWS * growth**n), LIMITS_MB[n % len(LIMITS_MB)]) for n in range(RUNS)]


def run_point(source: Path, point: Point, folder: Path) -> Iterator[tuple[str, Measurement]]:
    """Run the steps with the first records of the source, up to the first step that fails."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        records = folder / "source.parquet"
        execute(f"COPY (FROM '{source}' LIMIT {point.rows}) TO '{records}' (FORMAT parquet, COMPRESSION zstd)")
        job = Job(
            source=str(records), folder=str(folder), warehouse=str(folder / "warehouse.duckdb"), coded=str(folder),
            memory_mb=point.memory_mb,
        )  # fmt: skip
        for step in STEPS:
            if step == "land":
                code_parts(folder)
            if step == "compare":
                add_model(Path(job.warehouse))
            measurement = measure(step, "ours", job)
            yield step, measurement
            if measurement.problem:
                return
    finally:
        shutil.rmtree(folder)


def execute(sql: str, database: str = ":memory:") -> None:
    """Run a statement without a progress bar."""
    with duckdb.connect(database) as connection:
        connection.execute("SET enable_progress_bar = false")
        connection.execute(sql)


def code_parts(folder: Path) -> None:
    """Write an output file for each part of a prepared run. One text in ten is uncoded, with suggestions."""
    for part in sorted(folder.glob("part-*.jsonl")):
        output = part.with_name(f"output-{part.name.split('-')[1]}.jsonl")
        execute(
            f"""
            COPY (
                SELECT recordId, if(is_coded, 'successful', 'unsuccessful') AS codeStatus,
                    {{'occp_text': occp_text, 'tasks_text': tasks_text}} AS input,
                    if(is_coded, codings[1], NULL) AS result, if(is_coded, [], codings) AS suggestions
                FROM (
                    SELECT *, hash(recordId) % 10 > 0 AS is_coded, list_transform(range(3), lambda n: {{
                        'codeCategory': CAST(100000 + hash(recordId, n) % 1200 AS VARCHAR),
                        'codeLabel': 'Occupation ' || hash(recordId, n) % 1200,
                        'codeConfidence': (hash(recordId, n) % 1000) / 1000
                    }}) AS codings
                    FROM read_json('{part}', format = 'newline_delimited')
                )
            ) TO '{output}' (FORMAT json)
            """
        )


def add_model(warehouse: Path) -> None:
    """Publish the records of the run under a second model too, which codes some of them differently."""
    code = f"if(hash(record_id) % {RECORDS_PER_MOVE} = 0, '999999', code)"
    columns = f"'n' AS model_id, 2.0 AS model_version, if(code IS NULL, NULL, {code}) AS code"
    execute(
        f"INSERT INTO coding.coded_records SELECT * REPLACE ({columns}) FROM coding.coded_records", str(warehouse)
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.sizes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--first", type=int, default=1, help="number of the first run, from 1 (default %(default)s)")
    parser.add_argument("--last", type=int, default=RUNS, help="number of the last run (default %(default)s)")
    options = parser.parse_args()
    source, points = data.write_records(LAST_ROWS), list_points()[options.first - 1 : options.last]
    rows, problems = [], []
    for number, point in enumerate(points, options.first):
        cells = dict.fromkeys(STEPS, "")
        for step, one in run_point(source, point, data.FOLDER / "sizes"):
            cells[step] = "failed" if one.problem else f"{one.seconds:.1f} s, {one.memory_mb:.0f} MB"
            print(f"{number} of {RUNS}: {point}: {step} {one.problem or cells[step]}", flush=True)
            if one.problem:
                problems.append(f"{point}: {step} {one.problem}")
        rows.append([str(number), f"{point.rows:,}", str(point.memory_mb), *cells.values()])
    print("\n" + table(["run", "records", "limit, MB", *STEPS], rows))
    print(f"\n{len(rows) - len(problems)} of {len(rows)} runs succeeded")
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
