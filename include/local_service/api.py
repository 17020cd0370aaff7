"""The endpoints of the API: what a call carries, and what each answers (contract 1, 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import State
from starlette.responses import PlainTextResponse

from include.local_service.bodies import read_json
from include.local_service.catalogue import INPUT_FORMAT, Model, Topic
from include.local_service.clients import kms_key
from include.local_service.errors import InvalidBodyError
from include.local_service.journal import CutConnection
from include.local_service.objects import BUCKET
from include.local_service.operation import input_key
from include.local_service.service import CodingService
from include.local_service.storage_headers import SSE, SSE_KEY

UPLOAD_LIFETIME = 15 * 60
"""Seconds for which an upload URL is good (contract, open question 5)."""

DOWNLOAD_LIFETIME = 3600
"""Seconds for which a download link is good (contract 2.10)."""


@dataclass(frozen=True)
class Call:
    """One authorised call of the API."""

    service: CodingService
    client_id: str
    path: str
    params: Mapping[str, str]
    body: bytes
    base_url: str
    notes: State

    @property
    def topic(self) -> Topic:
        """The topic that the path names."""
        return self.service.catalogue.topic(self.params["topic"])

    @property
    def model(self) -> Model:
        """The model that the path names, or the latest."""
        return self.service.model(self.topic, self.params.get("model"), self.path)

    def link(self, method: str, key: str, expires_in: int, headers: Mapping[str, str] | None = None) -> str:
        """Return a presigned URL for one object."""
        now, path = self.service.clock.now(), f"/{BUCKET}/{key}"
        return self.service.signer.presign(
            method, self.base_url, path, now=now, expires_in=expires_in, headers=headers
        )


Handler = Callable[[Call], Any]


def list_topics(call: Call) -> Any:
    """Contract 2.2."""
    return [{"uriName": topic.uri_name, "fullName": topic.full_name} for topic in call.service.catalogue.topics]


def show_topic(call: Call) -> Any:
    """Contract 2.3; the shape of the answer is not public."""
    topic = call.topic
    return {"uriName": topic.uri_name, "fullName": topic.full_name, "inputFormat": list(INPUT_FORMAT)}


def list_models(call: Call) -> Any:
    """Contract 2.5."""
    return [model.describe() for model in call.service.models(call.topic, call.path)]


def show_latest_model(call: Call) -> Any:
    """Contract 2.4."""
    return call.model.describe()


def code(call: Call) -> Any:
    """Contract 2.6."""
    return call.service.code_now(call.model, read_json(call.body))


def create_operation(call: Call) -> Any:
    """Contract 2.7."""
    if call.body:
        raise InvalidBodyError
    operation_id = call.service.operations.create(call.client_id, call.model).operation_id
    call.notes.operation_id = operation_id
    if call.service.faults.take_for_request("lost_create", "POST", call.path):
        raise CutConnection(reset=True)
    key = kms_key(call.client_id)
    headers = {SSE: "aws:kms", SSE_KEY: key}
    return {
        "requestUploadUrl": call.link("PUT", input_key(operation_id), UPLOAD_LIFETIME, headers),
        "operationId": operation_id,
        "bucketKmsKeyArn": key,
    }


def show_operation(call: Call) -> Any:
    """Contract 2.9."""
    if "model" in call.params:
        # The model of the path must exist, but need not be the one the operation was made for (contract 2.9).
        call.service.catalogue.model(call.topic, call.params["model"])
    shown = call.service.check_operation(call.client_id, call.topic, call.params["operation_id"])
    answer = {"operationStatus": str(shown.state)}
    if shown.output_key and shown.metadata_key:
        answer["responseDownloadUrl"] = call.link("GET", shown.output_key, DOWNLOAD_LIFETIME)
        answer["metadataDownloadUrl"] = call.link("GET", shown.metadata_key, DOWNLOAD_LIFETIME)
    if shown.error is not None:
        answer["error"] = shown.error
    return answer


def show_security_contact(call: Call) -> Any:
    """Contract 1: whom to tell of a security problem."""
    return PlainTextResponse("Contact: mailto:security@localhost\nExpires: 2099-12-31T23:59:59Z\n")


API: Mapping[tuple[str, str], Handler] = {
    ("GET", "/v1/security.txt"): show_security_contact,
    ("GET", "/v1/topics"): list_topics,
    ("GET", "/v1/topics/{topic}"): show_topic,
    ("GET", "/v1/topics/{topic}/models"): list_models,
    ("GET", "/v1/topics/{topic}/models/latest"): show_latest_model,
    ("POST", "/v1/topics/{topic}/code"): code,
    ("POST", "/v1/topics/{topic}/models/{model}/code"): code,
    ("POST", "/v1/topics/{topic}/batch-code"): create_operation,
    ("POST", "/v1/topics/{topic}/models/{model}/batch-code"): create_operation,
    ("GET", "/v1/topics/{topic}/batch-code/operations/{operation_id}"): show_operation,
    ("GET", "/v1/topics/{topic}/models/{model}/batch-code/operations/{operation_id}"): show_operation,
}
"""The endpoints of the contract (contract 1)."""
