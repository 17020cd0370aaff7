"""
Remove the staged files of abandoned runs of `recode_occupations` and further DAGs, every day.

A run that lands removes its own files. The files of a run that never landed stay for `CODING_STAGING_DAYS` (14) days
after their last change, so that the run can be resumed; they contain people's texts. Reports stay.
"""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG, task

from include.pipeline import names
from include.pipeline.documentation import document_dag, name_dag


@task(
    doc_md="Removes the staged files of runs that never landed and have not changed for `CODING_STAGING_DAYS` days."
    " Reports stay. If it fails, free some space or correct the rights that its message names, then clear it.",
    multiple_outputs=False, show_return_value_in_logs=False,
)  # fmt: skip
def sweep() -> list[str]:
    """Clear the folders of abandoned runs, and return their URIs."""
    from include.pipeline import steps

    return steps.sweep_staging()


with DAG(
    "sweep_staging",
    dag_display_name=name_dag("Remove old staged files", "sweep_staging"),
    description="Removes the files of abandoned runs, which contain people's texts, every day at midnight in Sydney.",
    doc_md=document_dag(__doc__, "SettingsError", "StagingError", "WarehouseError", "WarehouseSettingsError"),
    schedule="@daily",
    start_date=pendulum.datetime(2026, 1, 1, tz=names.TIMEZONE),
    catchup=False,
    is_paused_upon_creation=False,
    max_active_runs=1,
    default_args={"execution_timeout": timedelta(hours=1), "retries": 3, "retry_delay": timedelta(minutes=5)},
    tags=["occupation", "coding"],
) as dag:
    sweep()
