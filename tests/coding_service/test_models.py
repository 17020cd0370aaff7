"""Answers are read as typed values, or refused with the reason; hand-offs survive JSON."""

import dataclasses
import json

import pytest

from coding_service.errors import ProtocolError, UnknownStatusError
from coding_service.models import (
    DownloadResult,
    Fingerprint,
    InputPart,
    Model,
    Operation,
    OperationOutcome,
    OperationStatus,
    Topic,
    UploadGrant,
)

SHA256 = "5ec4e7" + 58 * "0"
MODEL = "0b5b0000-0000-4000-8000-000000000000"
LINK = "https://s3.example/out/1.jsonl?X-Amz-Signature=5ec4e7"
GRANT = {
    "operationId": "00000000-0000-4000-8000-000000000001",
    "requestUploadUrl": LINK,
    "bucketKmsKeyArn": "arn:aws:kms:x:1:key/k",
}


def test_a_topic_has_a_path_name_and_a_display_name():
    data = {"uriName": "osca", "fullName": "OSCA - Occupation Standard Classification for Australia"}
    assert Topic.from_json(data) == Topic("osca", data["fullName"])


def test_a_topic_without_a_display_name_uses_its_path_name():
    assert Topic.from_json({"uriName": "osca"}) == Topic("osca", "osca")


def test_a_model_is_read_with_all_its_fields():
    data = {
        "modelId": MODEL,
        "modelVersion": 2,
        "modelReleaseDate": "2026-01-31",
        "modelType": "hsvm",
        "inputFormat": ["occp_text", "tasks_text"],
        "topicStandard": "OSCA",
        "topicVersion": "1.0",
    }
    assert Model.from_json(data) == Model(MODEL, 2.0, ("occp_text", "tasks_text"))


@pytest.mark.parametrize("version", [None, "2", [], {}])
def test_a_model_version_that_is_not_a_number_is_none(version):
    assert Model.from_json({"modelId": MODEL, "modelVersion": version}).version is None


def test_a_model_needs_nothing_but_its_id():
    assert Model.from_json({"modelId": MODEL, "more": "ignored"}) == Model(MODEL)


@pytest.mark.parametrize(
    ("status", "is_terminal", "is_successful"),
    [
        ("awaiting_input", False, False),
        ("in_progress", False, False),
        ("complete", True, True),
        ("timed_out", True, False),
        ("failed", True, False),
    ],
)
def test_every_state_of_the_contract_is_known(status, is_terminal, is_successful):
    operation = Operation.from_json("00000000-0000-4000-8000-000000000001", {"operationStatus": status})
    assert operation.status == status
    assert (operation.status.is_terminal, operation.status.is_successful) == (is_terminal, is_successful)


def test_the_contract_has_five_states():
    assert len(OperationStatus) == 5


def test_links_of_a_complete_operation_are_read():
    data = {"operationStatus": "complete", "responseDownloadUrl": LINK, "metadataDownloadUrl": LINK + "m"}
    operation = Operation.from_json("00000000-0000-4000-8000-000000000001", data)
    assert (operation.output_url, operation.metadata_url) == (LINK, LINK + "m")


@pytest.mark.parametrize("empty", [None, ""])
def test_empty_optional_fields_are_read_as_missing(empty):
    data = {"operationStatus": "complete", "responseDownloadUrl": empty, "metadataDownloadUrl": empty, "error": empty}
    operation = Operation.from_json("00000000-0000-4000-8000-000000000001", data)
    assert (operation.output_url, operation.metadata_url, operation.error) == (None, None, None)


@pytest.mark.parametrize(
    ("data", "lacks_output"),
    [
        ({"operationStatus": "in_progress"}, False),
        ({"operationStatus": "complete", "responseDownloadUrl": LINK}, False),
        ({"operationStatus": "complete", "metadataDownloadUrl": LINK}, True),
        ({"operationStatus": "failed", "error": "no"}, False),
    ],
)
def test_only_a_complete_operation_without_a_link_lacks_its_output(data, lacks_output):
    assert Operation.from_json("00000000-0000-4000-8000-000000000001", data).lacks_output is lacks_output


def test_a_grant_expires_when_its_url_says_so():
    query = "X-Amz-Date=20261126T145706Z&X-Amz-Expires=900"
    assert (
        UploadGrant("00000000-0000-4000-8000-000000000001", f"https://s3/in?{query}", "key").expiry_time
        == 1795705026.0 + 900
    )
    for other in ("", "X-Amz-Date=20261126T145706Z", "X-Amz-Date=today&X-Amz-Expires=900"):
        assert (
            UploadGrant("00000000-0000-4000-8000-000000000001", f"https://s3/in?{other}", "key").expiry_time is None
        )


def test_an_unknown_state_is_refused_with_a_list_of_states():
    with pytest.raises(
        UnknownStatusError,
        match=r"'00000000-0000-4000-8000-000000000001' has the unknown status 'paused'; known: .*'complete'",
    ):
        Operation.from_json("00000000-0000-4000-8000-000000000001", {"operationStatus": "paused"})


