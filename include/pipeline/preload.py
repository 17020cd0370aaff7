"""Imports the modules that tasks need into the long-running processes of Airflow from which tasks are forked.

Importing these modules takes longer than the rest of a small task. The scheduler with the LocalExecutor and the DAG
processor benefit from it; the API server does not import them.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from airflow.listeners import hookimpl

#: The modules that the DAG files import, and those that the bodies of the tasks import when they run.
MODULES = (
    "include.pipeline.airflow_dags", "include.pipeline.steps", "include.coding.claims", "include.coding.prepare",
    "include.coding.landing", "include.coding.report", "include.warehouse.connect",
)  # fmt: skip


@hookimpl
def on_starting(component: Any) -> None:
    """Import the modules, except in the process of a task, which has them already or needs few of them."""
    from airflow.sdk.execution_time.task_runner import TaskRunnerMarker  # a task has imported it

    if not isinstance(component, TaskRunnerMarker):
        for name in MODULES:
            import_module(name)
