"""What of `coding_service` Airflow has to be told of."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

from coding_service import facts


class CodingServicePlugin(AirflowPlugin):
    """Has the scheduler tell runs what their tasks cannot know."""

    name = "coding_service"
    listeners = (facts,)
