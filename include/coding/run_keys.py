"""Keys of runs: what the tables and the staging area know a run by.

Airflow's run ids are unique within a DAG only: whoever starts a run can choose its id. So the key of a run is its id
with its DAG in front, such as `recode_labour_force/manual__2026-10-05`. The key of a run of `recode_occupations` is
its id alone, as it was when there was no other DAG.
"""

from __future__ import annotations

MAIN_DAG_ID = "recode_occupations"
SEPARATOR = "/"  # never in the id of a DAG


def make_run_key(dag_id: str, run_id: str) -> str:
    """Return the key of a run."""
    if dag_id == MAIN_DAG_ID and SEPARATOR not in run_id:
        return run_id
    return f"{dag_id}{SEPARATOR}{run_id}"


def split_run_key(key: str) -> tuple[str, str]:
    """Return the DAG and the id of the run with this key."""
    dag_id, separator, run_id = key.partition(SEPARATOR)
    return (dag_id, run_id) if separator else (MAIN_DAG_ID, key)
