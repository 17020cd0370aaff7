"""Approval by a person before many texts are sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk.execution_time.context import NEVER_EXPIRE

from include.coding.errors import DataError
from include.coding.markdown import format_code
from include.pipeline.consent import QUESTION_KEY, Consent

if TYPE_CHECKING:
    from include.coding.estimate import Estimate


class ApprovalError(DataError):
    """The run would send more than the question says that a person sees, or something else."""


def lower_limit(setting: int | None, param: int | None) -> int | None:
    """Return the number of texts above which a run needs approval; None for never.

    :param setting: the limit of the deployment, which a run can lower but not raise
    :param param: the limit of the run
    """
    return min((limit for limit in (setting, param) if limit is not None), default=None)


def count_texts(ti: Any, estimate: Estimate) -> int:
    """Return how many texts the run would send: those of the parts that it would send, and those that it leaves to
    other runs but would send if they fail, whatever the estimate says."""
    from include.pipeline.handoffs import pull_parts, pull_prepared

    return max(estimate.texts_to_send, pull_prepared(ti).awaited + sum(part.records for part in pull_parts(ti)))


def _describe_answers(dag_run: Any) -> str:
    """Return who started a run, and what a rejection does, as a list for people."""
    run_id, user = getattr(dag_run, "run_id", None), getattr(dag_run, "triggering_user_name", None)
    run = f" {format_code(run_id)}" if run_id else ""
    return "\n".join(
        [
            f"- Run{run}, started by {format_code(user) if user else 'the schedule or a command'}.",
            "- **Approve** sends the texts; what is sent is paid for. **Reject** sends nothing, publishes nothing and"
            " removes the files of the run; to ask again, start another run.",
        ]
    )


class ApproveSendingOperator(ApprovalOperator):
    """Waits for a person's approval if a run would send more texts than `CODING_APPROVE_ABOVE` or its own
    `approve_above` allows, else succeeds at once.

    A rejection ends the run: its files are removed, and all following tasks are skipped. An approval counts only for
    what the person saw, because `prepare` can have run again since.

    :raises ApprovalError: an approval does not cover what the run would send now
    """

    def execute(self, context: Any) -> Any:
        from include.pipeline.handoffs import pull_estimate
        from include.pipeline.settings import read_approval_limit

        params, estimate = context["params"], pull_estimate(context["ti"])
        limit = lower_limit(read_approval_limit(), params["approve_above"])
        if params["dry_run"] or limit is None or count_texts(context["ti"], estimate) <= limit:
            self.log.info("No approval is needed to send %s texts", f"{estimate.texts_to_send:,}")
            return None
        consent = self._needed_consent(context)
        if context["task_state_store"].get(QUESTION_KEY) is None:
            context["task_state_store"].set(QUESTION_KEY, consent.to_dict(), retention=NEVER_EXPIRE)
        self._check_consent(context)  # Airflow still shows the question of an earlier attempt
        self.subject = (
            f"Send {consent.texts_to_send:,} texts of {consent.from_date} to {consent.to_date} to the coding service"
            f" ({consent.topic})?"
        )
        self.body = f"{consent.as_markdown}\n{estimate.as_markdown}\n{_describe_answers(context.get('dag_run'))}"
        return super().execute(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        from include.pipeline.steps import remove_files

        if self.APPROVE in event.get("chosen_options", ()):
            self._check_consent(context)
        response = super().execute_complete(context, event)
        if self.REJECT in response["chosen_options"]:
            remove_files(context["ti"])
        return response

    def _needed_consent(self, context: Any) -> Consent:
        from include.pipeline.handoffs import pull_estimate, pull_plan

        return Consent.from_plan(pull_plan(context["ti"]), pull_estimate(context["ti"]))

    def _check_consent(self, context: Any) -> None:
        """Raise :class:`ApprovalError` if the run would now send more than the question says, or something else."""
        consent, question = self._needed_consent(context), context["task_state_store"].get(QUESTION_KEY)
        consent_in_question = None if question is None else Consent.from_dict(question, task=self.task_id)
        if consent_in_question is None or not consent_in_question.covers(consent):
            raise ApprovalError(
                "clear this task with downstream tasks when the run has ended: Airflow then asks about what would be"
                " sent now, which the approval does not cover. Nothing was sent: the question was about"
                f" {consent_in_question or 'an unknown number of texts'}, but it is {consent}"
            )
