"""The approval before many texts are sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from airflow.providers.standard.exceptions import HITLTimeoutError
from airflow.sdk.exceptions import TaskAwaitingInput
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import CreateHITLDetailPayload

from include.coding.estimate import Estimate
from include.coding.files import path_from_uri
from include.coding.plan import Plan
from include.coding.prepare import Prepared
from include.pipeline.approval import ApprovalError, ApproveSendingOperator
from include.pipeline.settings import run_folder
from tests.pipeline.conftest import Store, TaskInstance

PREPARED = Prepared("2026-10-07T01:02:03", "checksum", False, None, None, (), 9, 1, 2, 6, 1)


@pytest.fixture
def requests_to_approve(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the task asks Airflow to show to a person."""
    messages: list[Any] = []

    def send(msg: Any) -> None:
        if isinstance(msg, CreateHITLDetailPayload):
            messages.append(msg)

    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", SimpleNamespace(send=send), raising=False)
    return messages


def make_operator() -> ApproveSendingOperator:
    return ApproveSendingOperator(task_id="approve", subject="Send texts?", response_timeout=timedelta(days=7))


def make_context(
    plan: Plan,
    texts_to_send: int,
    approve_above: int | None = None,
    store: Store | None = None,
    *,
    dry_run: bool = False,
    awaited: int = 0,
) -> dict[str, Any]:
    """Return the context of a task after `prepare` found this number of texts.

    :param awaited: texts that other runs send, whatever the estimate says
    """
    prepared = replace(PREPARED, awaited=awaited)
    estimate = Estimate(9, 1, 2, 6, 1, texts_to_send, 200, 2, 12, 12.0, None)
    return {
        "params": {"approve_above": approve_above, "dry_run": dry_run},
        "ti": TaskInstance(
            {
                "plan": plan.to_dict(),
                ("prepare", "estimate"): estimate.to_dict(),
                ("prepare", "prepared"): prepared.to_dict(),
            }
        ),
        "task_instance": SimpleNamespace(id=uuid4()),
        "task_state_store": Store() if store is None else store,
    }


def needs_approval(context: dict[str, Any]) -> bool:
    try:
        assert make_operator().execute(context) is None
    except TaskAwaitingInput:
        return True
    return False


def respond(context: dict[str, Any], answer: str) -> Any:
    """Let the task continue with the answer of a person."""
    event = {
        "chosen_options": [answer], "params_input": {}, "responded_at": datetime.now(UTC), "responded_by_user": None,
    }  # fmt: skip
    return make_operator().execute_complete(context, event)


@pytest.mark.parametrize(
    ("form", "setting", "limit"),
    [
        (None, "", None), (None, "5000", 5000), (7, "5000", 7), (0, "", 0), (0, "5000", 0), (9000, "5000", 5000),
        (10**18, "0", 0), (7, "", 7),
    ],
)  # fmt: skip
def test_the_lower_one_of_the_limits_of_the_form_and_of_the_setting_counts(
    monkeypatch: pytest.MonkeyPatch,
    requests_to_approve: list[Any],
    make_plan: Callable[..., Plan],
    form: int | None,
    setting: str,
    limit: int | None,
) -> None:
    monkeypatch.setenv("CODING_APPROVE_ABOVE", setting)
    assert not needs_approval(make_context(make_plan(), 1_000_000 if limit is None else limit, form))
    assert requests_to_approve == []
    if limit is not None:
        assert needs_approval(make_context(make_plan(), limit + 1, form))
        (request,) = requests_to_approve
        assert f"**{limit + 1:,} to send**" in request.body
        assert request.options == ["Approve", "Reject"]


def test_texts_that_other_runs_send_count_whatever_the_estimate_says(
    requests_to_approve: list[Any], make_plan: Callable[..., Plan]
) -> None:
    assert not needs_approval(make_context(make_plan(), 0, 10, awaited=10))
    assert needs_approval(make_context(make_plan(), 0, 10, awaited=11))


def test_a_dry_run_needs_no_approval(requests_to_approve: list[Any], make_plan: Callable[..., Plan]) -> None:
    assert not needs_approval(make_context(make_plan(), 100, 0, dry_run=True))
    assert requests_to_approve == []


def test_the_question_names_the_model_the_source_and_the_dates(
    requests_to_approve: list[Any], make_plan: Callable[..., Plan]
) -> None:
    assert needs_approval(make_context(make_plan(), 30, 0))
    (request,) = requests_to_approve
    assert request.body.startswith(
        "- Source: `survey_responses`, response dates 2026-10-05 to 2026-10-06.\n"
        "- Model: `11111111-1111-4111-8111-111111111111` of `osca`.\n- Records: "
    )


