"""Operations: create, upload, status, download (docs/service-contract.md 2.7 to 2.10, 5)."""

import uuid

import pytest

from tests.local_service.conftest import make_input, read_lines, to_jsonl

NO_OPERATION = (404, {"message": "The specified operation does not exist"})


def test_a_new_operation_awaits_its_input(caller):
    grant = caller.create()
    assert set(grant) == {"requestUploadUrl", "operationId", "bucketKmsKeyArn"}
    assert str(uuid.UUID(grant["operationId"])) == grant["operationId"]
    assert grant["bucketKmsKeyArn"].startswith("arn:aws:kms:")
    assert caller.status(grant["operationId"]) == {"operationStatus": "awaiting_input"}


def test_each_create_makes_a_new_operation(caller):
    assert caller.create()["operationId"] != caller.create()["operationId"]


def test_a_create_with_a_body_is_refused(caller):
    response = caller.post("topics/osca/batch-code", json={})
    assert (response.status_code, response.json()) == (400, {"message": "Invalid request body"})


def test_every_record_has_an_output_line_with_its_outcome_in_order(caller):
    lines = read_lines(caller.output(caller.submit(make_input(2500))))
    assert [line["recordId"] for line in lines] == [f"r{n}" for n in range(2500)]
    for line in lines:
        assert set(line) == {"recordId", "codeStatus", "input", "result", "suggestions"}
        assert line["input"]["recordId"] == line["recordId"]
        if line["codeStatus"] == "successful":
            assert set(line["result"]) == {"codeCategory", "codeLabel", "codeConfidence"}
            assert line["suggestions"] is None
        else:
            assert line["result"] is None
            assert 1 <= len(line["suggestions"]) <= 3
    assert {line["codeStatus"] for line in lines} == {"successful", "unsuccessful"}


def test_without_record_ids_the_output_has_null(caller):
    body = to_jsonl({"occp_text": "teacher", "tasks_text": ""}, {"occp_text": "", "tasks_text": "nursing"})
    assert [line["recordId"] for line in read_lines(caller.output(caller.submit(body)))] == [None, None]


def test_record_ids_need_not_be_unique(caller):
    record = {"recordId": "same", "occp_text": "teacher", "tasks_text": ""}
    assert len(read_lines(caller.output(caller.submit(to_jsonl(record, record))))) == 2


def test_the_metadata_file_names_the_model_and_the_counts(caller):
    older = caller.get("topics/osca/models").json()[0]
    operation_id = caller.submit(make_input(50), model=older["modelId"])
    coded = sum(line["codeStatus"] == "successful" for line in read_lines(caller.output(operation_id)))
    metadata = caller.session.get(caller.status(operation_id)["metadataDownloadUrl"]).json()
    assert {name: metadata[name] for name in older} == older
    assert metadata["operationId"] == operation_id
    assert (metadata["records"], metadata["successful"], metadata["unsuccessful"]) == (50, coded, 50 - coded)
    assert metadata["createdAt"] <= metadata["uploadedAt"] <= metadata["startedAt"] <= metadata["finishedAt"]


def test_the_status_can_be_requested_with_any_model_of_the_topic(caller):
    older, latest = (model["modelId"] for model in caller.get("topics/osca/models").json())
    operation_id = caller.create(model=older)["operationId"]
    for model in (older, latest):
        response = caller.get(f"topics/osca/models/{model}/batch-code/operations/{operation_id}")
        assert (response.status_code, response.json()) == (200, {"operationStatus": "awaiting_input"})


