"""Contract 2.2 to 2.5, 3.1, 3.2 and the errors of section 4 that belong to them."""

from datetime import date, datetime

import pytest

from tests.contract.conftest import GUID, NOWHERE, message, needs_knobs

MODEL = {
    "modelId": str,
    "modelVersion": int | float,
    "modelReleaseDate": str,
    "modelType": str,
    "inputFormat": list,
    "topicStandard": str,
    "topicVersion": str,
}


def assert_is_model(model):
    for name, kind in MODEL.items():
        assert isinstance(model[name], kind), name
    assert not isinstance(model["modelVersion"], bool)
    assert GUID.fullmatch(model["modelId"])
    assert isinstance(datetime.fromisoformat(model["modelReleaseDate"]), date)
    assert set(model["inputFormat"]) >= {"occp_text", "tasks_text"}


def test_the_topics_are_an_array_with_two_names_each(service):
    answer = service.get("topics")
    assert answer.status_code == 200
    assert answer.json()
    for topic in answer.json():
        assert isinstance(topic["uriName"], str)
        assert isinstance(topic["fullName"], str)


def test_osca_is_a_topic(topics):
    assert "osca" in topics


def test_a_topic_can_be_asked_for_its_input_format(service, topic):
    answer = service.get(f"topics/{topic}")
    assert answer.status_code == 200
    assert answer.json()


def test_the_latest_model_has_every_field(latest):
    assert_is_model(latest)


def test_the_models_are_an_array_that_has_the_latest(service, topic, latest):
    answer = service.get(f"topics/{topic}/models")
    assert answer.status_code == 200
    for model in answer.json():
        assert_is_model(model)
    assert latest in answer.json()
    assert latest["modelVersion"] == max(model["modelVersion"] for model in answer.json())


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("GET", "/models"),
        ("GET", "/models/latest"),
        ("POST", "/batch-code"),
        ("POST", f"/models/{NOWHERE}/batch-code"),
        ("GET", f"/batch-code/operations/{NOWHERE}"),
    ],
)
def test_an_unknown_topic_is_not_found(service, method, path):
    answer = service.call(method, f"topics/no-such-topic{path}")
    assert (answer.status_code, message(answer)) == (404, "the specified topic does not exist")


@pytest.mark.parametrize("action", ["code", "batch-code"])
def test_an_unknown_model_is_not_found(service, topic, action):
    body = {"record": {"occp_text": "teacher", "tasks_text": ""}} if action == "code" else None
    answer = service.post(f"topics/{topic}/models/{NOWHERE}/{action}", json=body)
    assert (answer.status_code, message(answer)) == (404, "the specified model does not exist")


def test_a_model_of_another_topic_is_a_conflict(service, topic, topics):
    other = next((name for name in topics if name != topic), None)
    if other is None:
        pytest.skip("the service has one topic only")
    model = service.get(f"topics/{other}/models/latest").json()["modelId"]
    answer = service.post(f"topics/{topic}/models/{model}/batch-code")
    assert (answer.status_code, message(answer)) == (409, "selected model does not match the input topic")


@needs_knobs
def test_a_topic_without_models_is_a_server_error_of_its_own(movable):
    movable.knob("faults", name="no_models")
    answer = movable.get("topics/osca/models")
    assert (answer.status_code, message(answer)) == (500, "no models found for topic")


@needs_knobs
def test_a_new_model_becomes_the_latest_and_the_older_ones_stay(movable):
    before = movable.get("topics/osca/models").json()
    movable.knob("faults", name="new_latest_model")
    latest = movable.get("topics/osca/models/latest").json()
    after = movable.get("topics/osca/models").json()
    assert latest not in before
    assert latest in after
    assert all(model in after for model in before)