@pytest.mark.usefixtures("requests_to_approve")
@pytest.mark.parametrize("texts", [1, 29, 30])
def test_an_approval_counts_for_as_many_texts_or_fewer(make_plan: Callable[..., Plan], texts: int) -> None:
    store = Store()
    assert needs_approval(make_context(make_plan(), 30, 0, store))
    assert respond(make_context(make_plan(), texts, 0, store), "Approve")["chosen_options"] == ["Approve"]
    assert needs_approval(make_context(make_plan(), texts, 0, store)), "the task was cleared"


@pytest.mark.parametrize(
    ("texts", "changes"),
    [
        (530, {}),
        (30, {"model_id": "22222222-2222-4222-8222-222222222222"}),
        (30, {"source": "other_responses"}),
        (30, {"from_date": "2026-10-01"}),
        (30, {"to_date": "2026-10-31"}),
        (30, {"topic": "anzsco"}),
    ],
    ids=str,
)
def test_more_texts_or_another_model_source_or_date_need_a_new_approval(
    requests_to_approve: list[Any], make_plan: Callable[..., Plan], texts: int, changes: dict[str, Any]
) -> None:
    store = Store()
    assert needs_approval(make_context(make_plan(), 30, 0, store))
    context = make_context(make_plan(**changes), texts, 0, store)
    message = (
        "^clear this task with downstream tasks .* the question was about 30 texts of 'survey_responses', 2026-10-05 to"
        f" 2026-10-06, in 2 parts, for model '11111111.*' of 'osca', but it is {texts} texts of "
    )
    with pytest.raises(ApprovalError, match=message):
        respond(context, "Approve")  # `prepare` was cleared while the question was open
    with pytest.raises(ApprovalError, match=message):
        make_operator().execute(context)  # both were cleared
    assert len(requests_to_approve) == 1


@pytest.mark.usefixtures("requests_to_approve")
def test_an_approval_without_a_record_of_its_question_does_not_count(make_plan: Callable[..., Plan]) -> None:
    with pytest.raises(ApprovalError, match="the question was about an unknown number of texts, but it is 30 texts"):
        respond(make_context(make_plan(), 30, 0), "Approve")


def test_a_question_without_a_response_in_time_ends_as_such(make_plan: Callable[..., Plan]) -> None:
    with pytest.raises(HITLTimeoutError):
        make_operator().execute_complete(make_context(make_plan(), 30, 0), {"error": "late", "error_type": "timeout"})


@pytest.mark.usefixtures("requests_to_approve")
@pytest.mark.parametrize(
    ("answer", "remaining_files"),
    [("Approve", ["part-0.jsonl", "report.md"]), ("Reject", ["report.md"])],
)
def test_a_rejection_removes_the_files_of_the_run(
    answer: str, remaining_files: list[str], make_plan: Callable[..., Plan]
) -> None:
    plan = make_plan()
    folder = path_from_uri(run_folder("run-1"))
    folder.mkdir(parents=True)
    for name in ("part-0.jsonl", "report.md"):
        (folder / name).touch()
    store = Store()
    assert needs_approval(make_context(plan, 30, 0, store))
    assert respond(make_context(plan, 30, 0, store), answer)["chosen_options"] == [answer]
    assert sorted(path.name for path in folder.iterdir()) == remaining_files


@pytest.mark.usefixtures("requests_to_approve")
def test_a_rejection_counts_for_any_number_of_texts(make_plan: Callable[..., Plan]) -> None:
    store = Store()
    assert needs_approval(make_context(make_plan(), 30, 0, store))
    assert respond(make_context(make_plan(), 530, 0, store), "Reject")["chosen_options"] == ["Reject"]


def test_the_question_says_how_many_texts_who_started_the_run_and_what_a_rejection_does(
    requests_to_approve: list[Any], make_plan: Callable[..., Plan]
) -> None:
    context = make_context(make_plan(source="a`b <script>"), 1200, 0)
    context["dag_run"] = SimpleNamespace(run_id="manual`1", triggering_user_name="jo")
    assert needs_approval(context)
    (request,) = requests_to_approve
    assert request.subject == "Send 1,200 texts of 2026-10-05 to 2026-10-06 to the coding service (osca)?"
    assert "- Source: `a'b <script>`, response dates" in request.body
    assert "- Run `manual'1`, started by `jo`." in request.body
    assert "**Reject** sends nothing, publishes nothing and removes the files of the run" in request.body