def test_an_operation_is_unknown_under_another_topic_or_another_id(caller):
    operation_id = caller.create()["operationId"]
    for path in (
        f"topics/anzsco/batch-code/operations/{operation_id}",
        "topics/osca/batch-code/operations/nothing",
    ):
        response = caller.get(path)
        assert (response.status_code, response.json()) == NO_OPERATION


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("not json", "not a JSON object"),
        ("[1]", "not a JSON object"),
        ("", "blank"),
        ('{"occp_text": "x"}', "field tasks_text is missing"),
        ('{"recordId": "1", "tasks_text": "x"}', "field occp_text is missing"),
        ('{"recordId": "1", "occp_text": "x", "tasks_text": null}', "field tasks_text is not a string"),
        ('{"recordId": 1, "occp_text": "x", "tasks_text": "y"}', "field recordId is not a string"),
        ('{"recordId": "1", "occp_text": "x", "tasks_text": "y", "age": "3"}', "not in the input format"),
        ('{"occp_text": "x", "tasks_text": "y"}', "its fields differ from those of line 1"),
        ('{"recordId": "1", "occp_text": "caf\u00e9", "tasks_text": "y"}', "not printable ASCII"),
        ('{"recordId": "1", "occp_text": "caf\\u00e9", "tasks_text": "y"}', "not printable ASCII"),
        ('{"recordId": "1", "occp_text": "a\\tb", "tasks_text": "y"}', "not printable ASCII"),
        ('{"recordId": "1", "occp_text": " ", "tasks_text": ""}', "both blank"),
        ('{"recordId": "1", "occp_text": "' + "x" * 200 + '", "tasks_text": "' + "y" * 101 + '"}', "301 characters"),
        ("x" * 70_000, "longer than 65536 bytes"),
    ],
)
def test_one_bad_line_fails_the_operation_and_is_reported(caller, line, reason):
    good = make_input(1500)
    status = caller.wait_for(caller.submit((good + line + "\n" + good).encode()), "failed")
    assert set(status) == {"operationStatus", "error"}
    assert "line 1501: " in status["error"]
    assert reason in status["error"]


def test_three_hundred_characters_in_both_texts_are_allowed(caller):
    body = to_jsonl({"occp_text": "x" * 200, "tasks_text": "y" * 100})
    assert len(read_lines(caller.output(caller.submit(body)))) == 1


def test_line_ends_can_be_crlf_and_the_last_can_be_missing(caller):
    body = make_input(3).replace("\n", "\r\n").removesuffix("\r\n")
    assert len(read_lines(caller.output(caller.submit(body)))) == 3


def test_an_empty_input_fails_the_operation(caller):
    grant = caller.create()
    assert caller.upload(grant, b"", **{"Content-Length": "0"}).status_code == 200
    assert caller.wait_for(grant["operationId"], "failed")["error"] == "The input file has no records"


def test_without_input_an_operation_times_out_after_an_hour(caller):
    operation_id = caller.create()["operationId"]
    caller.jump(3590)
    caller.token = None
    assert caller.status(operation_id) == {"operationStatus": "awaiting_input"}
    caller.jump(10)
    assert caller.status(operation_id) == {"operationStatus": "timed_out"}


def test_a_second_upload_replaces_the_object_and_not_the_operation(caller):
    grant = caller.create()
    for count in (3, 5):
        assert caller.upload(grant, make_input(count)).status_code == 200
    assert len(read_lines(caller.output(grant["operationId"]))) == 3


def test_the_files_are_deleted_a_day_after_success(caller):
    operation_id = caller.submit(make_input(3))
    caller.output(operation_id)
    caller.jump(24 * 3600 - 60)
    caller.token = None
    link = caller.status(operation_id)["responseDownloadUrl"]
    assert caller.session.get(link).status_code == 200
    caller.jump(60)
    response = caller.session.get(link)
    assert response.status_code == 404
    assert "<Code>NoSuchKey</Code>" in response.text
    assert caller.status(operation_id) == {"operationStatus": "complete"}
    assert caller.files("complete") == []


def test_by_polls_the_first_status_calls_after_the_upload_show_progress(start):
    caller = start(progression="by_polls", polls=3)
    grant = caller.create()
    assert caller.status(grant["operationId"])["operationStatus"] == "awaiting_input"
    caller.upload(grant, make_input(1))
    states = [caller.status(grant["operationId"])["operationStatus"] for _ in range(3)]
    assert states == ["in_progress"] * 3
    caller.wait_for(grant["operationId"])


def test_by_time_the_end_is_shown_after_the_configured_seconds(start):
    caller = start(progression="by_time", seconds=600)
    operation_id = caller.submit(make_input(1))
    assert caller.status(operation_id) == {"operationStatus": "in_progress"}
    caller.jump(600)
    assert "responseDownloadUrl" in caller.wait_for(operation_id)


def test_a_failure_is_shown_with_the_same_delay_as_a_success(start):
    caller = start(progression="by_polls", polls=2)
    operation_id = caller.submit("nonsense\n")
    states = [caller.status(operation_id)["operationStatus"] for _ in range(2)]
    assert states == ["in_progress"] * 2
    caller.wait_for(operation_id, "failed")
