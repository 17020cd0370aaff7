"""Named faults: each affects what it should, as often as it should."""

import pytest
import requests

from tests.local_service.conftest import make_input, read_lines

MANY = make_input(500)


def statuses(caller, count, path="topics"):
    return [caller.get(path).status_code for _ in range(count)]


def test_a_fault_skips_some_requests_affects_some_and_ends(caller):
    caller.fault("server_error", skip=1, count=2)
    assert statuses(caller, 5) == [200, 500, 500, 200, 200]
    assert caller.knob("GET", "faults") == {"faults": []}


def test_a_server_error_has_the_message_of_the_contract(caller):
    caller.fault("server_error")
    response = caller.get("topics")
    assert (response.status_code, response.json()) == (500, {"message": "Error performing request"})


def test_too_many_requests_has_a_retry_after_header(caller):
    caller.fault("too_many_requests", retry_after=7)
    response = caller.get("topics")
    assert (response.status_code, response.json()) == (429, {"message": "Too Many Requests"})
    assert response.headers["retry-after"] == "7"


def test_limit_exceeded_has_no_retry_after_header(caller):
    caller.fault("limit_exceeded")
    response = caller.get("topics")
    assert (response.status_code, response.json()) == (429, {"message": "Limit Exceeded"})
    assert "retry-after" not in response.headers


def test_access_can_be_denied_to_a_call_and_to_a_token_request(caller):
    denied = (403, {"Message": "User is not authorized to access this resource with an explicit deny"})
    caller.fault("access_denied")
    response = caller.get("topics")
    assert (response.status_code, response.json()) == denied
    assert caller.get("topics").status_code == 200
    caller.fault("access_denied", path_contains="/oauth2/token")
    response = caller.session.post(f"{caller.url}/oauth2/token")
    assert (response.status_code, response.json()) == denied


def test_a_fault_can_be_limited_to_a_path_and_a_method(caller):
    caller.fault("server_error", path_contains="batch-code", method="POST")
    assert caller.get("topics").status_code == 200
    assert caller.post("topics/osca/batch-code").status_code == 500
    assert caller.post("topics/osca/batch-code").status_code == 200


def test_faults_affect_the_token_endpoint_only_with_its_path(caller):
    caller.fault("server_error")
    assert caller.request_token().status_code == 200
    caller.knob("DELETE", "faults")
    caller.fault("server_error", path_contains="/oauth2/token")
    assert caller.request_token().status_code == 500
    assert caller.request_token().status_code == 200


def test_an_upload_can_be_reset_in_the_middle(caller):
    caller.fault("reset_upload", after=1000)
    grant = caller.create()
    with pytest.raises(requests.ConnectionError):
        caller.upload(grant, make_input(50_000))
    assert caller.status(grant["operationId"]) == {"operationStatus": "awaiting_input"}
    assert caller.upload(grant, make_input(2)).status_code == 200


