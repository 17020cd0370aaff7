"""Data frames in the usual style, and SQLite. It has no occurrence numbers, no parts, no hashes of files and no
replacement of characters beyond NFKD, and reads only output lines of the declared form.
"""

from __future__ import annotations

import hashlib
import sqlite3
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from bench.measure import Job

TEXTS = ["occp_text", "tasks_text"]
ROWS = 100_000


#: How each format is read. All columns of a text file are texts, as those of this pipeline are.
READERS: dict[str, Any] = {
    ".parquet": pd.read_parquet,
    ".csv": partial(pd.read_csv, dtype=str, keep_default_na=False),
    ".tsv": partial(pd.read_csv, dtype=str, keep_default_na=False, sep="\t"),
    ".jsonl": partial(pd.read_json, lines=True, dtype=False, convert_dates=False),
    ".json": partial(pd.read_json, dtype=False, convert_dates=False),
    ".xlsx": partial(pd.read_excel, engine="calamine"),
}


def read_records(path: Path) -> pd.DataFrame:
    """Return the records of a file in any of the formats, or of a folder of Parquet files."""
    ending = ".parquet" if path.is_dir() else Path(path.name.removesuffix(".gz")).suffix
    records: pd.DataFrame = READERS[ending](path)
    return records


def read(job: Job) -> dict[str, int]:
    """`read_parquet`, `read_csv`, `read_json` or `read_excel`."""
    return {"rows": len(read_records(Path(job.source)))}


def prepare(job: Job) -> dict[str, int]:
    """`read_parquet`, `.str`, `drop_duplicates`, `merge`, `to_json(lines=True)`."""
    records = read_records(Path(job.source))
    for column in TEXTS:
        records[column] = clean(records[column])
    records["reason"] = None
    records.loc[records["occp_text"].str.len() + records["tasks_text"].str.len() > 300, "reason"] = "too_long"
    records.loc[(records["occp_text"] == "") & (records["tasks_text"] == ""), "reason"] = "blank"
    texts = records.loc[records["reason"].isna(), TEXTS].drop_duplicates()
    pairs = zip(texts["occp_text"], texts["tasks_text"], strict=True)
    texts["recordId"] = [hashlib.sha256(f"{occp}\x1f{tasks}".encode()).hexdigest()[:32] for occp, tasks in pairs]
    lines = texts.sort_values("recordId")[["recordId", *TEXTS]]
    lines.to_json(Path(job.folder) / "lines.jsonl", orient="records", lines=True)
    keyed = records.merge(texts, on=TEXTS, how="left")
    keyed[["record_id", "response_date", "recordId", "reason"]].to_parquet(Path(job.folder) / "records.parquet")
    return {"texts": len(texts)}


def clean(column: pd.Series[str]) -> pd.Series[str]:
    """Return the texts in ASCII (by NFKD) with single spaces."""
    ascii_only = column.fillna("").str.normalize("NFKD").str.encode("ascii", "ignore").str.decode("ascii")
    printable = ascii_only.str.replace(r"[^ -~]+", " ", regex=True)
    return printable.str.replace(r" +", " ", regex=True).str.strip()


def land(job: Job) -> dict[str, int]:
    """`read_json(lines=True, chunksize)`, `drop_duplicates`, `merge`, `to_sql`."""
    paths = sorted(Path(job.coded).glob("output-*.jsonl"))
    texts = pd.concat([flatten(chunk) for path in paths for chunk in pd.read_json(path, lines=True, chunksize=ROWS)])
    texts = texts.drop_duplicates("text_key")
    records = pd.read_parquet(Path(job.coded) / "keyed-records.parquet")
    coded = records.merge(texts, on="text_key", how="left")
    coded["outcome"] = coded["code"].notna().map({True: "coded", False: "uncoded"})
    coded.loc[coded["reason"].notna(), "outcome"] = "rejected"
    with sqlite3.connect(Path(job.folder) / "warehouse.sqlite") as database:
        texts.to_sql("coded_texts", database, index=False, chunksize=ROWS)
        coded.to_sql("coded_records", database, index=False, chunksize=ROWS)
    return {"texts": len(texts), "coded": int((coded["outcome"] == "coded").sum())}


def flatten(chunk: pd.DataFrame) -> pd.DataFrame:
    """Return the members of the lines as columns."""
    return pd.DataFrame(
        {
            "text_key": chunk["recordId"],
            "code": chunk["result"].str.get("codeCategory"),
            "label": chunk["result"].str.get("codeLabel"),
            "confidence": chunk["result"].str.get("codeConfidence"),
            "suggestions": chunk["suggestions"].astype(str),
        }
    )
