"""How the API refuses: the status and the body of each refusal (contract 4)."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from include.local_service.errors import (
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

ANSWERS: Mapping[type[ServiceError], tuple[int, dict[str, str]]] = {
    AccessDeniedError: (
        403,
        {"Message": "User is not authorized to access this resource with an explicit deny"},
    ),
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


async def refuse(request: Request, error: Exception) -> Response:
    """Answer a call that the behaviour refuses."""
    status, content = ANSWERS[type(error)]  # type: ignore[index]
    retry = {"Retry-After": str(error.retry_after)} if isinstance(error, TooManyRequestsError) else None
    return JSONResponse(content, status, headers=retry)


async def refuse_plainly(request: Request, error: Exception) -> Response:
    """Answer a call that the HTTP side refuses."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"message": error.detail}, error.status_code, headers=error.headers)


async def confess(request: Request, error: Exception) -> Response:
    """Answer a call that a mistake of ours broke."""
    return JSONResponse({"message": "Error performing request"}, 500)
