"""A loop in Python over pyarrow's batches, with the standard library's json and all distinct texts in a dictionary;
in `land` Arrow and DuckDB do the rest. It leaves out what pandas leaves out.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from bench.measure import Job

SCHEMA = pa.schema(
    {"record_id": pa.string(), "response_date": pa.date32(), "text_key": pa.string(), "reason": pa.string()}
)
Judged = tuple[str | None, str | None]


def prepare(job: Job) -> dict[str, int]:
    """Loop over the records, and write the lines with `json.dumps`."""
    return prepare_with(job, lambda line: json.dumps(line).encode())


def prepare_with(job: Job, encode: Callable[[dict[str, str]], bytes]) -> dict[str, int]:
    """Loop over the records: each pair of texts is cleaned and judged once."""
    judged: dict[tuple[str | None, str | None], Judged] = {}
    texts: dict[str, tuple[str, str]] = {}
    with pq.ParquetWriter(Path(job.folder) / "records.parquet", SCHEMA, compression="zstd") as writer:
        for batch in pq.ParquetFile(job.source).iter_batches(100_000):
            pairs = list(zip(batch["occp_text"].to_pylist(), batch["tasks_text"].to_pylist(), strict=True))
            for pair in pairs:
                if pair not in judged:
                    judged[pair] = judge(cleaned(pair[0]), cleaned(pair[1]), texts)
            keys, reasons = zip(*(judged[pair] for pair in pairs), strict=True)
            columns = [batch["record_id"], batch["response_date"], pa.array(keys, pa.string())]
            writer.write_batch(pa.record_batch([*columns, pa.array(reasons, pa.string())], schema=SCHEMA))
    with (Path(job.folder) / "lines.jsonl").open("wb") as lines:
        for key in sorted(texts):
            occp, tasks = texts[key]
            lines.write(encode({"recordId": key, "occp_text": occp, "tasks_text": tasks}) + b"\n")
    return {"texts": len(texts)}


def cleaned(text: str | None) -> str:
    """NFKD to ASCII, single spaces."""
    if not text:
        return ""
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return " ".join(re.sub(r"[^ -~]+", " ", text).split())


def judge(occp: str, tasks: str, texts: dict[str, tuple[str, str]]) -> Judged:
    """Return the key of a pair or why it is rejected, and add it to `texts`."""
    if not occp and not tasks:
        return None, "blank"
    if len(occp) + len(tasks) > 300:
        return None, "too_long"
    key = hashlib.sha256(f"{occp}\x1f{tasks}".encode()).hexdigest()[:32]
    texts[key] = (occp, tasks)
    return key, None


def land(job: Job) -> dict[str, int]:
    """Loop over the lines with `json.loads`."""
    return land_with(job, lambda line: flat(json.loads(line)))


def flat(line: dict[str, Any]) -> tuple[Any, ...]:
    """The columns of a line."""
    result = line.get("result") or {}
    suggestions = json.dumps(line["suggestions"]) if line.get("suggestions") else None
    found = (result.get(name) for name in ("codeCategory", "codeLabel", "codeConfidence"))
    return (line["recordId"], *found, suggestions)


def land_with(job: Job, decode: Callable[[bytes], tuple[Any, ...]]) -> dict[str, int]:
    """Decode the lines in Python; Arrow and DuckDB do the rest."""
    names = ("text_key", "code", "label", "confidence", "suggestions")
    rows = {row[0]: row for row in map(decode, lines_of(Path(job.coded)))}
    texts = pa.table(list(zip(*rows.values(), strict=True)), names)
    with duckdb.connect(str(Path(job.folder) / "warehouse.duckdb")) as engine:
        engine.register("texts", texts)
        engine.execute("CREATE TABLE coded_texts AS FROM texts")
        engine.execute(
            "CREATE TABLE coded_records AS SELECT *, CASE WHEN reason IS NOT NULL THEN 'rejected'"
            " WHEN code IS NULL THEN 'uncoded' ELSE 'coded' END AS outcome"
            f" FROM read_parquet('{job.coded}/records.parquet') LEFT JOIN coded_texts USING (text_key)"
        )
        ((coded,),) = engine.execute("SELECT count(*) FROM coded_records WHERE outcome = 'coded'").fetchall()
    return {"texts": len(rows), "coded": coded}


def lines_of(coded: Path) -> Iterator[bytes]:
    """The lines of all output files."""
    for path in sorted(coded.glob("output-*.jsonl")):
        with path.open("rb") as file:
            yield from file
