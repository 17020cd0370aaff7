"""The OpenAPI document of the service (contract 1 to 4), served at ``/openapi.json``."""

from __future__ import annotations

from typing import Any

from include.local_service.catalogue import INPUT_FORMAT
from include.local_service.operation import State
from include.local_service.records import MOST_SUGGESTIONS, SMALL_BATCH

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
GUID: Schema = {"type": "string", "format": "uuid"}
LINK: Schema = {"type": "string", "format": "uri", "description": "A presigned URL; keep it secret."}


def ref(name: str) -> Schema:
    """Refer to one of the schemas below."""
    return {"$ref": f"#/components/schemas/{name}"}


def array(items: Schema, **limits: int) -> Schema:
    """Describe an array."""
    return {"type": "array", "items": items, **limits}


def record(required: tuple[str, ...], **properties: Schema) -> Schema:
    """Describe an object and which of its members must be there."""
    return {"type": "object", "required": list(required), "properties": properties}


SCHEMAS: dict[str, Schema] = {
    "Topic": record(("uriName", "fullName"), uriName=TEXT, fullName=TEXT),
    "Model": record(
        ("modelId", "modelVersion"),
        modelId=GUID,
        modelVersion={"type": "number"},
        modelReleaseDate={"type": "string", "format": "date"},
        modelType=TEXT,
        inputFormat=array(TEXT),
        topicStandard=TEXT,
        topicVersion=TEXT,
    ),
    "Record": {
        **record(INPUT_FORMAT, recordId=TEXT, occp_text=TEXT, tasks_text=TEXT),
        "additionalProperties": False,
    },
    "CodedRecord": record(
        ("codeCategory", "codeLabel", "codeConfidence"),
        codeCategory=TEXT,
        codeLabel=TEXT,
        codeConfidence={"type": "number", "minimum": 0, "maximum": 1},
    ),
    "CodeRequest": {
        **record(
            (),
            record=ref("Record"),
            records=array(ref("Record"), minItems=1, maxItems=SMALL_BATCH),
            numberOfSuggestions={"type": "integer", "minimum": 1, "maximum": MOST_SUGGESTIONS},
        ),
        "oneOf": [{"required": ["record"]}, {"required": ["records"]}],
        "additionalProperties": False,
    },
    "CodeResponse": record(
        ("codeStatus", "input", "result"),
        recordId=TEXT,
        codeStatus={"enum": ["successful", "unsuccessful"]},
        input=ref("Record"),
        result=array(ref("CodedRecord"), maxItems=MOST_SUGGESTIONS),
    ),
    "UploadGrant": record(
        ("requestUploadUrl", "operationId", "bucketKmsKeyArn"),
        requestUploadUrl=LINK,
        operationId=GUID,
        bucketKmsKeyArn=TEXT,
    ),
    "Operation": record(
        ("operationStatus",),
        operationStatus={"enum": [str(state) for state in State]},
        responseDownloadUrl=LINK,
        metadataDownloadUrl=LINK,
        error=TEXT,
    ),
    "Error": record((), message=TEXT, Message=TEXT),
    "Token": record(
        ("access_token",), access_token=TEXT, expires_in={"type": "integer"}, token_type={"const": "Bearer"}
    ),
}

EVERY_CALL = (400, 403, 413, 429, 500)
TOPIC_ERRORS = (404,)
MODEL_ERRORS = (404, 409)


def answer(description: str, schema: Schema) -> Schema:
    """Describe one answer of a call."""
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def refusals(errors: tuple[int, ...]) -> dict[str, Schema]:
    """Describe how a call can be refused, beside the ways in which every call can be."""
    return {str(status): answer("Refused", ref("Error")) for status in sorted({*EVERY_CALL, *errors})}


def call(summary: str, schema: Schema, errors: tuple[int, ...] = (), body: Schema | None = None) -> Schema:
    """Return the description of one API call."""
    described: Schema = {
        "summary": summary,
        "security": [{"token": []}],
        "responses": {"200": answer("Done", schema), **refusals(errors)},
    }
    if body:
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return described


CODE = call(
    "Code one record or a small batch, all or nothing",
    {"oneOf": [ref("CodeResponse"), array(ref("CodeResponse"))]},
    MODEL_ERRORS,
    ref("CodeRequest"),
)
CREATE = call("Create a batch operation; the request has no body", ref("UploadGrant"), MODEL_ERRORS)
CHECK = call("Show the status of an operation", ref("Operation"), MODEL_ERRORS)

CALLS: dict[str, dict[str, Schema]] = {
    "/v1/topics": {"get": call("List the topics", array(ref("Topic")))},
    "/v1/topics/{topic}": {"get": call("Show a topic and its input format", ref("Topic"), TOPIC_ERRORS)},
    "/v1/topics/{topic}/models": {
        "get": call("List the models of a topic", array(ref("Model")), TOPIC_ERRORS),
    },
    "/v1/topics/{topic}/models/latest": {
        "get": call("Show the latest model of a topic", ref("Model"), TOPIC_ERRORS),
    },
    "/v1/topics/{topic}/code": {"post": CODE},
    "/v1/topics/{topic}/models/{model}/code": {"post": CODE},
    "/v1/topics/{topic}/batch-code": {"post": CREATE},
    "/v1/topics/{topic}/models/{model}/batch-code": {"post": CREATE},
    "/v1/topics/{topic}/batch-code/operations/{operation_id}": {"get": CHECK},
    "/v1/topics/{topic}/models/{model}/batch-code/operations/{operation_id}": {"get": CHECK},
    "/v1/security.txt": {
        "get": {
            "summary": "Show the contact for security matters",
            "security": [{"token": []}],
            "responses": {"200": {"description": "Done", "content": {"text/plain": {}}}, **refusals(())},
        },
    },
}

TOKEN_CALL: Schema = {
    "summary": "Get an access token, good for an hour",
    "security": [{"client": []}],
    "requestBody": {
        "required": True,
        "content": {
            "application/x-www-form-urlencoded": {
                "schema": record(("grant_type",), grant_type={"const": "client_credentials"}),
            },
        },
    },
    "responses": {
        "200": answer("Done", ref("Token")),
        **{str(status): answer("Refused", ref("Error")) for status in (413, 429, 500)},
        "400": answer("Refused", record(("error",), error=TEXT)),
    },
}


def _with_parameters(path: str, calls: dict[str, Schema]) -> dict[str, Any]:
    names = [part.strip("{}") for part in path.split("/") if part.startswith("{")]
    parameters = [{"name": name, "in": "path", "required": True, "schema": TEXT} for name in names]
    return {**calls, "parameters": parameters} if parameters else {**calls}


DOCUMENT: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {
        "title": "Local coding service",
        "version": "1",
        "description": "A stand-in for the occupation coding service. Send the bare access token as Authorization.",
    },
    "paths": {
        "/oauth2/token": {"post": TOKEN_CALL},
        **{path: _with_parameters(path, calls) for path, calls in CALLS.items()},
    },
    "components": {
        "schemas": SCHEMAS,
        "securitySchemes": {
            "token": {"type": "apiKey", "in": "header", "name": "Authorization"},
            "client": {"type": "http", "scheme": "basic"},
        },
    },
}
