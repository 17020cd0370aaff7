"""The Airflow plugin of this project."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

from include.pipeline import consent, run_metadata
from include.pipeline.alerts import ScheduledRunDue


class OccupationCodingPlugin(AirflowPlugin):
    """Registers the listeners for runs that start, and the reference of the deadline of scheduled runs."""

    name = "occupation_coding"
    listeners = (run_metadata, consent)
    deadline_references = (ScheduledRunDue,)
