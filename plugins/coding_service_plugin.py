"""What of `coding_service` Airflow has to be told of."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

from coding_service import facts
from coding_service.alerts import ScheduledRunDue


class CodingServicePlugin(AirflowPlugin):
    """Has the scheduler tell runs what their tasks cannot know, and know when a scheduled run is late."""

    name = "coding_service"
    listeners = (facts,)
    deadline_references = (ScheduledRunDue,)
