"""A file goes in, a coded file comes out, by the params of a run of `recode_occupations` alone."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from tests.support.dag_runner import DagRunner

# Airflow itself uses what is deprecated.
pytestmark = pytest.mark.filterwarnings("default")


def write_workbook(path: Path) -> None:
    """Write a workbook with title rows, days before months, no tasks, and a second sheet."""
    book = openpyxl.Workbook()
    book.active.append(["Made by the survey team"])
    sheet = book.create_sheet("Data")
    for row in (
        ["Labour force, October"],
        [],
        ["Id", "Interviewed", "Job title", "Age"],
        ["007", "05/10/2026", "chef", 34],
        ["008", "05/10/2026", "=SUM(1)", 51],
        ["009", "06/10/2026", "nurse", 28],
        ["010", "05/10/2026", "", None],
    ):
        sheet.append(row)
    sheet["C5"].data_type = "s"
    book.save(path)


@pytest.fixture
def run(runner: DagRunner, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that runs the DAG with a workbook, and returns the run."""
    import recode_occupations

    runner.source_files.mkdir()
    (runner.folder / "out").mkdir()
    write_workbook(runner.source_files / "answers.xlsx")
    monkeypatch.setenv("CODING_EXPORT_FOLDERS", str(runner.folder / "out"))
    conf = {
        "source": (runner.source_files / "answers.xlsx").as_uri(),
        "columns": {
            "record_id": "Id", "response_date": "Interviewed", "occp_text": "Job title", "tasks_text": None,
        },
        "read_options": {"sheet": "Data", "header_row": 3, "date_format": "%d/%m/%Y"},
        "from_date": "2026-10-05",
        "max_uncoded_share": 1,
        "max_rejected_share": 1,
    }  # fmt: skip
    return lambda **changes: recode_occupations.dag.test(run_conf=deepcopy({**conf, **changes}))


def read_states(run: Any) -> dict[str, str]:
    return {ti.task_id: str(ti.state) for ti in run.get_task_instances()}


def test_a_workbook_with_title_rows_comes_back_as_a_coded_workbook(run: Any, runner: DagRunner) -> None:
    target = runner.folder / "out" / "coded.xlsx"
    states = read_states(run(export=target.as_uri()))
    assert states["export"] == states["report"] == states["clean_up"] == "success"
    names, *rows = [list(row) for row in openpyxl.load_workbook(target).active.iter_rows(values_only=True)]
    assert names == [
        "Id", "Interviewed", "Job title", "Age", "code", "label", "confidence", "level", "outcome", "reason", "model",
    ]  # fmt: skip
    assert [row[:4] for row in rows] == [
        ["007", "05/10/2026", "chef", 34], ["008", "05/10/2026", "=SUM(1)", 51], ["010", "05/10/2026", None, None],
    ]  # fmt: skip
    published = dict(runner.query("SELECT record_id, outcome FROM coding.coded_records"))
    assert {row[0]: row[8] for row in rows} == published
    assert rows[2][8:10] == ["rejected", "blank"]
    codes = dict(runner.query("SELECT record_id, code FROM coding.coded_records"))
    assert {row[0]: row[4] for row in rows} == codes
    assert target.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in target.parent.iterdir()] == ["coded.xlsx"]
    (report,) = runner.staging.rglob("report.md")
    assert f"Exported: 3 records with all columns of the source and their codes, to `{target.as_uri()}`" in (
        report.read_text()
    )
    before = target.stat().st_mtime_ns

    states = read_states(run(export=target.as_uri(), dry_run=True))
    assert (states["export"], states["report"]) == ("skipped", "success")
    states = read_states(run())
    assert (states["export"], states["report"], states["clean_up"]) == ("skipped", "success", "success")
    assert target.stat().st_mtime_ns == before


def test_a_file_outside_the_folders_of_the_deployment_is_refused_before_anything_is_sent(
    run: Any, runner: DagRunner, capfd: pytest.CaptureFixture[str]
) -> None:
    states = read_states(run(export=(runner.folder / "elsewhere.csv").as_uri()))
    assert states["plan"] == "failed"
    assert "is not in a folder to which runs may write" in capfd.readouterr().out
    assert runner.list_operations() == []
