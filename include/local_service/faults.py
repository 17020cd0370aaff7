"""Named faults: what goes wrong, how often, and when (the knob ``/_local/faults``)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from include.local_service.store import Store

PLACE = "faults"
COMMON_OPTIONS = frozenset({"name", "count", "skip"})
REQUEST_OPTIONS = frozenset({"method", "path_contains"})
OPERATION_OPTIONS = frozenset({"part_contains"})
METHODS = ("GET", "POST")

REQUEST_FAULTS: Mapping[str, frozenset[str]] = {
    "server_error": REQUEST_OPTIONS,
    "too_many_requests": REQUEST_OPTIONS | {"retry_after"},
    "limit_exceeded": REQUEST_OPTIONS,
    "reset_upload": frozenset({"path_contains", "after"}),
    "cut_download": frozenset({"path_contains", "after"}),
    "expired_link": frozenset({"path_contains"}),
    "expired_upload": frozenset({"path_contains"}),
    "new_latest_model": frozenset({"path_contains"}),
    "lost_create": frozenset({"path_contains"}),
    "no_models": frozenset({"path_contains"}),
}
OPERATION_FAULTS: Mapping[str, frozenset[str]] = {
    "operation_fails": OPERATION_OPTIONS | {"error"},
    "operation_times_out": OPERATION_OPTIONS,
    "late_status": OPERATION_OPTIONS | {"polls"},
    "short_output": OPERATION_OPTIONS,
    "garbage_line": OPERATION_OPTIONS,
    "duplicate_line": OPERATION_OPTIONS,
    "shuffled_lines": OPERATION_OPTIONS,
}
KNOWN_FAULTS = {name: COMMON_OPTIONS | options for name, options in {**REQUEST_FAULTS, **OPERATION_FAULTS}.items()}


class UnknownKnobError(ValueError):
    """A knob was given a name or a value that it does not have.

    :param known: the names or values that it has.
    """

    def __init__(self, message: str, known: list[str]) -> None:
        super().__init__(message)
        self.known = known


@dataclass(frozen=True)
class Fault:
    """One named fault.

    :param count: how many matching requests (or operations) it strikes.
    :param skip: how many matching ones it lets pass first.
    :param method, path_contains: which requests match; an API fault without `path_contains` strikes ``/v1/``.
    :param part_contains: an operation matches only when its input file contains this text.
    :param after: bytes of the body that pass before the connection ends; without it half of them.
    :param polls: for ``late_status``: status calls after the upload that still show ``awaiting_input``.
    :param error: for ``operation_fails``: the error text.
    :param retry_after: seconds in the ``Retry-After`` header.
    """

    name: str
    count: int = 1
    skip: int = 0
    method: str | None = None
    path_contains: str | None = None
    part_contains: str | None = None
    after: int | None = None
    polls: int = 2
    error: str = "The batch inference job failed"
    retry_after: int = 1

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Fault:
        """Return the fault that a request to the knob describes.

        :raises UnknownKnobError: for an unknown name, option or value.
        """
        name = body.get("name")
        if not isinstance(name, str) or name not in KNOWN_FAULTS:
            raise UnknownKnobError(f"unknown fault {name!r}", sorted(KNOWN_FAULTS))
        unknown = set(body) - KNOWN_FAULTS[name]
        if unknown:
            raise UnknownKnobError(f"{name} has no option {sorted(unknown)[0]!r}", sorted(KNOWN_FAULTS[name]))
        for option, value in body.items():
            _judge_option(option, value)
        return cls(**body)

    def matches(self, method: str, path: str) -> bool:
        """Say whether a request is one that the fault is aimed at."""
        wanted = self.path_contains or ("/v1/" if "method" in REQUEST_FAULTS[self.name] else "")
        return wanted in path and self.method in (None, method)

    def describe(self) -> dict[str, Any]:
        """Return the fault as the knob takes it."""
        return {name: value for name, value in asdict(self).items() if name in KNOWN_FAULTS[self.name]}


class PendingFaults:
    """The faults that have not struck as often as they should.

    :param store: keeps them, so that a rehearsal goes on where a restart broke in.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pending = [_Pending(**one) for one in json.loads(store.setting(PLACE, "[]"))]

    def add(self, fault: Fault) -> None:
        """Add a fault; it strikes from now on."""
        with self._store.transaction():
            self._keep([*self._pending, _Pending(asdict(fault), fault.skip, fault.count)])

    def clear(self) -> None:
        """Forget every fault."""
        with self._store.transaction():
            self._keep([])

    def describe(self) -> list[dict[str, Any]]:
        """Return the pending faults with what is left of skip and count."""
        return [{**one.options.describe(), "skip": one.skip, "count": one.count} for one in self._pending]

    def take_for_request(self, name: str, method: str, path: str) -> Fault | None:
        """Return the fault of this name when it strikes this request, and count it."""
        return self._take(name, lambda fault: fault.matches(method, path))

    def take_for_operation(self, contains: Callable[[str], bool]) -> tuple[Fault, ...]:
        """Return every fault that strikes this operation, and count it.

        :param contains: says whether the operation's input contains a text.
        """
        taken = [self._take(name, lambda fault: _fits(fault, contains)) for name in OPERATION_FAULTS]
        return tuple(fault for fault in taken if fault)

    def _take(self, name: str, matches: Callable[[Fault], bool]) -> Fault | None:
        if not any(one.fault["name"] == name for one in self._pending):
            return None
        with self._store.transaction():
            struck = self._strike([one for one in self._pending if one.fault["name"] == name], matches)
            self._keep([one for one in self._pending if one.count > 0])
        return struck

    def _strike(self, pending: list[_Pending], matches: Callable[[Fault], bool]) -> Fault | None:
        return next((one.options for one in pending if matches(one.options) and one.strikes()), None)

    def _keep(self, pending: list[_Pending]) -> None:
        self._pending = pending
        self._store.keep_setting(PLACE, json.dumps([asdict(one) for one in pending]))


@dataclass
class _Pending:
    fault: dict[str, Any]
    skip: int
    count: int

    @property
    def options(self) -> Fault:
        return Fault(**self.fault)

    def strikes(self) -> bool:
        if self.skip > 0:
            self.skip -= 1
            return False
        self.count -= 1
        return True


def _fits(fault: Fault, contains: Callable[[str], bool]) -> bool:
    return fault.part_contains is None or contains(fault.part_contains)


OPTION_TYPES = {field.name: int if "int" in str(field.type) else str for field in fields(Fault)}


def _judge_option(option: str, value: Any) -> None:
    wanted = OPTION_TYPES[option]
    if not isinstance(value, wanted) or isinstance(value, bool):
        kind = "a whole number" if wanted is int else "a text"
        raise UnknownKnobError(f"{option!r} must be {kind}, not {value!r}", [kind])
    if option == "method" and value not in METHODS:
        raise UnknownKnobError(f"unknown method {value!r}", list(METHODS))
    if isinstance(value, int) and value < (1 if option == "count" else 0):
        raise UnknownKnobError(f"{option!r} is too small: {value!r}", ["count: 1 and above", "others: 0 and above"])
