"""Contract 2.7 to 2.10, 3.3, 3.4, 3.7 and 5: operations, from their creation to their files."""

import json
import socket
from urllib.parse import urlsplit

import pytest

from tests.contract.conftest import GUID, LINES, NOWHERE, SSE, SSE_KEY, TIMEOUT, Operation, needs_knobs, to_jsonl

ORDER = ("awaiting_input", "in_progress", "complete")


@pytest.fixture(scope="module")
def lines(output):
    return [json.loads(line) for line in output.text.splitlines()]


# create


@pytest.mark.parametrize("name", ["waiting", "coded"])
def test_both_forms_of_create_answer_200_with_a_grant(request, name):
    operation = request.getfixturevalue(name)
    assert operation.created.status_code == 200
    assert operation.grant["requestUploadUrl"].startswith("http")
    assert GUID.fullmatch(operation.grant["operationId"])
    assert operation.grant["bucketKmsKeyArn"].startswith("arn:aws:kms:")


def test_each_create_makes_an_operation_of_its_own(waiting, coded):
    assert waiting.operation_id != coded.operation_id
    assert waiting.grant["requestUploadUrl"] != coded.grant["requestUploadUrl"]


# upload


def test_an_upload_is_answered_with_200(coded):
    assert coded.uploaded.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{SSE: None}, {SSE_KEY: None}, {SSE: "AES256"}, {SSE_KEY: "arn:aws:kms:ap-southeast-2:000000000000:key/other"}],
)
def test_an_upload_without_the_two_encryption_headers_is_refused(service, waiting, headers):
    answer = service.upload(waiting.grant, to_jsonl(LINES), **headers)
    assert answer.status_code == 403
    assert "<Code>" in answer.text


def test_an_upload_with_a_token_beside_the_signature_is_refused(service, waiting):
    answer = service.upload(waiting.grant, to_jsonl(LINES), Authorization="not a token")
    assert answer.status_code == 400


def test_an_upload_of_unknown_length_is_refused(service, waiting):
    assert service.upload(waiting.grant, iter([to_jsonl(LINES)])).status_code in (411, 501)


def test_an_upload_url_serves_its_own_object_only(service, waiting):
    url = waiting.grant["requestUploadUrl"].replace(waiting.operation_id, NOWHERE)
    if url == waiting.grant["requestUploadUrl"]:
        pytest.skip("the URL does not name the operation")
    assert service.upload({**waiting.grant, "requestUploadUrl": url}, to_jsonl(LINES)).status_code == 403


def test_what_was_refused_left_the_operation_waiting(service, waiting):
    assert service.status(waiting.topic, waiting.operation_id).json()["operationStatus"] == "awaiting_input"


# status


def test_a_new_operation_awaits_its_input_and_has_no_links(coded):
    assert coded.before["operationStatus"] == "awaiting_input"
    assert not coded.before.get("responseDownloadUrl")
    assert not coded.before.get("error")


def test_the_states_follow_each_other_and_complete_is_the_last(coded):
    states = [status["operationStatus"] for status in coded.seen]
    assert states[-1] == "complete", coded.seen[-1]
    assert sorted(states, key=ORDER.index) == states


def test_links_are_there_when_the_operation_is_complete_and_not_before(coded):
    *earlier, last = coded.seen
    assert last["responseDownloadUrl"].startswith("http")
    assert last["metadataDownloadUrl"].startswith("http")
    assert not last.get("error")
    for status in earlier:
        assert not status.get("responseDownloadUrl")
        assert not status.get("metadataDownloadUrl")


def test_complete_stays_complete(service, coded):
    assert service.status(coded.topic, coded.operation_id).json()["operationStatus"] == "complete"


def test_both_forms_of_status_are_the_same_and_the_model_need_not_be_the_operations(service, topic, waiting):
    for model in service.get(f"topics/{topic}/models").json()[:2]:
        path = f"topics/{topic}/models/{model['modelId']}/batch-code/operations/{waiting.operation_id}"
        answer = service.get(path)
        assert (answer.status_code, answer.json()["operationStatus"]) == (200, "awaiting_input")


def test_a_failed_operation_is_200_with_an_error(service, failed):
    answer = service.status(failed.topic, failed.operation_id)
    assert (answer.status_code, answer.json()["operationStatus"]) == (200, "failed")
    assert answer.json()["error"]
    assert not answer.json().get("responseDownloadUrl")


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


