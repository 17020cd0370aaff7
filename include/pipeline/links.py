"""Links of tasks, alerts and pages to the Coding page."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from airflow.sdk import BaseOperatorLink, XComArg, conf
from airflow.sdk.execution_time.xcom import XCom

from coding_service.links import read_root_path
from include.pipeline.names import PAGE_PATH


class ReportLink(BaseOperatorLink):
    """Leads to the report that the task wrote, once it has."""

    name = "Report"
    xcom_key = "report_link"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        if XCom.get_value(key="return_value", ti_key=ti_key) is None:
            return ""
        return f"{read_root_path()}{PAGE_PATH}/report?{urlencode({'dag': ti_key.dag_id, 'run': ti_key.run_id})}"


def add_report_link(task: XComArg) -> XComArg:
    """Return a task that writes a report, with a link to it in the UI. `@task` has no argument for links."""
    task.operator.operator_extra_links = (ReportLink(),)  # type: ignore[attr-defined]
    return task


def make_help_url(anchor: str = "") -> str | None:
    """Return the address of the page Help, at an error class or a section of the runbook; None if Airflow does not
    know its own address (`[api] base_url`)."""
    base = (conf.get("api", "base_url", fallback="") or "").rstrip("/")
    return f"{base}{PAGE_PATH}/help{f'#{anchor}' if anchor else ''}" if base else None
