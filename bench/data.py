"""The input of the benchmarks: records as in a survey, and the output files that the service would return."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import duckdb

from bench.measure import ROOT
from include.coding.files import path_from_uri
from include.local_service.coder.stub import StubCoder
from include.local_service.core.batch import LineCoder
from include.local_service.core.records import read_lines
from include.stack.sample import write_sample

FOLDER = ROOT / ".run" / "bench"
TOOL = ROOT.parent / "shared" / "tools" / "make_responses.py"
#: Confidence from which the stub returns a code as the result: most texts get one, some only suggestions.
THRESHOLD = 0.3
#: One of this many records of the additional day has a new text.
RECORDS_PER_NEW_TEXT = 10


def write_records(rows: int) -> Path:
    """Return a Parquet file with records of October. Write it if it does not exist: with the tool beside the project,
    or with :mod:`include.stack.sample` if there is no tool."""
    path = FOLDER / f"{'tool' if TOOL.exists() else 'sample'}-{rows}.parquet"
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        if TOOL.exists():
            partial = path.with_suffix(".partial")
            command = [sys.executable, str(TOOL), str(partial), "--rows", str(rows)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            partial.replace(path)
        else:
            write_sample(path, rows)
    return path


def write_additional_day(source: Path, rows: int, path: Path) -> None:
    """Write the records of one more day: a random sample of `source` in which some texts are new."""
    duckdb.execute(
        f"""
        COPY (
            SELECT 'N' || place AS record_id, DATE '2026-10-31' AS response_date,
                CASE WHEN place % {RECORDS_PER_NEW_TEXT} = 0 THEN occp_text || ' no. ' || place ELSE occp_text END
                    AS occp_text,
                tasks_text
            FROM (
                SELECT *, row_number() OVER () AS place
                FROM (FROM read_parquet('{source}') USING SAMPLE {rows} ROWS (reservoir, 1))
            )
        ) TO '{path}' (FORMAT parquet)
        """
    )


def code_parts(folder: Path) -> None:
    """Write the output files of a prepared run, as the local service with its stub would."""
    for part in json.loads((folder / "handoffs.json").read_text())["prepared"]["parts"]:
        output = folder / f"output-{part['part']:04}.jsonl"
        with path_from_uri(part["input_uri"]).open("rb") as lines, output.open("wb") as file:
            file.writelines(LineCoder(StubCoder(THRESHOLD), lambda: False).code(read_lines(lines)))


def write_keyed_records(folder: Path) -> None:
    """Write the records of a prepared run with the keys of their texts, for the ways that join them by the key."""
    duckdb.execute(
        f"""
        COPY (
            SELECT record_id, occurrence, response_date, text_key, reason
            FROM read_parquet('{folder}/records.parquet')
            LEFT JOIN read_parquet('{folder}/answers.parquet') USING (answer)
        ) TO '{folder}/keyed-records.parquet' (FORMAT parquet, COMPRESSION zstd)
        """
    )


def count_bytes_of_all_records(folder: Path) -> int:
    """Return the bytes of the input files if each record of a prepared run were sent with its text."""
    ((total,),) = duckdb.execute(
        f"""
        SELECT sum(strlen(line.json) + 1)
        FROM read_json_objects('{folder}/part-*.jsonl', format = 'newline_delimited') AS line
        JOIN read_parquet('{folder}/keyed-records.parquet') AS record ON record.text_key = line.json ->> 'recordId'
        """
    ).fetchall()
    return int(total)
