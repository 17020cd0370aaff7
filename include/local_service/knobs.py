"""The control routes under ``/_local/``; whatever they do not know they refuse."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from ipaddress import ip_address
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from include.local_service.bodies import read_json
from include.local_service.clock import iso_time
from include.local_service.errors import InvalidBodyError
from include.local_service.faults import Fault, UnknownKnobError
from include.local_service.operation import Operation
from include.local_service.progression import Pace
from include.local_service.service import CodingService
from include.local_service.settings import Progression
from include.local_service.store import JournalEntry

MOST_SECONDS = 10 * 365 * 86_400
"""Far more than a rehearsal needs; a clock sent past the year 9999 could not be read again."""

Arguments = Mapping[str, Any]
Knob = Callable[[CodingService, Arguments], Any]


def show_journal(service: CodingService, arguments: Arguments) -> Any:
    """Every request outside ``/_local/``, oldest first; with ``?since=N`` those after sequence number N."""
    since = str(arguments.get("since", "0"))
    if not re.fullmatch("[0-9]{1,18}", since):
        raise UnknownKnobError(f"since must be a whole number, not {since!r}", ["up to 18 digits"])
    return {"entries": [_describe_entry(entry) for entry in service.store.entries(int(since))]}


def jump_clock(service: CodingService, arguments: Arguments) -> Any:
    """Jump the service's clock forward."""
    seconds = _judge_seconds("jump_seconds", arguments.get("jump_seconds"))
    return {"now": iso_time(service.jump(seconds))}


def add_fault(service: CodingService, arguments: Arguments) -> Any:
    """Add a named fault."""
    service.faults.add(Fault.read(arguments))
    return show_faults(service, {})


def show_faults(service: CodingService, arguments: Arguments) -> Any:
    """The faults that have yet to strike, with what is left of skip and count."""
    return {"faults": service.faults.describe()}


def clear_faults(service: CodingService, arguments: Arguments) -> Any:
    """Forget every fault; an operation keeps those it was given."""
    service.faults.clear()
    return show_faults(service, {})


def set_progression(service: CodingService, arguments: Arguments) -> Any:
    """Choose when a finished operation is shown as finished."""
    name = arguments.get("progression")
    if name not in list(Progression):
        raise UnknownKnobError(f"unknown progression {name!r}", [str(one) for one in Progression])
    polls = arguments.get("polls", service.pace.polls)
    seconds = _judge_seconds("seconds", arguments.get("seconds", service.pace.seconds))
    if not isinstance(polls, int) or isinstance(polls, bool) or polls < 0:
        raise UnknownKnobError(f"polls must be a whole number, not {polls!r}", ["0 and above"])
    service.set_pace(Pace(Progression(str(name)), polls, seconds))
    return asdict(service.pace)


def reset(service: CodingService, arguments: Arguments) -> Any:
    """Forget operations, tokens, objects, journal, faults, call counts, clock jumps, and what knobs have set."""
    service.reset()
    return {}


def show_operations(service: CodingService, arguments: Arguments) -> Any:
    """Every operation in its true state, oldest first."""
    return {"operations": [_describe_operation(one) for one in service.store.operations()]}


def show_state(service: CodingService, arguments: Arguments) -> Any:
    """What the service offers and how it stands: for people, and for ``status`` on the command line."""
    return {
        "now": iso_time(service.clock.now()),
        "coder": str(service.settings.coder),
        "throttle": service.settings.throttle,
        **asdict(service.pace),
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
"""The knobs by method and name, each with the arguments it knows; None: it judges them itself."""


def knob_routes(service: CodingService) -> list[Route]:
    """Return the control routes of a service."""
    return [Route("/_local/{name:path}", _endpoint(service), methods=["GET", "POST", "DELETE", "PUT", "PATCH"])]


def _endpoint(service: CodingService) -> Callable[[Request], Awaitable[JSONResponse]]:
    async def endpoint(request: Request) -> JSONResponse:
        if not _is_local(request):
            return JSONResponse({"message": "the knobs answer only on this machine"}, 403)
        try:
            arguments = {**request.query_params, **_read_body(await request.body())}
            return JSONResponse(await run_in_threadpool(_turn, service, request, arguments))
        except UnknownKnobError as error:
            return JSONResponse({"message": str(error), "known": error.known}, 400)

    return endpoint


def _turn(service: CodingService, request: Request, arguments: dict[str, Any]) -> Any:
    place = (request.method, request.path_params["name"])
    if place not in KNOBS:
        raise UnknownKnobError(f"unknown knob {' '.join(place)}", [f"{method} {name}" for method, name in KNOBS])
    knob, known = KNOBS[place]
    unknown = sorted(set(arguments) - known) if known is not None else []
    if unknown:
        raise UnknownKnobError(f"{place[1]} has no argument {unknown[0]!r}", sorted(known or ()))
    return knob(service, arguments)


def _read_body(body: bytes) -> dict[str, Any]:
    if not body:
        return {}
    try:
        value = read_json(body)
    except InvalidBodyError:
        value = None
    if not isinstance(value, dict):
        raise UnknownKnobError("the body is not a JSON object", ["a JSON object"])
    return value


def _is_local(request: Request) -> bool:
    return request.client is not None and ip_address(request.client.host).is_loopback


def _judge_seconds(name: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= MOST_SECONDS:
        raise UnknownKnobError(f"{name} cannot be {value!r}", [f"0 to {MOST_SECONDS}"])
    return value


def _describe_entry(entry: JournalEntry) -> dict[str, Any]:
    return {**asdict(entry), "time": iso_time(entry.time)}


def _describe_operation(operation: Operation) -> dict[str, Any]:
    times = ("created_at", "uploaded_at", "started_at", "finished_at")
    described = asdict(operation)
    return {**described, **{name: described[name] and iso_time(described[name]) for name in times}}
