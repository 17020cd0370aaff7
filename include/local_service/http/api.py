"""The endpoints of the API (docs/service-contract.md 1, 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import State as RequestState
from starlette.responses import PlainTextResponse

from include.local_service.core.catalogue import INPUT_FORMAT, Model, Topic
from include.local_service.core.clients import kms_key
from include.local_service.core.errors import InvalidBodyError, UnknownOperationError
from include.local_service.core.faults import Fault
from include.local_service.core.operation import State, input_key, metadata_key, output_key
from include.local_service.core.service import CodingService
from include.local_service.http.journal import CutConnection, Ending
from include.local_service.http.request_body import parse_json
from include.local_service.http.signing import Signer
from include.local_service.http.storage_headers import BUCKET, SSE, SSE_KEY

UPLOAD_URL_LIFETIME_S = 15 * 60  # docs/service-contract.md 8.5
DOWNLOAD_URL_LIFETIME_S = 3600  # docs/service-contract.md 2.10


@dataclass(frozen=True)
class Call:
    """One authorised call of the API.

    :param journal_fields: takes further fields of the call's journal entry.
    """

    service: CodingService
    client_id: str
    method: str
    path: str
    params: Mapping[str, str]
    body: bytes
    base_url: str
    journal_fields: RequestState

    @property
    def topic(self) -> Topic:
        """The topic in the path."""
        return self.service.catalogue.topic(self.params["topic"])

    @property
    def model(self) -> Model:
        """The model in the path, or the latest."""
        return self.service.model(self.topic, self.params.get("model"), self.path)

    def triggers(self, name: str) -> Fault | None:
        """Return the fault with this name if it affects this call, and count it."""
        return self.service.faults.trigger_for_request(name, self.method, self.path)

    def presign(self, method: str, key: str, expires_in: int, headers: Mapping[str, str] | None = None) -> str:
        """Return a presigned URL for one object, valid for `expires_in` seconds."""
        now, path = self.service.clock.now(), f"/{BUCKET}/{key}"
        signer = Signer(self.service.access_keys)
        return signer.presign(method, self.base_url, path, now=now, expires_in=expires_in, headers=headers)


Handler = Callable[[Call], Any]


def list_topics(call: Call) -> Any:
    """See docs/service-contract.md 2.2."""
    return [{"uriName": topic.uri_name, "fullName": topic.full_name} for topic in call.service.catalogue.topics]


def get_topic(call: Call) -> Any:
    """See docs/service-contract.md 2.3; the format of the response is not public."""
    topic = call.topic
    return {"uriName": topic.uri_name, "fullName": topic.full_name, "inputFormat": list(INPUT_FORMAT)}


def list_models(call: Call) -> Any:
    """See docs/service-contract.md 2.5."""
    return [model.describe() for model in call.service.models(call.topic, call.path)]


def get_latest_model(call: Call) -> Any:
    """See docs/service-contract.md 2.4."""
    return call.model.describe()


def code(call: Call) -> Any:
    """See docs/service-contract.md 2.6."""
    return call.service.code_synchronously(call.model, parse_json(call.body))


def create_operation(call: Call) -> Any:
    """See docs/service-contract.md 2.7."""
    if call.body:
        raise InvalidBodyError
    operation_id = call.service.operations.create(call.client_id, call.model).operation_id
    call.journal_fields.operation_id = operation_id
    if call.triggers("lost_create"):
        raise CutConnection(Ending.RESET)
    key = kms_key(call.client_id)
    headers = {SSE: "aws:kms", SSE_KEY: key}
    response = {
        "requestUploadUrl": call.presign("PUT", input_key(operation_id), UPLOAD_URL_LIFETIME_S, headers),
        "operationId": operation_id,
        "bucketKmsKeyArn": key,
    }
    return _rename_fields(call, response)


def get_operation(call: Call) -> Any:
    """See docs/service-contract.md 2.9."""
    if "model" in call.params:
        # The model in the path must exist, but need not be the model of the operation.
        call.service.catalogue.model(call.topic, call.params["model"])
    service, operation_id = call.service, call.params["operation_id"]
    operation = service.operations.check_status(call.client_id, call.topic, operation_id, service.status_delay)
    if call.triggers("hidden_operation"):
        raise UnknownOperationError(operation_id)
    response = {"operationStatus": _spell_status(call, operation.state)}
    has_links = operation.state is State.COMPLETE and not operation.files_deleted
    if has_links and not call.triggers("missing_links"):
        key = output_key(operation.operation_id)
        response["responseDownloadUrl"] = call.presign("GET", key, DOWNLOAD_URL_LIFETIME_S)
        key = metadata_key(operation.operation_id)
        response["metadataDownloadUrl"] = call.presign("GET", key, DOWNLOAD_URL_LIFETIME_S)
    if operation.state is State.FAILED and operation.error is not None:
        response["error"] = operation.error
    return _rename_fields(call, response)


def _spell_status(call: Call, state: State) -> str:
    """Return the state as the service spells it, or as a fault does."""
    if fault := call.triggers("unknown_status"):
        return fault.status
    if (fault := call.triggers("spelled_status")) is None:
        return str(state)
    title = state.replace("_", " ").title()
    camel = title.replace(" ", "")
    styles = {"upper": state.upper(), "title": title, "hyphens": state.replace("_", "-")}
    return styles.get(fault.style, camel[0].lower() + camel[1:])


def _rename_fields(call: Call, response: dict[str, Any]) -> dict[str, Any]:
    """Return the response, with its field names in lower case if a fault says so."""
    if call.triggers("other_field_names") is None:
        return response
    return {name.lower(): value for name, value in response.items()}


def get_security_contact(call: Call) -> Any:
    """See docs/service-contract.md 1."""
    return PlainTextResponse("Contact: mailto:security@localhost\nExpires: 2099-12-31T23:59:59Z\n")


API: Mapping[tuple[str, str], Handler] = {
    ("GET", "/v1/security.txt"): get_security_contact,
    ("GET", "/v1/topics"): list_topics,
    ("GET", "/v1/topics/{topic}"): get_topic,
    ("GET", "/v1/topics/{topic}/models"): list_models,
    ("GET", "/v1/topics/{topic}/models/latest"): get_latest_model,
    ("POST", "/v1/topics/{topic}/code"): code,
    ("POST", "/v1/topics/{topic}/models/{model}/code"): code,
    ("POST", "/v1/topics/{topic}/batch-code"): create_operation,
    ("POST", "/v1/topics/{topic}/models/{model}/batch-code"): create_operation,
    ("GET", "/v1/topics/{topic}/batch-code/operations/{operation_id}"): get_operation,
    ("GET", "/v1/topics/{topic}/models/{model}/batch-code/operations/{operation_id}"): get_operation,
}
"""The endpoints by method and path (docs/service-contract.md 1)."""
