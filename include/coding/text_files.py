"""Text files as the engine reads them: in UTF-8, not compressed, and with one record on each line.

Any other text file is copied in this form into the folder of the engine, block by block. No more of it is in memory
than one block, or one object of a JSON array.
"""

from __future__ import annotations

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from include.coding.errors import SourceError, StagingError
from include.coding.file_scan import refuse
from include.coding.files import find_long_line
from include.coding.plan import Plan

#: Longest line of a text file: ten times the longest text that is looked at, so that no record that could be coded is
#: longer. Readers of lines keep a whole line in memory.
MAX_LINE_BYTES = 1 << 20
#: Largest ratio of the unpacked to the packed size of a large file. Records have a ratio of 3 to 50.
MAX_UNPACKED_RATIO, LARGE_TEXT_BYTES = 200, 64 << 20
_BLOCK_BYTES = 1 << 20
#: First bytes of files that are no text, and what to do about them.
_SIGNATURES = {
    b"\x1f\x8b": ("it is compressed with gzip", "add .gz to its name"),
    b"PK\x03\x04": ("it is a zip archive or an Excel workbook", "unpack it, or give it the ending .xlsx"),
    b"PAR1": ("it is a Parquet file", "give it the ending .parquet"),
    b"\xd0\xcf\x11\xe0": ("it is an old Excel workbook", "open it in Excel and save it as .xlsx"),
}
_SPACES = re.compile(r"[ \t\r\n]*")
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def is_plain(plan: Plan, suffixes: str) -> bool:
    """Return whether the engine can read a text file as it is.

    :param suffixes: the ending of its name, such as `.csv.gz`
    """
    return (
        not suffixes.endswith(".gz") and not suffixes.startswith(".json.") and suffixes != ".json" and _is_utf8(plan)
    )


def _is_utf8(plan: Plan) -> bool:
    encoding = plan.read_options.encoding
    return encoding is None or codecs.lookup(encoding).name in ("utf-8", "utf-8-sig", "ascii")


def copy_text(plan: Plan, path: Path, suffixes: str, target: Path) -> None:
    """Copy a text file in the form that the engine reads.

    :param suffixes: the ending of its name, such as `.csv.gz`
    :raises SourceError: it cannot be read
    :raises StagingError: the copy cannot be written
    """
    text = target.with_name(target.name + ".text")
    is_array = suffixes.removesuffix(".gz") == ".json"
    try:
        _copy_as_utf8(plan, path, suffixes.endswith(".gz"), text if is_array else target)
        if is_array:
            _check_is_array(plan, text)
            _split_array(plan, text, target)
    finally:
        text.unlink(missing_ok=True)


def _copy_as_utf8(plan: Plan, path: Path, is_packed: bool, target: Path) -> None:
    encoding = plan.read_options.encoding or "utf-8"
    decoder = None if _is_utf8(plan) else codecs.getincrementaldecoder(encoding)()
    max_bytes = max(LARGE_TEXT_BYTES, MAX_UNPACKED_RATIO * path.stat().st_size)
    size, line_ends = 0, 0
    with _open(path, is_packed) as source, _write(target) as copy:
        while block := _read_block(plan, source):
            size += len(block)
            if is_packed and size > max_bytes:
                raise refuse(
                    plan,
                    f"it would unpack to more than {MAX_UNPACKED_RATIO} times its size",
                    "check what it contains, and unpack it yourself",
                )
            if decoder is None:
                copy.write(block)
                continue
            text = _decode(plan, decoder, block, line_ends)
            line_ends += text.count("\n")
            copy.write(text.encode("utf-8"))
        if decoder is not None:
            copy.write(_decode(plan, decoder, b"", line_ends).encode("utf-8"))
    if is_packed and size == 0:
        raise refuse(plan, "it is empty", "check the program that writes it")


def _open(path: Path, is_packed: bool) -> IO[bytes]:
    return gzip.open(path, "rb") if is_packed else path.open("rb")  # type: ignore[return-value]


@contextmanager
def _write(path: Path) -> Iterator[IO[bytes]]:
    try:
        with path.open("wb") as file:
            yield file
    except OSError as error:
        raise StagingError(
            f"a copy of the source cannot be written to {path.parent} ({type(error).__name__}): free disk space, and"
            " check the permissions of the folder"
        ) from None


def _read_block(plan: Plan, source: IO[bytes]) -> bytes:
    try:
        return source.read(_BLOCK_BYTES)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise refuse(
            plan, "it is not a complete gzip file", "compress it again, or give it a name without .gz"
        ) from None


def _decode(plan: Plan, decoder: codecs.IncrementalDecoder, block: bytes, line_ends: int) -> str:
    encoding = str(plan.read_options.encoding)
    try:
        text = decoder.decode(block, final=not block)
        text.encode("utf-8")  # fails for half of a surrogate pair
        return text
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode(encoding, errors="ignore")
        line = line_ends + before.count("\n") + 1
        raise refuse(plan, *describe_encoding(plan, line)) from None
    except UnicodeError:
        raise refuse(plan, *describe_encoding(plan, line_ends + 1)) from None


def describe_encoding(plan: Plan, line: int | None) -> tuple[str, str]:
    """Return that a text is not in the encoding in which it should be, and what to do.

    :param line: None if a reader has not found it
    """
    place = "a line of it" if line is None else f"line {line}"
    if encoding := plan.read_options.encoding:
        return f"{place} is not in {encoding}", "correct `encoding` in `read_options`"
    return (
        f"{place} is not in UTF-8",
        "set `encoding` in `read_options` to that of the file, such as 'cp1252' for files of Windows",
    )


