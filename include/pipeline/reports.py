"""Finished files of the staging area that the Coding page shows.

They are read here as the API server reads them: in a thread of many, which must not change the umask of the process,
and without a scratch folder.
"""

from __future__ import annotations

from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from coding_service.errors import CodingServiceError
from coding_service.storage import open_for_reading, storage_path
from include.coding.run_keys import make_run_key
from include.coding.staging import PICTURE, QUOTES_PEOPLE, REPORT_HTML
from include.pipeline import settings
from include.pipeline.names import COMPARE_DAG_ID, STAGING_CONN_ID

MAX_PICTURE_BYTES, MAX_REPORT_BYTES = 1 << 20, 16 << 20


def read_report(dag_id: str, run_id: str) -> str | None:
    """Return the report of a run or of a comparison, HTML; None if it is not there, is above 16 MiB, or cannot be
    read."""
    if dag_id == COMPARE_DAG_ID:
        return _read_file(run_id, settings.COMPARISONS, REPORT_HTML, MAX_REPORT_BYTES)
    return _read_file(make_run_key(dag_id, run_id), settings.RUNS, REPORT_HTML, MAX_REPORT_BYTES)


def quotes_people(report: str) -> bool:
    """Return whether texts of people are in a report."""
    return QUOTES_PEOPLE in report


def read_comparison_picture(run_id: str) -> str | None:
    """Return the picture of a finished comparison, SVG; None if it is not there or cannot be read."""
    return _read_file(run_id, settings.COMPARISONS, PICTURE, MAX_PICTURE_BYTES)


def _read_file(run_key: str, area: str, name: str, max_bytes: int) -> str | None:
    try:
        folder = settings.run_folder(run_key, area)
        path = storage_path(f"{folder}/{name}", STAGING_CONN_ID)
        if isinstance(path, Path) and not _is_plain_file(path):
            return None
        with open_for_reading(path) as file:
            data = file.read(max_bytes + 1)
    except (OSError, BotoCoreError, ClientError, CodingServiceError):
        return None
    return data.decode("utf-8", errors="replace") if len(data) <= max_bytes else None


def _is_plain_file(path: Path) -> bool:
    """Return whether it is a file in its folder, not a link that leads elsewhere."""
    return path.is_file() and path.resolve() == path.parent.resolve() / path.name
