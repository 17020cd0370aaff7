"""What an event of OpenLineage says about a task that failed: the provider adds its error with the whole traceback."""

import json

import pytest
from airflow.providers.openlineage.plugins.adapter import OpenLineageAdapter

from coding_service import CodingServiceOperator
from coding_service.errors import CodingServiceError

RUN_ID = "01a21bec-585c-7420-bd77-c1897b4b4dae"
#: What only a link, a token, a credential or the input file has.
SECRET_WORDS = ("X-Amz", "Signature", "Bearer", "eyJ", "local-secret", "baker", "bakes", "/_storage/")


@pytest.fixture
def events(monkeypatch, tmp_path):
    """Send lineage to a file, and return it."""
    file = tmp_path / "events.jsonl"
    transport = {"type": "file", "log_file_path": str(file), "append": True}
    monkeypatch.setenv("AIRFLOW__OPENLINEAGE__TRANSPORT", json.dumps(transport))
    return file


@pytest.mark.parametrize(
    "fault", ["operation_fails", "reset_upload", "expired_upload", "storage_error", "access_denied"]
)
def test_the_event_of_a_failed_task_has_its_operation_but_no_text_link_or_secret(
    connected, encrypted, events, input_file, run, context, fault
):
    files = {"input_file": str(input_file), "output_file": str(input_file.with_name("out.jsonl"))}
    task = CodingServiceOperator(task_id="code", topic="osca", poll_interval=0.01, deferrable=False, **files)
    connected.fault(fault, count=1000, **({"error": "cannot code 'baker 1'"} if fault == "operation_fails" else {}))
    with pytest.raises(CodingServiceError) as caught:
        run(task, context)
    facts = task.get_openlineage_facets_on_complete(None)
    OpenLineageAdapter().fail_task(
        RUN_ID, "code", "2026-11-27T00:00:00Z", facts, None, None, None, None, None, error=caught.value
    )
    [event] = map(json.loads, events.read_text().splitlines())
    assert event["run"]["facets"]["errorMessage"]["stackTrace"]
    operations = [one["operation_id"] for one in connected.operations()]
    if fault == "operation_fails":
        assert [event["run"]["facets"]["externalQuery"]["externalQueryId"]] == operations
    assert [word for word in SECRET_WORDS if word in json.dumps(event)] == []