def test_the_input_is_echoed_if_it_is_there(lines):
    sent = {line["recordId"]: line for line in LINES}
    for line in lines:
        if line.get("input"):
            assert line["input"]["occp_text"] == sent[line["recordId"]]["occp_text"]


def test_the_metadata_file_can_be_downloaded_too(service, coded):
    answer = service.storage.get(coded.seen[-1]["metadataDownloadUrl"], timeout=TIMEOUT)
    assert answer.status_code == 200
    assert answer.content


def test_a_link_cannot_be_used_for_another_file(service, coded):
    bare = coded.seen[-1]["responseDownloadUrl"].partition("?")[0]
    assert service.storage.get(bare, timeout=TIMEOUT).status_code == 403


# what only time shows


@needs_knobs
def test_without_record_ids_the_output_has_none(movable):
    operation = Operation(movable, "osca").run(to_jsonl([{"occp_text": "teacher", "tasks_text": ""}]))
    (line,) = movable.storage.get(operation.seen[-1]["responseDownloadUrl"], timeout=TIMEOUT).text.splitlines()
    assert json.loads(line).get("recordId") in (None, "")


@needs_knobs
def test_the_same_fields_must_be_on_every_line(movable):
    without = {"occp_text": "teacher", "tasks_text": ""}
    operation = Operation(movable, "osca").run(to_jsonl([{"recordId": "1", **without}, without]))
    assert operation.seen[-1]["operationStatus"] == "failed"


@needs_knobs
def test_record_ids_need_not_be_unique(movable):
    line = {"recordId": "1", "occp_text": "teacher", "tasks_text": ""}
    operation = Operation(movable, "osca").run(to_jsonl([line, line]))
    assert len(movable.storage.get(operation.seen[-1]["responseDownloadUrl"], timeout=TIMEOUT).text.splitlines()) == 2


@needs_knobs
def test_an_operation_that_never_gets_its_input_times_out_and_stays_so(movable):
    operation = Operation(movable, "osca")
    movable.knob("clock", jump_seconds=2 * 24 * 3600)
    movable.forget_token()
    for _ in range(2):
        assert movable.status("osca", operation.operation_id).json() == {"operationStatus": "timed_out"}
    assert movable.upload(operation.grant, to_jsonl(LINES)).status_code == 403


@needs_knobs
def test_a_link_is_good_for_an_hour_and_then_a_new_one_can_be_asked_for(movable):
    operation = Operation(movable, "osca").run(to_jsonl(LINES))
    link = operation.seen[-1]["responseDownloadUrl"]
    movable.knob("clock", jump_seconds=3590)
    assert movable.storage.get(link, timeout=TIMEOUT).status_code == 200
    movable.knob("clock", jump_seconds=20)
    assert movable.storage.get(link, timeout=TIMEOUT).status_code == 403
    movable.forget_token()
    fresh = movable.status("osca", operation.operation_id).json()["responseDownloadUrl"]
    assert movable.storage.get(fresh, timeout=TIMEOUT).status_code == 200


@needs_knobs
def test_the_output_is_gone_a_day_after_success(movable):
    operation = Operation(movable, "osca").run(to_jsonl(LINES))
    movable.knob("clock", jump_seconds=24 * 3600)
    movable.forget_token()
    status = movable.status("osca", operation.operation_id).json()
    link = status.get("responseDownloadUrl") or operation.seen[-1]["responseDownloadUrl"]
    assert movable.storage.get(link, timeout=TIMEOUT).status_code in (403, 404)


@needs_knobs
@pytest.mark.parametrize(("size", "status"), [(5_000_000_000, 100), (5_000_000_001, 400)])
def test_five_gigabytes_are_allowed_and_no_byte_more(movable, size, status):
    grant = Operation(movable, "osca").grant
    place = urlsplit(grant["requestUploadUrl"])
    headers = {"Host": place.netloc, SSE: "aws:kms", SSE_KEY: grant["bucketKmsKeyArn"]}
    headers |= {"Content-Length": str(size), "Expect": "100-continue"}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with socket.create_connection((place.hostname, place.port), timeout=TIMEOUT) as connection:
        connection.sendall(f"PUT {place.path}?{place.query} HTTP/1.1\r\n{head}\r\n".encode())
        connection.sendall(b"{" if status == 100 else b"")
        assert int(connection.recv(100).split()[1]) == status
