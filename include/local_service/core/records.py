"""The format of records and of their outcomes (docs/service-contract.md 3.3 to 3.6)."""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter
from typing import Any, BinaryIO, TypeAlias

import msgspec

from include.local_service.coder.coding import Candidate, Coding
from include.local_service.core.catalogue import INPUT_FORMAT
from include.local_service.core.errors import InvalidBodyError, MalformedRecordError

Record: TypeAlias = dict[str, str]  # a valid record, as the client sent it
FIELDS = frozenset({*INPUT_FORMAT, "recordId"})
MAX_BATCH_TEXT_CHARACTERS = 300
MAX_SYNCHRONOUS_TEXT_CHARACTERS = 100
MAX_SYNCHRONOUS_RECORDS = 300
MAX_SUGGESTIONS = 16
MAX_BATCH_SUGGESTIONS = 3
MAX_LINE_BYTES = 64 * 1024  # far longer than any valid line; limits memory if a file has no line ends

get_texts = itemgetter(*INPUT_FORMAT)  # the two texts of a record, as the coder takes them


class BadRecordError(ValueError):
    """A record does not fit the model's input format; the message names the reason."""


def validate_record(value: Any, max_characters: int) -> Record:
    """Return the record if it is valid.

    :param max_characters: limit for both texts together.
    :raises BadRecordError: with the first problem.
    """
    if not isinstance(value, dict):
        raise BadRecordError("not a JSON object")
    for name in INPUT_FORMAT:
        if name not in value:
            raise BadRecordError(f"field {name} is missing")
    for name, text in value.items():
        if name not in FIELDS:
            raise BadRecordError(f"field {name!a} is not in the input format")
        if not isinstance(text, str):
            raise BadRecordError(f"field {name} is not a string")
        if not (text.isascii() and text.isprintable()):
            raise BadRecordError(f"field {name} has a character that is not printable ASCII")
    both = "".join(get_texts(value))
    if len(both) > max_characters:
        raise BadRecordError(
            f"occp_text and tasks_text together have {len(both)} characters; the limit is {max_characters}"
        )
    if not both.strip():
        raise BadRecordError("occp_text and tasks_text are both blank")
    return value


def read_lines(handle: BinaryIO) -> Iterator[Record]:
    """Yield the records of an input file in order.

    :raises BadRecordError: with the number of the first bad line and its problem.
    """
    first: Record | None = None
    number = 0
    while line := handle.readline(MAX_LINE_BYTES + 1):
        number += 1
        try:
            record = validate_record(_read_json(line), MAX_BATCH_TEXT_CHARACTERS)
            first = first or record
            if record.keys() != first.keys():
                raise BadRecordError("its fields differ from those of line 1")
        except BadRecordError as error:
            raise BadRecordError(f"Malformed record found in input file: line {number}: {error}") from None
        yield record
    if not number:
        raise BadRecordError("The input file has no records")


def _read_json(line: bytes) -> Any:
    if len(line) > MAX_LINE_BYTES:
        raise BadRecordError(f"longer than {MAX_LINE_BYTES} bytes")
    if line.isspace():
        raise BadRecordError("blank")
    try:
        return msgspec.json.decode(line)
    except (ValueError, RecursionError):
        raise BadRecordError("not a JSON object") from None


def read_request(body: Any) -> tuple[list[Record], int]:
    """Return the records of a synchronous request and the maximum number of codes (docs/service-contract.md 2.6).

    :raises InvalidBodyError: if the body is not such a request, or has a character that is not printable ASCII.
    :raises MalformedRecordError: if a record does not fit the model's input format.
    """
    if not isinstance(body, dict) or len(body.keys() & {"record", "records"}) != 1:
        raise InvalidBodyError
    if body.keys() - {"record", "records", "numberOfSuggestions"}:
        raise InvalidBodyError
    suggestions = body.get("numberOfSuggestions", MAX_SUGGESTIONS)
    if not isinstance(suggestions, int) or isinstance(suggestions, bool) or not 1 <= suggestions <= MAX_SUGGESTIONS:
        raise InvalidBodyError
    values = body["records"] if "records" in body else [body["record"]]
    if not isinstance(values, list) or not 1 <= len(values) <= MAX_SYNCHRONOUS_RECORDS:
        raise InvalidBodyError
    if any(not text.isascii() or not text.isprintable() for text in _all_strings(values)):
        raise InvalidBodyError
    try:
        return [validate_record(value, MAX_SYNCHRONOUS_TEXT_CHARACTERS) for value in values], suggestions
    except BadRecordError as error:
        raise MalformedRecordError(str(error)) from None


def _all_strings(values: list[Any]) -> list[str]:
    records = [value for value in values if isinstance(value, dict)]
    return [text for record in records for text in record.values() if isinstance(text, str)]


def make_output_line(record: Record, coding: Coding) -> dict[str, Any]:
    """Return the output line of a record (docs/service-contract.md 3.4)."""
    suggestions = [_format_code(code) for code in coding.suggestions[:MAX_BATCH_SUGGESTIONS]]
    return {
        "recordId": record.get("recordId"),
        "codeStatus": _code_status(coding),
        "input": record,
        "result": _format_code(coding.result) if coding.result else None,
        "suggestions": None if coding.result else suggestions or None,
    }


def make_synchronous_response(record: Record, coding: Coding, suggestions: int) -> dict[str, Any]:
    """Return the response for a record of a synchronous request (docs/service-contract.md 3.5).

    :param suggestions: the maximum number of codes to return.
    """
    codes = [coding.result, *coding.suggestions][:suggestions] if coding.result else []
    identifier = {"recordId": record["recordId"]} if "recordId" in record else {}
    result = [_format_code(code) for code in codes if code]
    return {**identifier, "codeStatus": _code_status(coding), "input": record, "result": result}


def _code_status(coding: Coding) -> str:
    return "successful" if coding.result else "unsuccessful"


def _format_code(candidate: Candidate) -> dict[str, Any]:
    return {
        "codeCategory": candidate.code,
        "codeLabel": candidate.label,
        "codeConfidence": round(float(candidate.confidence), 4),
    }
