"""The example `example_use_codes`: it reads the codes of the date that its run stands for."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from include.coding.tables import create_tables
from tests.support.warehouses import open_warehouse

MODELS = ("11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222")


def test_it_counts_the_codes_of_the_newest_model_by_their_first_digit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import example_use_codes

    path = tmp_path / "warehouse.duckdb"
    with open_warehouse(path).session() as session:
        create_tables(session, "codes")
        for version, model in enumerate(MODELS):
            session.execute(
                "INSERT INTO codes.coded_records VALUES ('1', 1, DATE '2026-10-05', 'osca', ?, ?, 'coded', ?, 'Chef',"
                " 0.9, 6, NULL, NULL, 'key', 'op', 'run', TIMESTAMP '2026-11-01 00:00:00')",
                [model, version, f"{version + 3}51311"],
            )
    monkeypatch.setenv("CODING_SCHEMA", "codes")
    monkeypatch.setenv("CODING_STAGING", tmp_path.as_uri())
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE_DEFAULT", json.dumps({"conn_type": "duckdb", "host": str(path)}))
    counts = {"read": 1, "coded": 1, "uncoded": 0, "rejected": 0}
    summary = {
        "run_id": "run-1", "model_id": MODELS[1], "read": 31, "from_date": "2026-10-05", "to_date": "2026-11-05",
        "topic": "osca", "dates": {"2026-10-05": counts},
    }  # fmt: skip
    event = SimpleNamespace(timestamp=datetime.now(UTC), extra=summary)
    caplog.set_level("INFO")
    task: Any = example_use_codes.dag.get_task("count_codes")
    rows = task.python_callable(
        dag_run=SimpleNamespace(partition_key="2026-10-05"),
        triggering_asset_events={example_use_codes.CODED_RECORDS: [event]},
    )
    assert rows == [["4", 1, 0.9]]
    assert f"2026-10-05: run run-1, model {MODELS[1]}, records: {counts}" in caplog.text
