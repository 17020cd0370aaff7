"""The Airflow plugin of this project."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

from include.pipeline import consent, run_metadata, run_notes
from include.pipeline.alerts import ScheduledRunDue


class OccupationCodingPlugin(AirflowPlugin):
    """Registers the listeners for runs that start and end, and the reference of the deadline of scheduled runs."""

    name = "occupation_coding"
    listeners = (run_metadata, consent, run_notes)
    deadline_references = (ScheduledRunDue,)
