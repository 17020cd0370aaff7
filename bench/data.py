"""What is measured: records like a survey's, and the output files that the service would make of what is sent."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import duckdb

from bench.measure import ROOT
from include.coding.files import path_of
from include.local_service.coder.stub import StubCoder
from include.local_service.core.batch import LineCoder
from include.local_service.core.records import read_lines
from include.sample import write_sample

FOLDER = ROOT / ".run" / "bench"
TOOL = ROOT.parent / "shared" / "tools" / "make_responses.py"
#: Confidence from which the stub's code is a result: most texts get one, some only suggestions.
THRESHOLD = 0.3
#: Of the records of a night, one in so many has a text that nobody gave before.
UNSEEN = 10


def records(rows: int) -> Path:
    """Return a Parquet of October's records, made if it is not there yet: by the tool beside the project if there is
    one, else by :mod:`include.sample`."""
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


def night(source: Path, rows: int, path: Path) -> None:
    """Write the records of one more day: answers drawn from `source`, some of them changed so that they are new."""
    duckdb.execute(
        f"""
        COPY (
            SELECT 'N' || place AS record_id, DATE '2026-10-31' AS response_date,
                CASE WHEN place % {UNSEEN} = 0 THEN occp_text || ' no. ' || place ELSE occp_text END AS occp_text,
                tasks_text
            FROM (
                SELECT *, row_number() OVER () AS place
                FROM (FROM read_parquet('{source}') USING SAMPLE {rows} ROWS (reservoir, 1))
            )
        ) TO '{path}' (FORMAT parquet)
        """
    )


def code(folder: Path) -> None:
    """Write the output files of a prepared run, as the local service with its stub would."""
    for part in json.loads((folder / "prepared.json").read_text())["parts"]:
        output = folder / f"output-{part['part']:04}.jsonl"
        with path_of(part["uri"]).open("rb") as lines, output.open("wb") as file:
            file.writelines(LineCoder(StubCoder(THRESHOLD), lambda: False).code(read_lines(lines)))


def bytes_of_every_record(folder: Path) -> int:
    """Bytes of the input files if each record of a prepared run were sent with its text."""
    ((total,),) = duckdb.execute(
        f"""
        SELECT sum(strlen(line.json) + 1)
        FROM read_json_objects('{folder}/part-*.jsonl', format = 'newline_delimited') AS line
        JOIN read_parquet('{folder}/records.parquet') AS record ON record.text_key = line.json ->> 'recordId'
        """
    ).fetchall()
    return int(total)
