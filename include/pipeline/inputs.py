"""The check of what the provider's operators take from XCom, before they use it."""

from __future__ import annotations

from typing import Any

from include.coding.errors import PlanError


def check_inputs(context: Any) -> None:
    """Check the fields of an operator of the task group `code`: its part, and the operation of the task before it.

    It is the `pre_execute` of these operators, which take any file and any operation that they are given.

    :raises PlanError: a field is not what the task before can have written, the input file is not one of this run, or
        the run is a dry run
    """
    from include.coding.parts import Part
    from include.pipeline import handoffs, settings

    task, folder = context["task"], settings.run_folder(settings.read_run_key(context["ti"]))
    part = Part.from_dict(task.part, task=handoffs.PREPARE, folder=folder)
    name = part.input_uri.rpartition("/")[2]
    if not name.startswith(f"part-{part.part:04}-{part.sha256[:12]}."):
        raise PlanError(
            f"Part is invalid: input_uri: {name!r} is not the file of part {part.part + 1}. Clear the task"
            f" {handoffs.PREPARE!r} to compute it again"
        )
    if context["params"]["dry_run"]:
        raise PlanError(
            f"a dry run sends nothing, but it has parts. Clear the task {handoffs.PREPARE!r} to compute them again"
        )
    writer = handoffs.CREATE if task.task_id == handoffs.UPLOAD else handoffs.UPLOAD
    if hasattr(task, "operation_id"):
        handoffs.check_operation_id(task.operation_id, writer)
    if hasattr(task, "grant"):
        handoffs.check_grant(task.grant, writer)
    if getattr(task, "outcome", None) is not None:
        handoffs.WaitOutcome.from_dict(task.outcome, task=handoffs.POLL)
