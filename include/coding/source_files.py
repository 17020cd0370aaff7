"""Files as sources: which types there are, and who reads each of them.

The engine's messages quote rows, so nothing of them is passed on. A message names a line and a kind of problem.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import duckdb

from include.coding.csv_files import describe_csv_error, list_csv_lines, read_csv_cells, scan_csv
from include.coding.engine import Engine, find_folder
from include.coding.errors import SourceError
from include.coding.excel_files import scan_excel
from include.coding.file_scan import FileScan, LocalFile, refuse, refuse_change
from include.coding.json_files import describe_json_error, list_json_lines, read_json_cells, scan_json
from include.coding.object_files import copy_object
from include.coding.parquet_files import describe_parquet_error, scan_parquet
from include.coding.plan import Plan
from include.coding.read_options import FORMATS
from include.coding.source_access import (
    MAX_FILES,
    SourceAccess,
    SourceFile,
    find_path,
    identify_content,
    is_object,
    open_source_files,
)
from include.coding.text_files import copy_text, is_plain

#: Supported endings of names, and the kinds of their readers.
_KINDS = {
    ".parquet": "parquet",
    ".xlsx": "xlsx",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}
FILE_TYPES = (*_KINDS, *(f"{ending}.gz" for ending, kind in _KINDS.items() if kind in ("csv", "jsonl")))
#: Endings that no name of a table has; `raw.json` can be a table of the schema `raw`.
_FILE_ENDINGS = (".parquet", ".csv", ".jsonl", ".ndjson", ".xlsx")
#: Endings of files of other programs, and how their owners convert them.
_CONVERSIONS = {
    ".xls": "an old Excel workbook: open it in Excel and save it as .xlsx",
    ".xlsb": "a binary Excel workbook: open it in Excel and save it as .xlsx",
    ".xlsm": "an Excel workbook with macros: open it in Excel and save it as .xlsx",
    ".ods": "an OpenDocument spreadsheet: open it and save it as .xlsx",
    ".dta": 'a file of Stata: write it with `export delimited using "answers.csv"`',
    ".sav": "a file of SPSS: save it as CSV with `SAVE TRANSLATE OUTFILE='answers.csv' /TYPE=CSV /FIELDNAMES`",
    ".zsav": "a file of SPSS: save it as CSV with `SAVE TRANSLATE OUTFILE='answers.csv' /TYPE=CSV /FIELDNAMES`",
    ".por": "a file of SPSS: save it as CSV with `SAVE TRANSLATE OUTFILE='answers.csv' /TYPE=CSV /FIELDNAMES`",
    ".sas7bdat": "a file of SAS: write it with `proc export data=answers outfile='answers.csv' dbms=csv; run;`",
    ".xpt": "a file of SAS: write it with `proc export data=answers outfile='answers.csv' dbms=csv; run;`",
    ".rds": 'a file of R: write it with `write.csv(answers, "answers.csv", row.names = FALSE)`',
    ".rdata": 'a file of R: write it with `write.csv(answers, "answers.csv", row.names = FALSE)`',
    ".zip": "a zip archive: unpack it",
    ".bz2": "compressed with bzip2: unpack it, or compress it with gzip",
    ".xz": "compressed with xz: unpack it, or compress it with gzip",
    ".zst": "compressed with zstandard: unpack it, or compress it with gzip",
    ".7z": "an archive: unpack it",
    ".feather": "an Arrow file: write it as Parquet",
    ".arrow": "an Arrow file: write it as Parquet",
    ".orc": "an ORC file: write it as Parquet",
    ".avro": "an Avro file: write it as Parquet",
    ".accdb": "a database of Access: export the table as CSV or Excel",
    ".mdb": "a database of Access: export the table as CSV or Excel",
    ".pdf": "a document, not data: ask its author for the data",
}
#: Number of characters of a value by which it is found again.
VALUE_CHARACTERS = 64
_COPY = "source-copy"
#: Errors of the engine that the content of a file can cause; others name the file if they are about it.
_FILE_ERRORS = (
    duckdb.InvalidInputException,
    duckdb.DataError,
    duckdb.NotSupportedError,
    duckdb.InternalError,
)


def find_file(source: str, access: SourceAccess) -> SourceFile | None:
    """Return the file that `source` names, None if it names a table.

    :raises SourceError: runs may not read it, there is no such file, or its type is not supported
    """
    path = find_path(source, access)
    if path is None and is_object(source):
        _check_type(source, source)
        return SourceFile((), uri=source)
    if path is None:
        if source.lower().endswith(_FILE_ENDINGS):
            raise SourceError(
                f"source {source!r} is a relative path: use a full one, such as 'file:///data/{source}'"
            )
        return None
    return open_source_files(source, _list_paths(source, path), access)


def _list_paths(source: str, path: Path) -> list[Path]:
    """Return the path of a file, or those of the Parquet files of a folder or a pattern."""
    if path.is_dir():
        return _list_parquet(source, path, path.rglob("*"))
    if not path.is_file() and re.search(r"[*?\[]", path.name):
        return _list_parquet(source, path.parent, path.parent.glob(path.name))
    if not path.is_file():
        raise SourceError(f"source {source!r}: there is no file {path}; check its path, as the worker sees it")
    if not os.access(path, os.R_OK):
        raise SourceError(f"source {source!r}: the worker may not read {path}; check its permissions")
    _check_type(source, path.name)
    return [path]


def _list_parquet(source: str, folder: Path, paths: Iterable[Path]) -> list[Path]:
    """Return the Parquet files of a folder. Other programs keep files of their own beside them, with a mark."""
    visible = (path for path in paths if not path.relative_to(folder).name.startswith((".", "_")) and path.is_file())
    files = sorted(islice(visible, MAX_FILES + 1))
    if len(files) > MAX_FILES:
        raise SourceError(f"source {source!r} has more than {MAX_FILES} files: name a folder with fewer")
    if not files:
        raise SourceError(f"source {source!r}: there is no Parquet file in {folder}; check its path and its files")
    if other := [path.name for path in files if path.suffix.lower() != ".parquet"]:
        raise SourceError(
            f"source {source!r} has the file {other[0]!r}, and only Parquet files are read together: name a single"
            " file, or a pattern such as '*.parquet'"
        )
    parts = [part for path in files for part in path.relative_to(folder).parts[:-1]]
    if folders := [part for part in parts if "=" in part]:
        raise SourceError(
            f"source {source!r} has the folder {folders[0]!r}, whose name is a value that its files do not have:"
            " write the column into the files, or name one of these folders"
        )
    return files


def _check_type(source: str, name: str) -> None:
    """Check the ending of the name of a file."""
    lower = name.lower()
    if lower.endswith(FILE_TYPES):
        return
    ending = next((ending for ending in _CONVERSIONS if lower.endswith(ending)), None)
    if ending is not None:
        raise SourceError(f"source {source!r} is {_CONVERSIONS[ending]}")
    raise SourceError(
        f"source {source!r} ends in {Path(name).suffix!r}; supported: {list(FILE_TYPES)}: save it as one of these"
    )


@contextmanager
def open_local_file(file: SourceFile, plan: Plan, engine: Engine, access: SourceAccess) -> Iterator[LocalFile]:
    """Yield the file as a reader needs it: an object, and a text in another form, is copied into the engine's folder
    and removed at the end of the block.

    :raises SourceError: it cannot be read, or changed while it was read
    """
    folder = find_folder(engine)
    name = (file.uri or file.paths[0].name).lower()
    ending = next(ending for ending in FILE_TYPES if name.endswith(ending))
    kind = _KINDS[ending.removesuffix(".gz")]
    _check_options(plan, kind)
    download, copy = folder / f"{_COPY}-object{ending}", folder / f"{_COPY}.{kind}"
    paths = file.paths
    try:
        if file.uri is not None:
            copy_object(file.uri, plan, access, download)
            paths = (download,)
        if kind in ("csv", "jsonl") and not is_plain(plan, ending):
            copy_text(plan, paths[0], ending, copy)
            paths = (copy,)
        yield LocalFile(paths, kind, "record" if ending.startswith(".json") and "l" not in ending else "line")
    finally:
        download.unlink(missing_ok=True)
        copy.unlink(missing_ok=True)
    if tuple(map(identify_content, file.paths)) != file.content:
        raise refuse_change(plan)


def _check_options(plan: Plan, kind: str) -> None:
    """Refuse an option that would have no effect on the file."""
    files = {
        "csv": "text files with columns",
        "jsonl": "JSON files",
        "xlsx": "Excel files",
        "parquet": "Parquet files",
    }
    for name in plan.read_options.names:
        if name in FORMATS and files[kind] not in FORMATS[name]:
            raise SourceError(
                f"source {plan.source!r}: `{name}` in `read_options` has no meaning for {files[kind]}, but only for"
                f" {' and '.join(FORMATS[name])}: remove it"
            )
    if plan.read_options.connection and not is_object(plan.source):
        raise SourceError(
            f"source {plan.source!r} is no object of S3, so `connection` in `read_options` has no meaning: remove it"
        )


def scan_file(file: LocalFile, plan: Plan, engine: Engine, all_columns: bool = False) -> FileScan:
    """Return how the engine reads the file.

    :param all_columns: whether the engine can read all columns of the file, not only those of the plan
    :raises SourceError: it cannot be read
    """
    readers = {"csv": scan_csv, "xlsx": scan_excel, "parquet": scan_parquet, "jsonl": scan_json}
    return readers[file.kind](file, plan, engine, all_columns)


def find_lines(file: LocalFile, plan: Plan, column: str, values: Sequence[str]) -> list[tuple[int, str]]:
    """Return the first lines of a text file with one of these values in a column, with the value of each.

    :param values: the beginnings of the values; as many lines are looked for
    """
    read_cells = read_csv_cells if file.kind == "csv" else read_json_cells
    lines = ((line, cell[:VALUE_CHARACTERS]) for line, cell in read_cells(file, plan, column))
    return list(islice(((line, value) for line, value in lines if value in values), len(values)))


def find_places(file: LocalFile, plan: Plan, rows: Collection[int]) -> dict[int, int]:
    """Return the lines of a text file, or the records of a JSON array, in which rows begin.

    :param rows: numbers of rows as the engine counts them, from 1
    """
    lines = list_csv_lines(file, plan) if file.kind == "csv" else list_json_lines(file)
    last = max(rows, default=0)
    return {row: line for row, line in enumerate(islice(lines, last), 1) if row in rows}


def describe_error(file: LocalFile, plan: Plan, error: duckdb.Error) -> SourceError | None:
    """Return the error about the file, in our words; None if the engine's is about the machine: its disk is full."""
    text = str(error)
    is_about_file = isinstance(error, _FILE_ERRORS) or type(error) is duckdb.Error  # raised by its Thrift reader
    if not is_about_file and not any(str(path) in text for path in file.paths):
        return None
    match file.kind:
        case "csv":
            return refuse(plan, *describe_csv_error(file, plan, error))
        case "parquet":
            return refuse(plan, *describe_parquet_error(error))
        case "xlsx":
            return refuse(plan, "its rows cannot be read")
        case _:
            return refuse(plan, *describe_json_error(file, plan))
