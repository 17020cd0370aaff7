"""Named faults: what fails, how often and when. The knob ``/_local/faults`` sets them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import msgspec

from include.local_service.core.storage_codes import STATUS
from include.local_service.core.store import Store

SETTING_NAME = "faults"
COMMON_OPTIONS = frozenset({"name", "count", "skip"})
REQUEST_OPTIONS = frozenset({"method", "path_contains"})
OPERATION_OPTIONS = frozenset({"part_contains"})
METHODS = ("GET", "POST", "PUT")
STATUS_STYLES = ("upper", "title", "hyphens", "camel")
API_FAULTS = frozenset({"server_error", "too_many_requests", "limit_exceeded", "access_denied"})

REQUEST_FAULTS: Mapping[str, frozenset[str]] = {
    "server_error": REQUEST_OPTIONS,
    "too_many_requests": REQUEST_OPTIONS | {"retry_after"},
    "limit_exceeded": REQUEST_OPTIONS,
    "access_denied": REQUEST_OPTIONS,
    "reset_upload": frozenset({"path_contains", "after"}),
    "cut_download": frozenset({"path_contains", "after"}),
    "expired_link": frozenset({"path_contains"}),
    "expired_upload": frozenset({"path_contains"}),
    "new_latest_model": frozenset({"path_contains"}),
    "lost_create": frozenset({"path_contains"}),
    "no_models": frozenset({"path_contains"}),
    "hidden_operation": frozenset({"path_contains"}),
    "missing_links": frozenset({"path_contains"}),
    "spelled_status": frozenset({"path_contains", "style"}),
    "unknown_status": frozenset({"path_contains", "status"}),
    "other_field_names": frozenset({"path_contains"}),
    "storage_error": REQUEST_OPTIONS | {"code"},
    "abrupt_refusal": frozenset({"path_contains"}),
    "chunked_download": frozenset({"path_contains"}),
    "closed_download": frozenset({"path_contains", "after"}),
    "gzip_download": frozenset({"path_contains"}),
}
OPERATION_FAULTS: Mapping[str, frozenset[str]] = {
    "operation_fails": OPERATION_OPTIONS | {"error"},
    "operation_times_out": OPERATION_OPTIONS,
    "late_status": OPERATION_OPTIONS | {"polls"},
    "short_output": OPERATION_OPTIONS,
    "garbage_line": OPERATION_OPTIONS,
    "missing_line": OPERATION_OPTIONS,
    "duplicate_line": OPERATION_OPTIONS,
    "shuffled_lines": OPERATION_OPTIONS,
    "changed_input": OPERATION_OPTIONS,
    "changed_metadata": OPERATION_OPTIONS,
}
FAULT_OPTIONS = {name: COMMON_OPTIONS | options for name, options in {**REQUEST_FAULTS, **OPERATION_FAULTS}.items()}


class UnknownKnobError(ValueError):
    """A knob does not have this name, or does not accept this value.

    :param choices: the names or values that exist.
    """

    def __init__(self, message: str, choices: list[str]) -> None:
        super().__init__(message)
        self.choices = choices


@dataclass(frozen=True)
class Fault:
    """One named fault.

    :param count: number of matching requests (or operations) that the fault affects.
    :param skip: number of matching requests (or operations) that pass first.
    :param method, path_contains: which requests match; an API fault without `path_contains` matches ``/v1/``.
    :param part_contains: an operation matches only if its input file contains this text; `missing_line` leaves out
        the output lines that contain it.
    :param after: bytes of the body that pass before the connection ends; by default half of them.
    :param polls: for ``late_status``: number of status calls after the upload that still show ``awaiting_input``.
    :param error: for ``operation_fails``: the error text.
    :param retry_after: seconds in the ``Retry-After`` header.
    :param code: for ``storage_error``: the error code of the storage.
    :param style: for ``spelled_status``: how the status is spelled.
    :param status: for ``unknown_status``: the status.
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
    code: str = "InternalError"
    style: str = "upper"
    status: str = "queued"

    @classmethod
    def from_request(cls, body: Mapping[str, Any]) -> Fault:
        """Return the fault of a request to the knob.

        :raises UnknownKnobError: for an unknown name, option or value.
        """
        name = body.get("name")
        if not isinstance(name, str) or name not in FAULT_OPTIONS:
            raise UnknownKnobError(f"unknown fault {name!r}", sorted(FAULT_OPTIONS))
        unknown = set(body) - FAULT_OPTIONS[name]
        if unknown:
            raise UnknownKnobError(f"{name} has no option {sorted(unknown)[0]!r}", sorted(FAULT_OPTIONS[name]))
        for option, value in body.items():
            _validate_option(option, value)
        return cls(**body)

    def matches_request(self, method: str, path: str) -> bool:
        """Return whether the fault is for this request."""
        fragment = self.path_contains or ("/v1/" if self.name in API_FAULTS else "")
        return fragment in path and self.method in (None, method)

    def matches_input(self, contains: Callable[[str], bool]) -> bool:
        """Return whether the fault is for an operation with this input."""
        return self.part_contains is None or contains(self.part_contains)

    def describe(self) -> dict[str, Any]:
        """Return the fault as the knob takes it."""
        return {name: value for name, value in asdict(self).items() if name in FAULT_OPTIONS[self.name]}