def check_text(plan: Plan, path: Path) -> None:
    """Refuse a file that is empty, or no text, by its first bytes; then one with a line that is too long.

    This is the first look at a text file, because all others read whole lines. The engine would also silently drop a
    last line that is too long for it.
    """
    with path.open("rb") as file:
        start = file.read(4)
    if not start:
        raise refuse(plan, "it is empty", "check the program that writes it")
    if start.startswith(b"\x1f\x8b") and plan.source.lower().endswith(".gz"):
        raise refuse(plan, "it is compressed twice", "unpack it once")
    for signature, (problem, action) in _SIGNATURES.items():
        if start.startswith(signature):
            raise refuse(plan, problem, action)
    if start.startswith(_UTF16_MARKS):
        raise refuse(plan, "it is in UTF-16", "set `encoding` in `read_options` to 'utf-16'")
    if line := find_long_line(path, MAX_LINE_BYTES, find_line_end(path)):
        raise refuse(plan, f"line {line} is above {MAX_LINE_BYTES} bytes", "check that every line ends")


def find_line_end(path: Path) -> bytes:
    """Return the character that ends the lines of a text file: of old Macs, it is a carriage return."""
    with path.open("rb") as file:
        start = file.read(MAX_LINE_BYTES + 1)
    return b"\r" if b"\r" in start and b"\n" not in start else b"\n"


def find_undecodable_line(path: Path) -> int | None:
    """Return the number of the first line that is not in UTF-8."""
    line_end, line = find_line_end(path).decode(), 1
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        try:
            while block := file.read(MAX_LINE_BYTES):
                line += decoder.decode(block).count(line_end)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            return line + error.object[: error.start].count(line_end.encode())
    return None


# ---- JSON arrays ---------------------------------------------------------------------------------------------------


def _check_is_array(plan: Plan, path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(_BLOCK_BYTES)
    if start.startswith(_UTF16_MARKS):
        raise refuse(plan, "it is in UTF-16", "set `encoding` in `read_options` to 'utf-16'")
    first = start.removeprefix(codecs.BOM_UTF8).lstrip()[:1]
    if not first:
        raise refuse(plan, "it is empty", "check the program that writes it")
    if first == b"{":
        raise refuse(
            plan,
            "it begins with an object, not with an array of them",
            "give it the ending .jsonl if each line is one",
        )
    if first != b"[":
        raise refuse(plan, "it does not begin with an array of objects", "write it as '[{...}, {...}]'")


def _split_array(plan: Plan, path: Path, target: Path) -> None:
    """Write each object of a JSON array on a line of its own."""
    with path.open(encoding="utf-8-sig", newline="") as source, _write(target) as copy:
        try:
            for text in _read_objects(plan, source):
                copy.write(text.replace("\r", " ").replace("\n", " ").encode("utf-8") + b"\n")
        except UnicodeDecodeError:
            raise refuse(plan, *describe_encoding(plan, find_undecodable_line(path))) from None


def _read_objects(plan: Plan, source: IO[str]) -> Iterator[str]:
    """Yield the text of each object of an array. Numbers are not converted, because they can have any length."""
    decoder = json.JSONDecoder(parse_int=str, parse_float=str)
    buffer, position, number = "", 0, 1

    def refuse_record(problem: str, action: str = "write the file again, completely") -> SourceError:
        return refuse(plan, f"record {number} {problem}", action)

    def skip_spaces() -> str:
        """Read up to the next character that is no white space, and return it; an empty text at the end."""
        nonlocal buffer, position
        while True:
            position = _SPACES.match(buffer, position).end()  # type: ignore[union-attr] # it matches everywhere
            if position < len(buffer):
                return buffer[position]
            buffer, position = source.read(_BLOCK_BYTES), 0
            if not buffer:
                return ""

    skip_spaces()
    position += 1  # after the bracket
    is_last = skip_spaces() == "]"
    if is_last:
        position += 1
    while not is_last:
        if skip_spaces() != "{":
            raise refuse_record("is not an object")
        value, end = _parse_object(decoder, buffer, position, refuse_record)
        while value is None:  # it goes on in the next block
            more = source.read(_BLOCK_BYTES)
            if not more:
                raise refuse_record("is not one complete JSON object")
            if len(buffer) - position > MAX_LINE_BYTES:
                raise refuse_record(f"is broken, or above {MAX_LINE_BYTES} bytes")
            buffer, position = buffer[position:] + more, 0
            value, end = _parse_object(decoder, buffer, position, refuse_record)
        yield buffer[position:end]
        position = end
        separator = skip_spaces()
        if separator not in (",", "]") or not separator:
            raise refuse_record("is not followed by a comma or the end of the array")
        position, number, is_last = position + 1, number + 1, separator == "]"
    if skip_spaces():
        raise refuse_record("is after the end of the array", "write one array of all objects")


def _parse_object(decoder: json.JSONDecoder, text: str, start: int, refuse_record: Any) -> tuple[Any, int]:
    """Return an object in a text, and where it ends; None if the text does not have all of it."""
    try:
        return decoder.raw_decode(text, start)
    except json.JSONDecodeError:
        return None, 0
    except RecursionError:
        raise refuse_record("is nested too deeply", "remove what is nested in it") from None
