"""The whole service as one ASGI application: token endpoint, API, storage and knobs."""

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

from include.local_service.api import API, Call, Handler
from include.local_service.bodies import read_body
from include.local_service.errors import ServiceError
from include.local_service.journal import Journal
from include.local_service.knobs import knob_routes
from include.local_service.openapi import DOCUMENT
from include.local_service.refusals import confess, refuse, refuse_plainly
from include.local_service.service import CodingService
from include.local_service.storage_api import ROUTE, StorageApi
from include.local_service.token_api import token_route

ANY_METHOD = ("GET", "POST", "PUT", "PATCH", "DELETE")
Endpoint = Callable[[Request], Awaitable[Response]]


def create_app(service: CodingService) -> Starlette:
    """Return the application of a service."""
    routes = [
        token_route(service),
        *(Route(path, _api_endpoint(service, handler), methods=[method]) for (method, path), handler in API.items()),
        Route("/v1/{path:path}", _api_endpoint(service, _no_such_path), methods=ANY_METHOD),
        Route("/openapi.json", _show_document, methods=["GET"]),
        Route(ROUTE, StorageApi(service)),
        *knob_routes(service),
    ]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Journal, service=service)],
        exception_handlers={ServiceError: refuse, HTTPException: refuse_plainly, Exception: confess},
    )
    app.router.redirect_slashes = False
    return app


def _api_endpoint(service: CodingService, handler: Handler) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        body = await read_body(request)
        answer = await run_in_threadpool(_perform, service, handler, request, body)
        return answer if isinstance(answer, Response) else JSONResponse(answer)

    return endpoint


def _perform(service: CodingService, handler: Handler, request: Request, body: bytes) -> Any:
    client_id = service.clients.holder_of(request.headers.get("authorization", ""))
    request.state.client_id = client_id
    if "operation_id" in request.path_params:
        request.state.operation_id = request.path_params["operation_id"]
    service.admit(client_id, request.method, request.url.path)
    if request.scope["query_string"]:
        raise HTTPException(400, "Query string parameters are not accepted")
    base_url = f"http://{request.headers.get('host', 'localhost')}"
    return handler(Call(service, client_id, request.url.path, request.path_params, body, base_url, request.state))


def _no_such_path(call: Call) -> Any:
    raise HTTPException(404, "Not Found")


async def _show_document(request: Request) -> Response:
    return JSONResponse(DOCUMENT)
