"""Approval by a person before many texts are sent."""

from __future__ import annotations

from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator


class ApproveSendingOperator(ApprovalOperator):
    """Waits for a person's approval if a run would send more texts than `approve_above`, else succeeds at once.

    A rejection ends the run: its files are removed, and all following tasks are skipped.
    """

    def execute(self, context: Any) -> Any:
        from include.pipeline.handoffs import pull_estimate
        from include.pipeline.settings import read_approval_limit

        params, estimate = context["params"], pull_estimate(context["ti"])
        limit = read_approval_limit() if params["approve_above"] is None else int(params["approve_above"])
        if params["dry_run"] or limit is None or estimate.texts_to_send <= limit:
            self.log.info("No approval needed to send %d texts", estimate.texts_to_send)
            return None
        self.body = estimate.as_markdown
        return super().execute(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        from include.pipeline.steps import remove_files

        response = super().execute_complete(context, event)
        if self.REJECT in response["chosen_options"]:
            remove_files(context["ti"])
        return response
