"""Operations, from their creation to their files (docs/service-contract.md 2.7 to 2.10, 3.3, 3.4, 3.7, 5)."""

import json
import socket
from urllib.parse import urlsplit

import pytest

from tests.contract.conftest import GUID, LINES, NOWHERE, SSE, SSE_KEY, TIMEOUT_S, Operation, needs_knobs, to_jsonl

ORDER = ("awaiting_input", "in_progress", "complete")


@pytest.fixture(scope="module")
def lines(output):
    return [json.loads(line) for line in output.text.splitlines()]


# create


@pytest.mark.parametrize("name", ["awaiting_operation", "coded_operation"])
def test_both_create_endpoints_return_200_with_a_grant(request, name):
    operation = request.getfixturevalue(name)
    assert operation.create_response.status_code == 200
    assert operation.grant["requestUploadUrl"].startswith("http")
    assert GUID.fullmatch(operation.grant["operationId"])
    assert operation.grant["bucketKmsKeyArn"].startswith("arn:aws:kms:")


def test_each_create_makes_a_new_operation(awaiting_operation, coded_operation):
    assert awaiting_operation.operation_id != coded_operation.operation_id
    assert awaiting_operation.grant["requestUploadUrl"] != coded_operation.grant["requestUploadUrl"]


# upload


def test_an_upload_returns_200(coded_operation):
    assert coded_operation.upload_response.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{SSE: None}, {SSE_KEY: None}, {SSE: "AES256"}, {SSE_KEY: "arn:aws:kms:ap-southeast-2:000000000000:key/other"}],
)
def test_an_upload_without_the_two_encryption_headers_is_refused(service, awaiting_operation, headers):
    response = service.upload(awaiting_operation.grant, to_jsonl(LINES), **headers)
    assert response.status_code == 403
    assert "<Code>" in response.text


def test_an_upload_with_a_token_in_addition_to_the_signature_is_refused(service, awaiting_operation):
    response = service.upload(awaiting_operation.grant, to_jsonl(LINES), Authorization="not a token")
    assert response.status_code == 400


def test_an_upload_of_unknown_length_is_refused(service, awaiting_operation):
    assert service.upload(awaiting_operation.grant, iter([to_jsonl(LINES)])).status_code in (411, 501)


def test_an_upload_url_is_valid_for_its_own_object_only(service, awaiting_operation):
    url = awaiting_operation.grant["requestUploadUrl"].replace(awaiting_operation.operation_id, NOWHERE)
    if url == awaiting_operation.grant["requestUploadUrl"]:
        pytest.skip("the URL does not name the operation")
    assert service.upload({**awaiting_operation.grant, "requestUploadUrl": url}, to_jsonl(LINES)).status_code == 403


def test_refused_uploads_do_not_change_the_operation(service, awaiting_operation):
    assert (
        service.status(awaiting_operation.topic, awaiting_operation.operation_id).json()["operationStatus"]
        == "awaiting_input"
    )


# status


def test_a_new_operation_awaits_its_input_and_has_no_links(coded_operation):
    assert coded_operation.first_status["operationStatus"] == "awaiting_input"
    assert not coded_operation.first_status.get("responseDownloadUrl")
    assert not coded_operation.first_status.get("error")


def test_the_states_are_in_order_and_the_last_is_complete(coded_operation):
    states = [status["operationStatus"] for status in coded_operation.statuses]
    assert states[-1] == "complete", coded_operation.statuses[-1]
    assert sorted(states, key=ORDER.index) == states


def test_only_a_complete_operation_has_links(coded_operation):
    *earlier, last = coded_operation.statuses
    assert last["responseDownloadUrl"].startswith("http")
    assert last["metadataDownloadUrl"].startswith("http")
    assert not last.get("error")
    for status in earlier:
        assert not status.get("responseDownloadUrl")
        assert not status.get("metadataDownloadUrl")


def test_complete_stays_complete(service, coded_operation):
    assert service.status(coded_operation.topic, coded_operation.operation_id).json()["operationStatus"] == "complete"


def test_both_status_endpoints_return_the_same_for_any_model_of_the_topic(service, topic, awaiting_operation):
    for model in service.get(f"topics/{topic}/models").json()[:2]:
        path = f"topics/{topic}/models/{model['modelId']}/batch-code/operations/{awaiting_operation.operation_id}"
        response = service.get(path)
        assert (response.status_code, response.json()["operationStatus"]) == (200, "awaiting_input")


def test_a_failed_operation_is_200_with_an_error(service, failed_operation):
    response = service.status(failed_operation.topic, failed_operation.operation_id)
    assert (response.status_code, response.json()["operationStatus"]) == (200, "failed")
    assert response.json()["error"]
    assert not response.json().get("responseDownloadUrl")


def test_an_unknown_operation_is_a_client_error(service, topic):
    assert 400 <= service.status(topic, NOWHERE).status_code < 500


# files


def test_a_link_needs_no_header(service, output):
    assert output.status_code == 200


def test_every_input_line_has_one_output_line(lines):
    assert sorted(line["recordId"] for line in lines) == [line["recordId"] for line in LINES]


