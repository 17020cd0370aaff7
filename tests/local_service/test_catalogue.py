"""Topics, models, the security contact and the OpenAPI document (docs/service-contract.md 2.2 to 2.5)."""

import uuid

import pytest

from include.local_service.http.api import API

NO_TOPIC = (404, {"message": "The specified topic does not exist"})
NO_MODEL = (404, {"message": "The specified model does not exist"})
NOWHERE = "00000000-0000-4000-8000-000000000000"


def test_the_topics_are_listed_with_their_names(caller):
    topics = caller.get("topics").json()
    assert [topic["uriName"] for topic in topics] == ["osca", "anzsco"]
    assert topics[0]["fullName"] == "Local sample classification (small, for trials; not OSCA itself)"


def test_a_topic_shows_its_input_format(caller):
    assert caller.get("topics/osca").json()["inputFormat"] == ["occp_text", "tasks_text"]


def test_each_topic_has_two_models_and_the_second_is_the_latest(caller):
    model_ids = set()
    for topic in ("osca", "anzsco"):
        models = caller.get(f"topics/{topic}/models").json()
        assert [model["modelVersion"] for model in models] == [1, 2]
        assert models[0]["modelReleaseDate"] < models[1]["modelReleaseDate"]
        assert caller.get(f"topics/{topic}/models/latest").json() == models[1]
        model_ids |= {str(uuid.UUID(model["modelId"])) for model in models}
    assert len(model_ids) == 4


def test_a_model_has_every_field_of_the_contract(caller):
    model = caller.get("topics/osca/models/latest").json()
    types = {name: type(value).__name__ for name, value in model.items()}
    assert types == {
        "modelId": "str",
        "modelVersion": "int",
        "modelReleaseDate": "str",
        "modelType": "str",
        "inputFormat": "list",
        "topicStandard": "str",
        "topicVersion": "str",
    }


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "topics/nowhere"),
        ("GET", "topics/nowhere/models"),
        ("GET", "topics/nowhere/models/latest"),
        ("POST", "topics/nowhere/batch-code"),
        ("GET", f"topics/nowhere/batch-code/operations/{NOWHERE}"),
        ("POST", f"topics/nowhere/models/{NOWHERE}/batch-code"),
    ],
)
def test_an_unknown_topic_has_its_own_message(caller, method, path):
    response = caller.call(method, path)
    assert (response.status_code, response.json()) == NO_TOPIC


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"topics/osca/models/{NOWHERE}/batch-code"),
        ("POST", "topics/osca/models/latest/batch-code"),
        ("GET", f"topics/osca/models/{NOWHERE}/batch-code/operations/{NOWHERE}"),
    ],
)
def test_an_unknown_model_has_its_own_message(caller, method, path):
    response = caller.call(method, path)
    assert (response.status_code, response.json()) == NO_MODEL


def test_a_model_of_another_topic_is_a_conflict(caller):
    model = caller.get("topics/anzsco/models/latest").json()["modelId"]
    response = caller.post(f"topics/osca/models/{model}/batch-code")
    assert response.status_code == 409
    assert response.json() == {"message": "Selected model does not match the input topic."}


def test_query_strings_are_refused(caller):
    for path in ("topics?page=1", "topics/osca/models/latest?x="):
        assert caller.get(path).status_code == 400
    assert caller.post("topics/osca/batch-code?dry=1").status_code == 400


def test_unknown_paths_and_methods_are_not_found(caller):
    operation_id = caller.create()["operationId"]
    for method, path in [
        ("GET", "nothing"),
        ("DELETE", f"topics/osca/batch-code/operations/{operation_id}"),
        ("GET", "topics/osca/batch-code"),
        ("GET", "topics/"),
    ]:
        assert caller.call(method, path).status_code == 404


def test_the_security_contact_is_plain_text(caller):
    response = caller.get("security.txt")
    assert response.text.startswith("Contact: ")
    assert response.headers["content-type"].startswith("text/plain")


def test_the_openapi_document_describes_every_endpoint_and_only_those(caller):
    document = caller.session.get(f"{caller.url}/openapi.json").json()
    endpoints = {
        (method.upper(), path)
        for path, calls in document["paths"].items()
        for method in calls
        if method != "parameters"
    }
    assert endpoints == {*API, ("POST", "/oauth2/token")}
