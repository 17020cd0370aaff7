"""Coding of single records and small batches (docs/service-contract.md 2.6, 3.5)."""

import pytest

from include.local_service.coder.stub import StubCoder

MALFORMED = (400, {"message": "Malformed record found in request"})
INVALID = (400, {"message": "Invalid request body"})
GOOD = {"occp_text": "teacher", "tasks_text": "teach"}


def find_texts(threshold=0.4):
    """Return one text with a result and one without."""
    coder = StubCoder(threshold)
    text_by_outcome = {}
    for number in range(100):
        text = f"teacher {number}"
        text_by_outcome.setdefault(coder.code([(text, "")])[0].result is not None, text)
    return text_by_outcome[True], text_by_outcome[False]


def test_a_single_record_gets_one_response_with_its_codes(caller):
    text, _ = find_texts()
    response = caller.post("topics/osca/code", json={"record": {"occp_text": text, "tasks_text": ""}}).json()
    assert response["codeStatus"] == "successful"
    assert response["input"] == {"occp_text": text, "tasks_text": ""}
    assert "recordId" not in response
    assert set(response["result"][0]) == {"codeCategory", "codeLabel", "codeConfidence"}


def test_a_record_below_the_threshold_gets_no_codes(caller):
    _, text = find_texts(threshold=0.5)
    response = caller.post("topics/osca/code", json={"record": {"occp_text": text, "tasks_text": ""}}).json()
    assert (response["codeStatus"], response["result"]) == ("unsuccessful", [])


def test_the_responses_of_a_small_batch_are_in_order(caller):
    records = [{"recordId": str(n), "occp_text": f"teacher {n}", "tasks_text": ""} for n in range(300)]
    responses = caller.post("topics/osca/code", json={"records": records, "numberOfSuggestions": 1}).json()
    assert [response["recordId"] for response in responses] == [str(n) for n in range(300)]
    assert {len(response["result"]) for response in responses} == {0, 1}


def test_an_older_model_with_a_higher_threshold_codes_fewer_records(caller):
    records = [{"occp_text": f"teacher {n}", "tasks_text": ""} for n in range(300)]
    older, latest = (model["modelId"] for model in caller.get("topics/osca/models").json())
    counts = [
        sum(
            one["codeStatus"] == "successful"
            for one in caller.post(f"topics/osca/models/{model}/code", json={"records": records}).json()
        )
        for model in (older, latest)
    ]
    assert 0 < counts[0] < counts[1] < 300


@pytest.mark.parametrize(
    "record",
    [
        {"occp_text": "teacher"},
        {"tasks_text": "teach"},
        {"occp_text": "teacher", "tasks_text": None},
        {"occp_text": 1, "tasks_text": "teach"},
        {"occp_text": "", "tasks_text": " "},
        {"occp_text": "x" * 60, "tasks_text": "y" * 41},
        {**GOOD, "recordId": 7},
        {**GOOD, "age": "30"},
        "teacher",
    ],
)
def test_one_invalid_record_fails_the_whole_batch(caller, record):
    for body in ({"record": record}, {"records": [GOOD, record]}):
        response = caller.post("topics/osca/code", json=body)
        assert (response.status_code, response.json()) == MALFORMED


def test_a_hundred_characters_in_both_texts_are_allowed(caller):
    record = {"occp_text": "x" * 60, "tasks_text": "y" * 40}
    assert caller.post("topics/osca/code", json={"record": record}).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"records": []},
        {"records": [GOOD] * 301},
        {"records": GOOD},
        {"record": GOOD, "records": [GOOD]},
        {"record": GOOD, "more": 1},
        {"record": GOOD, "numberOfSuggestions": 0},
        {"record": GOOD, "numberOfSuggestions": 17},
        {"record": GOOD, "numberOfSuggestions": "3"},
        {"record": {"occp_text": "caf\u00e9 owner", "tasks_text": ""}},
        {"record": {"occp_text": "tab\there", "tasks_text": ""}},
    ],
)
def test_a_body_with_another_structure_is_invalid(caller, body):
    response = caller.post("topics/osca/code", json=body)
    assert (response.status_code, response.json()) == INVALID


def test_a_body_that_is_not_json_is_invalid(caller):
    for data in (b"", b"{", b"\xff", b"[" * 100_000):
        response = caller.post("topics/osca/code", data=data)
        assert (response.status_code, response.json()) == INVALID


def test_a_body_of_more_than_ten_megabytes_is_refused(caller):
    response = caller.post("topics/osca/code", data=b" " * (10 * 1024 * 1024 + 1))
    assert response.status_code == 413
