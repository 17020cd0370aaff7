"""
Remove what dead runs of `recode_occupations` left in staging, every day.

A run that lands removes its files itself. Those of a run that never landed stay for `CODING_STAGING_DAYS` (14) days
after the last change, so that it can be taken up; they hold people's texts. Reports stay.
"""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG, task


@task
def sweep() -> list[str]:
    """Clear the folders that nobody has touched for so long, and return their URIs."""
    from coding_settings import EXCHANGE, RUNS, file_system_of, setting, staging_base
    from include.coding.staging import sweep

    base, days = staging_base(), timedelta(days=float(setting("CODING_STAGING_DAYS", "14")))
    fs, now = file_system_of(base), pendulum.now("UTC")
    return [uri for folder in (RUNS, EXCHANGE) for uri in sweep(f"{base}/{folder}", days, now, fs)]


with DAG(
    "sweep_staging",
    doc_md=__doc__,
    schedule="@daily",
    start_date=pendulum.datetime(2026, 1, 1, tz="Australia/Sydney"),
    catchup=False,
    is_paused_upon_creation=False,
    max_active_runs=1,
    default_args={"retries": 3, "retry_delay": timedelta(minutes=5)},
    tags=["occupation", "coding"],
) as dag:
    sweep()
