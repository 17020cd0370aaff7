"""What Airflow's UI shows of the DAGs: their names, their documentation, that of their tasks, and their forms."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import pytest
from airflow.sdk import Asset, PartitionedAssetTimetable

from include.pipeline import settings
from include.pipeline.airflow_dags import recode_dag
from include.pipeline.documentation import ERROR_ADVICE, PART_LABEL, TOPIC_LABEL

ROOT = Path(__file__).resolve().parents[2]

#: Parses the DAG files as Airflow does, and prints each DAG as Airflow stores it, with the hash that is its version.
PARSE_FOLDER = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
from airflow.models.serialized_dag import SerializedDagModel
from airflow.serialization.serialized_objects import DagSerialization
dag_bag = DagBag(sys.argv[1])
print(json.dumps({
    dag_id: {
        "hash": SerializedDagModel.hash(DagSerialization.to_dict(dag)),
        "name": dag.dag_display_name, "description": dag.description, "doc": dag.doc_md,
        "params": {name: param.serialize() for name, param in ((name, dag.params.get_param(name)) for name in dag.params)},
        "tasks": {task.task_id: task.doc_md for task in dag.tasks},
        "logs_result": [task.task_id for task in dag.tasks if getattr(task, "show_return_value_in_logs", False)],
    }
    for dag_id, dag in dag_bag.dags.items()
}))
"""


def parse(**environment: str) -> dict[str, Any]:
    process = subprocess.run(
        [sys.executable, "-c", PARSE_FOLDER, str(ROOT / "dags")],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}", **environment},
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return dict(json.loads(process.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def dags() -> dict[str, Any]:
    return parse(PYTHONHASHSEED="1")


@pytest.fixture(autouse=True)
def _no_schemas_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "SCHEMA_SUFFIXES", {})


# ---- names and documentation ---------------------------------------------------------------------------------------


def test_each_dag_has_a_name_of_its_own_that_contains_the_id_by_which_people_search(dags: dict[str, Any]) -> None:
    names = {dag_id: dag["name"] for dag_id, dag in dags.items()}
    assert [dag_id for dag_id, name in names.items() if not name.endswith(f" ({dag_id})")] == []
    assert names["recode_occupations"] == "Code occupations (recode_occupations)"
    assert names["example_graduates"] == "Code occupations (example_graduates)"


def test_the_description_of_a_dag_says_in_words_when_it_runs(dags: dict[str, Any]) -> None:
    assert dags["recode_occupations"]["description"] == (
        "Codes the occupations of survey_responses with osca: for the day before, every night at midnight in Sydney,"
        " and on demand."
    )
    when = {"sweep_staging": "midnight in Sydney", "watch_models": "07:00 in Sydney", "compare_models": "on demand"}
    for dag_id, words in when.items():
        assert words in dags[dag_id]["description"]
    for dag in dags.values():
        assert dag["description"].endswith(".")


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ("30 1 * * *", ": for the day before, every night at 01:30 in Sydney, and on demand."),
        ("5 13 * * *", ": for the day before, every night at 13:05 in Sydney, and on demand."),
        (None, ": on demand."),
        (PartitionedAssetTimetable(assets=Asset("loaded")), ": whenever its source has a new date, and on demand."),
    ],
)
def test_the_description_of_a_further_dag_has_its_schedule_source_and_topic(schedule: Any, words: str) -> None:
    dag = recode_dag("recode_labour_force", schedule=schedule, source="lfs", topic="anzsco")
    assert dag.description == f"Codes the occupations of lfs with anzsco{words}"
    assert dag.dag_display_name == "Code occupations (recode_labour_force)"
    assert "/occupation-coding/?dag=recode_labour_force" in str(dag.doc_md)
    assert "the asset `coded_records_recode_labour_force`" in str(dag.doc_md)


def test_a_dag_can_have_other_words() -> None:
    dag = recode_dag("x", display_name="Graduates (x)", description="Codes graduates.", doc_md="Ask Ann.")
    assert (dag.dag_display_name, dag.description, dag.doc_md) == ("Graduates (x)", "Codes graduates.", "Ask Ann.")


def test_the_documentation_of_a_dag_says_what_to_do_about_each_error_with_links_to_help(dags: dict[str, Any]) -> None:
    for dag_id, dag in dags.items():
        assert "| Error | What to do |" in dag["doc"], dag_id
        assert "/occupation-coding/help" in dag["doc"], dag_id
    for name in ERROR_ADVICE:
        assert f"| [`{name}`](/occupation-coding/help#{name}) | " in dags["recode_occupations"]["doc"]
    assert "(/occupation-coding/?dag=recode_occupations)" in dags["recode_occupations"]["doc"]


