"""What a record must be, and how its outcome is written (contract 3.3 to 3.6)."""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter
from typing import Any, BinaryIO, TypeAlias

import msgspec

from include.local_service.catalogue import INPUT_FORMAT
from include.local_service.coders import CandidateLike, CodingLike
from include.local_service.errors import InvalidBodyError, MalformedRecordError

Record: TypeAlias = dict[str, str]  # as it was sent, and nothing is wrong with it
FIELDS = frozenset({*INPUT_FORMAT, "recordId"})
LONGEST_BATCH_TEXT = 300
LONGEST_SYNCHRONOUS_TEXT = 100
SMALL_BATCH = 300
MOST_SUGGESTIONS = 16
LONGEST_LINE = 64 * 1024
"""Bytes: far above any line that is short enough, so that a file without line ends cannot fill the memory."""

texts_of = itemgetter(*INPUT_FORMAT)
"""Returns the two texts of a record, as the coder takes them."""


class BadRecordError(ValueError):
    """A record that the model does not take; the message says why."""


def read_record(value: Any, longest: int) -> Record:
    """Judge one record.

    :param longest: how many characters both texts may have together.
    :raises BadRecordError: with the first thing that is wrong.
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
    both = "".join(texts_of(value))
    if len(both) > longest:
        raise BadRecordError(
            f"occp_text and tasks_text have {len(both)} characters together, at most {longest} allowed"
        )
    if not both.strip():
        raise BadRecordError("occp_text and tasks_text are both blank")
    return value


def read_lines(handle: BinaryIO) -> Iterator[Record]:
    """Yield the records of an input file in order.

    :raises BadRecordError: with the number of the first bad line and what is wrong with it.
    """
    first: Record | None = None
    number = 0
    while line := handle.readline(LONGEST_LINE + 1):
        number += 1
        try:
            record = read_record(_read_json(line), LONGEST_BATCH_TEXT)
            first = first or record
            if record.keys() != first.keys():
                raise BadRecordError("its fields differ from those of line 1")
        except BadRecordError as error:
            raise BadRecordError(f"Malformed record found in input file: line {number}: {error}") from None
        yield record
    if not number:
        raise BadRecordError("The input file has no records")


def _read_json(line: bytes) -> Any:
    if len(line) > LONGEST_LINE:
        raise BadRecordError(f"longer than {LONGEST_LINE} bytes")
    if line.isspace():
        raise BadRecordError("blank")
    try:
        return msgspec.json.decode(line)
    except (ValueError, RecursionError):
        raise BadRecordError("not a JSON object") from None


def read_request(body: Any) -> tuple[list[Record], int]:
    """Return the records of a synchronous request and how many codes each may get (contract 2.6).

    :raises InvalidBodyError: when the body is not such a request, or has a character that is not printable ASCII.
    :raises MalformedRecordError: when a record does not fit the model's format.
    """
    if not isinstance(body, dict) or len(body.keys() & {"record", "records"}) != 1:
        raise InvalidBodyError
    if body.keys() - {"record", "records", "numberOfSuggestions"}:
        raise InvalidBodyError
    suggestions = body.get("numberOfSuggestions", MOST_SUGGESTIONS)
    if not isinstance(suggestions, int) or isinstance(suggestions, bool) or not 1 <= suggestions <= MOST_SUGGESTIONS:
        raise InvalidBodyError
    values = body["records"] if "records" in body else [body["record"]]
    if not isinstance(values, list) or not 1 <= len(values) <= SMALL_BATCH:
        raise InvalidBodyError
    if any(not text.isascii() or not text.isprintable() for text in _texts(values)):
        raise InvalidBodyError
    try:
        return [read_record(value, LONGEST_SYNCHRONOUS_TEXT) for value in values], suggestions
    except BadRecordError as error:
        raise MalformedRecordError(str(error)) from None


def _texts(values: list[Any]) -> list[str]:
    records = [value for value in values if isinstance(value, dict)]
    return [text for record in records for text in record.values() if isinstance(text, str)]


def batch_answer(record: Record, coding: CodingLike) -> dict[str, Any]:
    """Return the output line of a record (contract 3.4)."""
    return {
        "recordId": record.get("recordId"),
        "codeStatus": _code_status(coding),
        "input": record,
        "result": _coded(coding.result) if coding.result else None,
        "suggestions": None if coding.result else [_coded(one) for one in coding.suggestions[:3]] or None,
    }


def synchronous_answer(record: Record, coding: CodingLike, suggestions: int) -> dict[str, Any]:
    """Return the answer for a record of a synchronous request (contract 3.5).

    :param suggestions: the largest number of codes to return.
    """
    codes = [coding.result, *coding.suggestions][:suggestions] if coding.result else []
    identifier = {"recordId": record["recordId"]} if "recordId" in record else {}
    result = [_coded(code) for code in codes if code]
    return {**identifier, "codeStatus": _code_status(coding), "input": record, "result": result}


def _code_status(coding: CodingLike) -> str:
    return "successful" if coding.result else "unsuccessful"


def _coded(candidate: CandidateLike) -> dict[str, Any]:
    return {
        "codeCategory": candidate.code,
        "codeLabel": candidate.label,
        "codeConfidence": round(float(candidate.confidence), 4),
    }
