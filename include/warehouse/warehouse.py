"""The interface that every warehouse implements, and how their SQL dialects differ."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import count
from typing import Any, Protocol

import pyarrow as pa

#: Maximum rows of an Arrow batch.
BATCH_ROWS = 100_000


@dataclass(frozen=True)
class Dialect:
    """How the SQL of a warehouse differs from that of the others.

    :param name: name for messages
    :param text: column type for texts of any length
    :param text_bytes: maximum bytes of a text in such a column; None if there is no limit
    :param has_indexes: whether tables need indexes; a column store does not
    :param is_embedded: whether it works in the process of the task, within the memory limit of the run
    """

    name: str
    text: str = "VARCHAR"
    text_bytes: int | None = None
    has_indexes: bool = False
    is_embedded: bool = False


DUCKDB = Dialect("DuckDB", is_embedded=True)
POSTGRES = Dialect("PostgreSQL", has_indexes=True)
#: In Redshift a VARCHAR without a length has 256 bytes.
REDSHIFT = Dialect("Redshift", text="VARCHAR(65535)", text_bytes=65535)


class ArrowRows(Protocol):
    """Rows as Arrow: a reader, a table, or the result of :meth:`Session.query`."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


class QueryRows:
    """The rows of a query as Arrow, which another engine can read any number of times.

    :param read: returns a new reader of the rows
    :param read_schema: returns their columns
    """

    def __init__(self, read: Callable[[], pa.RecordBatchReader], read_schema: Callable[[], pa.Schema]) -> None:
        self._read, self._read_schema = read, read_schema

    def __arrow_c_schema__(self) -> object:
        return self._read_schema().__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self._read().__arrow_c_stream__(requested_schema)


class Session(Protocol):
    """One connection to a warehouse. Statements are SQL that all dialects share; `?` is a placeholder for a value.

    :raises NoSuchTableError: a statement names a table that does not exist or is not visible to the user
    :raises WarehouseSettingsError: the user lacks a permission
    :raises WarehouseError: any other failure, such as a lost connection
    """

    dialect: Dialect

    def execute(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows."""

    def read(self, sql: str, values: Sequence[Any] = ()) -> pa.RecordBatchReader:
        """Run a query and stream its rows as Arrow, in any order.

        :param sql: a query without a LIMIT at its outer level, which Redshift does not support here
        :param values: texts, numbers and dates
        """

    def query(self, sql: str) -> ArrowRows:
        """Return the rows of a query, which can be read several times, also at the same time."""

    def look_up_table(self, schema: str, name: str) -> tuple[str, str] | None:
        """Return the schema and the name of a table or view as the catalogue writes them; None if there is none that
        is not temporary.

        :param schema, name: without quotes
        """

    def columns(self, table: str) -> pa.Schema:
        """Return the names and types of the columns of a table or view.

        :param table: its quoted name
        """

    def lock_and_timestamp(self, table: str) -> datetime:
        """Prevent others from emptying a table or view until this read-only session ends, where the warehouse can;
        return the time as of which the session reads it. Call this before any other statement of the session.

        :param table: its quoted name
        """

    def now(self) -> datetime:
        """Return the current time in UTC, without an offset: the server's time if the workers share its clock."""

    def is_open(self) -> bool:
        """Return whether the connection still works. An open transaction is rolled back."""

    def staged(self, name: str, rows: ArrowRows, *, is_largest: bool = False) -> AbstractContextManager[None]:
        """Make `rows` available as the relation `name` to the statements of the block, any number of times.

        :param is_largest: whether the statements join these rows, on the left, with fewer rows on the right
        """

    def transaction(self, lock: str | None = None) -> AbstractContextManager[None]:
        """Commit all statements of the block together, or none of them.

        :param lock: quoted name of a table; transactions that lock the same table run one after the other
        """


class Warehouse(Protocol):
    """A database with the tables that we read and write. Its `name` is for messages."""

    name: str

    def session(self, *, read_only: bool = False) -> AbstractContextManager[Session]:
        """Connect.

        :param read_only: whether the session reads one snapshot, whatever others write, and changes nothing
        :raises WarehouseBusyError: other processes locked the warehouse for longer than the lock timeout
        :raises WarehouseSettingsError: it refuses the connection's settings, for example the user
        :raises WarehouseError: it cannot be reached
        """


def utc_now() -> datetime:
    """Return the time of this machine in UTC, as a datetime without an offset."""
    return datetime.now(UTC).replace(tzinfo=None)


def quote_table(name: str) -> str:
    """Return a table's name as SQL, with each part of a dotted name in quotes."""
    return ".".join(map(quote_column, name.split(".")))


def quote_column(name: str) -> str:
    """Return a column's name as SQL, in quotes; a dot is part of the name."""
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """Return a text as an SQL literal, for places that take no bound values."""
    return "'" + text.replace("'", "''") + "'"


def quote_date(day: date) -> str:
    """Return a date as an SQL literal, for places that take no bound values.

    :raises TypeError: it is not a date
    """
    if not isinstance(day, date):
        raise TypeError(f"expected a date, not a {type(day).__name__}")
    return f"DATE '{day.isoformat()}'"


def number_placeholders(sql: str) -> str:
    """Return the statement with `$1`, `$2`, ... instead of each `?` outside quotes."""
    numbers = count(1)
    return _replace_placeholders(sql, lambda: f"${next(numbers)}")


def inline_values(sql: str, values: Sequence[Any], quote_text: Callable[[str], str] = quote_literal) -> str:
    """Return the statement with its values instead of placeholders, for statements that take no bound values.

    :param quote_text: returns a text as a literal of the dialect
    """
    remaining = iter(values)
    return _replace_placeholders(sql, lambda: _inline_value(next(remaining), quote_text))


def _replace_placeholders(sql: str, replacement: Callable[[], str]) -> str:
    return re.sub(r"""'[^']*'|"[^"]*"|\?""", lambda match: replacement() if match[0] == "?" else match[0], sql)


def _inline_value(value: str | int | float | date, quote_text: Callable[[str], str]) -> str:
    if isinstance(value, (int, float)):
        return repr(value)
    return quote_date(value) if isinstance(value, date) else quote_text(value)
