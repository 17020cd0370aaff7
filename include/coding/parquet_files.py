"""Parquet files, and folders of them: how the engine reads them, and which would need too much memory.

The engine ignores the case of names and changes those that it cannot distinguish; positions stay the same. Texts that
old versions of Spark wrote lack the mark that they are texts.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from include.coding.engine import Engine, execute_within_memory
from include.coding.file_scan import (
    FileScan,
    LocalFile,
    check_width,
    match_columns,
    path_literal,
    refuse,
)
from include.coding.plan import Plan
from include.warehouse.warehouse import quote_column

#: Largest description of a Parquet file, which is read as a whole. One of ten thousand row groups has about 10 MB.
MAX_FOOTER_BYTES = 32 << 20
#: Largest number of rows in each byte of a Parquet file. Equal values need next to nothing, but records have ids.
MAX_ROWS_PER_BYTE = 100
#: Number of rows that the engine has in memory at once, beside its limit, and the largest size of their texts. A text
#: that is stored once for all rows, in a dictionary of a Parquet file, has a copy for each of them.
BLOCK_ROWS, MAX_BLOCK_BYTES = 2048, 64 << 20
_ACTION = "write the file again, completely"


def scan_parquet(file: LocalFile, plan: Plan, engine: Engine, all_columns: bool = False) -> FileScan:
    """Return how the engine reads a Parquet file, or all files of a folder, which need the same columns.

    :raises SourceError: one of them cannot be read
    """
    names = _read_names(file.path, plan, _name_part(file, file.path))
    check_width(plan, names)
    schema, matches, engine_names = _read_schema(file.path, plan, engine, names)
    for path in file.paths[1:]:
        _check_same_columns(path, file, plan, engine, schema)
    paths = ", ".join(map(path_literal, file.paths))
    relation = f"read_parquet([{paths}], binary_as_string=true, hive_partitioning=false)"
    part = "parse_filename(filename)" if len(file.paths) > 1 else None
    columns = engine_names if all_columns else tuple(dict.fromkeys(matches.values()))
    _check_blocks(plan, engine, relation, columns, part)
    return FileScan(relation, schema, matches, engine_names, "file_row_number + 1", part)


def _name_part(file: LocalFile, path: Path) -> str:
    """Return how a message names one of the files."""
    return "it" if len(file.paths) == 1 else f"its file {path.name!r}"


def _read_schema(
    path: Path, plan: Plan, engine: Engine, names: Sequence[str]
) -> tuple[pa.Schema, dict[str, str], tuple[str, ...]]:
    relation = f"read_parquet({path_literal(path)}, binary_as_string=true, hive_partitioning=false)"
    columns = engine.sql(f"SELECT * FROM {relation} LIMIT 0").to_arrow_reader().schema  # noqa: S608
    schema = pa.schema([(name, columns.field(position).type) for position, name in enumerate(names)])
    engine_names = tuple(columns.names[: len(names)])
    return schema, match_columns(plan, names, engine_names), engine_names


def _check_same_columns(path: Path, file: LocalFile, plan: Plan, engine: Engine, schema: pa.Schema) -> None:
    """Refuse a file of a folder whose columns are not those of the first one, because the engine would leave some
    out, or convert values."""
    part = _name_part(file, path)
    try:
        other, _, _ = _read_schema(path, plan, engine, _read_names(path, plan, part))
    except duckdb.Error:
        raise refuse(plan, f"{part} is not a complete Parquet file", _ACTION) from None
    if other.names != schema.names:
        difference = sorted(set(other.names) ^ set(schema.names))[:5] or "the same ones in another order"
        raise refuse(
            plan,
            f"{part} has other columns than {file.path.name!r}: {difference}",
            "write all files with the same columns, or name a pattern that matches those that have them",
        )
    for field in schema:
        if other.field(field.name).type != field.type and schema.names.count(field.name) == 1:
            raise refuse(
                plan,
                f"{part} has the column {field.name!r} as {other.field(field.name).type}, but {file.path.name!r} has"
                f" it as {field.type}",
                "write all files with the same types",
            )


def _read_names(path: Path, plan: Plan, part: str) -> list[str]:
    """Return the names of the columns of a Parquet file. Its description stands at its end, before its size. It is
    read as a whole, so its size is checked first."""
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - 8))
        footer_bytes, mark = int.from_bytes(file.read(4), "little"), file.read(4)
    if size == 0:
        raise refuse(plan, f"{part} is empty", "check the program that writes it")
    if footer_bytes > MAX_FOOTER_BYTES and mark == b"PAR1":
        owner = "its description" if part == "it" else f"the description of {part}"
        raise refuse(plan, f"{owner} has {footer_bytes} bytes, above {MAX_FOOTER_BYTES}", _ACTION)
    try:
        metadata = pq.read_metadata(path)
        names = list(metadata.schema.to_arrow_schema().names)
    except (pa.ArrowException, OSError):
        raise refuse(plan, f"{part} is not a complete Parquet file", _ACTION) from None
    if metadata.num_rows > MAX_ROWS_PER_BYTE * size:
        raise refuse(plan, f"{part} says that it has {metadata.num_rows} rows in {size} bytes", _ACTION)
    return names


def _check_blocks(plan: Plan, engine: Engine, relation: str, columns: Sequence[str], part: str | None) -> None:
    """Refuse a Parquet file whose texts would not fit into memory once they are copied. Counting copies none."""
    # One sum, because with one for each column, the engine needs memory beside its limit that grows with the rows.
    size = " + ".join(f"coalesce(strlen(CAST({quote_column(column)} AS VARCHAR)), 0)" for column in columns)
    ((row, most_bytes, name),) = execute_within_memory(
        engine,
        f"""
        SELECT max_by(block, bytes) * {BLOCK_ROWS} + 1, max(bytes), max_by(part, bytes) FROM (
            SELECT file_row_number // {BLOCK_ROWS} AS block, {part or "NULL"} AS part, sum({size or 0}) AS bytes
            FROM {relation} GROUP BY block, part
        )
        """,  # noqa: S608
    ).fetchall()
    if most_bytes is not None and most_bytes > MAX_BLOCK_BYTES:
        place = f"row {row}" + (f" of {name!r}" if name else "")
        problem = f"the texts in {BLOCK_ROWS} rows from {place} have {most_bytes} bytes, above {MAX_BLOCK_BYTES}"
        raise refuse(plan, problem, "shorten them")


def describe_parquet_error(error: duckdb.Error) -> tuple[str, str]:
    """Return what is wrong with a file that the engine cannot read, and what to do."""
    if isinstance(error, duckdb.ConversionException):
        return "it has a time that is outside the engine's range", "correct it"
    if "not valid UTF8" in str(error):
        return "it has a text that is not in UTF-8", "write it again with texts in UTF-8"
    return "it is not a complete Parquet file", _ACTION
