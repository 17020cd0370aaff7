"""What the readers of files have in common: the file as they get it, and how the engine reads it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from include.coding.errors import SourceError
from include.coding.files import escape_glob
from include.coding.plan import Plan
from include.warehouse.warehouse import quote_literal

#: Largest number of columns of a file; that of a sheet of Excel.
MAX_COLUMNS = 16_384
#: Number of rows among which the names of the columns are looked for, for a message.
MAX_TITLE_ROWS = 50
RELOAD_HINT = "start another run when it is loaded completely"
REWRITE_HINT = "write the file again, completely, and in UTF-8 if it is a text file"


@dataclass(frozen=True)
class LocalFile:
    """A file that a reader can open, or the files of a folder.

    :param paths: the source itself, or a copy of it in UTF-8 and not compressed
    :param kind: `csv` (any text with columns), `jsonl`, `xlsx` or `parquet`
    :param place: what is counted in it: a `line`, or a `record` of a JSON array
    """

    paths: tuple[Path, ...]
    kind: str
    place: str = "line"

    @property
    def path(self) -> Path:
        return self.paths[0]


@dataclass(frozen=True)
class FileScan:
    """How the engine reads a file.

    :param relation: SQL expression, to follow FROM
    :param schema: columns of the file under the names that they have there
    :param names: the engine's names of the plan's columns
    :param engine_names: the engine's names of the columns of the schema, in order; only of needed ones, unless all
        columns were asked for
    :param row: SQL expression of the number of a row as a person sees it; None if the lines have to be looked for
    :param part: SQL expression of the name of the file in which the row is; None for a single file
    :param place: where the names of the columns are, for a message
    :param header_row: number of the row with the names, if another one below has those that are needed
    :param sheets: other sheets that have the needed columns, with the numbers of the rows of their names
    :param cell_types: types of the columns in the file, if the engine has other ones
    :param has_iso_dates: whether texts can be dates of the file in ISO form, whatever `date_format` says
    """

    relation: str
    schema: pa.Schema
    names: dict[str, str]
    engine_names: tuple[str, ...] = ()
    row: str | None = None
    part: str | None = None
    place: str = "it"
    header_row: int | None = None
    sheets: dict[str, int] = field(default_factory=dict)
    cell_types: Sequence[pa.DataType] = ()
    has_iso_dates: bool = False

    @property
    def columns(self) -> pa.Schema:
        """All columns of the file with the types that they have there."""
        types = self.cell_types or self.schema.types
        return pa.schema(list(zip(self.schema.names, types, strict=True)))


def refuse(plan: Plan, problem: str, action: str = REWRITE_HINT) -> SourceError:
    """Return the error about a file that cannot be read."""
    return SourceError(f"source {plan.source!r} cannot be read: {problem}; {action}")


def refuse_change(plan: Plan) -> SourceError:
    return SourceError(f"source {plan.source!r} changed while it was read: {RELOAD_HINT}")


def check_width(plan: Plan, names: Sequence[str]) -> None:
    if len(names) > MAX_COLUMNS:
        raise refuse(plan, f"it has {len(names)} columns, above {MAX_COLUMNS}", "remove columns")


def match_columns(plan: Plan, names: Sequence[str], engine_names: Sequence[str]) -> dict[str, str]:
    """Return the engine's names of those of the plan's columns that the file has."""
    columns = dict(zip(reversed(names), reversed(engine_names), strict=True))
    return {
        name: columns[plan.source_column(name)]
        for name in plan.required_columns
        if plan.source_column(name) in columns
    }


def find_header_row(plan: Plan, rows: Iterable[Sequence[str]], first: int) -> int | None:
    """Return the number of the first row that has the names of all needed columns.

    :param first: number of the first of these rows
    """
    needed = {plan.source_column(name) for name in plan.required_columns}
    return next((number for number, row in enumerate(rows, first) if needed <= set(row)), None)


def path_literal(path: Path) -> str:
    return quote_literal(escape_glob(path))


def define_text_columns(names: Iterable[str]) -> str:
    return "{" + ", ".join(f"{quote_literal(name)}: 'VARCHAR'" for name in names) + "}"
