"""Lineage that is not there or does not work, and the names of what it is about."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from coding_service import CodingServiceDownloadOperator, CodingServiceOperator
from coding_service.lineage import is_active, name_file
from include.coding.plan import Plan
from include.coding.prepare import Prepared
from include.pipeline import lineage
from tests.conftest import ROOT
from tests.pipeline.conftest import TaskInstance

OPERATION = "00000000-0000-4000-8000-000000000001"
PREPARED = Prepared("2026-10-07T01:02:03", "checksum", True, None, None, (), 9, 1, 2, 6, 1)
PLAN: Any = SimpleNamespace(source="s3://bucket/answers.csv", engine_memory_mb=100)
POSTGRES = {"conn_type": "postgres", "host": "db.example.org", "login": "nightly", "password": "marked-password"}
REDSHIFT = {**POSTGRES, "conn_type": "redshift", "host": "survey.abc.ap-southeast-2.redshift.amazonaws.com"}

WITHOUT_PROVIDER = """
import airflow.configuration  # finds all providers that are installed
for name in ("airflow.providers.openlineage", "openlineage", *sys.modules):
    if name.startswith(("airflow.providers.openlineage", "openlineage")):
        sys.modules[name] = None
import recode_occupations
from coding_service.lineage import is_active
from include.pipeline import lineage
assert not is_active()
lineage.send_preparation(None, None, None)
lineage.send_landing(None, None, None)
recode_occupations.dag.get_task("code.poll").remember_for_lineage("00000000-0000-4000-8000-000000000001")
print("fine")
"""


@pytest.fixture
def active(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Lineage that goes to a file."""
    transport = {"type": "file", "log_file_path": str(tmp_path / "events"), "append": True}
    monkeypatch.setenv("AIRFLOW__OPENLINEAGE__TRANSPORT", json.dumps(transport))
    assert is_active()


def test_everything_works_without_the_provider() -> None:
    path = [str(ROOT), str(ROOT / "plugins"), str(ROOT / "dags")]
    code = f"import sys; sys.path[:0] = {path}\n{WITHOUT_PROVIDER}"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.stdout.endswith("fine\n"), process.stderr


def test_nothing_is_done_while_no_transport_is_configured(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        lineage.send_preparation(None, None, None)
        lineage.send_landing(None, None, None)
    assert (is_active(), caplog.text) == (False, "")


@pytest.mark.usefixtures("active")
def test_lineage_that_cannot_be_sent_fails_no_task_and_its_words_are_not_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(plan: Plan) -> None:
        raise RuntimeError("https://lineage.example.org/?api_key=marked")

    monkeypatch.setattr(lineage, "_name_source", refuse)
    lineage.send_preparation(TaskInstance(), PLAN, PREPARED)
    assert "was not sent (RuntimeError); the task goes on" in caplog.text
    assert "marked" not in caplog.text


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("file:///data/a%20b.jsonl", ("file", "/data/a b.jsonl")),
        ("s3://bucket/folder/a.jsonl", ("s3://bucket", "folder/a.jsonl")),
        ("s3://key:marked@bucket/a.jsonl?X-Amz-Signature=marked#marked", ("s3://bucket", "a.jsonl")),
        ("https://bucket.example.org/a.jsonl?X-Amz-Signature=marked", None),
        ("", None),
    ],
)
def test_a_file_is_named_without_anything_that_gives_access(uri: str, name: tuple[str, str] | None) -> None:
    assert name_file(uri) == name


@pytest.mark.parametrize(
    ("connection", "namespace", "name"),
    [
        ({"conn_type": "duckdb", "host": "/data/codes.duckdb"}, "duckdb:///data/codes.duckdb", "codes.coding.runs"),
        ({**POSTGRES, "schema": "surveys"}, "postgres://db.example.org:5432", "surveys.coding.runs"),
        ({**POSTGRES, "port": 5433}, "postgres://db.example.org:5433", "nightly.coding.runs"),
        ({**REDSHIFT, "schema": "dev"}, "redshift://survey.ap-southeast-2:5439", "dev.coding.runs"),
    ],
)
def test_a_table_has_the_name_that_other_tools_give_it(
    monkeypatch: pytest.MonkeyPatch, connection: dict[str, Any], namespace: str, name: str
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE_DEFAULT", json.dumps(connection))
    plan: Any = SimpleNamespace(schema="coding")
    assert lineage._name_table(plan, "runs") == (namespace, name)


@pytest.mark.usefixtures("active")
def test_one_task_leads_from_its_input_to_its_output(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = {"conn_type": "coding_service", "host": "https://coder.example.org", "login": "a", "password": "b"}
    extra = {"auth_host": "https://auth.example.org"}
    monkeypatch.setenv("AIRFLOW_CONN_CODING_SERVICE_DEFAULT", json.dumps({**connection, "extra": extra}))
    task = CodingServiceOperator(
        task_id="code", topic="osca", input_file="/data/in.jsonl", output_file="/data/out.jsonl"
    )
    task.remember_for_lineage(OPERATION, {"output_uri": "file:///data/out.jsonl", "records": 3, "input_records": 3})
    facts = task.get_openlineage_facets_on_complete(None)
    assert [(one.namespace, one.name) for one in facts.inputs] == [("file", "/data/in.jsonl")]
    assert [(one.namespace, one.name) for one in facts.outputs] == [("file", "/data/out.jsonl")]
    query = facts.run_facets["externalQuery"]
    assert (query.externalQueryId, query.source) == (OPERATION, "https://coder.example.org")
    assert (facts.run_facets["occupationCoding"].topic, facts.run_facets["occupationCoding"].records) == ("osca", 3)


@pytest.mark.usefixtures("active")
def test_a_task_that_failed_early_and_a_link_in_place_of_a_file_give_no_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = CodingServiceDownloadOperator(
        task_id="download", topic="osca", output_file="/data/out.jsonl", operation_id=OPERATION
    )
    assert task.get_openlineage_facets_on_complete(None).run_facets.keys() == {"occupationCoding"}
    monkeypatch.delenv("AIRFLOW_CONN_CODING_SERVICE_DEFAULT", raising=False)
    task.remember_for_lineage(OPERATION, {"output_uri": "https://storage.example.org/a?X-Amz-Signature=marked"})
    task.remember_for_lineage("a marked text of a person")
    facts = task.get_openlineage_facets_on_complete(None)
    assert (facts.inputs, facts.outputs, facts.run_facets["externalQuery"].source) == ([], [], "")
