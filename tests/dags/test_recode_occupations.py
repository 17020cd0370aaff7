"""The DAGs as DAGs: each imports fast and alone; of the main one the form works and the graph is as designed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: Run in a process of its own: says what happened while the DAG file was imported.
PROBE = """
import json, sys, time
sys.path[:0] = [{root!r}, {root!r} + "/plugins"]
import airflow.sdk, airflow.sdk.definitions.connection as connection
from airflow.sdk import DAG, task
calls = []
network = ("socket.connect", "socket.getaddrinfo")
sys.addaudithook(lambda event, args: calls.append(event) if event in network else None)
connection.Connection.get = classmethod(lambda cls, conn_id: calls.append(conn_id))
airflow.sdk.Variable.get = classmethod(lambda cls, *args, **kwargs: calls.append(args))
sys.path.insert(0, {root!r} + "/dags")
import {dag}
print(json.dumps({{"calls": calls, "modules": sorted(sys.modules)}}))
"""


@pytest.fixture(
    scope="module",
    params=["recode_occupations", "watch_models", "compare_models", "sweep_staging", "example_use_codes"],
)
def parsed(request: pytest.FixtureRequest) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(root=str(ROOT), dag=request.param)],
        env=os.environ,
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def dag() -> Any:
    import recode_occupations

    return recode_occupations.dag


def test_importing_a_dag_asks_for_no_connection_no_variable_and_no_network(parsed: dict[str, Any]) -> None:
    assert parsed["calls"] == []


@pytest.mark.parametrize("heavy", ["pandas", "duckdb", "pyarrow", "sklearn", "numpy", "boto3"])
def test_importing_a_dag_leaves_heavy_libraries_to_the_tasks(parsed: dict[str, Any], heavy: str) -> None:
    assert heavy not in parsed["modules"]


def test_the_service_steps_share_one_pool_and_nothing_else_is_in_it(dag: Any) -> None:
    pooled = {task.task_id for task in dag.tasks if task.pool == "coding_service"}
    assert pooled == {"code.create", "code.upload", "code.poll", "code.download"}


def test_land_runs_whatever_became_of_the_parts(dag: Any) -> None:
    assert dag.get_task("land").trigger_rule == "all_done"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("records_per_part", 0),
        ("records_per_part", 7_000_001),
        ("selection", "some"),
        ("from_date", "yesterday"),
        ("max_uncoded_share", 1.5),
        ("clean", "yes"),
        ("columns", ["occp_text"]),
        ("source", ""),
        ("look_back_days", 367),
        ("max_records", 0),
        ("approve_above", -1),
        ("response_date", "yesterday"),
        ("dry_run", 1),
    ],
)
def test_the_form_refuses_a_value_that_cannot_work(dag: Any, name: str, value: Any) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    with pytest.raises(ParamValidationError):
        dag.params.get_param(name).resolve(value)


def test_the_defaults_of_the_form_are_valid_and_those_of_the_design(dag: Any) -> None:
    assert dag.params.validate() == {
        "topic": "osca", "model": "latest", "from_date": None, "to_date": None, "source": "survey_responses",
        "columns": {}, "selection": "uncoded", "records_per_part": 500_000, "clean": True, "max_uncoded_share": 0.5,
        "max_rejected_share": 0.2, "force_new": False, "look_back_days": 7, "response_date": None, "dry_run": False,
        "max_records": None, "approve_above": None,
    }  # fmt: skip


def test_every_param_of_the_form_has_a_title_a_section_and_help_or_choices(dag: Any) -> None:
    for name, param in dag.params.items():
        schema = dag.params.get_param(name).schema
        assert {"title", "section"} <= schema.keys(), name
        assert "values_display" in schema or dag.params.get_param(name).description, (name, param)


class _Left:
    """A task instance that has only what other tasks left in XCom."""

    def __init__(self, **left: Any) -> None:
        self._left = left

    def xcom_pull(self, task_ids: str, key: str = "return_value", map_indexes: int | None = None) -> Any:
        return self._left.get(f"{task_ids.rpartition('.')[2]}_{key}" if key != "return_value" else task_ids[5:])


FILES = {
    "operation_id": "op-1", "output": "file:///s/op-1/output.jsonl", "metadata": None, "input": "file:///s/part.jsonl",
    "fingerprint": "osca/m/abc",
}  # fmt: skip


@pytest.mark.parametrize(
    ("left", "state", "message"),
    [
        ({}, "unknown", None),
        ({"create": "op-1"}, "unknown", None),
        (
            {"upload": "op-1", "poll_operation": {"state": "failed", "message": "bad luck"}},
            "failed",
            "bad luck",
        ),
        (
            {"upload": "op-1", "poll_operation": {"state": "complete", "message": "complete"}},
            "complete",
            "its output did not come down; the log of code.download[2] says why",
        ),
    ],
    ids=["nothing", "not uploaded", "failed", "not downloaded"],
)
def test_a_part_without_output_says_why(left: dict[str, Any], state: str, message: str | None) -> None:
    import recode_occupations

    result = recode_occupations.part_result(_Left(**left), 2)
    assert (result.part, result.state, result.message, result.output) == (2, state, message, None)
    assert result.operation_id == ("op-1" if left else None)


def test_a_part_whose_poll_was_marked_as_success_by_hand_is_landed_all_the_same() -> None:
    import recode_occupations

    result = recode_occupations.part_result(_Left(upload="op-1", download=FILES), 0)
    assert (result.state, result.output, result.metadata) == ("unknown", "file:///s/op-1/output.jsonl", None)
    assert (result.sent, result.fingerprint) == ("file:///s/part.jsonl", "osca/m/abc")


def test_run_ids_that_read_alike_have_folders_of_their_own() -> None:
    from coding_settings import staging_of

    assert staging_of("a:1") != staging_of("a+1")
    assert staging_of("a:1") == staging_of("a:1")


def test_scratch_folders_of_killed_tasks_are_removed_and_no_others(tmp_path: Path) -> None:
    from coding_settings import remove_what_killed_tasks_left

    for name in ("occupation-coding-dead", "occupation-coding-live", "somebody"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "prepare.duckdb").touch()
    for name in ("occupation-coding-dead", "somebody"):
        os.utime(tmp_path / name, (0, 0))
    remove_what_killed_tasks_left(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["occupation-coding-live", "somebody"]


def test_the_folder_of_a_run_with_a_long_id_has_a_name_that_fits() -> None:
    from coding_settings import staging_of

    assert len(staging_of("r" * 250).rpartition("/")[2]) < 100


@pytest.mark.parametrize(
    ("form", "setting", "limit"),
    [(None, "", None), (None, "5000", 5000), (7, "5000", 7), (0, "", 0)],
)
def test_the_form_goes_before_the_setting_in_what_has_to_be_approved(
    monkeypatch: pytest.MonkeyPatch, form: int | None, setting: str, limit: int | None
) -> None:
    from coding_runs import approval_limit

    monkeypatch.setenv("CODING_APPROVE_ABOVE", setting)
    assert approval_limit({"approve_above": form}) == limit


def test_a_limit_of_approval_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from coding_runs import approval_limit
    from include.coding.errors import PlanError

    monkeypatch.setenv("CODING_APPROVE_ABOVE", "many")
    with pytest.raises(PlanError, match="CODING_APPROVE_ABOVE is 'many'; expected a whole number of texts"):
        approval_limit({"approve_above": None})
