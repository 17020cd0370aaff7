"""The same SQL without the rest of the project: one connection, no checks of the source, no stored texts, no parts,
no hashes of files, no audit, no run log. `land` reads only lines of the declared form and loses other documented
forms, which this pipeline reads or rejects with a reason.
"""

from __future__ import annotations

from pathlib import Path

import duckdb

from bench.measure import Job
from include.coding import texts

_ANSWERS = """
CREATE TABLE answers AS
SELECT *, CASE WHEN reason IS NULL THEN text_key(occp_text, tasks_text) END AS text_key
FROM (
    SELECT *, reject_reason(occp_text, tasks_text, 300) AS reason
    FROM (
        SELECT *, clean_text(source_occp) AS occp_text, clean_text(source_tasks) AS tasks_text
        FROM (SELECT DISTINCT occp_text AS source_occp, tasks_text AS source_tasks FROM source)
    )
)
"""

_VALIDATED = """
SELECT record_id, response_date, text_key, reason FROM source
{join} JOIN repeated USING (response_date, record_id)
LEFT JOIN answers
    ON source.occp_text IS NOT DISTINCT FROM source_occp AND source.tasks_text IS NOT DISTINCT FROM source_tasks
"""

_RECORDS = f"""
COPY (
    SELECT *, 1 AS occurrence FROM ({_VALIDATED.format(join="ANTI")})
    UNION ALL
    SELECT *, row_number() OVER (PARTITION BY response_date, record_id ORDER BY text_key, reason)
    FROM ({_VALIDATED.format(join="SEMI")})
) TO '{{}}' (FORMAT parquet, COMPRESSION zstd)
"""

_TEXTS = """
CREATE TABLE texts AS
SELECT text_key, any_value(occp_text) AS occp_text, any_value(tasks_text) AS tasks_text
FROM answers WHERE reason IS NULL GROUP BY text_key
"""

_LINES = """
COPY (SELECT text_key AS recordId, occp_text, tasks_text FROM texts ORDER BY text_key) TO '{}' (FORMAT json)
"""

_CODED_TEXTS = """
CREATE TABLE coded_texts AS
SELECT recordId AS text_key, input.occp_text, input.tasks_text, result IS NOT NULL AS is_coded,
    result.codeCategory AS code, result.codeLabel AS label, result.codeConfidence AS confidence, suggestions
FROM read_json('{}', format = 'newline_delimited', columns = {{
    recordId: 'VARCHAR', codeStatus: 'VARCHAR', input: 'STRUCT(occp_text VARCHAR, tasks_text VARCHAR)',
    result: 'STRUCT(codeCategory VARCHAR, codeLabel VARCHAR, codeConfidence DOUBLE)', suggestions: 'VARCHAR'}})
"""

_CODED_RECORDS = """
CREATE TABLE coded_records AS
SELECT record_id, occurrence, response_date, 'osca' AS topic, 'm' AS model_id, 1.0 AS model_version,
    CASE WHEN reason IS NOT NULL THEN 'rejected' WHEN is_coded THEN 'coded' ELSE 'uncoded' END AS outcome,
    code, label, confidence, length(code) AS level, suggestions, reason, records.text_key, 'first' AS run_id,
    now() AS coded_at
FROM read_parquet('{}') AS records LEFT JOIN coded_texts USING (text_key)
"""


def prepare(job: Job) -> dict[str, int]:
    """Run the statements of the step in order."""
    with _connect(job, "prepare") as engine:
        texts.install_text_key(engine)
        texts.install_rules(engine)
        engine.execute(f"CREATE VIEW source AS FROM read_parquet('{job.source}')")
        engine.execute(_ANSWERS)
        engine.execute(
            "CREATE TABLE repeated AS SELECT response_date, record_id FROM source GROUP BY ALL HAVING count(*) > 1"
        )
        engine.execute(_RECORDS.format(Path(job.folder) / "records.parquet"))
        engine.execute(_TEXTS)
        engine.execute(_LINES.format(Path(job.folder) / "lines.jsonl"))
        return _count(engine, "texts", "SELECT count(*) FROM texts")


def land(job: Job) -> dict[str, int]:
    """Run the statements of the step in order."""
    coded = Path(job.coded)
    with _connect(job, "land") as engine:
        engine.execute(_CODED_TEXTS.format(coded / "output-*.jsonl"))
        engine.execute(_CODED_RECORDS.format(coded / "keyed-records.parquet"))
        return {
            **_count(engine, "texts", "SELECT count(*) FROM coded_texts"),
            **_count(engine, "coded", "SELECT count(*) FROM coded_records WHERE outcome = 'coded'"),
        }


def _connect(job: Job, name: str) -> duckdb.DuckDBPyConnection:
    """Return an engine with the same memory limit as each of the two engines of this pipeline."""
    return duckdb.connect(
        str(Path(job.folder) / f"{name}.duckdb"), config={"memory_limit": f"{job.memory_mb * 3 // 8}MB"}
    )


def _count(engine: duckdb.DuckDBPyConnection, name: str, sql: str) -> dict[str, int]:
    ((count,),) = engine.execute(sql).fetchall()
    return {name: count}
