"""A person edits XComs while a run is in progress, through the whole DAG: nothing is read, sent or removed for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.support.dag_runner import DAY, TEXTS, DagRunner

# Airflow warns about its own reader of .airflowignore and about its database.
pytestmark = pytest.mark.filterwarnings("default")

Edit = Callable[[Any], Any]
PRECIOUS_HASH = hashlib.sha256(b"precious").hexdigest()


def edit_xcom(run_id: str, task_id: str, key: str, edit: Edit) -> None:
    """Replace the value of an XCom, as the UI does."""
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        query = select(XComModel).where(
            XComModel.run_id == run_id, XComModel.task_id == task_id, XComModel.key == key
        )
        (row,) = session.scalars(query)
        is_encoded = isinstance(row.value, str) and row.value[:1] in ("{", "[", '"')
        row.value = json.dumps(edit(json.loads(row.value))) if is_encoded else edit(row.value)


@pytest.fixture
def edit_before(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that has an XCom edited just before a task of the DAG reads it."""
    import recode_occupations

    def register(task_id: str, edited_task_id: str, edit: Edit, key: str = "return_value") -> None:
        task = recode_occupations.dag.get_task(task_id)
        check = task._pre_execute_hook

        def run_first(context: Any) -> None:
            edit_xcom(context["run_id"], edited_task_id, key, edit)
            if check is not None:
                check(context)

        monkeypatch.setattr(task, "_pre_execute_hook", run_first)

    return register


def run(runner: DagRunner, **conf: Any) -> str:
    import recode_occupations

    base = {"source": runner.make_source(), "max_uncoded_share": 1, "from_date": DAY, "response_date": None}
    return str(recode_occupations.dag.test(run_conf={**base, **conf}).state)


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A folder of somebody else."""
    folder = tmp_path / "precious"
    folder.mkdir()
    (folder / "data.jsonl").write_text("precious")
    return folder


@pytest.mark.parametrize("task_id", ["prepare", "collect", "report", "clean_up"])
def test_a_folder_in_the_plan_has_no_effect_on_what_is_written_and_removed(
    runner: DagRunner,
    edit_before: Callable[..., None],
    precious: Path,
    task_id: str,
) -> None:
    edit_before(task_id, "plan", lambda plan: {**plan, "staging": precious.as_uri()})
    assert run(runner) == "success"
    assert [path.name for path in precious.iterdir()] == ["data.jsonl"]
    assert sum(runner.count_published().values()) == TEXTS


@pytest.mark.parametrize("field", ["from_date", "to_date", "response_date"])
def test_sql_in_a_date_of_the_plan_is_not_run(
    runner: DagRunner,
    edit_before: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    field: str,
) -> None:
    runner.source_files.mkdir()
    source, stolen = runner.source_files / "without_dates.parquet", tmp_path / "stolen.csv"
    duckdb.execute(
        f"COPY (SELECT 'R' || i AS record_id, 'job number ' || i AS occp_text, 'tasks' AS tasks_text"
        f" FROM range(60) AS numbers(i)) TO '{source}' (FORMAT parquet)"
    )
    sql = (
        f"{DAY}' AS response_date FROM read_parquet('{source}');"
        f" COPY (SELECT * FROM read_text('/etc/hostname')) TO '{stolen}'; SELECT DATE '{DAY}"
    )
    edit_before("prepare", "plan", lambda plan: {**plan, field: sql})
    assert run(runner, source=source.as_uri(), from_date=None, response_date=DAY) == "failed"
    assert f"Plan is invalid: {field}: " in capsys.readouterr().out
    assert not stolen.exists()
    assert runner.list_operations() == []


@pytest.mark.parametrize(
    ("task_id", "edited_task_id", "key", "edit", "message"),
    [
        ("code.create", "prepare", "return_value", lambda parts: [{**parts[0], "input_uri": "{precious}", "sha256": PRECIOUS_HASH}], "Part is invalid: input_uri"),
        ("collect", "prepare", "prepared", lambda value: {**value, "records_uri": "{precious}"}, "Prepared is invalid: records_uri"),
        ("code.poll", "code.upload", "return_value", lambda operation_id: "../../precious", "OperationId is invalid: operation_id"),
        ("collect", "code.download", "return_value", lambda value: {**value, "output_uri": "{precious}"}, "DownloadedFiles is invalid: output_uri"),
    ],
    ids=["part", "records", "operation", "output"],
)  # fmt: skip
def test_a_file_or_an_operation_that_no_task_wrote_is_neither_read_nor_sent(
    runner: DagRunner,
    edit_before: Callable[..., None],
    precious: Path,
    task_id: str,
    edited_task_id: str,
    key: str,
    edit: Edit,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def edit_with_file(value: Any) -> Any:
        return json.loads(json.dumps(edit(value)).replace("{precious}", (precious / "data.jsonl").as_uri()))

    edit_before(task_id, edited_task_id, edit_with_file, key)
    assert run(runner) == "failed"
    assert message in capsys.readouterr().out
    assert [(path.name, path.read_text()) for path in precious.iterdir()] == [("data.jsonl", "precious")]
    assert runner.query("SELECT count(*) FROM coding.coded_records") == [(0,)]
