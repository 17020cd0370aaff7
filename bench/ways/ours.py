"""The functions of the pipeline, called as its tasks call them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb

from bench.measure import Job
from include.coding.export import export_records
from include.coding.export_access import ExportAccess
from include.coding.landing import land as land_run
from include.coding.plan import Plan
from include.coding.prepare import Prepared
from include.coding.prepare import prepare as prepare_run
from include.coding.recoding import Recoding
from include.coding.results import PartResult
from include.coding.source_access import SourceAccess
from include.coding.staging import Staging
from include.comparison.comparison import Comparison
from include.comparison.report import write_comparison
from include.warehouse.duckdb_warehouse import DuckDBWarehouse
from include.warehouse.postgres_warehouse import PostgresWarehouse
from include.warehouse.warehouse import Warehouse

MODEL = "11111111-1111-4111-8111-111111111111"


def prepare(job: Job) -> dict[str, int]:
    """Prepare a run in the job's folder, and write the input of `land` there."""
    folder = Path(job.folder)
    plan = Plan(
        run_id=job.run_id, topic="osca", model_id=MODEL, model_version=1.0, from_date=job.first_day,
        to_date="2026-10-31", source=Path(job.source).as_uri(), memory_mb=job.memory_mb,
    )  # fmt: skip
    access = SourceAccess(folders=(Path(job.source).parent,))
    prepared = prepare_run(plan, _open_warehouse(job, plan.engine_memory_mb), Staging.in_folder(folder), access)
    (folder / "handoffs.json").write_text(json.dumps({"plan": plan.to_dict(), "prepared": prepared.to_dict()}))
    texts_sent, bytes_sent = (sum(getattr(part, name) for part in prepared.parts) for name in ("records", "bytes"))
    return {"texts": prepared.texts, "sent": texts_sent, "bytes": bytes_sent}


def land(job: Job) -> dict[str, int]:
    """Land the run in the folder `coded`."""
    coded = Path(job.coded)
    handoffs = json.loads((coded / "handoffs.json").read_text())
    plan = replace(Plan.from_dict(handoffs["plan"]), memory_mb=job.memory_mb)
    prepared = Prepared.from_dict(handoffs["prepared"])
    results = [
        PartResult(
            part.part, f"operation-{part.part}", "complete",
            output_uri=(coded / f"output-{part.part:04}.jsonl").as_uri(), input_uri=part.input_uri,
            fingerprint=part.fingerprint,
        )
        for part in prepared.parts
    ]  # fmt: skip
    staging = Staging.in_folder(coded)  # the engine can read no other folder
    warehouse = _open_warehouse(job, plan.engine_memory_mb)
    landing_warehouse = _open_warehouse(job, plan.landing_memory_mb)
    recoding = Recoding(plan, prepared, results, warehouse, staging, _Store(), lambda operation_id: None)
    assert not recoding.next_pieces(), "every text has a result"
    summary = land_run(plan, prepared, recoding.finish(), landing_warehouse, staging)
    return {"texts": summary.texts, "coded": summary.coded}


def export(job: Job) -> dict[str, int]:
    """Write the records of the landed run in the folder `coded` to the file `export`, with all columns and codes."""
    handoffs = json.loads((Path(job.coded) / "handoffs.json").read_text())
    plan = replace(Plan.from_dict(handoffs["plan"]), memory_mb=job.memory_mb)
    folder, source = Path(job.folder), Path(job.source)
    access = ExportAccess((folder,), sources=SourceAccess(folders=(source.parent,)))
    read = Prepared.from_dict(handoffs["prepared"]).read
    warehouse, staging = _open_warehouse(job, plan.engine_memory_mb), Staging.in_folder(folder)
    summary = export_records(plan, (folder / job.export).as_uri(), read, warehouse, staging, access)
    return {"records": summary.records}


class _Store(dict[str, Any]):
    """The state of the step, for as long as it runs."""

    set = dict.__setitem__


def compare(job: Job) -> dict[str, int]:
    """Compare the two newest models in the warehouse."""
    comparison = Comparison("osca", with_texts=True)
    folder = Path(job.folder) / "comparison"
    write_comparison(comparison, _open_warehouse(job, job.memory_mb * 3 // 4), Staging.in_folder(folder))
    return {}


def _open_warehouse(job: Job, memory_mb: int) -> Warehouse:
    path = job.warehouse
    if path.startswith("host="):
        return PostgresWarehouse(lambda: path, "postgres")
    return DuckDBWarehouse(lambda read_only: duckdb.connect(path, read_only=read_only), path, memory_mb=memory_mb)
