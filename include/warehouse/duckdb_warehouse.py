"""The embedded warehouse: one DuckDB file, which one process writes while all others wait."""

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
from include.warehouse.warehouse import BATCH_ROWS, DUCKDB, ArrowRows, QueryRows, Session, utc_now

#: How long a session waits for a file that another process locks, how often it retries, and how often it logs that.
LOCK_TIMEOUT_S, LOCK_POLL_INTERVAL_S, LOCK_LOG_INTERVAL_S = 3600.0, 0.2, 10.0
MEMORY_MB = 192

log = logging.getLogger(__name__)


class Query(QueryRows):
    """The rows of a query as Arrow. The query runs again for each reader.

    :param values: values of the query's `$names`
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, sql: str, values: Mapping[str, Any] | None = None
    ) -> None:
        def run(sql: str) -> pa.RecordBatchReader:
            # in a cursor of its own, since a connection has one result and a join can read several queries at once
            return connection.cursor().sql(sql, params=values).to_arrow_reader(BATCH_ROWS)

        super().__init__(lambda: run(sql), lambda: run(f"SELECT * FROM ({sql}) LIMIT 0").schema)


class DuckDBSession(Session):
    """One connection to the warehouse.

    :param memory_mb: megabytes that it uses before it spills to disk
    """

    dialect = DUCKDB

    def __init__(self, connection: duckdb.DuckDBPyConnection, memory_mb: int) -> None:
        self._connection = connection
        connection.execute(f"SET memory_limit = '{memory_mb}MB'")
        # else the name of a missing table could refer to a Python variable
        connection.execute("SET python_enable_replacements = false")
        connection.execute("SET enable_progress_bar = false")  # else it is written to the task's log

    def execute(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(sql, values).fetchall()
        except duckdb.CatalogException as error:
            raise NoSuchTableError(str(error)) from error

    def read(self, sql: str, values: Sequence[Any] = ()) -> pa.RecordBatchReader:
        try:
            return self._connection.sql(sql, params=values or None).to_arrow_reader(BATCH_ROWS)
        except duckdb.CatalogException as error:
            raise NoSuchTableError(str(error)) from error

    def query(self, sql: str) -> Query:
        """Return the rows of a query, which runs again for each reader."""
        return Query(self._connection, sql)

    def columns(self, table: str) -> pa.Schema:
        return self.read(f"SELECT * FROM {table} LIMIT 0").schema

    def lock_and_timestamp(self, table: str) -> datetime:
        """Return the current time in UTC. No lock is needed: nobody writes to the file while it is read."""
        return utc_now()

    def now(self) -> datetime:
        return utc_now()

    def is_open(self) -> bool:
        """Return True: the connection is to a file, which cannot be lost."""
        return True

    @contextmanager
    def staged(self, name: str, rows: ArrowRows) -> Iterator[None]:
        self._connection.register(name, rows)
        try:
            yield
        except BaseException:
            with suppress(duckdb.Error):  # a failed transaction rejects it too, which must not hide the first error
                self._connection.unregister(name)
            raise
        self._connection.unregister(name)

    @contextmanager
    def transaction(self, lock: str | None = None) -> Iterator[None]:
        """Commit all statements of the block together, or none of them. The file has only one writer, so no table is
        locked."""
        self._connection.execute("BEGIN")
        try:
            yield
        except BaseException:
            with suppress(duckdb.Error):  # the transaction can have ended already
                self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")


class DuckDBWarehouse:
    """A warehouse in one DuckDB file. While a process writes to the file, others wait.

    :param connect: opens the file, read-only if its argument is True
    :param name: name for messages
    :param memory_mb: megabytes that a session uses before it spills to disk
    :param lock_timeout_s: seconds to wait for other processes before :class:`WarehouseBusyError`
    """

    def __init__(
        self,
        connect: Callable[[bool], duckdb.DuckDBPyConnection],
        name: str,
        *,
        memory_mb: int = MEMORY_MB,
        lock_timeout_s: float = LOCK_TIMEOUT_S,
    ) -> None:
        self._connect, self.name, self._memory_mb, self._lock_timeout_s = connect, name, memory_mb, lock_timeout_s

    @contextmanager
    def session(self, *, read_only: bool = False) -> Iterator[DuckDBSession]:
        """Connect. Any number of processes can read at the same time; a writer needs the file for itself.

        :raises WarehouseBusyError: other processes locked the file for longer than the timeout
        :raises WarehouseError: the file cannot be opened
        """
        connection = self._wait_for_connection(read_only)
        try:
            yield DuckDBSession(connection, self._memory_mb)
        finally:
            connection.close()

    def _wait_for_connection(self, read_only: bool) -> duckdb.DuckDBPyConnection:
        start = last_logged = time.monotonic()
        while True:
            try:
                return self._connect(read_only)
            except duckdb.IOException as error:
                if "Could not set lock" not in str(error):
                    raise WarehouseError(f"warehouse {self.name!r} cannot be opened: {error}") from error
                now = time.monotonic()
                if now - start > self._lock_timeout_s:
                    raise WarehouseBusyError(
                        f"warehouse {self.name!r} was locked by another process for {self._lock_timeout_s:.0f} s:"
                        f" {error}"
                    ) from error
                if now - last_logged > LOCK_LOG_INTERVAL_S:
                    last_logged = now
                    log.info("Waiting for warehouse %r, locked by another process (%.0f s)", self.name, now - start)
            time.sleep(LOCK_POLL_INTERVAL_S)
