"""Contract 2.6, 3.5, 3.6: single records and small batches."""

import pytest

from tests.contract.conftest import TEXTS, message

TEACHER = {"occp_text": "Primary school teacher", "tasks_text": "Teaching children"}
INVALID, MALFORMED = "invalid request body", "malformed record found in request"


@pytest.fixture
def code(service, topic):
    def post(model=None, **body):
        return service.post(f"topics/{topic}/models/{model}/code" if model else f"topics/{topic}/code", json=body)

    return post


def assert_is_answer(answer, record, most=16):
    assert answer["codeStatus"] in ("successful", "unsuccessful")
    assert {name: answer["input"][name] for name in record} == record
    assert isinstance(answer["result"], list)
    assert len(answer["result"]) <= most
    assert (answer["codeStatus"] == "successful") == bool(answer["result"])
    for code in answer["result"]:
        assert isinstance(code["codeCategory"], str)
        assert 1 <= len(code["codeCategory"]) <= 6
        assert isinstance(code["codeLabel"], str)
        assert isinstance(code["codeConfidence"], int | float | str)


def test_a_single_record_is_answered_with_codes(code):
    answer = code(record=TEACHER, numberOfSuggestions=3)
    assert answer.status_code == 200
    assert_is_answer(answer.json(), TEACHER, most=3)


def test_a_given_model_can_be_asked(code, latest):
    answer = code(latest["modelId"], record=TEACHER)
    assert answer.status_code == 200
    assert_is_answer(answer.json(), TEACHER)


def test_a_small_batch_is_answered_with_one_answer_a_record(code):
    records = [
        {"recordId": str(n), "occp_text": occp, "tasks_text": tasks[:60]} for n, (occp, tasks) in enumerate(TEXTS)
    ]
    answer = code(records=records, numberOfSuggestions=1)
    assert answer.status_code == 200
    answers = {one["recordId"]: one for one in answer.json()}
    assert len(answer.json()) == len(records)
    for record in records:
        assert_is_answer(answers[record["recordId"]], record, most=1)


def test_three_hundred_records_are_a_small_batch_and_one_more_is_not(code):
    assert len(code(records=[TEACHER] * 300, numberOfSuggestions=1).json()) == 300
    answer = code(records=[TEACHER] * 301, numberOfSuggestions=1)
    assert (answer.status_code, message(answer)) == (400, INVALID)


def test_a_body_that_is_no_json_is_invalid(service, topic):
    answer = service.post(f"topics/{topic}/code", data=b"{")
    assert (answer.status_code, message(answer)) == (400, INVALID)


def test_a_special_character_makes_the_body_invalid(code):
    answer = code(record={"occp_text": "teacher \u2603", "tasks_text": ""})
    assert (answer.status_code, message(answer)) == (400, INVALID)


@pytest.mark.parametrize("bad", [{"occp_text": "teacher"}, {"tasks_text": "teaching"}])
def test_one_record_without_a_field_fails_the_whole_batch(code, bad):
    answer = code(records=[TEACHER, bad], numberOfSuggestions=1)
    assert (answer.status_code, message(answer)) == (400, MALFORMED)


@pytest.mark.parametrize(
    "record", [{"occp_text": "", "tasks_text": "Teaching"}, {"occp_text": "teacher", "tasks_text": ""}]
)
def test_one_of_the_texts_may_be_empty(code, record):
    assert code(record=record).status_code == 200


def test_both_texts_together_have_at_most_a_hundred_characters(code):
    assert code(record={"occp_text": "teacher " * 5, "tasks_text": "teaching it " * 5}).status_code == 200
    assert code(record={"occp_text": "teacher " * 5, "tasks_text": "teaching it " * 5 + "x"}).status_code == 400