def test_an_output_line_has_a_result_or_suggestions(lines):
    for line in lines:
        coded = bool(line["result"])
        assert line.get("codeStatus", "successful" if coded else "unsuccessful") == (
            "successful" if coded else "unsuccessful"
        )
        suggestions = line.get("suggestions") or []
        assert coded or 1 <= len(suggestions) <= 3
        for code in [line["result"]] if coded else suggestions:
            assert set(code) >= {"codeCategory", "codeLabel", "codeConfidence"}
            assert isinstance(code["codeCategory"], str)
            assert 1 <= len(code["codeCategory"]) <= 6


def test_an_input_in_the_output_is_the_original(lines):
    sent = {line["recordId"]: line for line in LINES}
    for line in lines:
        if line.get("input"):
            assert line["input"]["occp_text"] == sent[line["recordId"]]["occp_text"]


def test_the_metadata_file_can_be_downloaded_too(service, coded_operation):
    response = service.storage.get(coded_operation.statuses[-1]["metadataDownloadUrl"], timeout=TIMEOUT_S)
    assert response.status_code == 200
    assert response.content


def test_a_link_cannot_be_used_for_another_file(service, coded_operation):
    bare = coded_operation.statuses[-1]["responseDownloadUrl"].partition("?")[0]
    assert service.storage.get(bare, timeout=TIMEOUT_S).status_code == 403


# formats and deadlines, with the clock of a local service


@needs_knobs
def test_without_record_ids_the_output_has_none(own_service):
    operation = Operation(own_service, "osca").run(to_jsonl([{"occp_text": "teacher", "tasks_text": ""}]))
    (line,) = own_service.storage.get(
        operation.statuses[-1]["responseDownloadUrl"], timeout=TIMEOUT_S
    ).text.splitlines()
    assert json.loads(line).get("recordId") in (None, "")


@needs_knobs
def test_the_same_fields_must_be_on_every_line(own_service):
    without = {"occp_text": "teacher", "tasks_text": ""}
    operation = Operation(own_service, "osca").run(to_jsonl([{"recordId": "1", **without}, without]))
    assert operation.statuses[-1]["operationStatus"] == "failed"


@needs_knobs
def test_record_ids_need_not_be_unique(own_service):
    line = {"recordId": "1", "occp_text": "teacher", "tasks_text": ""}
    operation = Operation(own_service, "osca").run(to_jsonl([line, line]))
    assert (
        len(
            own_service.storage.get(
                operation.statuses[-1]["responseDownloadUrl"], timeout=TIMEOUT_S
            ).text.splitlines()
        )
        == 2
    )


@needs_knobs
def test_an_operation_without_input_times_out_permanently(own_service):
    operation = Operation(own_service, "osca")
    own_service.knob("clock", jump_seconds=2 * 24 * 3600)
    own_service.forget_token()
    for _ in range(2):
        assert own_service.status("osca", operation.operation_id).json() == {"operationStatus": "timed_out"}
    assert own_service.upload(operation.grant, to_jsonl(LINES)).status_code == 403


@needs_knobs
def test_a_link_is_valid_for_an_hour_and_can_be_renewed(own_service):
    operation = Operation(own_service, "osca").run(to_jsonl(LINES))
    link = operation.statuses[-1]["responseDownloadUrl"]
    own_service.knob("clock", jump_seconds=3590)
    assert own_service.storage.get(link, timeout=TIMEOUT_S).status_code == 200
    own_service.knob("clock", jump_seconds=20)
    assert own_service.storage.get(link, timeout=TIMEOUT_S).status_code == 403
    own_service.forget_token()
    fresh = own_service.status("osca", operation.operation_id).json()["responseDownloadUrl"]
    assert own_service.storage.get(fresh, timeout=TIMEOUT_S).status_code == 200


@needs_knobs
def test_the_output_is_deleted_a_day_after_success(own_service):
    operation = Operation(own_service, "osca").run(to_jsonl(LINES))
    own_service.knob("clock", jump_seconds=24 * 3600)
    own_service.forget_token()
    status = own_service.status("osca", operation.operation_id).json()
    link = status.get("responseDownloadUrl") or operation.statuses[-1]["responseDownloadUrl"]
    assert own_service.storage.get(link, timeout=TIMEOUT_S).status_code in (403, 404)


@needs_knobs
@pytest.mark.parametrize(("size", "status"), [(5_000_000_000, 100), (5_000_000_001, 400)])
def test_five_gigabytes_are_the_upload_limit(own_service, size, status):
    grant = Operation(own_service, "osca").grant
    place = urlsplit(grant["requestUploadUrl"])
    headers = {"Host": place.netloc, SSE: "aws:kms", SSE_KEY: grant["bucketKmsKeyArn"]}
    headers |= {"Content-Length": str(size), "Expect": "100-continue"}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with socket.create_connection((place.hostname, place.port), timeout=TIMEOUT_S) as connection:
        connection.sendall(f"PUT {place.path}?{place.query} HTTP/1.1\r\n{head}\r\n".encode())
        connection.sendall(b"{" if status == 100 else b"")
        assert int(connection.recv(100).split()[1]) == status
