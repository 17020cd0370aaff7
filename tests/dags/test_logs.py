"""What the tasks of a run say in their logs, and what their mapped instances are called."""

from __future__ import annotations

import re

import pytest

from tests.support.dag_runner import TEXTS, DagRunner

# Airflow warns about its own reader of .airflowignore and about its database.
pytestmark = pytest.mark.filterwarnings("default")

GUID = "[0-9a-f-]{36}"


def test_each_task_says_in_a_sentence_what_it_did_and_a_wait_how_long_it_takes(
    runner: DagRunner, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert runner.run(parts=2).state == "success"
    log = capfd.readouterr().out + caplog.text
    for sentence in (
        rf"The run codes 2026-09-01 to 2026-09-01 from source 'file:.*' with topic 'osca', model {GUID}",
        rf"Prepared {TEXTS} records, 0 rejected, {TEXTS} distinct texts: the run sends {TEXTS} texts in 2 parts, which",
        f"No approval is needed to send {TEXTS} texts",
        f"Opened operation {GUID} for file:",
        rf"Uploaded file:.* \([\d,]+ bytes\) to operation {GUID}",
        rf"Operation {GUID} is waited for in the triggerer, until .* UTC at the latest: .* so far, .*, next look in ",
        rf"Operation {GUID} is waited for: .* so far, .*, next look in ",
        f"Operation {GUID} is complete, after a wait of ",
        rf"Downloaded the output of operation {GUID}: 30 lines, [\d,]+ bytes",
        f"Kept the results of {TEXTS} of {TEXTS} texts, from 2 operations",
        f"Published 2026-09-01 to 2026-09-01: {TEXTS} records read, ",
        "Announced 1 date, 2026-09-01 to 2026-09-01, as events of the asset",
        "Wrote the report file:.*report.html",
        "Removed the files of the run, except its report",
    ):
        assert re.search(sentence, log), sentence
    assert "Returned value was" not in log
    assert not re.search(r"\b(Plan|Prepared|Estimate|Part|CollectSummary|LandingSummary)\(\w+=", log)


def test_a_mapped_task_is_called_by_its_part_in_the_ui(runner: DagRunner) -> None:
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import func, select

    assert runner.run(parts=2).state == "success"
    last_run = select(func.max(DagRun.id)).where(DagRun.dag_id == "recode_occupations").scalar_subquery()
    with create_session() as session:
        labels = session.execute(
            select(TaskInstance.task_id, TaskInstance.rendered_map_index)
            .join(DagRun, (DagRun.dag_id == TaskInstance.dag_id) & (DagRun.run_id == TaskInstance.run_id))
            .where(DagRun.id == last_run, TaskInstance.rendered_map_index.is_not(None))
        ).all()
    for task in ("create", "upload", "poll", "download"):
        assert {label for task_id, label in labels if task_id == f"code.{task}"} == {
            "part 1 of 2: 30 texts", "part 2 of 2: 30 texts",
        }  # fmt: skip
