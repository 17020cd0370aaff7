"""The embedded warehouse: one DuckDB file, one writer at a time, and the others wait."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

import duckdb
import pyarrow as pa

from include.warehouse.errors import NoSuchTableError, WarehouseBusyError, WarehouseError
from include.warehouse.warehouse import BATCH_ROWS, DUCKDB, ArrowRows, utc_now

#: Seconds to wait for another process, seconds between looks, and seconds between lines that say so.
PATIENCE, LOOK, SAY = 3600.0, 0.2, 10.0
MEMORY_MB = 192

log = logging.getLogger(__name__)


class Query:
    """The rows of a query as Arrow, for another engine to read: it is run anew whenever they are asked for.

    :param values: of the query's `$names`
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, sql: str, values: Mapping[str, Any] | None = None
    ) -> None:
        self._connection, self._sql, self._values = connection, sql, values

    def __arrow_c_schema__(self) -> object:
        return self._run(f"SELECT * FROM ({self._sql}) LIMIT 0").schema.__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self._run(self._sql).__arrow_c_stream__(requested_schema)

    def _run(self, sql: str) -> pa.RecordBatchReader:
        # a cursor, since a connection has one result at a time and a join may read several queries at once
        return self._connection.cursor().sql(sql, params=self._values).to_arrow_reader(BATCH_ROWS)


class DuckDBSession:
    """One connection to the warehouse.

    :param memory_mb: megabytes that it takes before it spills to disk
    """

    dialect = DUCKDB

    def __init__(self, connection: duckdb.DuckDBPyConnection, memory_mb: int) -> None:
        self._connection = connection
        connection.execute(f"SET memory_limit = '{memory_mb}MB'")
        # a table that is missing must not be taken for a Python variable of the same name
        connection.execute("SET python_enable_replacements = false")
        connection.execute("SET enable_progress_bar = false")  # else it draws one into the task's log

    def execute(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement with bound values and return its rows."""
        try:
            return self._connection.execute(sql, values).fetchall()
        except duckdb.CatalogException as error:
            raise NoSuchTableError(str(error)) from error

    def read(self, sql: str, values: Sequence[Any] = ()) -> pa.RecordBatchReader:
        """Run a query and stream its rows as Arrow."""
        try:
            return self._connection.sql(sql, params=values or None).to_arrow_reader(BATCH_ROWS)
        except duckdb.CatalogException as error:
            raise NoSuchTableError(str(error)) from error

    def query(self, sql: str) -> Query:
        """Return the rows of a query that may be read more than once."""
        return Query(self._connection, sql)

    def columns(self, table: str) -> pa.Schema:
        """Return the names and types of the columns of a table or view."""
        return self.read(f"SELECT * FROM {table} LIMIT 0").schema

    def lock_and_timestamp(self, table: str) -> datetime:
        """The moment that a read-only session sees: nobody writes to the file while it is read."""
        return utc_now()

    def now(self) -> datetime:
        """The time, UTC."""
        return utc_now()

    def is_open(self) -> bool:
        """Whether the connection still answers: a file always does."""
        return True

    @contextmanager
    def staged(self, name: str, rows: ArrowRows) -> Iterator[None]:
        """Let statements of the block read `rows` as the relation `name`, as often as they like."""
        self._connection.register(name, rows)
        try:
            yield
        except BaseException:
            with suppress(duckdb.Error):  # what broke off a transaction lets nothing else through, and is the news
                self._connection.unregister(name)
            raise
        self._connection.unregister(name)

    @contextmanager
    def transaction(self, lock: str | None = None) -> Iterator[None]:
        """All statements of the block, or none of them. The file has one writer: nothing else has to be locked."""
        self._connection.execute("BEGIN")
        try:
            yield
        except BaseException:
            with suppress(duckdb.Error):  # it may be over already
                self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")


class DuckDBWarehouse:
    """A warehouse in one DuckDB file. The file is locked by the process that writes; others wait their turn.

    :param connect: opens the file; its argument says whether read-only
    :param name: for messages
    :param memory_mb: megabytes that a connection takes before it spills to disk
    :param patience: seconds to wait for another process before :class:`WarehouseBusyError`
    """

    def __init__(
        self,
        connect: Callable[[bool], duckdb.DuckDBPyConnection],
        name: str,
        *,
        memory_mb: int = MEMORY_MB,
        patience: float = PATIENCE,
    ) -> None:
        self._connect, self.name, self._memory_mb, self._patience = connect, name, memory_mb, patience

    @contextmanager
    def session(self, *, read_only: bool = False) -> Iterator[DuckDBSession]:
        """Yield a connection; any number may read at once, a writer is alone.

        :raises WarehouseBusyError: others held the file for longer than we wait
        :raises WarehouseError: the file cannot be opened
        """
        connection = self._wait(read_only)
        try:
            yield DuckDBSession(connection, self._memory_mb)
        finally:
            connection.close()

    def _wait(self, read_only: bool) -> duckdb.DuckDBPyConnection:
        start = said = time.monotonic()
        while True:
            try:
                return self._connect(read_only)
            except duckdb.IOException as error:
                if "Could not set lock" not in str(error):
                    raise WarehouseError(f"warehouse {self.name!r} cannot be opened: {error}") from error
                now = time.monotonic()
                if now - start > self._patience:
                    raise WarehouseBusyError(
                        f"warehouse {self.name!r} was held by another process for {self._patience:.0f} s: {error}"
                    ) from error
                if now - said > SAY:
                    said = now
                    log.info("Waiting for warehouse %r, held by another process (%.0f s)", self.name, now - start)
            time.sleep(LOOK)
