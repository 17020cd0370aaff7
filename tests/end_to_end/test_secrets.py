"""Nothing that a run stores or logs contains a secret: no presigned URL, no token, no client secret."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from coding_service.settings import ServiceSettings
from coding_service.tokens import TokenStore
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
