"""The approval before many texts are sent."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from airflow.sdk.exceptions import TaskAwaitingInput
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import CreateHITLDetailPayload

from include.coding.estimate import Estimate
from include.coding.plan import Plan
from include.pipeline.approval import ApproveSendingOperator
from tests.pipeline.conftest import TaskInstance


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


def needs_approval(texts_to_send: int, approve_above: int | None, *, dry_run: bool = False) -> bool:
    estimate = Estimate(9, 1, 2, 6, 1, texts_to_send, 200, 2, 12, 12.0, None)
    context = {
        "params": {"approve_above": approve_above, "dry_run": dry_run},
        "ti": TaskInstance({("prepare", "estimate"): estimate.to_dict()}),
        "task_instance": SimpleNamespace(id=uuid4()),
    }
    try:
        assert make_operator().execute(context) is None
    except TaskAwaitingInput:
        return True
    return False


@pytest.mark.parametrize(
    ("form", "setting", "limit"),
    [(None, "", None), (None, "5000", 5000), (7, "5000", 7), (0, "", 0), (0, "5000", 0)],
)
def test_the_limit_of_the_form_comes_before_that_of_the_setting(
    monkeypatch: pytest.MonkeyPatch, requests_to_approve: list[Any], form: int | None, setting: str, limit: int | None
) -> None:
    monkeypatch.setenv("CODING_APPROVE_ABOVE", setting)
    assert not needs_approval(1_000_000 if limit is None else limit, form)
    assert requests_to_approve == []
    if limit is not None:
        assert needs_approval(limit + 1, form)
        (request,) = requests_to_approve
        assert f"**{limit + 1} to send**" in request.body
        assert request.options == ["Approve", "Reject"]


def test_a_dry_run_needs_no_approval(requests_to_approve: list[Any]) -> None:
    assert not needs_approval(100, 0, dry_run=True)
    assert requests_to_approve == []


@pytest.mark.parametrize(
    ("answer", "remaining_files"),
    [("Approve", ["part-0.jsonl", "report.md"]), ("Reject", ["report.md"])],
)
def test_a_rejection_removes_the_files_of_the_run(
    answer: str, remaining_files: list[str], make_plan: Callable[..., Plan], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("part-0.jsonl", "report.md"):
        (folder / name).touch()
    event = {
        "chosen_options": [answer], "params_input": {}, "responded_at": datetime.now(UTC), "responded_by_user": None,
    }  # fmt: skip
    response = make_operator().execute_complete({"ti": TaskInstance({"plan": make_plan().to_dict()})}, event)
    assert response["chosen_options"] == [answer]
    assert sorted(path.name for path in folder.iterdir()) == remaining_files
