"""Single records and small batches (docs/service-contract.md 2.6, 3.5, 3.6)."""

import pytest

from tests.contract.conftest import TEXTS, message

TEACHER = {"occp_text": "Primary school teacher", "tasks_text": "Teaching children"}
INVALID, MALFORMED = "invalid request body", "malformed record found in request"


@pytest.fixture
def code(service, topic):
    def post(model=None, **body):
        return service.post(f"topics/{topic}/models/{model}/code" if model else f"topics/{topic}/code", json=body)

    return post


def assert_is_response(response, record, max_codes=16):
    assert response["codeStatus"] in ("successful", "unsuccessful")
    assert {name: response["input"][name] for name in record} == record
    assert isinstance(response["result"], list)
    assert len(response["result"]) <= max_codes
    assert (response["codeStatus"] == "successful") == bool(response["result"])
    for code in response["result"]:
        assert isinstance(code["codeCategory"], str)
        assert 1 <= len(code["codeCategory"]) <= 6
        assert isinstance(code["codeLabel"], str)
        assert isinstance(code["codeConfidence"], int | float | str)


def test_a_single_record_gets_codes(code):
    response = code(record=TEACHER, numberOfSuggestions=3)
    assert response.status_code == 200
    assert_is_response(response.json(), TEACHER, max_codes=3)


def test_a_specific_model_can_be_used(code, latest):
    response = code(latest["modelId"], record=TEACHER)
    assert response.status_code == 200
    assert_is_response(response.json(), TEACHER)


def test_a_small_batch_gets_one_response_for_each_record(code):
    records = [
        {"recordId": str(n), "occp_text": occp, "tasks_text": tasks[:60]} for n, (occp, tasks) in enumerate(TEXTS)
    ]
    response = code(records=records, numberOfSuggestions=1)
    assert response.status_code == 200
    responses = {one["recordId"]: one for one in response.json()}
    assert len(response.json()) == len(records)
    for record in records:
        assert_is_response(responses[record["recordId"]], record, max_codes=1)


def test_three_hundred_records_are_the_limit_of_a_small_batch(code):
    assert len(code(records=[TEACHER] * 300, numberOfSuggestions=1).json()) == 300
    response = code(records=[TEACHER] * 301, numberOfSuggestions=1)
    assert (response.status_code, message(response)) == (400, INVALID)


def test_a_body_that_is_not_json_is_invalid(service, topic):
    response = service.post(f"topics/{topic}/code", data=b"{")
    assert (response.status_code, message(response)) == (400, INVALID)


def test_a_special_character_makes_the_body_invalid(code):
    response = code(record={"occp_text": "teacher \u2603", "tasks_text": ""})
    assert (response.status_code, message(response)) == (400, INVALID)


@pytest.mark.parametrize("bad", [{"occp_text": "teacher"}, {"tasks_text": "teaching"}])
def test_one_record_without_a_field_fails_the_whole_batch(code, bad):
    response = code(records=[TEACHER, bad], numberOfSuggestions=1)
    assert (response.status_code, message(response)) == (400, MALFORMED)


@pytest.mark.parametrize(
    "record", [{"occp_text": "", "tasks_text": "Teaching"}, {"occp_text": "teacher", "tasks_text": ""}]
)
def test_one_of_the_texts_can_be_empty(code, record):
    assert code(record=record).status_code == 200


def test_both_texts_together_have_at_most_a_hundred_characters(code):
    assert code(record={"occp_text": "teacher " * 5, "tasks_text": "teaching it " * 5}).status_code == 200
    assert code(record={"occp_text": "teacher " * 5, "tasks_text": "teaching it " * 5 + "x"}).status_code == 400
