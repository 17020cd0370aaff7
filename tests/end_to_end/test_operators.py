"""The operators in a DAG that uses nothing else of this project, on real Airflow processes."""

from __future__ import annotations

import json
import re
import secrets
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import Harness

pytestmark = pytest.mark.airflow

DAG_ID = "example_coding_service"
PRESIGNED = re.compile(rb"X-Amz-(Signature|Credential)", re.IGNORECASE)


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_one_task_and_four_tasks_code_a_file_and_send_it_once_each(harness: Harness) -> None:
    position, run_id = harness.last_request(), f"manual__{secrets.token_hex(8)}"
    harness.control_service("faults", name="reset_upload", count=2)
    harness.unpause(DAG_ID)
    run = {"dag_run_id": run_id, "logical_date": None, "conf": {}}
    harness.api.request("POST", f"/dags/{DAG_ID}/dagRuns", json=run, ignore=(409,))
    assert harness.wait(run_id, DAG_ID) == "success"

    airflow_home = harness.stack.folder / "airflow"
    folder = airflow_home / "staging" / DAG_ID / run_id
    ids = [line["recordId"] for line in read_lines(folder / "texts.jsonl")]
    outputs = {"one_task.jsonl": "code", "four_tasks.jsonl": "download"}
    for name, task_id in outputs.items():
        assert [line["recordId"] for line in read_lines(folder / name)] == ids
        assert (folder / name).stat().st_mode & 0o777 == 0o600
        path = f"/dags/{DAG_ID}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/return_value"
        result = harness.api.request("GET", path, params={"deserialize": True})["value"]
        assert (result["records"], result["output_uri"]) == (len(ids), (folder / name).as_uri())

    assert [call["path"] for call in harness.creations(position)] == ["/v1/topics/osca/batch-code"] * 2
    assert len({upload["operation_id"] for upload in harness.uploads(position)}) == 2
    assert len(harness.uploads(position)) == 2, "a retry sent the file again"

    logs = list((airflow_home / "logs" / f"dag_id={DAG_ID}" / f"run_id={run_id}").rglob("*.log*"))
    assert any("task_id=code" in str(path) and ".trigger." in path.name for path in logs), "it was not deferred"
    assert [path for path in logs if PRESIGNED.search(path.read_bytes())] == []
