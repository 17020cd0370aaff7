"""The token endpoint, with the error codes of Cognito (docs/service-contract.md 2.1)."""

from __future__ import annotations

import base64
from urllib.parse import parse_qs

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from include.local_service.core.clients import TOKEN_LIFETIME_S
from include.local_service.core.errors import UnknownClientError
from include.local_service.core.service import CodingService
from include.local_service.http.request_body import read_body

FORM = "application/x-www-form-urlencoded"


def token_route(service: CodingService) -> Route:
    """Return the token endpoint of a service."""

    async def endpoint(request: Request) -> Response:
        body = await read_body(request)
        return await run_in_threadpool(_issue_token, service, request, body)

    return Route("/oauth2/token", endpoint, methods=["POST"])


def _issue_token(service: CodingService, request: Request, body: bytes) -> Response:
    credentials = parse_basic(request.headers.get("authorization", ""))
    request.state.client_id = credentials and credentials[0]
    service.apply_request_faults(request.method, request.url.path)
    grant = _parse_grant(request, body)
    if grant is None:
        return _error_response("invalid_request")
    if credentials is None:
        return _error_response("invalid_client")
    if grant != ["client_credentials"]:
        return _error_response("unsupported_grant_type")
    try:
        token = service.clients.issue_token(*credentials)
    except UnknownClientError:
        return _error_response("invalid_client")
    content = {"access_token": token, "expires_in": TOKEN_LIFETIME_S, "token_type": "Bearer"}
    return JSONResponse(content, headers={"Cache-Control": "no-store"})


def _parse_grant(request: Request, body: bytes) -> list[str] | None:
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    form = parse_qs(body.decode("latin-1"), keep_blank_values=True)
    return form.get("grant_type") if content_type == FORM else None


def _error_response(code: str) -> Response:
    return JSONResponse({"error": code}, 400)


def parse_basic(header: str) -> tuple[str, str] | None:
    """Return client id and client secret of an Authorization header, or None if it is not Basic."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        decoded = base64.b64decode(encoded.strip(), validate=True).decode()
    except ValueError:
        return None
    client_id, colon, client_secret = decoded.partition(":")
    return (client_id, client_secret) if colon else None
