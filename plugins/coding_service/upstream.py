"""The results of earlier tasks that an operator cannot do without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from airflow.sdk import XComArg
from airflow.sdk.bases.operator import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, XComNotFound


class UpstreamResultsMixin(BaseOperator):
    """Fails an operator at once if an earlier task left no result, because somebody marked it as success by hand."""

    #: Template fields without which the operator cannot work.
    required_fields: Sequence[str] = ()
    #: Template fields that are None if the earlier task left no result.
    optional_fields: Sequence[str] = ()

    def render_template_fields(self, context: Any, jinja_env: Any = None) -> None:
        """Render the template fields.

        :raises AirflowFailException: the result of an earlier task is missing
        """
        for name in self.optional_fields:
            if _is_missing(getattr(self, name), context):
                setattr(self, name, None)
        results = {name: getattr(self, name) for name in self.required_fields}
        try:
            super().render_template_fields(context, jinja_env)
        except XComNotFound as error:
            _refuse_missing_result(error.task_id)
        for name, result in results.items():
            if isinstance(result, XComArg) and getattr(self, name) is None:
                _refuse_missing_result(next(operator.task_id for operator, _ in result.iter_references()))


def _is_missing(value: Any, context: Any) -> bool:
    """Return whether a field refers to a result that does not exist."""
    if not isinstance(value, XComArg):
        return False
    try:
        value.resolve(context)
    except XComNotFound:
        return True
    return False


def _refuse_missing_result(task_id: str) -> NoReturn:
    raise AirflowFailException(
        f"the result of task {task_id!r} is missing: clear {task_id!r} with downstream tasks, because it did not"
        " succeed or was marked as success by hand"
    )