class PendingFaults:
    """The faults that have not been triggered as often as they should.

    :param store: stores them, so that they survive a restart.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pending = msgspec.json.decode(store.setting(SETTING_NAME, "[]"), type=list[_PendingFault])

    def add(self, fault: Fault) -> None:
        """Add a fault; it is active from now on."""
        with self._store.transaction():
            self._save([*self._pending, _PendingFault(fault, fault.skip, fault.count)])

    def clear(self) -> None:
        """Remove every fault."""
        with self._store.transaction():
            self._save([])

    def describe(self) -> list[dict[str, Any]]:
        """Return the pending faults with their remaining skip and count."""
        return [{**entry.fault.describe(), "skip": entry.skip, "count": entry.count} for entry in self._pending]

    def trigger_for_request(self, name: str, method: str, path: str) -> Fault | None:
        """Return the fault with this name if it affects this request, and count it."""
        return self._trigger(name, lambda fault: fault.matches_request(method, path))

    def trigger_for_operation(self, contains: Callable[[str], bool]) -> tuple[Fault, ...]:
        """Return every fault that affects this operation, and count it.

        :param contains: returns whether the operation's input contains a text.
        """
        faults = [self._trigger(name, lambda fault: fault.matches_input(contains)) for name in OPERATION_FAULTS]
        return tuple(fault for fault in faults if fault)

    def _trigger(self, name: str, matches: Callable[[Fault], bool]) -> Fault | None:
        if not any(entry.fault.name == name for entry in self._pending):
            return None
        with self._store.transaction():
            candidates = [entry for entry in self._pending if entry.fault.name == name and matches(entry.fault)]
            fault = next((entry.fault for entry in candidates if entry.count_match()), None)
            self._save([entry for entry in self._pending if entry.count > 0])
        return fault

    def _save(self, pending: list[_PendingFault]) -> None:
        self._pending = pending
        self._store.save_setting(SETTING_NAME, msgspec.json.encode(pending).decode())


@dataclass
class _PendingFault:
    fault: Fault
    skip: int
    count: int

    def count_match(self) -> bool:
        """Count a matching request and return whether the fault affects it."""
        if self.skip > 0:
            self.skip -= 1
            return False
        self.count -= 1
        return True


OPTION_TYPES = {field.name: int if "int" in str(field.type) else str for field in fields(Fault)}


def _validate_option(option: str, value: Any) -> None:
    expected = OPTION_TYPES[option]
    if not isinstance(value, expected) or isinstance(value, bool):
        kind = "a whole number" if expected is int else "a text"
        raise UnknownKnobError(f"{option!r} must be {kind}, not {value!r}", [kind])
    if option == "method" and value not in METHODS:
        raise UnknownKnobError(f"unknown method {value!r}", list(METHODS))
    if option == "style" and value not in STATUS_STYLES:
        raise UnknownKnobError(f"unknown style {value!r}", list(STATUS_STYLES))
    if option == "code" and value not in STATUS:
        raise UnknownKnobError(f"unknown code {value!r}", sorted(STATUS))
    if isinstance(value, int) and value < (1 if option == "count" else 0):
        raise UnknownKnobError(f"{option!r} is too small: {value!r}", ["count: 1 and above", "others: 0 and above"])
