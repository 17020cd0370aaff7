"""Nothing that a run stores or logs contains a secret or a person's text that could not be used."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from coding_service.settings import ServiceSettings
from coding_service.tokens import TokenStore
from include.pipeline.names import RECODE_DAG_ID
from tests.end_to_end.conftest import Harness

pytestmark = pytest.mark.airflow

#: What only a presigned URL contains.
PRESIGNED = re.compile(rb"X-Amz-(Signature|Credential|Security-Token|Algorithm)", re.IGNORECASE)


def read_database(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield every value of every table of Airflow's metadata database, as (table.column, bytes)."""
    with sqlite3.connect(path) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            cursor = database.execute(f'SELECT * FROM "{table}"')
            names = [column[0] for column in cursor.description]
            for row in cursor:
                for name, value in zip(names, row, strict=True):
                    if isinstance(value, str | bytes):
                        yield f"{table}.{name}", value.encode() if isinstance(value, str) else value


def read_token(harness: Harness) -> bytes:
    """Return the access token that the tasks use, read as they do."""
    environment = harness.stack.environment(harness.stack.state)
    connection = json.loads(environment["AIRFLOW_CONN_CODING_SERVICE_DEFAULT"])
    settings = ServiceSettings(connection["host"], "", connection["login"], connection["password"])
    path = harness.stack.folder / "airflow" / "coding_service" / f"{settings.account}.token"
    slot = TokenStore(path, settings.client_id, settings.client_secret).lock()
    token = slot.get() if slot else None
    assert token
    return token.encode()


#: What stands in every text, id and date that no run can use.
MARK = "MARKED"
BROKEN_SOURCES = {
    # an unclosed quote, so that the rest of the file, and with it the answers of others, is one value
    "quote.csv": 'record_id,response_date,occp_text,tasks_text\n1,2026-09-01,"MARKED chef,cooks\nMARKED,2026-09-01,a,b\n',
    "columns.csv": 'record_id,response_date,occp_text,tasks_text\n1,2026-09-01,"MARKED\nchef",MARKED,MARKED,MARKED\n',
    "object.jsonl": '{"record_id": "1", "response_date": "2026-09-01", "occp_text": "MARKED\n", "tasks_text": "x"\n',
}
#: Rows that are set aside, beside ninety good ones: an unreadable date, a text in another script, one without an id.
SET_ASIDE = ["B1,MARKED-01,MARKED,MARKED", "B2,2026-09-01,MARKED \u0436,MARKED", ",2026-09-01,MARKED,MARKED"]


def read_pages(harness: Harness, run_id: str) -> Iterator[tuple[str, bytes]]:
    """Yield what the pages of a run in Airflow's UI are made of, as (path, bytes)."""
    run = f"/dags/{RECODE_DAG_ID}/dagRuns/{run_id}"
    tasks = harness.api.request("GET", f"{run}/taskInstances")["task_instances"]
    paths = [run, f"{run}/taskInstances", f"/dags/{RECODE_DAG_ID}/assets/events", "/eventLogs?limit=1000"]
    for task in tasks:
        name = f"{run}/taskInstances/{task['task_id']}"
        paths += [f"{name}/{task['map_index']}", f"{name}/xcomEntries?map_index={task['map_index']}"]
        paths += [f"{name}/logs/{number + 1}?map_index={task['map_index']}" for number in range(task["try_number"])]
    for path in paths:
        yield path, json.dumps(harness.api.request("GET", path, ignore=(404,))).encode()


def test_no_text_of_a_broken_or_rejected_row_is_in_logs_metadata_database_reports_or_pages(
    harness: Harness, source_folder: Path
) -> None:
    run_ids = []
    for name, content in BROKEN_SOURCES.items():
        (source_folder / name).write_text(content)
        run_id, state = harness.run(source=(source_folder / name).as_uri(), from_date="2026-09-01")
        assert state == "failed"
        assert "SourceError" in harness.log(run_id)
        run_ids.append(run_id)
    good = [f"G{number},2026-09-01,job {number},tasks" for number in range(90)]
    lines = ["record_id,response_date,occp_text,tasks_text", *good, *SET_ASIDE]
    (source_folder / "answers.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    run_id, state = harness.run(source=(source_folder / "answers.csv").as_uri(), from_date="2026-09-01")
    assert state == "success"
    run_ids.append(run_id)

    folder = harness.stack.folder
    logs = [path for part in ("logs", "airflow/logs") for path in (folder / part).rglob("*.log")]
    contents = [(str(path), path.read_bytes()) for path in [*logs, *folder.rglob("report.md")]]
    contents += list(read_database(folder / "airflow" / "airflow.db"))
    contents += [(path.name, path.read_bytes()) for path in (folder / "airflow").glob("airflow.db*")]
    contents += [page for run_id in run_ids for page in read_pages(harness, run_id)]
    assert [name for name, content in contents if MARK.encode() in content] == []

    shapes = [name for name, content in contents if b"aaaaaa-99" in content]
    assert any("report.md" in name for name in shapes), "the report shows the shape of the unreadable date"
    assert any("xcom" in name for name in shapes), "the search misses the XComs"
    assert any("task_id=prepare" in name for name in shapes), "the search misses the task logs"


def test_no_presigned_url_and_no_token_in_logs_metadata_database_warehouse_or_stdout(
    harness: Harness, texts_file: Path
) -> None:
    for fault in ("expired_upload", "cut_download", "expired_link", "reset_upload"):
        harness.control_service("faults", name=fault, count=1)
    run_id, state = harness.run(
        source=texts_file.as_uri(), from_date="2026-09-01", selection="all", records_per_part=25
    )
    assert state == "success"
    ((operation_id,), *_) = harness.query(
        "SELECT operation_id FROM coding.coding_operations WHERE run_id = ?", run_id
    )

    logs = [path for folder in ("logs", "airflow/logs") for path in (harness.stack.folder / folder).rglob("*.log")]
    contents = [(str(path), path.read_bytes()) for path in logs]
    contents += list(read_database(harness.stack.folder / "airflow" / "airflow.db"))
    # The file also contains deleted rows, such as those of triggers that have fired.
    contents += [(path.name, path.read_bytes()) for path in (harness.stack.folder / "airflow").glob("airflow.db*")]
    tables = ("coded_records", "coded_texts", "coding_operations")
    contents += [(table, str(harness.query(f"SELECT * FROM coding.{table}")).encode()) for table in tables]
    token = read_token(harness)
    leaks = [
        name
        for name, content in contents
        if token in content or b"local-secret" in content or PRESIGNED.search(content)
    ]
    assert leaks == []

    matches = {
        name.partition("/task_id=")[2] or name for name, content in contents if operation_id.encode() in content
    }
    assert {"xcom.value", "task_state_store.value"} <= matches, "the search misses values of the database"
    assert any("upload" in name for name in matches), "the search misses the task logs"
