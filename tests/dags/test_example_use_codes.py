"""The example `example_use_codes`: it reads the codes of the date that its run stands for."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowSkipException

from include.coding.errors import PlanError
from include.coding.tables import create_tables
from tests.support.warehouses import open_warehouse

MODELS = ("11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222")


@pytest.fixture(autouse=True)
def _warehouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A warehouse with the codes of one record on each of two dates, by two models."""
    path = tmp_path / "warehouse.duckdb"
    with open_warehouse(path).session() as session:
        create_tables(session, "codes")
        for day in ("2026-10-04", "2026-10-05"):
            for version, model in enumerate(MODELS):
                session.execute(
                    f"INSERT INTO codes.coded_records VALUES ('{day}', 1, DATE '{day}', 'osca', ?, ?, 'coded', ?, 'Chef',"
                    " 0.9, 6, NULL, NULL, 'key', 'op', 'run', TIMESTAMP '2026-11-01 00:00:00')",
                    [model, version, f"{version + 3 + (day == '2026-10-04')}51311"],
                )
    monkeypatch.setenv("CODING_SCHEMA", "codes")
    monkeypatch.setenv("CODING_STAGING", tmp_path.as_uri())
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE_DEFAULT", json.dumps({"conn_type": "duckdb", "host": str(path)}))


def count_codes(partition_key: str | None = None, events: list[Any] | None = None, **params: Any) -> Any:
    """Return what the task of a run returns."""
    import example_use_codes

    task: Any = example_use_codes.dag.get_task("count_codes")
    return task.python_callable(
        params={**example_use_codes.dag.params.validate(), **params},
        dag_run=SimpleNamespace(partition_key=partition_key, conf=None),
        triggering_asset_events={example_use_codes.CODED_RECORDS: events or []},
    )


def test_it_counts_the_codes_of_the_newest_model_by_their_first_digit(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    counts = {"read": 1, "coded": 1, "uncoded": 0, "rejected": 0}
    summary = {
        "run_id": "run-1", "model_id": MODELS[1], "read": 31, "from_date": "2026-10-05", "to_date": "2026-11-05",
        "topic": "osca", "dates": {"2026-10-05": counts},
    }  # fmt: skip
    event = SimpleNamespace(timestamp=datetime.now(UTC), extra=summary)
    assert count_codes("2026-10-05", [event]) == [["4", 1, 0.9]]
    assert f"Run run-1, model {MODELS[1]}, records of 2026-10-05: {counts}" in caplog.text


def test_a_run_that_is_started_by_hand_uses_its_partition_or_the_date_of_its_form() -> None:
    assert count_codes("2026-10-04") == [["5", 1, 0.9]]
    assert count_codes(response_date="2026-10-04") == [["5", 1, 0.9]]


def test_a_run_that_is_started_by_hand_without_a_date_uses_the_newest_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    assert count_codes() == [["4", 1, 0.9]]
    assert "The run has no date; using 2026-10-05, the newest that is published" in caplog.text


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"response_date": "2026-10-06"}, "no codes of topic 'osca' are published for 2026-10-06"),
        ({"topic": "anzsco"}, "no codes of topic 'anzsco' are published for any date"),
    ],
)
def test_a_run_without_codes_is_skipped_with_the_reason(params: dict[str, Any], message: str) -> None:
    with pytest.raises(AirflowSkipException, match=message):
        count_codes(**params)


def test_a_misspelt_param_is_refused() -> None:
    with pytest.raises(PlanError, match=r"unknown keys: 'response_day' \(did you mean 'response_date'\?\)"):
        count_codes(response_day="2026-10-04")
