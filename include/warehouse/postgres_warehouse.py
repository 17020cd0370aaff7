"""PostgreSQL as the warehouse. ADBC reads and writes Arrow with binary COPY; any number of sessions can write."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from datetime import datetime
from functools import partial
from typing import Any

import pyarrow as pa
from adbc_driver_manager import Error
from adbc_driver_postgresql import dbapi
from psycopg.conninfo import make_conninfo

from include.warehouse.errors import NoSuchTableError, WarehouseError, WarehouseSettingsError
from include.warehouse.server import ServerError, ServerSession, translate_errors
from include.warehouse.warehouse import (
    POSTGRES,
    ArrowRows,
    QueryRows,
    inline_values,
    number_placeholders,
    quote_column,
)

#: SQLSTATEs of a missing table, schema and database.
_MISSING_TABLE_STATES = ("42P01", "3F000", "0A000")
#: Fields of an error that name what it is about.
_OBJECT_FIELDS = {
    "PG_DIAG_SCHEMA_NAME": "schema", "PG_DIAG_TABLE_NAME": "table", "PG_DIAG_COLUMN_NAME": "column",
    "PG_DIAG_DATATYPE_NAME": "type", "PG_DIAG_CONSTRAINT_NAME": "constraint",
}  # fmt: skip
#: Messages of refused connections, for which libpq gives no SQLSTATE; another attempt is refused too.
_REFUSALS = ("authentication failed", "does not exist", "no pg_hba.conf entry", "permission denied")


def _parse_error(error: Error) -> ServerError:
    text, state = str(error), error.sqlstate or ""
    fields = {_decode(name): _decode(value) for name, value in error.details or ()}
    return ServerError(
        fields.get("PG_DIAG_MESSAGE_PRIMARY") or text,
        state,
        kind=f"{type(error).__name__}, {error.status_code.name}",
        objects={kind: fields[name] for name, kind in _OBJECT_FIELDS.items() if name in fields},
        is_refusal="FATAL:" in text and any(refusal in text for refusal in _REFUSALS),
        is_connecting=not state and "Failed to connect" in text,
    )


def _decode(text: str | bytes) -> str:
    return text.decode(errors="replace") if isinstance(text, bytes) else text


_translate_errors = partial(
    translate_errors, driver_errors=Error, parse=_parse_error, missing_table_states=_MISSING_TABLE_STATES
)


class PostgresSession(ServerSession):
    """One connection to the server."""

    dialect = POSTGRES
    _begin_snapshot = "BEGIN ISOLATION LEVEL REPEATABLE READ"
    _lock_mode = " IN EXCLUSIVE MODE"  # others can still read the table

    def __init__(self, connection: dbapi.Connection, name: str) -> None:
        super().__init__(connection, name)
        self._cursors: list[dbapi.Cursor] = []

    def execute(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with _translate_errors(self._name), self._connection.cursor() as cursor:
            cursor.execute(number_placeholders(sql), values or None)
            return cursor.fetchall() if cursor.description else []

    def read(self, sql: str, values: Sequence[Any] = ()) -> pa.RecordBatchReader:
        cursor = self._connection.cursor()
        self._cursors.append(cursor)  # closing the cursor would end the stream
        with _translate_errors(self._name):
            cursor.execute(inline_values(sql, values))  # with bound values the driver loads all rows into memory
            return cursor.fetch_record_batch()

    def query(self, sql: str) -> QueryRows:
        """Return the rows of a query, which runs again for each reader."""
        return QueryRows(lambda: self.read(sql), lambda: self.columns(f"({sql}) AS query"))

    def columns(self, table: str) -> pa.Schema:
        return self.read(f"SELECT * FROM {table} LIMIT 0").schema  # noqa: S608

    def lock_and_timestamp(self, table: str) -> datetime:
        """Lock a table or view against TRUNCATE, from which a snapshot does not protect, and return the time at which
        the lock was acquired. A load that delayed the lock is part of what the session reads."""
        self.execute("SAVEPOINT before_lock")
        try:
            self.execute(f"LOCK TABLE {table} IN ACCESS SHARE MODE")
        except (NoSuchTableError, WarehouseSettingsError):
            raise
        except WarehouseError:  # a materialized view cannot be locked
            self.execute("ROLLBACK TO SAVEPOINT before_lock")
        return self.now()

    def now(self) -> datetime:
        """Return the server's time in UTC."""
        ((moment,),) = self.execute("SELECT clock_timestamp() AT TIME ZONE 'UTC'")
        return moment

    def _create_staging_table(self, name: str, rows: ArrowRows) -> str:
        with _translate_errors(self._name), self._connection.cursor() as cursor:
            cursor.adbc_ingest(name, rows, mode="create", temporary=True)
        self.execute(f"ANALYZE {quote_column(name)}")  # without statistics the planner guesses its size
        return f"pg_temp.{quote_column(name)}"

    def close(self) -> None:
        """Close the connection and its cursors."""
        for resource in (*self._cursors, self._connection):
            with suppress(Error):  # the connection can be lost
                resource.close()


class PostgresWarehouse:
    """A warehouse in a PostgreSQL database.

    :param get_conninfo: returns a secret, the connection string of libpq: `host=db user=airflow password=...`. It is
        called for each session, since a password can expire within minutes
    :param name: name for messages
    """

    def __init__(self, get_conninfo: Callable[[], str], name: str) -> None:
        self._get_conninfo, self.name = get_conninfo, name

    @contextmanager
    def session(self, *, read_only: bool = False) -> Iterator[PostgresSession]:
        """Connect.

        :raises WarehouseSettingsError: the server refuses the user, or has no such database
        :raises WarehouseError: the server cannot be reached
        """
        with _translate_errors(self.name, "cannot be reached"):
            # the driver decodes texts as UTF-8, whatever the encoding of the database
            connection = dbapi.connect(make_conninfo(self._get_conninfo(), client_encoding="UTF8"), autocommit=True)
        with closing(PostgresSession(connection, self.name)) as session:
            _check_encoding(session, self.name)
            with session.snapshot() if read_only else nullcontext():
                yield session


def _check_encoding(session: PostgresSession, name: str) -> None:
    if session.execute("SELECT current_setting('server_encoding')") == [("SQL_ASCII",)]:
        raise WarehouseSettingsError(
            f"warehouse {name!r} has the encoding SQL_ASCII, which does not define how texts are encoded: use a"
            " database in UTF8"
        )
