"""Input files: their hash and number of records, and whether the service can accept them.

A file is read once from beginning to end before an operation is opened, because one bad line can fail the whole
operation (docs/service-contract.md 8.5, 8.19). No message contains a text of the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from coding_service.errors import InputFileError
from coding_service.storage import BLOCK_BYTES, FilePath, file_size, open_for_reading, translate_storage_errors

#: The service accepts "5 GB"; 5 * 10^9 is the smaller interpretation (docs/service-contract.md 8.31).
MAX_INPUT_BYTES = 5_000_000_000
#: The longest valid line is far shorter.
MAX_LINE_BYTES = 64 << 10
#: Maximum length of both texts together (docs/service-contract.md 8.17).
MAX_TEXT_CHARACTERS = 300
#: The fields of a line (docs/service-contract.md 3.3, 8.20).
ID_FIELD, TEXT_FIELDS = "recordId", ("occp_text", "tasks_text")
FIELDS = (ID_FIELD, *TEXT_FIELDS)
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class InputSummary:
    """What an input file contains: its size, its SHA-256 (hexadecimal) and its number of records."""

    bytes: int
    sha256: str
    records: int


@dataclass
class Problem:
    """What is wrong with lines of an input file: number of the first of them, and how many there are."""

    first_line: int
    lines: int = 0


def check_size(path: FilePath) -> int:
    """Return the size of an input file in bytes.

    :raises InputFileError: it is missing, no file, empty, or above 5,000,000,000 bytes
    :raises StagingError: it cannot be read
    """
    with translate_storage_errors(path, "read"):
        try:
            size, is_file = file_size(path), path.is_file()
        except FileNotFoundError:
            raise InputFileError(f"the input file {path} does not exist; prepare it again") from None
    if not is_file:
        raise InputFileError(f"the input file {path} is not a file")
    if not 0 < size <= MAX_INPUT_BYTES:
        raise InputFileError(f"the input file {path} has {size} bytes; the service accepts 1 to {MAX_INPUT_BYTES}")
    return size


def read_input_file(path: FilePath) -> InputSummary:
    """Read an input file block by block, and check each of its lines.

    :raises InputFileError: it is missing, empty or too large, or has lines that the service cannot be sent
    :raises StagingError: it cannot be read
    """
    size, digest, records = check_size(path), hashlib.sha256(), 0
    problems: dict[str, Problem] = {}
    with translate_storage_errors(path, "read"), open_for_reading(path) as file:
        for records, line in enumerate(_read_lines(file, digest), start=1):
            if description := find_problem(line):
                problems.setdefault(description, Problem(records)).lines += 1
    if problems:
        raise InputFileError(
            f"the input file {path} cannot be sent: {_describe_problems(problems)}. Each line has to be a JSON object"
            f" with the texts {', '.join(FIELDS)} and nothing else: correct these lines"
        )
    return InputSummary(size, digest.hexdigest(), records)


def find_problem(line: bytes) -> str | None:
    """Return what is wrong with a line of an input file; None if it can be sent (docs/service-contract.md 3.3)."""
    if len(line) > MAX_LINE_BYTES:
        return f"has more than {MAX_LINE_BYTES} bytes"
    if line.startswith(BYTE_ORDER_MARK):
        return "begins with a byte order mark"
    if not line.strip():
        return "is blank"
    try:
        record = json.loads(line.decode())
    except (ValueError, RecursionError):
        return "is not JSON"
    if not isinstance(record, dict):
        return "is not a JSON object"
    return _find_record_problem(record)


def _find_record_problem(record: dict[str, Any]) -> str | None:
    for name in FIELDS:
        if name not in record:
            return f"has no {name}"
        value = record[name]
        if not isinstance(value, str):
            return f"has a value of {name} that is not a text"
        if not (value.isascii() and value.isprintable()):
            return f"has a value of {name} with a character that is not printable ASCII"
    if len(record) > len(FIELDS):
        return "has another field"
    if not record[ID_FIELD]:
        return f"has no {ID_FIELD}"
    texts = "".join(record[name] for name in TEXT_FIELDS)
    if len(texts) > MAX_TEXT_CHARACTERS:
        return f"has more than {MAX_TEXT_CHARACTERS} characters in {' and '.join(TEXT_FIELDS)}"
    return None if texts.strip() else f"is blank in {' and '.join(TEXT_FIELDS)}"


def _describe_problems(problems: dict[str, Problem]) -> str:
    """Return a sentence such as `line 3 has no recordId (2 such lines); line 7 is not JSON`."""
    return "; ".join(
        f"line {problem.first_line} {description}" + (f" ({problem.lines} such lines)" if problem.lines > 1 else "")
        for description, problem in problems.items()
    )


def _read_lines(file: IO[bytes], digest: Any) -> Iterator[bytes]:
    """Yield the lines of a file without their ends, and add everything to the digest.

    Of a line that is too long, only the beginning is held in memory.
    """
    rest = b""
    while block := file.read(BLOCK_BYTES):
        digest.update(block)
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
        rest = rest[: MAX_LINE_BYTES + 1]
    if rest:
        yield rest
