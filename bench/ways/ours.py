"""The functions of the pipeline, called as its tasks call them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import duckdb

from bench.measure import Job
from include.coding.landing import land as land_run
from include.coding.plan import Plan
from include.coding.prepare import prepare as prepare_run
from include.coding.results import Returned
from include.coding.staging import Staging
from include.warehouse.duckdb_warehouse import DuckDBWarehouse
from include.warehouse.postgres_warehouse import PostgresWarehouse
from include.warehouse.warehouse import Warehouse


def prepare(job: Job) -> dict[str, int]:
    """Prepare a run in the job's folder, and write there the input of `land`."""
    folder = Path(job.folder)
    plan = Plan(
        run_id=job.run_id, topic="osca", model_id="m", model_version=1.0, from_date=job.first_day,
        to_date="2026-10-31", source=Path(job.source).as_uri(), staging=folder.as_uri(), memory_mb=job.memory_mb,
    )  # fmt: skip
    prepared = prepare_run(plan, _warehouse(plan, job), Staging.here(folder))
    parts = [asdict(part) for part in prepared.parts]
    handoffs = {"plan": plan.as_dict(), "prepared": prepared.as_dict(), "parts": parts}
    (folder / "prepared.json").write_text(json.dumps(handoffs))
    sizes = {"sent": sum(part["records"] for part in parts), "bytes": sum(part["bytes"] for part in parts)}
    return {"texts": prepared.texts, **sizes}


def land(job: Job) -> dict[str, int]:
    """Land the run in the folder `coded`."""
    coded = Path(job.coded)
    handoffs = json.loads((coded / "prepared.json").read_text())
    plan = Plan.from_dict({**handoffs["plan"], "memory_mb": job.memory_mb})
    results = [
        Returned(
            part["part"], f"operation-{part['part']}", "complete",
            output=(coded / f"output-{part['part']:04}.jsonl").as_uri(), sent=part["uri"],
            fingerprint=f"{plan.topic}/{plan.model_id}/{part['sha256']}",
        )
        for part in handoffs["parts"]
    ]  # fmt: skip
    staging = Staging.here(Path(job.folder))
    summary = land_run(plan, handoffs["prepared"], handoffs["parts"], results, _warehouse(plan, job), staging)
    return {"texts": summary.texts, "coded": summary.coded}


def _warehouse(plan: Plan, job: Job) -> Warehouse:
    path = job.warehouse
    if path.startswith("host="):
        return PostgresWarehouse(lambda: path, "postgres")
    return DuckDBWarehouse(
        lambda read_only: duckdb.connect(path, read_only=read_only), path, memory_mb=plan.engine_memory_mb
    )
