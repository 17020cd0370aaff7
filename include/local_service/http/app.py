"""The service as one ASGI application: token endpoint, API, storage and knobs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from include.local_service.core.service import CodingService
from include.local_service.http.api import API, Call, Handler
from include.local_service.http.error_responses import ERROR_HANDLERS
from include.local_service.http.journal import Journal
from include.local_service.http.knobs import knob_route
from include.local_service.http.openapi import DOCUMENT
from include.local_service.http.request_body import read_body
from include.local_service.http.storage_api import ROUTE, StorageApi
from include.local_service.http.token_api import token_route

ANY_METHOD = ("GET", "POST", "PUT", "PATCH", "DELETE")
Endpoint = Callable[[Request], Awaitable[Response]]


def create_app(service: CodingService) -> Starlette:
    """Return the application of a service."""
    routes = [
        token_route(service),
        *(Route(path, _api_endpoint(service, handler), methods=[method]) for (method, path), handler in API.items()),
        Route("/v1/{path:path}", _api_endpoint(service, _raise_not_found), methods=ANY_METHOD),
        Route("/openapi.json", lambda request: JSONResponse(DOCUMENT), methods=["GET"]),
        Route(ROUTE, StorageApi(service)),
        knob_route(service),
    ]
    app = Starlette(
        routes=routes, middleware=[Middleware(Journal, service=service)], exception_handlers=ERROR_HANDLERS
    )
    app.router.redirect_slashes = False
    return app


def _api_endpoint(service: CodingService, handler: Handler) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        body = await read_body(request)
        content = await run_in_threadpool(_handle, service, handler, request, body)
        return content if isinstance(content, Response) else JSONResponse(content)

    return endpoint


def _handle(service: CodingService, handler: Handler, request: Request, body: bytes) -> Any:
    client_id = service.clients.authenticate(request.headers.get("authorization", ""))
    request.state.client_id = client_id
    if "operation_id" in request.path_params:
        request.state.operation_id = request.path_params["operation_id"]
    service.admit(client_id, request.method, request.url.path)
    if request.scope["query_string"]:
        raise HTTPException(400, "Query string parameters are not accepted")
    base_url = f"{request.url.scheme}://{request.headers.get('host', 'localhost')}"
    path, params = request.url.path, request.path_params
    return handler(Call(service, client_id, request.method, path, params, body, base_url, request.state))


def _raise_not_found(call: Call) -> Any:
    raise HTTPException(404, "Not Found")
