"""Answers become typed values, or a refusal that says what is wrong with them."""

import dataclasses

import pytest

from coding_service.errors import ProtocolError
from coding_service.models import Model, Operation, OperationStatus, Topic, UploadGrant

LINK = "https://s3.example/out/1.jsonl?X-Amz-Signature=5ec4e7"
GRANT = {"operationId": "op-1", "requestUploadUrl": LINK, "bucketKmsKeyArn": "arn:aws:kms:x:1:key/k"}


def test_a_topic_has_a_path_name_and_a_display_name():
    data = {"uriName": "osca", "fullName": "OSCA - Occupation Standard Classification for Australia"}
    assert Topic.from_json(data) == Topic("osca", data["fullName"])


def test_a_topic_without_display_name_is_shown_by_its_path_name():
    assert Topic.from_json({"uriName": "osca"}) == Topic("osca", "osca")


def test_a_model_is_read_with_all_its_fields():
    data = {
        "modelId": "0b5b",
        "modelVersion": 2,
        "modelReleaseDate": "2026-01-31",
        "modelType": "hsvm",
        "inputFormat": ["occp_text", "tasks_text"],
        "topicStandard": "OSCA",
        "topicVersion": "1.0",
    }
    assert Model.from_json(data) == Model("0b5b", 2.0, ("occp_text", "tasks_text"))


@pytest.mark.parametrize("version", [None, "2", [], {}])
def test_a_model_version_that_is_no_number_is_none(version):
    assert Model.from_json({"modelId": "0b5b", "modelVersion": version}).version is None


def test_a_model_needs_nothing_but_its_id():
    assert Model.from_json({"modelId": "0b5b", "more": "ignored"}) == Model("0b5b")


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
    operation = Operation.from_json("op-1", {"operationStatus": status})
    assert operation.status == status
    assert (operation.status.is_terminal, operation.status.is_successful) == (is_terminal, is_successful)


def test_the_contract_has_five_states():
    assert len(OperationStatus) == 5


def test_links_of_a_complete_operation_are_read():
    data = {"operationStatus": "complete", "responseDownloadUrl": LINK, "metadataDownloadUrl": LINK + "m"}
    operation = Operation.from_json("op-1", data)
    assert (operation.output_url, operation.metadata_url) == (LINK, LINK + "m")


@pytest.mark.parametrize("empty", [None, ""])
def test_empty_optional_fields_are_as_good_as_missing(empty):
    data = {"operationStatus": "complete", "responseDownloadUrl": empty, "metadataDownloadUrl": empty, "error": empty}
    operation = Operation.from_json("op-1", data)
    assert (operation.output_url, operation.metadata_url, operation.error) == (None, None, None)


@pytest.mark.parametrize(
    ("data", "usable"),
    [
        ({"operationStatus": "awaiting_input"}, True),
        ({"operationStatus": "in_progress"}, True),
        ({"operationStatus": "complete", "responseDownloadUrl": LINK}, True),
        ({"operationStatus": "complete"}, False),
        ({"operationStatus": "failed", "error": "no"}, False),
        ({"operationStatus": "timed_out"}, False),
    ],
)
def test_an_operation_is_usable_while_it_can_still_deliver(data, usable):
    assert Operation.from_json("op-1", data).is_usable is usable


def test_an_unknown_state_is_refused_with_the_known_ones():
    with pytest.raises(ProtocolError, match=r"'op-1' has the unknown status 'paused'; known: .*'complete'"):
        Operation.from_json("op-1", {"operationStatus": "paused"})


@pytest.mark.parametrize("value", [None, "", 5, ["osca"]])
@pytest.mark.parametrize(
    ("read", "field", "data"),
    [
        (Topic.from_json, "uriName", {}),
        (Model.from_json, "modelId", {}),
        (lambda data: Operation.from_json("op-1", data), "operationStatus", {}),
        *((UploadGrant.from_json, field, GRANT) for field in GRANT),
    ],
)
def test_a_required_field_that_is_missing_or_no_text_is_refused_by_name(read, field, data, value):
    with pytest.raises(ProtocolError, match=f"no '{field}'"):
        read({**data, field: value})


@pytest.mark.parametrize("data", [None, [], "text", 5])
@pytest.mark.parametrize(
    "read", [Topic.from_json, Model.from_json, lambda data: Operation.from_json("op-1", data), UploadGrant.from_json]
)
def test_anything_but_an_object_is_refused_by_its_type(read, data):
    with pytest.raises(ProtocolError, match=f"JSON {type(data).__name__}; expected an object"):
        read(data)


def test_a_refused_grant_does_not_show_what_it_holds():
    with pytest.raises(ProtocolError) as caught:
        UploadGrant.from_json({**GRANT, "operationId": None})
    assert "5ec4e7" not in str(caught.value)
    assert "arn:aws" not in str(caught.value)


def test_neither_links_nor_grants_show_in_repr():
    complete = {"operationStatus": "complete", "responseDownloadUrl": LINK, "metadataDownloadUrl": LINK}
    for value in (Operation.from_json("op-1", complete), UploadGrant.from_json(GRANT)):
        for shown in (repr(value), str(value), f"{[value]}"):
            assert "op-1" in shown
            assert "http" not in shown
            assert "arn:aws" not in shown


def test_values_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Topic("osca", "OSCA").uri_name = "other"


def test_a_grant_goes_through_a_dict_and_back():
    grant = UploadGrant.from_json(GRANT)
    assert UploadGrant(**grant.to_dict()) == grant
