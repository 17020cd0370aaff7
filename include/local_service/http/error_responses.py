"""The status and the body of each error of the API (docs/service-contract.md 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from include.local_service.core import errors

ACCESS_DENIED = "User is not authorized to access this resource with an explicit deny"
RESPONSES: Mapping[type[errors.ServiceError], tuple[int, dict[str, str]]] = {
    errors.AccessDeniedError: (403, {"Message": ACCESS_DENIED}),
    errors.InvalidBodyError: (400, {"message": "Invalid request body"}),
    errors.MalformedRecordError: (400, {"message": "Malformed record found in request"}),
    errors.UnknownTopicError: (404, {"message": "The specified topic does not exist"}),
    errors.UnknownModelError: (404, {"message": "The specified model does not exist"}),
    errors.UnknownOperationError: (404, {"message": "The specified operation does not exist"}),
    errors.ModelTopicMismatchError: (409, {"message": "Selected model does not match the input topic."}),
    errors.TooManyRequestsError: (429, {"message": "Too Many Requests"}),
    errors.LimitExceededError: (429, {"message": "Limit Exceeded"}),
    errors.NoModelsError: (500, {"message": "No models found for topic"}),
    errors.RequestFailedError: (500, {"message": "Error performing request"}),
}


async def _respond_to_service_error(request: Request, error: Exception) -> Response:
    status, content = RESPONSES[type(error)]  # type: ignore[index]
    headers = {"Retry-After": str(error.retry_after)} if isinstance(error, errors.TooManyRequestsError) else None
    return JSONResponse(content, status, headers=headers)


async def _respond_to_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"message": error.detail}, error.status_code, headers=error.headers)


async def _respond_to_unexpected_error(request: Request, error: Exception) -> Response:
    return JSONResponse({"message": "Error performing request"}, 500)


ERROR_HANDLERS: Mapping[Any, Any] = {
    errors.ServiceError: _respond_to_service_error,
    HTTPException: _respond_to_http_error,
    Exception: _respond_to_unexpected_error,
}
