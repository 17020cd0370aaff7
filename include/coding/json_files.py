"""JSONL files: how the engine reads them, and where in them a problem is.

Every value is read as text, and its JSON type is only checked. With types that the engine detects, it would turn a
record id such as '2026-10-01' into a date, and quote strings in a column with numbers. It would also keep every name
of every line in memory.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa

from include.coding.engine import Engine, execute_within_memory
from include.coding.errors import SourceError
from include.coding.file_scan import MAX_COLUMNS, FileScan, LocalFile, define_text_columns, path_literal, refuse
from include.coding.plan import Plan
from include.coding.text_files import MAX_LINE_BYTES, check_text, describe_encoding, find_undecodable_line
from include.warehouse.warehouse import quote_literal

#: Number of lines in which the names of the columns are looked for, for a message.
_SAMPLE_LINES = 20


def scan_json(file: LocalFile, plan: Plan, engine: Engine, all_columns: bool = False) -> FileScan:
    """Return how the engine reads a JSONL file.

    :raises SourceError: it cannot be read
    """
    if file.place == "record" and file.path.stat().st_size == 0:
        raise refuse(plan, "its array is empty", "check the program that writes it")
    check_text(plan, file.path)
    names = _read_names(file.path, all_columns)
    columns = list(dict.fromkeys([plan.source_column(name) for name in plan.required_columns] + names * all_columns))
    _check_case(plan, columns)
    options = f"{path_literal(file.path)}, format='newline_delimited', compression='none'"
    options += f", maximum_object_size={MAX_LINE_BYTES + 2}"
    kinds = _read_kinds(engine, f"read_json({options}, columns={{'line': 'JSON'}}, records=false)", columns)
    if kinds is None:
        raise refuse(plan, *describe_json_error(file, plan))
    fields = dict.fromkeys(names, pa.string())
    if not fields and next(_read_lines(file.path), None) is None:
        raise refuse(plan, "it is empty", "check the program that writes it")
    fields |= {name: _find_type(kind) for name, kind in kinds.items() if kind}
    relation = f"read_json({options}, columns={define_text_columns(columns)}, records=true)"
    sources = {name: plan.source_column(name) for name in plan.required_columns}
    engine_names = tuple(fields) if all_columns else tuple(columns)
    return FileScan(relation, pa.schema(list(fields.items())), sources, engine_names)


def _read_names(path: Path, all_lines: bool) -> list[str]:
    """Return the names in the first lines, or in all, up to the largest number of columns."""
    names: dict[str, None] = {}
    for _, line in islice(_read_lines(path), None if all_lines else _SAMPLE_LINES):
        names |= dict.fromkeys(_parse_object(line) or {})
        if len(names) >= MAX_COLUMNS:
            break
    return list(islice(names, MAX_COLUMNS))


def _read_kinds(engine: Engine, relation: str, columns: Sequence[str]) -> dict[str, set[str]] | None:
    """Return the JSON types of the members of the lines with these names; None if a line is not an object.

    :param relation: a relation of the engine with one column `line`
    """
    pointers = ["/" + column.replace("~", "~0").replace("/", "~1") for column in columns]
    # All types of a line at once, because each call parses the whole line.
    types = f"json_type(line, [{', '.join(map(quote_literal, pointers))}])"
    lists = "".join(f", list(DISTINCT types[{position}])" for position in range(1, len(pointers) + 1))
    ((is_broken, *kinds),) = execute_within_memory(
        engine,
        f"SELECT coalesce(bool_or(kind <> 'OBJECT'), false){lists}"  # noqa: S608
        f" FROM (SELECT json_type(line) AS kind, {types} AS types FROM {relation})",
    ).fetchall()
    return None if is_broken else {name: set(kind or ()) - {None} for name, kind in zip(columns, kinds, strict=True)}


def _find_type(kinds: set[str]) -> pa.DataType:
    """Return the type of a column whose values have these JSON types. Different ones are read as text."""
    match sorted(kinds - {"NULL"}):
        case []:
            return pa.null()
        case ["ARRAY"]:
            return pa.list_(pa.null())
        case ["OBJECT"]:
            return pa.struct([])
        case ["BOOLEAN"]:
            return pa.bool_()
        case ["BIGINT"] | ["UBIGINT"] | ["BIGINT", "UBIGINT"]:
            return pa.int64()
        case [*numbers] if set(numbers) <= {"BIGINT", "DOUBLE", "UBIGINT"}:
            return pa.float64()
        case _:
            return pa.string()


def _check_case(plan: Plan, columns: Sequence[str]) -> None:
    ordered = sorted(columns, key=str.lower)
    for first, second in pairwise(ordered):
        if first.lower() == second.lower():
            raise SourceError(
                f"source {plan.source!r}: the names of {first!r} and {second!r} differ in case only, which the engine"
                " cannot distinguish in JSON: rename one of them in the file"
            )


def _read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank, with their numbers."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            content = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if content.strip():
                yield number, content


def read_json_cells(file: LocalFile, plan: Plan, column: str) -> Iterator[tuple[int, str]]:
    """Yield the values of a member, each with the number of its line."""
    for number, line in _read_lines(file.path):
        value = (_parse_object(line) or {}).get(column)
        if value is not None:
            yield number, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def list_json_lines(file: LocalFile) -> Iterator[int]:
    """Yield the number of each line with an object."""
    return (number for number, _ in _read_lines(file.path))


def describe_json_error(file: LocalFile, plan: Plan) -> tuple[str, str]:
    """Return what is wrong with a file that the engine cannot read, and what to do."""
    broken = next(((number, line) for number, line in _read_lines(file.path) if _parse_object(line) is None), None)
    if broken is None:
        return "one of its lines cannot be read", "write the file again, completely"
    number, line = broken
    if _is_not_utf8(line):
        return describe_encoding(plan, find_undecodable_line(file.path))
    start = line.strip()
    is_first = (number, line) == next(_read_lines(file.path))
    if start.startswith(b"[") and is_first and file.place == "line":
        return f"line {number} is an array, not an object", "give the file the ending .json"
    if start in (b"{", b"{}") or (start.startswith(b"{") and not start.endswith((b"}", b"]"))):
        action = (
            "write each object on one line, completely, or all of them as an array in a file with the ending .json"
        )
    else:
        action = "write each object on one line, completely"
    return f"{file.place} {number} is not one complete JSON object with different names", action


def _is_not_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return True
    return False


def _parse_object(line: bytes) -> dict[str, Any] | None:
    """Return the JSON object in a line; None if there is anything else, or an object that the engine refuses."""

    def make_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) < len(pairs):
            raise ValueError("a name stands twice")
        return members

    try:
        value = json.loads(line.decode("utf-8"), object_pairs_hook=make_dict)
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # fails for half of a surrogate pair
    except ValueError:
        return None
    except RecursionError:  # nested too deeply for this parser, but not for the engine
        return {}
    return value if isinstance(value, dict) else None