@pytest.mark.parametrize(
    ("text", "status"),
    [
        *[(text, "complete") for text in ("COMPLETE", "Complete", "completed", "COMPLETED", " complete ")],
        *[(text, "in_progress") for text in ("in progress", "IN-PROGRESS", "inProgress", "In Progress")],
        *[(text, "timed_out") for text in ("timed out", "TimedOut")],
    ],
)
def test_a_status_that_is_spelled_differently_is_read_with_a_warning(text, status, caplog):
    assert Operation.from_json("00000000-0000-4000-8000-000000000001", {"operationStatus": text}).status == status
    assert caplog.messages == [f"The service spells the status {status!r} as {text.strip()!r}"]


@pytest.mark.parametrize("text", ["succeeded", "done", "incomplete", "queued", "complete_with_errors", "---"])
def test_another_word_is_no_status(text):
    with pytest.raises(UnknownStatusError, match="unknown status"):
        Operation.from_json("00000000-0000-4000-8000-000000000001", {"operationStatus": text})


@pytest.mark.parametrize("change", [str.lower, str.upper, lambda name: name.replace("U", "_u").replace("I", "_i")])
def test_fields_that_are_spelled_differently_are_read_with_a_warning(change, caplog):
    assert UploadGrant.from_json({change(name): value for name, value in GRANT.items()}) == UploadGrant.from_json(
        GRANT
    )
    assert "5ec4e7" not in caplog.text
    assert len(caplog.messages) >= 2


def test_a_field_with_two_other_spellings_is_not_guessed():
    with pytest.raises(ProtocolError, match="no 'operationStatus'"):
        Operation.from_json(
            "00000000-0000-4000-8000-000000000001", {"operationstatus": "failed", "operation_status": "complete"}
        )


@pytest.mark.parametrize("value", [None, "", 5, ["osca"]])
@pytest.mark.parametrize(
    ("read", "field", "data"),
    [
        (Topic.from_json, "uriName", {}),
        (Model.from_json, "modelId", {}),
        (lambda data: Operation.from_json("00000000-0000-4000-8000-000000000001", data), "operationStatus", {}),
        *((UploadGrant.from_json, field, GRANT) for field in GRANT),
    ],
)
def test_a_required_field_that_is_missing_or_not_text_is_refused_by_name(read, field, data, value):
    with pytest.raises(ProtocolError, match=f"no '{field}'"):
        read({**data, field: value})


@pytest.mark.parametrize("data", [None, [], "text", 5])
@pytest.mark.parametrize(
    "read",
    [
        Topic.from_json,
        Model.from_json,
        lambda data: Operation.from_json("00000000-0000-4000-8000-000000000001", data),
        UploadGrant.from_json,
    ],
)
def test_anything_but_an_object_is_refused_by_its_type(read, data):
    with pytest.raises(ProtocolError, match=f"JSON {type(data).__name__}; expected an object"):
        read(data)


def test_the_error_for_an_incomplete_grant_does_not_contain_its_fields():
    with pytest.raises(ProtocolError) as caught:
        UploadGrant.from_json({**GRANT, "operationId": None})
    assert "5ec4e7" not in str(caught.value)
    assert "arn:aws" not in str(caught.value)


def test_links_and_grants_are_not_part_of_a_repr():
    complete = {"operationStatus": "complete", "responseDownloadUrl": LINK, "metadataDownloadUrl": LINK}
    for value in (
        Operation.from_json("00000000-0000-4000-8000-000000000001", complete),
        UploadGrant.from_json(GRANT),
    ):
        for text in (repr(value), str(value), f"{[value]}"):
            assert "00000000-0000-4000-8000-000000000001" in text
            assert "http" not in text
            assert "arn:aws" not in text


def test_values_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Topic("osca", "OSCA").uri_name = "other"


def test_a_grant_can_be_converted_to_a_dict_and_back():
    grant = UploadGrant.from_json(GRANT)
    assert UploadGrant.from_dict(grant.to_dict()) == grant


# ---- hand-offs between tasks -------------------------------------------------------------------------------------


FINGERPRINT = Fingerprint("osca", MODEL, SHA256)


@pytest.mark.parametrize(
    "value",
    [
        FINGERPRINT,
        DownloadResult(
            "00000000-0000-4000-8000-000000000001", "file:///in", "file:///out", None, 9, "ab", 3, FINGERPRINT
        ),
        OperationOutcome("00000000-0000-4000-8000-000000000001", "failed", "out of memory", 12.5, 1795705926.0),
    ],
)
def test_a_hand_off_can_be_converted_to_json_and_back(value):
    assert type(value).from_dict(json.loads(json.dumps(value.to_dict()))) == value


def test_a_part_is_read_without_the_fields_that_operators_do_not_need():
    fields = {"topic": "osca", "model_id": MODEL, "input_uri": "file:///in", "sha256": SHA256}
    part = InputPart.from_dict({**fields, "part": 7, "records": 3, "bytes": 9})
    assert part == InputPart("osca", MODEL, "file:///in", SHA256, force_new=False, expected_seconds=None, records=3)
    assert part.fingerprint == FINGERPRINT


def test_a_fingerprint_that_version_0_1_stored_as_text_is_read():
    assert Fingerprint.from_dict(f"osca/{MODEL}/{SHA256}") == FINGERPRINT
