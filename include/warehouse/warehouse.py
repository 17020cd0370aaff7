"""What every warehouse can do, and in what they differ."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import count
from typing import Any, Protocol

import pyarrow as pa

#: Rows of a batch of Arrow.
BATCH_ROWS = 100_000


@dataclass(frozen=True)
class Dialect:
    """In what the statements of warehouses differ.

    :param name: for messages
    :param text: type of a column for texts of any length
    :param text_bytes: of the longest text that such a column takes; None if no text is too long
    :param has_indexes: whether rows are found by indexes; a store of columns needs none
    """

    name: str
    text: str = "VARCHAR"
    text_bytes: int | None = None
    has_indexes: bool = False


DUCKDB = Dialect("DuckDB")
POSTGRES = Dialect("PostgreSQL", has_indexes=True)
#: A VARCHAR without a length has 256 bytes there.
REDSHIFT = Dialect("Redshift", text="VARCHAR(65535)", text_bytes=65535)


class ArrowRows(Protocol):
    """Rows as Arrow: a reader, a table, or what :meth:`Session.query` returns."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


class Session(Protocol):
    """One connection to a warehouse. Statements are SQL that all dialects share; `?` stands for a bound value.

    :raises NoSuchTableError: a statement names a table that is missing or may not be seen
    :raises WarehouseSettingsError: the user lacks a right
    :raises WarehouseError: anything else, a lost connection say
    """

    dialect: Dialect

    def execute(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows."""

    def read(self, sql: str, values: Sequence[Any] = ()) -> pa.RecordBatchReader:
        """Run a query and stream its rows as Arrow, in any order.

        :param sql: without a LIMIT for all of it, which not every warehouse takes here
        :param values: texts, numbers and dates
        """

    def query(self, sql: str) -> ArrowRows:
        """Return the rows of a query that may be read more than once, one reader after the other."""

    def columns(self, table: str) -> pa.Schema:
        """Return the names and types of the columns of a table or view.

        :param table: its quoted name
        """

    def lock_and_timestamp(self, table: str) -> datetime:
        """Keep others from emptying a table or view until this read-only session ends, before anything else is done
        in it; return the moment that the session sees.

        :param table: its quoted name
        """

    def now(self) -> datetime:
        """The time, UTC and without an offset that would say so: of the server, where one serves many workers."""

    def is_open(self) -> bool:
        """Whether the connection still answers; it ends the transaction, if there is one."""

    def staged(self, name: str, rows: ArrowRows) -> AbstractContextManager[None]:
        """Let statements of the block read `rows` as the relation `name`, as often as they like."""

    def transaction(self, lock: str | None = None) -> AbstractContextManager[None]:
        """All statements of the block, or none of them.

        :param lock: quoted name of a table: no two transactions that lock it run at once
        """


class Warehouse(Protocol):
    """A warehouse.

    :param name: for messages
    """

    name: str

    def session(self, *, read_only: bool = False) -> AbstractContextManager[Session]:
        """Connect.

        :param read_only: the session sees one moment of the warehouse, whatever others write, and keeps nothing
        :raises WarehouseBusyError: others held the warehouse for longer than we wait
        :raises WarehouseSettingsError: it refuses the user, say
        :raises WarehouseError: it cannot be reached
        """


def utc_now() -> datetime:
    """The time of this machine: UTC, and no offset that would say so."""
    return datetime.now(UTC).replace(tzinfo=None)


def quote_table(name: str) -> str:
    """A table's name as SQL: each part of a dotted name in quotes."""
    return ".".join(map(quote_column, name.split(".")))


def quote_column(name: str) -> str:
    """A column's name as SQL: in quotes, its dots and all."""
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """A text as SQL, where no value can be bound."""
    return "'" + text.replace("'", "''") + "'"


def number_placeholders(sql: str) -> str:
    """The statement with `$1`, `$2`, ... for each `?`; those in quotes stay."""
    numbers = count(1)
    return _replace_marks(sql, lambda: f"${next(numbers)}")


def inline_values(sql: str, values: Sequence[Any], write_text: Callable[[str], str] = quote_literal) -> str:
    """The statement with its values written out, for what takes no bound ones.

    :param write_text: a text as SQL of the dialect
    """
    left = iter(values)
    return _replace_marks(sql, lambda: _written(next(left), write_text))


def _replace_marks(sql: str, replacement: Callable[[], str]) -> str:
    return re.sub(r"""'[^']*'|"[^"]*"|\?""", lambda found: replacement() if found[0] == "?" else found[0], sql)


def _written(value: str | int | float | date, write_text: Callable[[str], str]) -> str:
    if isinstance(value, (int, float)):
        return repr(value)
    return f"DATE '{value.isoformat()}'" if isinstance(value, date) else write_text(value)
