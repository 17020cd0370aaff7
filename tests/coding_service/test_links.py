"""The link of a task to its operation."""

import hashlib

import pytest
from airflow.sdk.exceptions import TaskDeferred

from coding_service import (
    BatchCodeSensor,
    CodingServiceCreateOperator,
    CodingServiceDownloadOperator,
    CodingServiceHook,
    CodingServiceOperator,
    CodingServiceUploadOperator,
)
from coding_service.links import OPERATION_LINK_KEY, OperationLink
from coding_service.operators import UPLOAD_GRANT_KEY

LINK = "/operations?dag={dag_id}&run={run_id}#operation-{operation_id}"
RUN_ID = "manual__2026-10-05T01:02:03+00:00<script>&x=1"
QUOTED_RUN_ID = "manual__2026-10-05T01%3A02%3A03%2B00%3A00%3Cscript%3E%26x%3D1"


@pytest.fixture
def context(new_context):
    """The context of a task of a run whose id has characters that a URL quotes."""
    context = new_context()
    context["ti"].dag_id, context["ti"].run_id = "two surveys", RUN_ID
    return context


@pytest.fixture
def part(connected, encrypted, input_file, clock):
    model_id = CodingServiceHook().latest_model("osca").model_id
    sha256 = hashlib.sha256(input_file.read_bytes()).hexdigest()
    return {"topic": "osca", "model_id": model_id, "input_uri": input_file.as_uri(), "sha256": sha256}


def expected_link(operation_id, root=""):
    return f"{root}/operations?dag=two%20surveys&run={QUOTED_RUN_ID}#operation-{operation_id}"


def test_each_step_links_to_its_operation_and_quotes_what_is_in_the_link(part, run, context):
    def link_after(operator):
        context["ti"].xcoms.pop(OPERATION_LINK_KEY, None)
        result = run(operator, context)
        return result, context["ti"].xcoms[OPERATION_LINK_KEY]

    options = {"part": part, "operation_link": LINK}
    operation_id, link = link_after(CodingServiceCreateOperator(task_id="create", **options))
    assert link == expected_link(operation_id)
    grant = context["ti"].xcoms[UPLOAD_GRANT_KEY]
    ids = {"operation_id": operation_id}
    assert link_after(CodingServiceUploadOperator(task_id="upload", grant=grant, **ids, **options))[1] == link
    assert link_after(BatchCodeSensor(task_id="poll", deferrable=False, **ids, **options))[1] == link
    assert link_after(CodingServiceDownloadOperator(task_id="download", **ids, **options))[1] == link


def test_an_upload_to_a_new_operation_links_to_that_one(part, run, context, remote):
    options = {"part": part, "operation_link": LINK}
    first = run(CodingServiceCreateOperator(task_id="create", **options), context)
    grant = context["ti"].xcoms[UPLOAD_GRANT_KEY]
    remote.jump(7 * 24 * 3600)  # longer than any grant
    upload = CodingServiceUploadOperator(task_id="upload", operation_id=first, grant=grant, **options)
    second = run(upload, context)
    assert second != first
    assert context["ti"].xcoms[OPERATION_LINK_KEY] == expected_link(second)


@pytest.mark.parametrize("is_single", [True, False])
def test_a_task_that_is_deferred_has_its_link_already(part, run, context, tmp_path, is_single):
    if is_single:
        files = {"input_file": part["input_uri"], "output_file": str(tmp_path / "output.jsonl")}
        task = CodingServiceOperator(task_id="code", topic="osca", deferrable=True, operation_link=LINK, **files)
    else:
        operation_id = "00000000-0000-4000-8000-000000000001"
        task = BatchCodeSensor(
            task_id="poll", topic="osca", operation_id=operation_id, deferrable=True, operation_link=LINK
        )
    with pytest.raises(TaskDeferred) as deferral:
        run(task, context)
    operation_id = deferral.value.trigger.serialize()[1]["operation_id"]
    assert context["ti"].xcoms[OPERATION_LINK_KEY] == expected_link(operation_id)


def test_the_link_leads_below_the_path_of_airflow(part, run, context, monkeypatch):
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://data.agency.example/airflow/")
    operation_id = run(CodingServiceCreateOperator(task_id="create", part=part, operation_link=LINK), context)
    assert context["ti"].xcoms[OPERATION_LINK_KEY] == expected_link(operation_id, root="/airflow")


def test_a_provider_without_a_page_pushes_no_link(part, run, context):
    run(CodingServiceCreateOperator(task_id="create", part=part), context)
    assert OPERATION_LINK_KEY not in context["ti"].xcoms


@pytest.mark.parametrize(
    "link", ["runs", "https://elsewhere.example/{run_id}", "//elsewhere.example", "/runs?{secret}", "/runs?{", "", 5]
)
def test_a_link_that_is_no_path_or_has_an_unknown_placeholder_is_refused_when_the_dag_is_parsed(link):
    with pytest.raises(TypeError, match="operation link"):
        CodingServiceCreateOperator(task_id="create", topic="osca", operation_link=link)


@pytest.mark.parametrize(
    "operator",
    [
        *(CodingServiceOperator, CodingServiceCreateOperator, CodingServiceUploadOperator),
        *(CodingServiceDownloadOperator, BatchCodeSensor),
    ],
)
def test_each_operator_shows_the_link_that_its_task_pushed(operator):
    (link,) = operator.operator_extra_links
    assert isinstance(link, OperationLink)
    assert link.xcom_key == OPERATION_LINK_KEY
