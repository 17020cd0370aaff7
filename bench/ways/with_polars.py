"""Lazy frames where possible. It omits what the pandas way omits, computes the keys with hashlib because polars has
no SHA-256, and writes a Parquet file of records, not a database: there is no transaction.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import polars as pl

from bench.measure import Job

TEXTS = ["occp_text", "tasks_text"]
CANDIDATE = {"codeCategory": pl.String, "codeLabel": pl.String, "codeConfidence": pl.Float64}
LINE: dict[str, pl.DataType | type[pl.DataType]] = {
    "recordId": pl.String,
    "codeStatus": pl.String,
    "result": pl.Struct(CANDIDATE),
    "suggestions": pl.List(pl.Struct(CANDIDATE)),
}


def prepare(job: Job) -> dict[str, int]:
    """`scan_parquet`, `.str`, `unique`, `join`, `write_ndjson`."""
    records = pl.scan_parquet(job.source).with_columns(map(clean, TEXTS)).with_columns(reject_reason()).collect()
    texts = records.filter(pl.col("reason").is_null()).select(TEXTS).unique()
    keys = [hashlib.sha256(f"{occp}\x1f{tasks}".encode()).hexdigest()[:32] for occp, tasks in texts.iter_rows()]
    texts = texts.with_columns(pl.Series("recordId", keys)).sort("recordId")
    texts.select("recordId", *TEXTS).write_ndjson(Path(job.folder) / "lines.jsonl")
    keyed = records.lazy().join(texts.lazy(), on=TEXTS, how="left")
    keyed.select("record_id", "response_date", "recordId", "reason").sink_parquet(
        Path(job.folder) / "records.parquet"
    )
    return {"texts": len(texts)}


def clean(name: str) -> pl.Expr:
    """Return the texts of a column in ASCII (by NFKD) with single spaces."""
    without_accents = pl.col(name).fill_null("").str.normalize("NFKD").str.replace_all(r"\p{M}+", "")
    return without_accents.str.replace_all(r"[^ -~]+", " ").str.replace_all(" +", " ").str.strip_chars(" ")


def reject_reason() -> pl.Expr:
    """Return the reason why a record is rejected, null if it is not."""
    characters = pl.col("occp_text").str.len_bytes() + pl.col("tasks_text").str.len_bytes()
    return (
        pl.when(characters == 0).then(pl.lit("blank")).when(characters > 300).then(pl.lit("too_long")).alias("reason")
    )


def land(job: Job) -> dict[str, int]:
    """`scan_ndjson`, `unique`, `join`, `sink_parquet`."""
    lines = pl.scan_ndjson(Path(job.coded) / "output-*.jsonl", schema=LINE).unique("recordId")
    texts = lines.select(
        pl.col("recordId").alias("text_key"),
        pl.col("result").struct.field("codeCategory").alias("code"),
        pl.col("result").struct.field("codeLabel").alias("label"),
        pl.col("result").struct.field("codeConfidence").alias("confidence"),
        "suggestions",
    ).collect()
    outcome = (
        pl.when(pl.col("reason").is_not_null())
        .then(pl.lit("rejected"))
        .when(pl.col("code").is_null())
        .then(pl.lit("uncoded"))
        .otherwise(pl.lit("coded"))
    )
    records = pl.scan_parquet(Path(job.coded) / "keyed-records.parquet").join(texts.lazy(), on="text_key", how="left")
    path = Path(job.folder) / "coded_records.parquet"
    records.with_columns(outcome.alias("outcome")).sink_parquet(path)
    texts.write_parquet(Path(job.folder) / "coded_texts.parquet")
    coded = pl.scan_parquet(path).filter(pl.col("outcome") == "coded").select(pl.len()).collect().item()
    return {"texts": len(texts), "coded": coded}
