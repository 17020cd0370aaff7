"""Tasks of `recode_occupations` that somebody marked as success by hand: they leave no result, and later tasks say so.

The DAG runs as in `airflow dags test`, where tasks that match a pattern are marked as success instead of run.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.dag_runner import DAY, TEXTS, DagRunner

# Airflow warns about its own reader of .airflowignore and about its database.
pytestmark = pytest.mark.filterwarnings("default")

#: Tasks that are marked (a pattern), a task that cannot work without their result, and the task that it names.
MARKS = {
    "plan": ("plan", "prepare", "plan"),
    "plan, prepare": ("plan|prepare|approve", "collect", "prepare"),
    "prepare": ("prepare", "approve", "prepare"),
    "prepare, approve, collect": ("prepare|approve|collect", "land", "prepare"),
    "create": (r"code\.create", "code.upload", "code.create"),
    "upload": (r"code\.upload", "code.poll", "code.upload"),
    "upload, poll": (r"code\.(upload|poll)", "code.download", "code.upload"),
    "collect": ("collect", "land", "collect"),
    "land": ("land", "report", "land"),
    "land, announce": ("land|announce", "report", "land"),
    "land, report": ("land|report", "announce", "land"),
    "plan, land, export, report, announce": (
        "plan|prepare|land|export|report|announce|approve|collect",
        "clean_up",
        "plan",
    ),
}


class MarkedRun:
    """A run of the DAG with tasks that are marked as success, and the files that it has left."""

    def __init__(self, runner: DagRunner, pattern: str) -> None:
        import recode_occupations

        conf = {"source": runner.make_source(), "from_date": DAY, "max_uncoded_share": 1}
        run = recode_occupations.dag.test(run_conf=conf, mark_success_pattern=pattern)
        self.state = str(run.state)
        self.states = {ti.task_id: str(ti.state) for ti in run.get_task_instances()}
        self.attempts = {ti.task_id: ti.try_number for ti in run.get_task_instances()}
        files = (runner.folder / "staging").rglob("*")
        self.files = sorted(Path(path).name for path in files if path.is_file())


@pytest.mark.parametrize(("pattern", "task_id", "missing"), MARKS.values(), ids=MARKS)
def test_a_task_without_the_result_of_a_marked_one_fails_at_once_with_a_sentence_that_names_it(
    runner: DagRunner,
    capfd: pytest.CaptureFixture[str],
    pattern: str,
    task_id: str,
    missing: str,
) -> None:
    run = MarkedRun(runner, pattern)
    output = "".join(capfd.readouterr())
    assert f"the result of task '{missing}' is missing: clear '{missing}' with downstream tasks, because" in output
    assert "TypeError" not in output
    assert (run.state, run.states[task_id], run.attempts[task_id]) == ("failed", "failed", 1)


def test_a_run_that_published_nothing_fails_and_keeps_its_files_however_many_tasks_are_marked(
    runner: DagRunner,
    capfd: pytest.CaptureFixture[str],
) -> None:
    run = MarkedRun(runner, "land|report|announce")
    assert (run.state, run.states["clean_up"], run.attempts["clean_up"]) == ("failed", "failed", 1)
    assert {"output.jsonl", "records.parquet"} <= set(run.files)
    assert "nothing is recorded as published: clear 'land' with downstream tasks" in "".join(capfd.readouterr())


@pytest.mark.parametrize("pattern", [r"code\.poll", "report", "announce", "approve", "wait_for_parts"])
def test_a_marked_task_whose_result_is_not_needed_does_not_stop_the_run(
    runner: DagRunner,
    pattern: str,
) -> None:
    run = MarkedRun(runner, pattern)
    assert run.state == "success"
    assert sum(runner.count_published().values()) == TEXTS
    assert set(run.files) <= {"report.html", "report.json", "report.md", "source.parquet"}
