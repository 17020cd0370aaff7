"""The DAG `compare_models`: it imports fast and alone, its form works, and its reports stay."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import duckdb
import pytest

from include.coding.tables import create_tables
from tests.support.warehouses import open_warehouse

MODELS = ("11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222")


@pytest.fixture(scope="module")
def dag() -> Any:
    import compare_models

    return compare_models.dag


def test_it_runs_by_hand_only_and_waits_for_nobody_to_unpause_it(dag: Any) -> None:
    assert dag.schedule is None
    assert dag.is_paused_upon_creation is False
    assert dag.task_ids == ["compare"]


def test_the_defaults_of_the_form_are_valid_and_make_a_comparison(dag: Any) -> None:
    from include.comparison.comparison import Comparison

    defaults = dag.params.validate()
    assert defaults == {
        "topic": "osca", "model_before": "previous", "model_after": "newest", "from_date": None, "to_date": None,
        "topic_after": None, "crosswalk": None, "samples": 50, "with_texts": False,
    }  # fmt: skip
    assert Comparison(**defaults) == Comparison("osca")


@pytest.mark.parametrize(
    ("name", "value"),
    [("samples", -1), ("samples", 1001), ("samples", 1.5), ("from_date", "May"), ("with_texts", "no"), ("topic", ""),
     ("model_after", None)],
)  # fmt: skip
def test_the_form_refuses_a_value_that_cannot_work(dag: Any, name: str, value: Any) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    with pytest.raises(ParamValidationError):
        dag.params.get_param(name).resolve(value)


def test_every_param_of_the_form_has_a_title_a_section_and_help(dag: Any) -> None:
    for name in dag.params:
        param = dag.params.get_param(name)
        assert {"title", "section"} <= param.schema.keys(), name
        assert param.description, name


def test_a_run_leaves_a_report_that_no_sweep_removes(
    dag: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sweep_staging

    path = tmp_path / "warehouse.duckdb"
    with open_warehouse(path).session() as session:
        create_tables(session, "coding")
    with duckdb.connect(path) as warehouse:
        for version, model in enumerate(MODELS):
            warehouse.execute(
                "INSERT INTO coding.coded_records VALUES ('1', 1, DATE '2026-10-05', 'osca', ?, ?, 'coded', ?, 'Chef',"
                " 0.9, 6, NULL, NULL, 'key', 'op', 'run', TIMESTAMP '2026-11-01 00:00:00')",
                [model, version, f"35131{version}"],
            )
    monkeypatch.setenv("CODING_STAGING", (tmp_path / "staging").as_uri())
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE_DEFAULT", json.dumps({"conn_type": "duckdb", "host": str(path)}))
    uri = dag.get_task("compare").python_callable(params=dag.params.validate(), run_id="manual__1")
    folder = Path(uri.removeprefix("file://")).parent
    for file in folder.iterdir():
        os.utime(file, (0, 0))
    assert sweep_staging.dag.get_task("sweep").python_callable() == []
    assert folder.parent == tmp_path / "staging" / "occupation-coding-comparisons"
    assert sorted(file.name for file in folder.iterdir()) == ["picture.svg", "report.md"]
    assert "moved to another one: 1 (100.0%)" in (folder / "report.md").read_text(encoding="utf-8")
