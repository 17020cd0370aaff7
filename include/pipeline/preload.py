"""Modules that the tasks and the DAG files need, for :mod:`occupation_coding_plugin` to import.

Airflow forks the process of a task from a process that has loaded the plugins, so that the task has these modules
already. Importing them takes longer than all else that a small task does.
"""

import duckdb
import pandas
import pyarrow

from include.coding import claims, landing, prepare, report
from include.pipeline import airflow_dags, steps
from include.warehouse import connect

__all__ = [
    "airflow_dags",
    "claims",
    "connect",
    "duckdb",
    "landing",
    "pandas",
    "prepare",
    "pyarrow",
    "report",
    "steps",
]
