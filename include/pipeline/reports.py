"""Finished files of the staging area that the Coding page shows."""

from __future__ import annotations

from include.pipeline import settings

MAX_PICTURE_BYTES = 1 << 20


def read_comparison_picture(run_id: str) -> str | None:
    """Return the picture of a finished comparison, SVG; None if it is not there or cannot be read."""
    from include.coding.errors import PlanError, StagingError
    from include.coding.staging import PICTURE

    try:
        with settings.open_staging(run_id, settings.COMPARISONS) as staging:
            return staging.read_text(f"{staging.uri}/{PICTURE}", MAX_PICTURE_BYTES)
    except (PlanError, StagingError):
        return None
