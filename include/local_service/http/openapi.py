"""The OpenAPI document of the service (docs/service-contract.md 1 to 4), served at ``/openapi.json``."""

from __future__ import annotations

from typing import Any

from include.local_service.core.catalogue import INPUT_FORMAT
from include.local_service.core.operation import State
from include.local_service.core.records import MAX_SUGGESTIONS, MAX_SYNCHRONOUS_RECORDS

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
GUID: Schema = {"type": "string", "format": "uuid"}
LINK: Schema = {"type": "string", "format": "uri", "description": "A presigned URL; keep it secret."}


def ref(name: str) -> Schema:
    """Return a reference to one of the schemas below."""
    return {"$ref": f"#/components/schemas/{name}"}


def array(items: Schema, **limits: int) -> Schema:
    """Return the schema of an array."""
    return {"type": "array", "items": items, **limits}


def object_schema(required: tuple[str, ...], **properties: Schema) -> Schema:
    """Return the schema of an object with these required members."""
    return {"type": "object", "required": list(required), "properties": properties}


SCHEMAS: dict[str, Schema] = {
    "Topic": object_schema(("uriName", "fullName"), uriName=TEXT, fullName=TEXT),
    "Model": object_schema(
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
        **object_schema(INPUT_FORMAT, recordId=TEXT, occp_text=TEXT, tasks_text=TEXT),
        "additionalProperties": False,
    },
    "CodedRecord": object_schema(
        ("codeCategory", "codeLabel", "codeConfidence"),
        codeCategory=TEXT,
        codeLabel=TEXT,
        codeConfidence={"type": "number", "minimum": 0, "maximum": 1},
    ),
    "CodeRequest": {
        **object_schema(
            (),
            record=ref("Record"),
            records=array(ref("Record"), minItems=1, maxItems=MAX_SYNCHRONOUS_RECORDS),
            numberOfSuggestions={"type": "integer", "minimum": 1, "maximum": MAX_SUGGESTIONS},
        ),
        "oneOf": [{"required": ["record"]}, {"required": ["records"]}],
        "additionalProperties": False,
    },
    "CodeResponse": object_schema(
        ("codeStatus", "input", "result"),
        recordId=TEXT,
        codeStatus={"enum": ["successful", "unsuccessful"]},
        input=ref("Record"),
        result=array(ref("CodedRecord"), maxItems=MAX_SUGGESTIONS),
    ),
    "UploadGrant": object_schema(
        ("requestUploadUrl", "operationId", "bucketKmsKeyArn"),
        requestUploadUrl=LINK,
        operationId=GUID,
        bucketKmsKeyArn=TEXT,
    ),
    "Operation": object_schema(
        ("operationStatus",),
        operationStatus={"enum": [str(state) for state in State]},
        responseDownloadUrl=LINK,
        metadataDownloadUrl=LINK,
        error=TEXT,
    ),
    "Error": object_schema((), message=TEXT, Message=TEXT),
    "Token": object_schema(
        ("access_token",), access_token=TEXT, expires_in={"type": "integer"}, token_type={"const": "Bearer"}
    ),
}

COMMON_ERRORS = (400, 403, 413, 429, 500)
TOPIC_ERRORS = (404,)
MODEL_ERRORS = (404, 409)


def response(description: str, schema: Schema) -> Schema:
    """Return the description of one response of a call."""
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def error_responses(errors: tuple[int, ...]) -> dict[str, Schema]:
    """Return the descriptions of the errors of a call, those of every call included."""
    return {str(status): response("Refused", ref("Error")) for status in sorted({*COMMON_ERRORS, *errors})}


def call(summary: str, schema: Schema, errors: tuple[int, ...] = (), body: Schema | None = None) -> Schema:
    """Return the description of one API call."""
    description: Schema = {
        "summary": summary,
        "security": [{"token": []}],
        "responses": {"200": response("Done", schema), **error_responses(errors)},
    }
    if body:
        description["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return description


CODE = call(
    "Code one record or a small batch, all or none",
    {"oneOf": [ref("CodeResponse"), array(ref("CodeResponse"))]},
    MODEL_ERRORS,
    ref("CodeRequest"),
)
CREATE = call("Create a batch operation; the request has no body", ref("UploadGrant"), MODEL_ERRORS)
CHECK = call("Show the status of an operation", ref("Operation"), MODEL_ERRORS)

CALLS: dict[str, dict[str, Schema]] = {
    "/v1/topics": {"get": call("List the topics", array(ref("Topic")))},
    "/v1/topics/{topic}": {"get": call("Show a topic and its input format", ref("Topic"), TOPIC_ERRORS)},
    "/v1/topics/{topic}/models": {"get": call("List the models of a topic", array(ref("Model")), TOPIC_ERRORS)},
    "/v1/topics/{topic}/models/latest": {"get": call("Show the latest model of a topic", ref("Model"), TOPIC_ERRORS)},
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
            "responses": {"200": {"description": "Done", "content": {"text/plain": {}}}, **error_responses(())},
        }
    },
}

TOKEN_FORM = object_schema(("grant_type",), grant_type={"const": "client_credentials"})
TOKEN_CALL: Schema = {
    "summary": "Get an access token, valid for an hour",
    "security": [{"client": []}],
    "requestBody": {"required": True, "content": {"application/x-www-form-urlencoded": {"schema": TOKEN_FORM}}},
    "responses": {
        "200": response("Done", ref("Token")),
        **{str(status): response("Refused", ref("Error")) for status in (413, 429, 500)},
        "400": response("Refused", object_schema(("error",), error=TEXT)),
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
