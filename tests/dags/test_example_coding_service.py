"""The example `example_coding_service`: one task and four tasks code the same file, against the local service."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.support.dag_runner import DagRunner, PatientPolicy

# Airflow warns about its own code.
pytestmark = pytest.mark.filterwarnings("default")

SOURCE = Path(__file__).resolve().parents[2] / "dags" / "example_coding_service.py"


@pytest.fixture
def example(runner: DagRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module of the example, with files in a folder of the test's own."""
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "home"))
    sys.modules.pop("example_coding_service", None)
    import example_coding_service

    yield example_coding_service
    del sys.modules["example_coding_service"]


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("is_deferrable", [True, False])
def test_both_ways_code_the_file(example: ModuleType, runner: DagRunner, tmp_path: Path, is_deferrable: bool) -> None:
    example.dag.get_task("code").deferrable = is_deferrable
    example.dag.get_task("poll").deferrable = is_deferrable
    run = example.dag.test()
    assert run.state == "success"
    folder = tmp_path / "home" / "staging" / "example_coding_service" / run.run_id
    inputs = read_lines(folder / "texts.jsonl")
    for name in ("one_task.jsonl", "four_tasks.jsonl"):
        assert [line["recordId"] for line in read_lines(folder / name)] == [line["recordId"] for line in inputs]
    assert len(inputs) == len(example.TEXTS)
    assert json.loads((folder / "four_tasks_metadata.json").read_text())["records"] == len(inputs)
    entries = runner.session.get(f"{runner.service.url}/_local/journal", timeout=10).json()["entries"]
    creations = [entry["path"] for entry in entries if entry["method"] == "POST" and "/v1/" in entry["path"]]
    assert creations == ["/v1/topics/osca/batch-code"] * 2
    assert len([entry for entry in entries if entry["method"] == "PUT"]) == 2


@pytest.mark.parametrize("last_task", ["code", "download"])
def test_an_attempt_that_fails_in_the_middle_sends_nothing_twice(
    example: ModuleType, runner: DagRunner, last_task: str
) -> None:
    # Each way alone: side by side, it would be chance which of them meets a fault, and one could run out of attempts.
    dag = example.dag.partial_subset(last_task, include_upstream=True)
    for task in dag.tasks:
        task.retry_policy = PatientPolicy(task.retry_policy, runner.pass_time)
    runner.fault("reset_upload")
    runner.fault("server_error", path_contains="/operations/", skip=1)
    runner.fault("storage_error", code="SlowDown", method="GET", path_contains=".jsonl", count=2)
    assert dag.test().state == "success"
    entries = runner.session.get(f"{runner.service.url}/_local/journal", timeout=10).json()["entries"]
    uploads = [entry["operation_id"] for entry in entries if (entry["method"], entry["status"]) == ("PUT", 200)]
    assert len(uploads) == 1
    assert len(runner.list_operations()) == 1
    assert runner.list_pending_faults() == []


def test_it_imports_nothing_of_the_project_but_the_operators() -> None:
    modules = {
        node.module
        for node in ast.walk(ast.parse(SOURCE.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
    }
    assert not [name for name in modules if name and name.startswith("include")]
    assert "coding_service" in modules