@pytest.mark.parametrize("options", [{}, {"after": 100}, {"after": 0}])
def test_a_download_can_be_cut_and_resumed(caller, options):
    link = caller.wait_for(caller.submit(MANY))["responseDownloadUrl"]
    content = caller.session.get(link).content
    caller.fault("cut_download", **options)
    received = bytearray()
    with caller.session.get(link, stream=True) as response:
        assert response.headers["content-length"] == str(len(content))
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            received.extend(byte for data in response.iter_content(1) for byte in data)
    assert len(received) <= options.get("after", len(content) // 2)
    rest = caller.session.get(
        link, headers={"Range": f"bytes={len(received)}-", "If-Match": response.headers["etag"]}
    )
    assert received + rest.content == content


def test_links_can_be_made_to_expire_early(caller):
    caller.fault("expired_upload")
    caller.fault("expired_link")
    grant = caller.create()
    response = caller.upload(grant, MANY)
    assert (response.status_code, "Request has expired" in response.text) == (403, True)
    assert caller.upload(grant, MANY).status_code == 200
    link = caller.wait_for(grant["operationId"])["responseDownloadUrl"]
    response = caller.session.get(link)
    assert (response.status_code, "Request has expired" in response.text) == (403, True)
    assert caller.session.get(link).status_code == 200


def test_only_the_third_operation_can_be_made_to_fail(caller):
    caller.fault("operation_fails", skip=2, error="out of memory")
    operations = [caller.submit(make_input(2)) for _ in range(4)]
    for operation_id in operations[:2] + operations[3:]:
        caller.wait_for(operation_id)
    assert caller.wait_for(operations[2], "failed")["error"] == "out of memory"


def test_a_fault_can_be_limited_to_operations_whose_input_contains_a_text(caller):
    caller.fault("operation_fails", part_contains="baker 3")
    operations = {name: caller.submit(make_input(5, name)) for name in ("nurse", "baker", "clerk")}
    assert caller.wait_for(operations.pop("baker"), "failed")["error"]
    for operation_id in operations.values():
        assert caller.wait_for(operation_id)["responseDownloadUrl"]


def test_an_operation_can_time_out_after_its_upload(caller):
    caller.fault("operation_times_out")
    assert caller.wait_for(caller.submit(MANY), "timed_out") == {"operationStatus": "timed_out"}


def test_the_status_can_lag_behind_the_upload(caller):
    caller.fault("late_status", polls=3)
    operation_id = caller.submit(MANY)
    states = [caller.status(operation_id)["operationStatus"] for _ in range(3)]
    assert states == ["awaiting_input"] * 3
    caller.wait_for(operation_id)


def test_outputs_can_be_made_faulty_in_four_ways(caller):
    good = caller.output(caller.submit(MANY)).splitlines()

    def faulty_output(fault):
        caller.fault(fault)
        return caller.output(caller.submit(MANY)).splitlines()

    assert faulty_output("short_output") == good[:-1]
    assert faulty_output("duplicate_line") == [good[0], *good]
    shuffled = faulty_output("shuffled_lines")
    assert shuffled != good
    assert sorted(shuffled) == sorted(good)
    garbage = faulty_output("garbage_line")
    assert garbage[1:] == good[1:]
    with pytest.raises(ValueError, match=r"JSON|Unterminated|Expecting"):
        read_lines(garbage[0])


def test_lines_that_contain_a_text_can_be_missing(caller):
    caller.fault("missing_line", part_contains="r1")
    lines = read_lines(caller.output(caller.submit(make_input(3))))
    assert [line["recordId"] for line in lines] == ["r0", "r2"]


def test_faults_of_an_operation_can_be_combined(caller):
    caller.fault("duplicate_line")
    caller.fault("short_output")
    lines = read_lines(caller.output(caller.submit(make_input(3))))
    assert [line["recordId"] for line in lines] == ["r0", "r0", "r1"]


def test_a_new_model_can_appear_between_two_calls(caller):
    caller.fault("new_latest_model", skip=1)
    before = caller.get("topics/osca/models/latest").json()
    after = caller.get("topics/osca/models/latest").json()
    assert (before["modelVersion"], after["modelVersion"]) == (2, 3)
    assert after["modelReleaseDate"] > before["modelReleaseDate"]
    assert [model["modelVersion"] for model in caller.get("topics/osca/models").json()] == [1, 2, 3]
    assert caller.get("topics/anzsco/models/latest").json()["modelVersion"] == 2
    operation_id = caller.submit(MANY, model=before["modelId"])
    metadata = caller.session.get(caller.wait_for(operation_id)["metadataDownloadUrl"]).json()
    assert metadata["modelId"] == before["modelId"]


def test_the_response_to_a_create_can_be_lost(caller):
    caller.fault("lost_create")
    with pytest.raises(requests.ConnectionError):
        caller.post("topics/osca/batch-code")
    (orphan,) = caller.knob("GET", "operations")["operations"]
    assert orphan["state"] == "awaiting_input"
    lost = caller.journal()[-1]
    assert (lost["status"], lost["operation_id"]) == (None, orphan["operation_id"])
    assert caller.create()["operationId"] != orphan["operation_id"]


def test_the_fault_lost_create_can_be_limited_to_a_topic(caller):
    caller.fault("lost_create", path_contains="anzsco")
    caller.create("osca")
    with pytest.raises(requests.ConnectionError):
        caller.create("anzsco")


def test_the_fault_no_models_affects_only_the_list_of_models(caller):
    caller.fault("no_models")
    assert caller.get("topics/osca/models/latest").status_code == 200
    response = caller.get("topics/osca/models")
    assert (response.status_code, response.json()) == (500, {"message": "No models found for topic"})
    assert caller.get("topics/osca/models").status_code == 200
