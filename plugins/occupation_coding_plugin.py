"""The Airflow plugin of this project."""

from __future__ import annotations

from typing import Any, ClassVar

from airflow.plugins_manager import AirflowPlugin

from include.pipeline import consent, preload, run_metadata, run_notes
from include.pipeline.alerts import ScheduledRunDue


class OccupationCodingPlugin(AirflowPlugin):
    """Registers the listeners for the start of Airflow's long-running processes and for runs that start and end, the
    reference of the deadline of scheduled runs, and the page."""

    name = "occupation_coding"
    listeners = (preload, run_metadata, consent, run_notes)
    deadline_references = (ScheduledRunDue,)
    external_views: ClassVar[list[dict[str, Any]]] = [
        {
            "name": "Coding",
            "href": "occupation-coding/",
            "destination": "nav",
            "url_route": "occupation-coding",
            "category": "browse",
        },
        # on the runs of every DAG; the page says so if one is not of ours
        {
            "name": "Coding",
            "href": "occupation-coding/run?dag={DAG_ID}&run={RUN_ID}&tab=1",
            "destination": "dag_run",
            "url_route": "occupation-coding-run",
        },
    ]

    @property
    def fastapi_apps(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The Coding page. Only the API server asks for it, so that other processes do not import it."""
        from include.page.app import PREFIX, app

        return [{"app": app, "url_prefix": PREFIX, "name": "Occupation coding"}]
