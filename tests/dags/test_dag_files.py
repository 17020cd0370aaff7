"""The DAG files: Airflow finds all DAGs, each file imports fast and alone, and its tasks are calls of the pipeline."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DAGS = {
    "recode_occupations": ["recode_occupations"],
    "watch_models": ["watch_models"],
    "compare_models": ["compare_models"],
    "sweep_staging": ["sweep_staging"],
    "example_use_codes": ["example_use_codes"],
    "example_coding_service": ["example_coding_service"],
    "example_two_surveys": ["example_labour_force", "example_graduates"],
}
DAG_FILES = list(DAGS)

#: Imports one module, and prints what it loaded, and which connections, Variables and networks it asked for.
IMPORT_MODULE = """
import json, sys
import airflow.sdk, airflow.sdk.definitions.connection as connection
from airflow.sdk import DAG, task
calls = []
network = ("socket.connect", "socket.getaddrinfo")
sys.addaudithook(lambda event, args: calls.append(event) if event in network else None)
connection.Connection.get = classmethod(lambda cls, conn_id: calls.append(conn_id))
airflow.sdk.Variable.get = classmethod(lambda cls, *args, **kwargs: calls.append(args))
sys.path.insert(0, sys.argv[1])
__import__(sys.argv[2])
print(json.dumps({"calls": calls, "modules": sorted(sys.modules)}))
"""
#: Parses a folder as Airflow does, and prints its DAGs with their files, all Python files, and the import errors.
PARSE_FOLDER = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
from airflow.utils.file import list_py_file_paths
dag_bag = DagBag(sys.argv[1])
print(json.dumps({
    "files": {dag_id: dag.fileloc for dag_id, dag in dag_bag.dags.items()},
    "python_files": list_py_file_paths(sys.argv[1], safe_mode=False),
    "import_errors": dag_bag.import_errors,
    "tasks_without_timeout": [
        task.task_id for dag in dag_bag.dags.values() for task in dag.tasks if task.execution_timeout is None
    ],
}))
"""


def run_python(script: str, *arguments: str, folder: Path = ROOT) -> dict[str, Any]:
    """Run a script in a process of its own, on whose path are only the project and the plugins."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}"}
    del environment["AIRFLOW__CORE__DAGS_FOLDER"]
    process = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=environment, cwd=folder, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return dict(json.loads(process.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def parsed_folder(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The folder of the DAGs as Airflow reads it when it works in another folder."""
    return run_python(PARSE_FOLDER, str(ROOT / "dags"), folder=tmp_path_factory.mktemp("elsewhere"))


def test_airflow_finds_all_dags_without_an_import_error_in_the_files_that_define_them(
    parsed_folder: dict[str, Any],
) -> None:
    assert parsed_folder["import_errors"] == {}
    files = {dag_id: Path(path).stem for dag_id, path in parsed_folder["files"].items()}
    assert files == {dag_id: name for name, dag_ids in DAGS.items() for dag_id in dag_ids}


def test_no_attempt_of_a_task_can_go_on_for_ever(parsed_folder: dict[str, Any]) -> None:
    assert parsed_folder["tasks_without_timeout"] == []


def test_every_python_file_in_the_folder_defines_a_dag(parsed_folder: dict[str, Any]) -> None:
    assert sorted(parsed_folder["python_files"]) == sorted(set(parsed_folder["files"].values()))


@pytest.fixture(scope="module", params=[*DAG_FILES, "occupation_coding_plugin"])
def import_record(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What importing a DAG file or the plugin did, in a process that had imported nothing else of ours."""
    folder = "plugins" if request.param == "occupation_coding_plugin" else "dags"
    return run_python(IMPORT_MODULE, str(ROOT / folder), request.param)


def test_importing_a_file_asks_for_no_connection_no_variable_and_no_network(import_record: dict[str, Any]) -> None:
    assert import_record["calls"] == []


@pytest.mark.parametrize("library", ["pandas", "duckdb", "pyarrow", "sklearn", "numpy", "boto3"])
def test_importing_a_file_loads_no_heavy_library(import_record: dict[str, Any], library: str) -> None:
    assert library not in import_record["modules"]


@pytest.mark.parametrize(
    ("dag_file", "task_id", "function", "arguments"),
    [
        ("recode_occupations", "plan", "steps.make_plan", ["params", "dag_run", "PARAMS"]),
        ("recode_occupations", "prepare", "steps.prepare_parts", ["ti", "dag_run"]),
        ("recode_occupations", "land", "steps.land_results", ["ti", "dag_run"]),
        ("recode_occupations", "report", "steps.report_run", ["ti"]),
        (
            "recode_occupations", "announce", "steps.announce_dates",
            ["ti", "dag_run", "outlet_events", "the asset coded_records"],
        ),
        ("recode_occupations", "clean_up", "steps.clean_up", ["ti"]),
        ("compare_models", "compare", "steps.compare_models", ["params", "dag_run", "PARAMS"]),
        ("sweep_staging", "sweep", "steps.sweep_staging", []),
        ("watch_models", "topics", "watch.list_topics", []),
        (
            "watch_models", "watch.look", "watch.detect_new_model",
            ["topic", "run_id", "asset_state_store of coding_models", "outlet_events of coding_models"],
        ),
        (
            "watch_models", "watch.recode_history", "watch.recode_history",
            ["topic", "asset_state_store of coding_models"],
        ),
    ],
)  # fmt: skip
def test_a_task_calls_one_function_of_the_pipeline_and_returns_its_result(
    dag_file: str, task_id: str, function: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def record_call(*args: Any) -> str:
        calls.append([name_argument(arg) for arg in args])
        return "the result"

    def name_argument(value: Any) -> Any:
        if value is getattr(module, "PARAMS", None):
            return "PARAMS"
        return f"the asset {value.name}" if hasattr(value, "name") else value

    class ByAsset(str):
        def __getitem__(self, asset: Any) -> str:
            return f"{self} of {asset.name}"

    monkeypatch.setattr(f"include.pipeline.{function}", record_call)
    module = importlib.import_module(dag_file)
    task = module.dag.get_task(task_id)
    names = inspect.signature(task.python_callable).parameters
    result = task.python_callable(**{name: ByAsset(name) for name in names})
    assert calls == [arguments]
    assert result == (None if task_id in ("announce", "clean_up") else "the result")


@pytest.mark.parametrize("dag_file", [name for name in DAG_FILES if name != "example_two_surveys"])
def test_a_task_returns_its_result_as_one_xcom(dag_file: str) -> None:
    tasks = importlib.import_module(dag_file).dag.tasks
    assert [task.task_id for task in tasks if getattr(task, "multiple_outputs", False)] == []
