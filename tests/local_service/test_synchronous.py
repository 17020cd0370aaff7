"""Coding of single records and small batches (contract 2.6, 3.5)."""

import pytest

from include.local_service.coder.stub import StubCoder

MALFORMED = (400, {"message": "Malformed record found in request"})
INVALID = (400, {"message": "Invalid request body"})
GOOD = {"occp_text": "teacher", "tasks_text": "teach"}


def texts_by_outcome(threshold=0.4):
    coder = StubCoder(threshold)
    coded = {}
    for number in range(100):
        text = f"teacher {number}"
        coded.setdefault(coder.code([(text, "")])[0].result is not None, text)
    return coded[True], coded[False]


def test_a_single_record_gets_one_answer_with_its_codes(caller):
    text, _ = texts_by_outcome()
    answer = caller.post("topics/osca/code", json={"record": {"occp_text": text, "tasks_text": ""}}).json()
    assert answer["codeStatus"] == "successful"
    assert answer["input"] == {"occp_text": text, "tasks_text": ""}
    assert "recordId" not in answer
    assert set(answer["result"][0]) == {"codeCategory", "codeLabel", "codeConfidence"}


def test_nothing_above_the_threshold_gives_no_codes(caller):
    _, text = texts_by_outcome(threshold=0.5)
    answer = caller.post("topics/osca/code", json={"record": {"occp_text": text, "tasks_text": ""}}).json()
    assert (answer["codeStatus"], answer["result"]) == ("unsuccessful", [])


def test_a_small_batch_is_answered_in_order(caller):
    records = [{"recordId": str(n), "occp_text": f"teacher {n}", "tasks_text": ""} for n in range(300)]
    answers = caller.post("topics/osca/code", json={"records": records, "numberOfSuggestions": 1}).json()
    assert [answer["recordId"] for answer in answers] == [str(n) for n in range(300)]
    assert {len(answer["result"]) for answer in answers} == {0, 1}


def test_an_older_model_with_a_higher_threshold_codes_less(caller):
    records = [{"occp_text": f"teacher {n}", "tasks_text": ""} for n in range(300)]
    older, latest = (model["modelId"] for model in caller.get("topics/osca/models").json())
    coded = [
        sum(
            one["codeStatus"] == "successful"
            for one in caller.post(f"topics/osca/models/{model}/code", json={"records": records}).json()
        )
        for model in (older, latest)
    ]
    assert 0 < coded[0] < coded[1] < 300


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
def test_one_record_that_does_not_fit_fails_the_whole_batch(caller, record):
    for body in ({"record": record}, {"records": [GOOD, record]}):
        answer = caller.post("topics/osca/code", json=body)
        assert (answer.status_code, answer.json()) == MALFORMED


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
def test_a_body_of_another_shape_is_invalid(caller, body):
    answer = caller.post("topics/osca/code", json=body)
    assert (answer.status_code, answer.json()) == INVALID


def test_a_body_that_is_not_json_is_invalid(caller):
    for data in (b"", b"{", b"\xff", b"[" * 100_000):
        answer = caller.post("topics/osca/code", data=data)
        assert (answer.status_code, answer.json()) == INVALID


def test_a_body_beyond_ten_megabytes_is_too_long(caller):
    answer = caller.post("topics/osca/code", data=b" " * (10 * 1024 * 1024 + 1))
    assert answer.status_code == 413
