"""The json loop with msgspec, which decodes into typed structs and so checks the form."""

from __future__ import annotations

from typing import Any

import msgspec

from bench.measure import Job
from bench.ways.plain_json import land_with, prepare_with


class Candidate(msgspec.Struct):
    """A code of the classification."""

    codeCategory: str
    codeLabel: str | None = None
    codeConfidence: float | None = None


class Line(msgspec.Struct):
    """A line of the output file."""

    recordId: str
    result: Candidate | None = None
    suggestions: msgspec.Raw = msgspec.Raw(b"null")


def prepare(job: Job) -> dict[str, int]:
    """Loop over the records, and write the lines with msgspec."""
    return prepare_with(job, msgspec.json.Encoder().encode)


def land(job: Job) -> dict[str, int]:
    """Loop over the lines, each checked against the declared shape."""
    decode = msgspec.json.Decoder(Line).decode
    return land_with(job, lambda line: flat(decode(line)))


def flat(line: Line) -> tuple[Any, ...]:
    """The columns of a line."""
    suggestions = bytes(line.suggestions).decode()
    code = line.result or Candidate("")
    return (
        line.recordId, code.codeCategory or None, code.codeLabel, code.codeConfidence,
        None if suggestions in ("null", "[]") else suggestions,
    )  # fmt: skip
