"""How much of an answer is read: its body up to a limit, and JSON that cannot harm whoever uses it. Pure."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

#: Largest body of an answer with status 200. The longest is the list of models, a few KiB.
MAX_ANSWER_BYTES = 1 << 20
#: So much is read of any other answer, which holds a short message. The rest is ignored.
MAX_ERROR_BYTES = 64 << 10
#: Bytes of a body that are read at a time.
ANSWER_BLOCK_BYTES = 16 << 10
#: Deepest nesting of arrays and objects in JSON; that of the service's own answers is 3.
MAX_JSON_DEPTH = 32
#: Longest whole number in JSON: all 64-bit numbers are shorter.
MAX_DIGITS = 20
#: Asks for a body without compression.
PLAIN_BODY = {"Accept-Encoding": "identity"}


class BodyError(ValueError):
    """A body that cannot be read: it is too large, or compressed in a way that cannot be decompressed."""


class AnswerBody:
    """The body of an answer while it arrives. A compressed one is decompressed, up to the same limit.

    :param headers: of the answer; their names in any case
    :raises BodyError: when it is made, or by its methods, if an answer with status 200 cannot be read
    """

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        self._is_error = status != 200
        self._limit = MAX_ERROR_BYTES if self._is_error else MAX_ANSWER_BYTES
        self._data = bytearray()
        values = {name.lower(): value.strip().lower() for name, value in headers.items()}
        self._encoding = values.get("content-encoding", "identity") or "identity"
        self._decoder = zlib.decompressobj(zlib.MAX_WBITS | 32)  # gzip and deflate
        if self._encoding not in ("identity", "gzip", "x-gzip", "deflate"):
            self._refuse(f"a body that is encoded as {self._encoding[:50]!r}, although none was asked for")
        length = values.get("content-length", "")
        if length.isdecimal() and (len(length) > MAX_DIGITS or int(length) > self._limit):
            self._refuse(self._size_problem)

    def add(self, block: bytes) -> bool:
        """Take a block of the body, and return whether more of it is needed."""
        room = self._limit - len(self._data)
        try:
            data = block if self._encoding == "identity" else self._decoder.decompress(block, room + 1)
        except zlib.error:
            self._refuse("a compressed body that is damaged")
            return False
        self._data += data[:room]
        if len(data) > room:
            self._refuse(self._size_problem)
            return False
        return True

    def finish(self) -> bytes:
        """Return the body, or as much of that of a refusal as was read."""
        if self._encoding != "identity" and self._data and not self._decoder.eof:
            self._refuse("a compressed body that is incomplete")
        return bytes(self._data)

    @property
    def _size_problem(self) -> str:
        return f"a body of more than {self._limit} bytes"

    def _refuse(self, problem: str) -> None:
        if not self._is_error:  # the status of a refusal says enough
            raise BodyError(problem)


def parse_json(body: bytes | str) -> Any:
    """Return the value of a JSON text in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    :raises ValueError: it is not JSON, is nested too deeply, has a number that is not finite or too long, has two
        different values for one name, or has text that cannot be encoded
    """
    try:
        value = json.loads(
            body,
            object_pairs_hook=_read_object,
            parse_int=_read_integer,
            parse_float=_read_number,
            parse_constant=_refuse_constant,
        )
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None
    _check_values(value)
    return value


def _read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    # a repetition is tolerated, a contradiction is not; text is compared, because nested values can be deep
    if len(value) < len(pairs) and any(repr(value[name]) != repr(one) for name, one in pairs):
        raise ValueError("JSON has two values for one name")
    return value


def _read_integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError("JSON has a whole number that is too long")
    return int(text)


def _read_number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("JSON has a number that is too large")
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"JSON has the value {name}, which is not a number")


def _check_values(value: Any) -> None:
    """Check depth and text level by level, because a function that calls itself fails where depth is the attack."""
    level: list[Any] = [value]
    for _ in range(MAX_JSON_DEPTH + 1):
        for text in (one for one in level if isinstance(one, str)):
            text.encode()  # half a character, such as "\ud800", raises UnicodeEncodeError, a ValueError
        level = [child for one in level for child in _children(one)]
        if not level:
            return
    raise ValueError("JSON is nested too deeply")


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return [*value, *value.values()]
    return value if isinstance(value, list) else ()
