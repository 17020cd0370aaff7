"""The token endpoint over HTTP, with Cognito's error codes (contract 2.1)."""

from __future__ import annotations

import base64
from urllib.parse import parse_qs

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from include.local_service.bodies import read_body
from include.local_service.clients import TOKEN_LIFETIME
from include.local_service.errors import UnknownClientError
from include.local_service.service import CodingService

FORM = "application/x-www-form-urlencoded"


def token_route(service: CodingService) -> Route:
    """Return the token endpoint of a service."""

    async def endpoint(request: Request) -> Response:
        body = await read_body(request)
        return await run_in_threadpool(_issue_token, service, request, body)

    return Route("/oauth2/token", endpoint, methods=["POST"])


def _issue_token(service: CodingService, request: Request, body: bytes) -> Response:
    credentials = read_basic(request.headers.get("authorization", ""))
    request.state.client_id = credentials and credentials[0]
    service.strike(request.method, request.url.path)
    grant = _read_grant(request, body)
    if grant is None:
        return _refuse("invalid_request")
    if credentials is None:
        return _refuse("invalid_client")
    if grant != ["client_credentials"]:
        return _refuse("unsupported_grant_type")
    try:
        token = service.clients.issue_token(*credentials)
    except UnknownClientError:
        return _refuse("invalid_client")
    answer = {"access_token": token, "expires_in": TOKEN_LIFETIME, "token_type": "Bearer"}
    return JSONResponse(answer, headers={"Cache-Control": "no-store"})


def _read_grant(request: Request, body: bytes) -> list[str] | None:
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    form = parse_qs(body.decode("latin-1"), keep_blank_values=True)
    return form.get("grant_type") if content_type == FORM else None


def _refuse(code: str) -> Response:
    return JSONResponse({"error": code}, 400)


def read_basic(header: str) -> tuple[str, str] | None:
    """Return client id and client secret of an Authorization header, or None when it is not Basic."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        decoded = base64.b64decode(encoded.strip(), validate=True).decode()
    except ValueError:
        return None
    client_id, colon, client_secret = decoded.partition(":")
    return (client_id, client_secret) if colon else None