def test_the_errors_in_the_documentation_are_those_of_the_runbook() -> None:
    table = (ROOT / "docs" / "runbook.md").read_text().split("## What the errors mean")[1].split("\n### ")[0]
    cells = re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE)
    assert [name for cell in cells for name in re.findall(r"`(\w+)`", cell)] == list(ERROR_ADVICE)


def test_links_in_the_documentation_are_below_the_path_of_airflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example.org/team/airflow/")
    doc = str(recode_dag("x").doc_md)
    assert "(/team/airflow/occupation-coding/help#PlanError)" in doc
    assert "(/occupation-coding" not in doc


def test_every_task_says_what_it_does_and_what_to_do_if_it_fails(dags: dict[str, Any]) -> None:
    for dag_id, dag in dags.items():
        for task_id, doc in dag["tasks"].items():
            assert doc, (dag_id, task_id)
            assert re.search(r"\bif it fails", doc, re.IGNORECASE), (dag_id, task_id)
            assert 1 <= len(re.findall(r"[.](?= |$)", doc)) <= 5, (dag_id, task_id)


def test_parsing_again_makes_no_new_version_of_a_dag(dags: dict[str, Any]) -> None:
    again = parse(PYTHONHASHSEED="2")
    assert {dag_id: dag["hash"] for dag_id, dag in again.items()} == {
        dag_id: dag["hash"] for dag_id, dag in dags.items()
    }


def test_no_task_writes_its_result_to_its_log(dags: dict[str, Any]) -> None:
    assert {dag_id: dag["logs_result"] for dag_id, dag in dags.items() if dag["logs_result"]} == {}


# ---- forms ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dag_id", ["recode_occupations", "example_graduates"])
def test_from_to_and_dry_run_are_open_when_the_form_opens(dags: dict[str, Any], dag_id: str) -> None:
    params = dags[dag_id]["params"]
    assert [name for name, param in params.items() if not param["schema"].get("section")] == [
        "from_date", "to_date", "dry_run",
    ]  # fmt: skip


def test_what_to_compare_is_open_when_the_form_opens(dags: dict[str, Any]) -> None:
    params = dags["compare_models"]["params"]
    assert [name for name, param in params.items() if not param["schema"].get("section")] == [
        "topic", "model_before", "model_after", "from_date", "to_date",
    ]  # fmt: skip


def test_the_help_of_a_param_is_rendered_exactly_if_it_has_markdown(dags: dict[str, Any]) -> None:
    for dag_id, dag in dags.items():
        for name, param in dag["params"].items():
            plain, markdown = param["description"], param["schema"].get("description_md")
            assert (plain is None) or (markdown is None), (dag_id, name)
            assert not re.search(r"[`*]", plain or ""), (dag_id, name)
            assert markdown is None or re.search(r"[`*]", markdown), (dag_id, name)


# ---- labels of mapped tasks ----------------------------------------------------------------------------------------


def render(template: str, xcom: Any, **fields: Any) -> str:
    """Render a label as Airflow does, which refuses unknown names."""
    ti = SimpleNamespace(map_index=0, xcom_pull=lambda task_ids, key: xcom)
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    return environment.from_string(template).render(ti=ti, task=SimpleNamespace(**fields))


def test_a_mapped_task_is_called_by_its_part_and_its_texts() -> None:
    assert render(PART_LABEL, {"parts": 4}, part={"records": 400}) == "part 1 of 4: 400 texts"
    assert render(PART_LABEL, {"parts": 40}, part={"records": 500_000}) == "part 1 of 40: 500,000 texts"
    assert render(TOPIC_LABEL, None, op_args=("osca",)) == "osca"


@pytest.mark.parametrize("xcom", [None, "text", 3, [], {"parts": None}, {}])
@pytest.mark.parametrize("part", [None, {}, {"records": None}, {"records": "many"}, [], "text"])
def test_a_label_never_fails_a_task_whatever_somebody_edits(xcom: Any, part: Any) -> None:
    assert render(PART_LABEL, xcom, part=part).startswith("part 1 of ")
    assert render(TOPIC_LABEL, xcom, op_args=())


def test_every_task_of_a_part_has_the_label() -> None:
    dag = recode_dag("x")
    tasks = [task for task in dag.tasks if task.task_id.startswith("code.")]
    assert {task.map_index_template for task in tasks} == {PART_LABEL}
    assert len(tasks) == 4
