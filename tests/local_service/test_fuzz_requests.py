"""Fuzzes requests from the OpenAPI document: no server error, and no undocumented response."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from schemathesis.checks import load_all_checks, not_a_server_error
from schemathesis.specs.openapi import checks

from include.local_service.http.openapi import DOCUMENT
from tests.local_service.conftest import make_input

load_all_checks()
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
]
# Headers of HTTP itself: with a generated value the message is invalid before the API gets a request.
FRAMING = {
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}
BOUNDED = settings(
    max_examples=120,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def path_values(caller):
    """Existing values for the parameters of a path: without them nearly every call would be a 404."""
    operations = [caller.submit(make_input(2)), caller.create()["operationId"]]
    models = [model["modelId"] for model in caller.get("topics/osca/models").json()]
    return {"topic": ["osca"], "model": models, "operation_id": operations}


@SCHEMA.given(data=st.data())
@SCHEMA.parametrize()
@BOUNDED
def test_every_response_is_as_documented(case, data, caller, path_values):
    for name in case.path_parameters or ():
        if data.draw(st.integers(0, 3), label=f"keep the generated {name}"):
            case.path_parameters[name] = data.draw(st.sampled_from(path_values[name]), label=name)
    for name in [name for name in case.headers or () if name.lower() in FRAMING]:
        del case.headers[name]
    good = data.draw(st.integers(0, 9), label="credentials")
    if case.path == "/oauth2/token":
        # The call adds credentials, so a request generated without any is valid.
        rules = [check for check in CHECKS if check is not checks.negative_data_rejection]
        auth = caller.credentials if good else ("a", "b")
        response = case.call_and_validate(base_url=caller.url, checks=rules, auth=auth)
    else:
        headers = {"Authorization": caller.token if good else "generated"}
        response = case.call_and_validate(base_url=caller.url, checks=CHECKS, headers=headers)
    assert response.status_code < 500
