"""The link of a task to its operation, on a page of the deployment."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlsplit

from airflow.sdk import BaseOperatorLink
from airflow.sdk.configuration import conf
from airflow.sdk.execution_time.xcom import XCom

#: XCom key of the link of a task to its operation.
OPERATION_LINK_KEY = "operation_link"


class OperationLink(BaseOperatorLink):
    """Shows the link that the task pushed. Tasks without one have none in the UI."""

    name = "Operation"
    xcom_key = OPERATION_LINK_KEY

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        # Airflow calls this at the end of the task, and stores the answer in place of what the task pushed.
        return XCom.get_value(key=self.xcom_key, ti_key=ti_key) or ""


def check_operation_link(template: str | None) -> str | None:
    """Return the template of a link, unchanged.

    :raises TypeError: it is not the path of a page, or has a placeholder that is unknown
    """
    if template is not None:
        try:
            path = template.format(dag_id="", run_id="", operation_id="")
        except (AttributeError, IndexError, KeyError, ValueError):
            path = ""
        if not path.startswith("/") or path.startswith("//"):
            raise TypeError(
                f"the operation link is {template!r}: give the path of a page, which begins with one slash and can"
                " contain {dag_id}, {run_id} and {operation_id}"
            )
    return template


def push_operation_link(ti: Any, template: str | None, operation_id: str) -> None:
    """Push the link of a task to its operation, before it waits; without a template, none.

    :param ti: the task instance
    :param template: a path below the root of Airflow's UI, as :func:`check_operation_link` returned it
    """
    if template is not None:
        names = {"dag_id": ti.dag_id, "run_id": ti.run_id, "operation_id": operation_id}
        path = template.format_map({name: quote(str(value), safe="") for name, value in names.items()})
        ti.xcom_push(key=OPERATION_LINK_KEY, value=f"{read_root_path()}{path}")


def read_root_path() -> str:
    """Return the path of the root of Airflow's UI, without the slash at its end: `/airflow`, or mostly nothing."""
    return urlsplit(conf.get("api", "base_url", fallback="") or "").path.rstrip("/")
