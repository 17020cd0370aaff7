"""The status and the body of each error of the API (docs/service-contract.md 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from include.local_service.core.errors import (
    AccessDeniedError,
    InvalidBodyError,
    LimitExceededError,
    MalformedRecordError,
    ModelTopicMismatchError,
    NoModelsError,
    RequestFailedError,
    ServiceError,
    TooManyRequestsError,
    UnknownModelError,
    UnknownOperationError,
    UnknownTopicError,
)

RESPONSES: Mapping[type[ServiceError], tuple[int, dict[str, str]]] = {
    AccessDeniedError: (403, {"Message": "User is not authorized to access this resource with an explicit deny"}),
    InvalidBodyError: (400, {"message": "Invalid request body"}),
    MalformedRecordError: (400, {"message": "Malformed record found in request"}),
    UnknownTopicError: (404, {"message": "The specified topic does not exist"}),
    UnknownModelError: (404, {"message": "The specified model does not exist"}),
    UnknownOperationError: (404, {"message": "The specified operation does not exist"}),
    ModelTopicMismatchError: (409, {"message": "Selected model does not match the input topic."}),
    TooManyRequestsError: (429, {"message": "Too Many Requests"}),
    LimitExceededError: (429, {"message": "Limit Exceeded"}),
    NoModelsError: (500, {"message": "No models found for topic"}),
    RequestFailedError: (500, {"message": "Error performing request"}),
}


async def _respond_to_service_error(request: Request, error: Exception) -> Response:
    """Return the response for an error of the behaviour."""
    status, content = RESPONSES[type(error)]  # type: ignore[index]
    headers = {"Retry-After": str(error.retry_after)} if isinstance(error, TooManyRequestsError) else None
    return JSONResponse(content, status, headers=headers)


async def _respond_to_http_error(request: Request, error: Exception) -> Response:
    """Return the response for an error of the HTTP side."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"message": error.detail}, error.status_code, headers=error.headers)


async def _respond_to_unexpected_error(request: Request, error: Exception) -> Response:
    """Return the response for a bug of the service."""
    return JSONResponse({"message": "Error performing request"}, 500)


ERROR_HANDLERS: Mapping[Any, Any] = {
    ServiceError: _respond_to_service_error,
    HTTPException: _respond_to_http_error,
    Exception: _respond_to_unexpected_error,
}
