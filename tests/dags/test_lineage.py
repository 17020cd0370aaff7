"""Lineage: what Airflow's OpenLineage provider sends about a run, and that a run never depends on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.support.dag_runner import DAY, TASKS, TEXTS

#: Nothing in an event may contain these: texts of people, credentials, and what a presigned URL consists of.
SECRET_WORDS = (TASKS, "MARKED", "job number", "local-secret", "Bearer", "eyJ", "X-Amz", "Signature", "/_storage/")

Events = list[dict[str, Any]]


def read_events(path: Path) -> Events:
    return [json.loads(line) for line in path.read_text().splitlines()]


def select(events: Events, task_id: str, event_type: str) -> Events:
    name = f"recode_occupations.{task_id}"
    return [one for one in events if one["job"]["name"] == name and one["eventType"] == event_type]


def name_datasets(datasets: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(one["namespace"], one["name"]) for one in datasets]


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Events, dict[str, Any]]:
    """The folder of a run of two parts, its events, and what it did."""
    folder = tmp_path_factory.mktemp("traced")
    file = folder / "events.jsonl"
    environment = {
        "AIRFLOW_HOME": str(folder / "airflow"),
        "PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}:{ROOT / 'dags'}",
        "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps({"type": "file", "log_file_path": str(file), "append": True}),
        "CODING_KEEP_STAGING": "1",
    }
    process = subprocess.run(
        [sys.executable, "-m", "tests.support.run_with_lineage", str(folder)],
        env={**os.environ, **environment}, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr[-3000:]
    outcome = json.loads((folder / "outcome.json").read_text())
    assert outcome["state"] == "success", process.stdout[-3000:]
    return folder, read_events(file), {**outcome, "log": process.stdout + process.stderr}


def test_prepare_names_the_source_and_the_parts(traced: tuple[Path, Events, dict[str, Any]]) -> None:
    folder, events, _ = traced
    [event] = select(events, "prepare", "RUNNING")
    assert name_datasets(event["inputs"]) == [("file", str(folder / "source-files" / "source.parquet"))]
    assert [Path(name).name[:9] for _, name in name_datasets(event["outputs"])] == ["part-0000", "part-0001"]
    rows = [one["outputFacets"]["outputStatistics"]["rowCount"] for one in event["outputs"]]
    assert rows == [TEXTS // 2, TEXTS // 2]
    facet = event["run"]["facets"]["occupationCoding"]
    assert (facet["topic"], facet["fromDate"], facet["records"], bool(facet["modelId"])) == ("osca", DAY, TEXTS, True)


def test_land_leads_from_the_source_to_the_tables_that_it_wrote(traced: tuple[Path, Events, dict[str, Any]]) -> None:
    folder, events, _ = traced
    [event] = select(events, "land", "RUNNING")
    warehouse = f"duckdb://{folder / 'warehouse.duckdb'}"
    assert name_datasets(event["inputs"]) == [
        ("file", str(folder / "source-files" / "source.parquet")),
        (warehouse, "warehouse.coding.coded_texts"),
    ]
    assert name_datasets(event["outputs"]) == [
        (warehouse, "warehouse.coding.coded_records"),
        (warehouse, "warehouse.coding.coding_runs"),
    ]
    assert event["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == TEXTS
    assert event["run"]["facets"]["occupationCoding"]["operations"] == 2


@pytest.mark.parametrize("task_id", ["code.create", "code.upload", "code.poll", "code.download"])
def test_each_step_names_its_operation_part_and_model(
    traced: tuple[Path, Events, dict[str, Any]], task_id: str
) -> None:
    _, events, outcome = traced
    facets = [one["run"]["facets"] for one in select(events, task_id, "COMPLETE")]
    assert len({one["externalQuery"]["externalQueryId"] for one in facets}) == 2
    assert {one["externalQuery"]["source"] for one in facets} == {outcome["url"]}
    assert sorted(one["occupationCoding"]["part"] for one in facets) == [0, 1]
    assert {one["occupationCoding"]["records"] for one in facets} == {TEXTS // 2}
    [land] = select(events, "land", "RUNNING")
    model_id = land["run"]["facets"]["occupationCoding"]["modelId"]
    assert {one["occupationCoding"]["modelId"] for one in facets} == {model_id}


def test_the_steps_of_an_operation_name_the_same_operation(traced: tuple[Path, Events, dict[str, Any]]) -> None:
    _, events, _ = traced
    operations = {
        tuple(
            sorted(
                one["run"]["facets"]["externalQuery"]["externalQueryId"] for one in select(events, task, "COMPLETE")
            )
        )
        for task in ("code.create", "code.upload", "code.poll", "code.download")
    }
    assert len(operations) == 1


def test_an_upload_reads_the_file_of_its_part_and_a_download_leads_from_it_to_the_output(
    traced: tuple[Path, Events, dict[str, Any]],
) -> None:
    _, events, _ = traced
    [prepare] = select(events, "prepare", "RUNNING")
    parts = sorted(name_datasets(prepare["outputs"]))
    for task_id in ("code.upload", "code.download"):
        inputs = [name for one in select(events, task_id, "COMPLETE") for name in name_datasets(one["inputs"])]
        assert sorted(inputs) == parts
    outputs = [one for event in select(events, "code.download", "COMPLETE") for one in event["outputs"]]
    assert sum(one["outputFacets"].get("outputStatistics", {}).get("rowCount", 0) for one in outputs) == TEXTS


def test_no_event_has_a_text_of_a_person_a_link_or_a_secret(traced: tuple[Path, Events, dict[str, Any]]) -> None:
    folder, events, outcome = traced
    assert "OpenLineage process with pid" not in outcome["log"], "no event was given up"
    text = json.dumps(events)
    assert [word for word in SECRET_WORDS if word in text] == []
    assert "MARKED" in "".join(path.read_text() for path in folder.rglob("part-*.jsonl")), "the parts have them"
