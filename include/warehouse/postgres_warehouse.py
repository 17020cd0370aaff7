"""PostgreSQL as the warehouse: Arrow in and out by ADBC, which copies in binary; many may write at once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

import pyarrow as pa
from adbc_driver_manager import Error
from adbc_driver_postgresql import dbapi
from psycopg.conninfo import make_conninfo

from include.warehouse.errors import NoSuchTableError, WarehouseError, WarehouseSettingsError, error_of_state
from include.warehouse.warehouse import POSTGRES, ArrowRows, inline_values, number_placeholders, quote_column

#: SQLSTATE of a table, a schema, and a database that are not there.
_NO_SUCH_TABLE = ("42P01", "3F000", "0A000")
#: Class of SQLSTATE of a value that does not fit; what stands from the first quote on is the value.
_DATA, _QUOTE = "22", '"'
#: What a server says that will go on refusing; libpq gives no SQLSTATE for a connection.
_REFUSALS = ("authentication failed", "does not exist", "no pg_hba.conf entry", "permission denied")

log = logging.getLogger(__name__)


class PostgresQuery:
    """The rows of a query as Arrow, for an engine to read: it is run anew whenever they are asked for."""

    def __init__(self, session: PostgresSession, sql: str) -> None:
        self._session, self._sql = session, sql

    def __arrow_c_schema__(self) -> object:
        return self._session.read(f"SELECT * FROM ({self._sql}) AS rows LIMIT 0").schema.__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self._session.read(self._sql).__arrow_c_stream__(requested_schema)


class PostgresSession:
    """One connection to the server.

    :param name: of the warehouse, for messages
    """

    dialect = POSTGRES

    def __init__(self, connection: dbapi.Connection, name: str) -> None:
        self._connection, self._name = connection, name
        self._readers: list[dbapi.Cursor] = []

    def execute(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement with bound values and return its rows."""
        with _told(self._name), self._connection.cursor() as cursor:
            cursor.execute(number_placeholders(sql), values or None)
            return cursor.fetchall() if cursor.description else []

    def read(self, sql: str, values: Sequence[Any] = ()) -> pa.RecordBatchReader:
        """Run a query and stream its rows as Arrow."""
        cursor = self._connection.cursor()
        self._readers.append(cursor)  # the stream ends with its cursor
        with _told(self._name):
            cursor.execute(inline_values(sql, values))  # with bound values the driver holds all rows at once
            return cursor.fetch_record_batch()

    def query(self, sql: str) -> PostgresQuery:
        """Return the rows of a query that may be read more than once."""
        return PostgresQuery(self, sql)

    def columns(self, table: str) -> pa.Schema:
        """Return the names and types of the columns of a table or view."""
        return self.read(f"SELECT * FROM {table} LIMIT 0").schema

    def lock_and_timestamp(self, table: str) -> datetime:
        """Lock a table or view against TRUNCATE and the like, which a snapshot does not outlast, and see the moment
        at which the lock was had: that of a loader which has just filled it."""
        self.execute("SAVEPOINT before_lock")
        try:
            self.execute(f"LOCK TABLE {table} IN ACCESS SHARE MODE")
        except (NoSuchTableError, WarehouseSettingsError):
            raise
        except WarehouseError:  # a materialized view has no lock
            self.execute("ROLLBACK TO SAVEPOINT before_lock")
        return self.now()

    def now(self) -> datetime:
        """The time of the server, UTC."""
        ((moment,),) = self.execute("SELECT clock_timestamp() AT TIME ZONE 'UTC'")
        return moment

    def is_open(self) -> bool:
        """Whether the connection still answers; it ends the transaction, if there is one."""
        try:
            self.execute("ROLLBACK")
        except WarehouseError:
            return False
        return True

    @contextmanager
    def staged(self, name: str, rows: ArrowRows) -> Iterator[None]:
        """Copy `rows` into a temporary table for the statements of the block."""
        with _told(self._name), self._connection.cursor() as cursor:
            cursor.adbc_ingest(name, rows, mode="create", temporary=True)
        self.execute(f"ANALYZE {quote_column(name)}")  # else the planner guesses how large it is
        drop = f"DROP TABLE pg_temp.{quote_column(name)}"
        try:
            yield
        except BaseException:
            with suppress(WarehouseError):  # what broke off a transaction lets nothing else through, and is the news
                self.execute(drop)
            raise
        self.execute(drop)

    @contextmanager
    def transaction(self, lock: str | None = None) -> Iterator[None]:
        """All statements of the block, or none of them; readers go on reading a table that is locked."""
        self.execute("BEGIN")
        try:
            if lock:
                log.info("Locking %s; if another run has it, this waits", lock)
                self.execute(f"LOCK TABLE {lock} IN EXCLUSIVE MODE")
            yield
        except BaseException:
            with suppress(WarehouseError):  # the server may be gone, and the transaction with it
                self.execute("ROLLBACK")
            raise
        self.execute("COMMIT")

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Statements of the block see one moment, and leave nothing."""
        self.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        try:
            yield
        finally:
            with suppress(WarehouseError):
                self.execute("ROLLBACK")

    def close(self) -> None:
        for cursor in self._readers:
            with suppress(Error):  # the connection may be broken
                cursor.close()


class PostgresWarehouse:
    """A warehouse in a PostgreSQL database.

    :param conninfo: returns how libpq connects, a secret: `host=db user=airflow password=...`; it is asked for each
        session, since a password may live for minutes only
    :param name: for messages
    """

    def __init__(self, conninfo: Callable[[], str], name: str) -> None:
        self._conninfo, self.name = conninfo, name

    @contextmanager
    def session(self, *, read_only: bool = False) -> Iterator[PostgresSession]:
        """Connect.

        :raises WarehouseSettingsError: the server refuses the user, or has no such database
        :raises WarehouseError: the server cannot be reached
        """
        with _told(self.name, "cannot be reached"):
            # the driver takes all texts for UTF-8, whatever the database keeps them in
            connection = dbapi.connect(make_conninfo(self._conninfo(), client_encoding="UTF8"), autocommit=True)
        session = PostgresSession(connection, self.name)
        try:
            _check_encoding(session, self.name)
            if read_only:
                with session.snapshot():
                    yield session
            else:
                yield session
        finally:
            session.close()
            with suppress(Error):  # it may be broken
                connection.close()


def _check_encoding(session: PostgresSession, name: str) -> None:
    if session.execute("SELECT current_setting('server_encoding')") == [("SQL_ASCII",)]:
        raise WarehouseSettingsError(
            f"warehouse {name!r} has the encoding SQL_ASCII, which says nothing of its texts: use a database in UTF8"
        )


@contextmanager
def _told(name: str, what: str = "refused a statement or broke off") -> Iterator[None]:
    """Errors of the driver become ours, and nothing of them is chained: but for its first line an error may quote a
    row, and that of a value which does not fit quotes the value."""
    try:
        yield
    except Error as error:
        first = str(error).partition("ERROR:")[2].strip() or str(error)
        said = first.splitlines()[0]
        if (error.sqlstate or "").startswith(_DATA):
            said = f"{said.partition(_QUOTE)[0].rstrip(': ')} (SQLSTATE {error.sqlstate})"
        if "FATAL:" in said and any(words in said for words in _REFUSALS):
            raise WarehouseSettingsError(f"warehouse {name!r} {what}: {said}") from None
        raise error_of_state(name, error.sqlstate, said, what, _NO_SUCH_TABLE) from None
