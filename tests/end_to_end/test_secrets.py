"""Nothing that a run stores, logs or shows to the users of the machine contains a secret or an unusable text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from coding_service.settings import ServiceSettings
from coding_service.tokens import TokenStore
from include.pipeline.names import CODING_SERVICE_CONN_ID, RECODE_DAG_ID
from include.stack.processes import Stack
from tests.end_to_end.conftest import Harness
from tests.support.metadata import read_database

pytestmark = pytest.mark.airflow

SECRET_NAMES = ("client_secret", "fernet_key", "jwt_secret", "password", "secret_key")
#: What only a presigned URL contains.
PRESIGNED = re.compile(rb"X-Amz-(Signature|Credential|Security-Token|Algorithm)", re.IGNORECASE)


def read_token(harness: Harness) -> bytes:
    """Return the access token that the tasks use, read as they do."""
    connection = harness.stack.connections(harness.stack.state)[CODING_SERVICE_CONN_ID]
    settings = ServiceSettings(connection["host"], "", connection["login"], connection["password"])
    path = harness.stack.folder / "airflow" / "coding_service" / f"{settings.account}.token"
    store = TokenStore(path, settings.client_id, settings.client_secret, auth_url=connection["extra"]["auth_host"])
    slot = store.lock()
    token = slot.get() if slot else None
    assert token
    return token.encode()


def read_secrets(stack: Stack) -> list[bytes]:
    """Return the keys and passwords of a stack."""
    return [stack.read_secret(name).encode() for name in SECRET_NAMES]


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
    contents = [(str(path), path.read_bytes()) for path in [*logs, *folder.rglob("report.*")]]
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
    secrets = [read_token(harness), *read_secrets(harness.stack)]
    leaks = [
        name
        for name, content in contents
        if PRESIGNED.search(content) or any(secret in content for secret in secrets)
    ]
    assert leaks == []

    matches = {
        name.partition("/task_id=")[2] or name for name, content in contents if operation_id.encode() in content
    }
    assert {"xcom.value", "task_state_store.value"} <= matches, "the search misses values of the database"
    assert any("upload" in name for name in matches), "the search misses the task logs"


def test_the_files_of_the_stack_are_for_their_owner_only(harness: Harness, texts_file: Path) -> None:
    _, state = harness.run(source=texts_file.as_uri(), from_date="2026-09-01")
    assert state == "success"
    folder, source_files = harness.stack.folder, harness.stack.source_files
    assert source_files.stat().st_mode & 0o077 == 0
    others = {folder / "settings", source_files}  # what is in them was written by tests
    files = [path for path in (folder, *folder.rglob("*")) if others.isdisjoint((path, *path.parents))]
    modes = {str(path): path.lstat().st_mode for path in files if not path.is_symlink()}
    assert {name: oct(mode) for name, mode in modes.items() if mode & 0o077} == {}
    for part in (
        "warehouse.duckdb",
        "sample.parquet",
        "logs",
        "airflow/logs/dag_id=",
        "staging/",
        "service/",
        "secrets/",
    ):
        assert any(name.startswith(f"{folder}/{part}") for name in modes), f"the search misses {part}"


def test_no_process_of_the_stack_listens_on_other_than_loopback_or_shows_a_secret(harness: Harness) -> None:
    leaders = [harness.stack.process(name) for name in harness.stack.state.processes]
    processes = [process for leader in leaders for process in (leader, *leader.children(recursive=True))]
    sockets, shown = [], []
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # a task can end meanwhile
            sockets += [each.laddr for each in process.net_connections("inet") if each.status == psutil.CONN_LISTEN]
            shown.append(f"{process.cmdline()} {process.environ()}".encode())
    assert {address.ip for address in sockets} == {"127.0.0.1"}
    assert len({address.port for address in sockets}) >= 2, "the search misses the API server or the local service"
    assert len(shown) >= 5
    assert [text for text in shown if any(secret in text for secret in read_secrets(harness.stack))] == []
