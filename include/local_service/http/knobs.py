"""The control routes (knobs) under ``/_local/``. They refuse unknown names and values."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from ipaddress import ip_address
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from include.local_service.core.clock import iso_time
from include.local_service.core.errors import InvalidBodyError
from include.local_service.core.faults import Fault, UnknownKnobError
from include.local_service.core.operation import Operation
from include.local_service.core.progression import StatusDelay
from include.local_service.core.service import CodingService
from include.local_service.core.settings import Progression
from include.local_service.http.request_body import parse_json

MAX_SECONDS = 10 * 365 * 86_400  # of clock jumps and delays: Python cannot represent dates after the year 9999

Arguments = Mapping[str, Any]
Knob = Callable[[CodingService, Arguments], Any]


def show_journal(service: CodingService, arguments: Arguments) -> Any:
    """Return every request outside ``/_local/``, oldest first; with ``?since=N`` those after sequence number N."""
    since = str(arguments.get("since", "0"))
    if not re.fullmatch("[0-9]{1,18}", since):
        raise UnknownKnobError(f"since must be a whole number, not {since!r}", ["up to 18 digits"])
    entries = service.store.entries(int(since))
    return {"entries": [{**asdict(entry), "time": iso_time(entry.time)} for entry in entries]}


def jump_clock(service: CodingService, arguments: Arguments) -> Any:
    """Move the service's clock forward."""
    seconds = _validate_seconds("jump_seconds", arguments.get("jump_seconds"))
    return {"now": iso_time(service.jump(seconds))}


def add_fault(service: CodingService, arguments: Arguments) -> Any:
    """Add a named fault."""
    service.faults.add(Fault.from_request(arguments))
    return show_faults(service, {})


def show_faults(service: CodingService, arguments: Arguments) -> Any:
    """Return the pending faults with their remaining skip and count."""
    return {"faults": service.faults.describe()}


def clear_faults(service: CodingService, arguments: Arguments) -> Any:
    """Remove every pending fault; an operation that has its input keeps its faults."""
    service.faults.clear()
    return show_faults(service, {})


def set_progression(service: CodingService, arguments: Arguments) -> Any:
    """Set when status calls show that an operation has ended."""
    name = arguments.get("progression")
    if name not in list(Progression):
        raise UnknownKnobError(f"unknown progression {name!r}", [str(progression) for progression in Progression])
    polls = arguments.get("polls", service.status_delay.polls)
    seconds = _validate_seconds("seconds", arguments.get("seconds", service.status_delay.seconds))
    if not isinstance(polls, int) or isinstance(polls, bool) or polls < 0:
        raise UnknownKnobError(f"polls must be a whole number, not {polls!r}", ["0 and above"])
    service.set_status_delay(StatusDelay(Progression(str(name)), polls, seconds))
    return asdict(service.status_delay)


def reset(service: CodingService, arguments: Arguments) -> Any:
    """Delete operations, tokens, objects, journal, faults, call counts, clock jumps and the values of knobs."""
    service.reset()
    return {}


def show_operations(service: CodingService, arguments: Arguments) -> Any:
    """Return every operation in its actual state, oldest first."""
    return {"operations": [_describe_operation(operation) for operation in service.store.operations()]}


def show_state(service: CodingService, arguments: Arguments) -> Any:
    """Return the topics, models, settings and counts of the service, as the command ``status`` shows them."""
    return {
        "now": iso_time(service.clock.now()),
        "coder": str(service.settings.coder),
        "throttle": service.settings.throttle,
        **asdict(service.status_delay),
        "topics": {
            topic.uri_name: {
                "fullName": topic.full_name,
                "models": [model.describe() for model in service.catalogue.models(topic)],
            }
            for topic in service.catalogue.topics
        },
        "operations": service.store.operations_by_state(),
        "faults": service.faults.describe(),
    }


KNOBS: Mapping[tuple[str, str], tuple[Knob, frozenset[str] | None]] = {
    ("GET", "journal"): (show_journal, frozenset({"since"})),
    ("POST", "clock"): (jump_clock, frozenset({"jump_seconds"})),
    ("POST", "faults"): (add_fault, None),
    ("GET", "faults"): (show_faults, frozenset()),
    ("DELETE", "faults"): (clear_faults, frozenset()),
    ("POST", "progression"): (set_progression, frozenset({"progression", "polls", "seconds"})),
    ("POST", "reset"): (reset, frozenset()),
    ("GET", "operations"): (show_operations, frozenset()),
    ("GET", "state"): (show_state, frozenset()),
}
"""The knobs by method and name, each with its arguments; None if the knob validates them itself."""


def knob_route(service: CodingService) -> Route:
    """Return the control route of a service; it refuses a knob that does not exist."""

    async def endpoint(request: Request) -> JSONResponse:
        if request.client is None or not ip_address(request.client.host).is_loopback:
            return JSONResponse({"message": "the knobs are available on this machine only"}, 403)
        try:
            arguments = {**request.query_params, **_parse_body(await request.body())}
            return JSONResponse(await run_in_threadpool(_run_knob, service, request, arguments))
        except UnknownKnobError as error:
            return JSONResponse({"message": str(error), "known": error.choices}, 400)

    return Route("/_local/{name:path}", endpoint, methods=["GET", "POST", "DELETE", "PUT", "PATCH"])


def _run_knob(service: CodingService, request: Request, arguments: dict[str, Any]) -> Any:
    route = (request.method, request.path_params["name"])
    if route not in KNOBS:
        raise UnknownKnobError(f"unknown knob {' '.join(route)}", [f"{method} {name}" for method, name in KNOBS])
    knob, names = KNOBS[route]
    unknown = sorted(set(arguments) - names) if names is not None else []
    if unknown:
        raise UnknownKnobError(f"{route[1]} has no argument {unknown[0]!r}", sorted(names or ()))
    return knob(service, arguments)


def _parse_body(body: bytes) -> dict[str, Any]:
    if not body:
        return {}
    try:
        value = parse_json(body)
    except InvalidBodyError:
        value = None
    if not isinstance(value, dict):
        raise UnknownKnobError("the body is not a JSON object", ["a JSON object"])
    return value


def _validate_seconds(name: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= MAX_SECONDS:
        raise UnknownKnobError(f"invalid {name}: {value!r}", [f"0 to {MAX_SECONDS}"])
    return value


def _describe_operation(operation: Operation) -> dict[str, Any]:
    times = ("created_at", "uploaded_at", "started_at", "finished_at")
    fields = asdict(operation)
    return {**fields, **{name: fields[name] and iso_time(fields[name]) for name in times}}
