"""Measure `prepare` over the same records in each format of files, beside pandas, and the export to each format.

Each measurement runs in a process of its own (:mod:`bench.measure`).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import duckdb
from openpyxl import Workbook
from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

from bench import data
from bench.data_work import measure_ours
from bench.measure import MEGABYTE, Job, count_bytes, measure
from bench.page import table
from include.coding.file_scan import path_literal
from include.coding.plan import EXPORT_ENDINGS

#: Records of the page. A sheet of Excel has at most 1,048,576 rows.
RECORDS = 1_000_000
#: The formats by name, with the options of DuckDB that write them.
TEXT_FORMATS = {
    "csv": "FORMAT csv",
    "tsv": r"FORMAT csv, DELIMITER '\t'",
    "csv.gz": "FORMAT csv, COMPRESSION gzip",
    "jsonl": "FORMAT json",
    "jsonl.gz": "FORMAT json, COMPRESSION gzip",
    "json": "FORMAT json, ARRAY true",
}
FOLDER = "folder of Parquet files"
FORMATS = ("parquet", FOLDER, *TEXT_FORMATS, "xlsx")
FILES_IN_FOLDER = 8


def sections(rows: int | None = None) -> Iterator[str]:
    """Measure each format, and yield the part of the page."""
    rows = min(rows or RECORDS, RECORDS)
    records = data.write_records(rows)
    work = data.FOLDER / "formats"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        lines = [_compare(name, _write(records, name, rows), work / "run") for name in FORMATS]
        exports = _measure_exports(records, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    header = [
        "file", "file MB", "prepare, s", "pandas reads, s", "pandas, all, s", "all / prepare", "prepare, MB",
        "pandas, MB", "texts",
    ]  # fmt: skip
    yield f"## Formats of files, {rows:,} records\n\n" + WAYS + table(header, lines)
    yield f"### Export, {rows:,} records\n\n" + table(["file", "export, s", "MB", "disk MB"], exports)


WAYS = """\
`prepare` of this pipeline with its memory limit of 512 MB, beside pandas: its time to read the file, and its time for
all the work of `prepare` (which it does in the way of "The data steps"). Memory is the peak resident size of the
process. Workbooks are read with `python-calamine` by both.

"""


def _write(records: Path, name: str, rows: int) -> Path:
    """Return the records in a format. Write them if they do not exist."""
    path = data.FOLDER / f"{records.stem}-parts" if name == FOLDER else records.with_suffix(f".{name}")
    if path.exists():
        return path
    partial = path.with_name(f"partial-{path.name}")
    relation = f"read_parquet({path_literal(records)})"
    if name == FOLDER:
        partial.mkdir()
        for part in range(FILES_IN_FOLDER):
            file = partial / f"part-{part}.parquet"
            size = -(-rows // FILES_IN_FOLDER)
            duckdb.execute(f"COPY (FROM {relation} LIMIT {size} OFFSET {size * part}) TO {path_literal(file)}")
    elif name == "xlsx":
        _write_workbook(relation, partial)
    else:
        duckdb.execute(f"COPY (FROM {relation}) TO {path_literal(partial)} ({TEXT_FORMATS[name]})")
    partial.rename(path)
    return path


def _write_workbook(relation: str, path: Path) -> None:
    workbook = Workbook(write_only=True)
    sheet = workbook.create_sheet("Answers")
    rows = duckdb.execute(f"FROM {relation}")
    sheet.append([name for name, *_ in rows.description or ()])
    while row := rows.fetchone():
        sheet.append([ILLEGAL_CHARACTERS_RE.sub(" ", cell) if isinstance(cell, str) else cell for cell in row])
    workbook.save(path)


def _measure_exports(records: Path, folder: Path) -> list[list[str]]:
    """Publish the records, and return a row for each format to which they are exported."""
    run = folder / "published"
    job = Job(str(records), str(run), str(run / "warehouse.duckdb"), coded=str(run))
    measure_ours("prepare", job)
    data.code_parts(run)
    measure_ours("land", job)
    rows = []
    for ending in EXPORT_ENDINGS:
        one = measure_ours("export", replace(job, folder=str(folder / "export"), export=f"coded{ending}"))
        rows.append([f"`{ending}`", f"{one.seconds:.1f}", f"{one.memory_mb:.0f}", f"{one.disk_mb:,.0f}"])
        shutil.rmtree(folder / "export")
    return rows


def _compare(name: str, path: Path, folder: Path) -> list[str]:
    """Return the row of a format."""
    job = Job(str(path), str(folder), str(folder / "warehouse.duckdb"))
    ours = measure_ours("prepare", job)
    shutil.rmtree(folder)
    reading, others = measure("read", "with_pandas", job), measure("prepare", "with_pandas", job)
    size = count_bytes([path, *path.glob("*")]) / MEGABYTE
    cells = [f"`.{name}`" if name != FOLDER else name, f"{size:,.0f}", f"{ours.seconds:.1f}"]
    if problem := reading.problem or others.problem:
        return [*cells, problem, "", "", f"{ours.memory_mb:.0f}", "", f"{ours.counts['texts']:,}"]
    return [
        *cells, f"{reading.seconds:.1f}", f"{others.seconds:.1f}", f"{others.seconds / ours.seconds:.2f}",
        f"{ours.memory_mb:.0f}", f"{max(reading.memory_mb, others.memory_mb):.0f}", f"{ours.counts['texts']:,}",
    ]  # fmt: skip
