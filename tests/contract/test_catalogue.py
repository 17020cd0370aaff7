"""Topics and models, and their errors (docs/service-contract.md 2.2 to 2.5, 3.1, 3.2, 4)."""

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


def test_the_list_of_topics_has_two_names_for_each(service):
    response = service.get("topics")
    assert response.status_code == 200
    assert response.json()
    for topic in response.json():
        assert isinstance(topic["uriName"], str)
        assert isinstance(topic["fullName"], str)


def test_osca_is_a_topic(topics):
    assert "osca" in topics


def test_a_topic_has_an_input_format(service, topic):
    response = service.get(f"topics/{topic}")
    assert response.status_code == 200
    assert response.json()


def test_the_latest_model_has_every_field(latest):
    assert_is_model(latest)


def test_the_list_of_models_contains_the_latest(service, topic, latest):
    response = service.get(f"topics/{topic}/models")
    assert response.status_code == 200
    for model in response.json():
        assert_is_model(model)
    assert latest in response.json()
    assert latest["modelVersion"] == max(model["modelVersion"] for model in response.json())


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
    response = service.call(method, f"topics/no-such-topic{path}")
    assert (response.status_code, message(response)) == (404, "the specified topic does not exist")


@pytest.mark.parametrize("action", ["code", "batch-code"])
def test_an_unknown_model_is_not_found(service, topic, action):
    body = {"record": {"occp_text": "teacher", "tasks_text": ""}} if action == "code" else None
    response = service.post(f"topics/{topic}/models/{NOWHERE}/{action}", json=body)
    assert (response.status_code, message(response)) == (404, "the specified model does not exist")


def test_a_model_of_another_topic_is_a_conflict(service, topic, topics):
    other = next((name for name in topics if name != topic), None)
    if other is None:
        pytest.skip("the service has one topic only")
    model = service.get(f"topics/{other}/models/latest").json()["modelId"]
    response = service.post(f"topics/{topic}/models/{model}/batch-code")
    assert (response.status_code, message(response)) == (409, "selected model does not match the input topic")


@needs_knobs
def test_a_topic_without_models_is_a_server_error_of_its_own(own_service):
    own_service.knob("faults", name="no_models")
    response = own_service.get("topics/osca/models")
    assert (response.status_code, message(response)) == (500, "no models found for topic")


@needs_knobs
def test_a_new_model_becomes_the_latest_and_the_older_ones_remain(own_service):
    before = own_service.get("topics/osca/models").json()
    own_service.knob("faults", name="new_latest_model")
    latest = own_service.get("topics/osca/models/latest").json()
    after = own_service.get("topics/osca/models").json()
    assert latest not in before
    assert latest in after
    assert all(model in after for model in before)
