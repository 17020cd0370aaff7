"""Finished files of the staging area that the Coding page shows."""

from __future__ import annotations

from include.coding.errors import PlanError, StagingError
from include.coding.staging import PICTURE, REPORT_HTML
from include.pipeline import settings
from include.pipeline.names import COMPARE_DAG_ID

MAX_PICTURE_BYTES, MAX_REPORT_BYTES = 1 << 20, 16 << 20


def read_report(dag_id: str, run_id: str) -> str | None:
    """Return the report of a run or of a comparison, HTML; None if it is not there or cannot be read."""
    if dag_id == COMPARE_DAG_ID:
        return _read_file(run_id, settings.COMPARISONS, REPORT_HTML, MAX_REPORT_BYTES)
    return _read_file(settings.make_run_key(dag_id, run_id), settings.RUNS, REPORT_HTML, MAX_REPORT_BYTES)


def read_comparison_picture(run_id: str) -> str | None:
    """Return the picture of a finished comparison, SVG; None if it is not there or cannot be read."""
    return _read_file(run_id, settings.COMPARISONS, PICTURE, MAX_PICTURE_BYTES)


def _read_file(run_key: str, area: str, name: str, max_bytes: int) -> str | None:
    try:
        with settings.open_staging(run_key, area) as staging:
            return staging.read_text(f"{staging.uri}/{name}", max_bytes)
    except (PlanError, StagingError, OSError):
        return None
