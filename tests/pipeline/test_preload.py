"""What the long-running processes import before they fork those of tasks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys
from airflow.sdk.execution_time.task_runner import TaskRunnerMarker
from include.pipeline import preload
preload.on_starting(component={component})
print([name for name in preload.MODULES if name in sys.modules] == list(preload.MODULES), "duckdb" in sys.modules)
"""


@pytest.mark.parametrize(
    ("component", "expected"),
    [
        pytest.param("object()", "True True", id="the scheduler imports all of them"),
        pytest.param("TaskRunnerMarker()", "False False", id="a task imports none of them"),
    ],
)
def test_modules_are_imported_by_the_processes_that_fork_tasks(component: str, expected: str, tmp_path: Path) -> None:
    output = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(component=component)],
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}", "AIRFLOW_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert output.split("\n")[-2] == expected
