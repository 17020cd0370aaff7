"""The embedded warehouse: one DuckDB file, which one process writes while all others wait."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, TypeVar

import duckdb
import pyarrow as pa

from include.warehouse.errors import (
    NoSuchTableError,
    WarehouseBusyError,
    WarehouseError,
    WarehouseSettingsError,
)
from include.warehouse.warehouse import BATCH_ROWS, DUCKDB, ArrowRows, QueryRows, Session, utc_now

#: How long a session waits for a file that another process locks, how often it retries, and how often it logs that.
LOCK_TIMEOUT_S, LOCK_POLL_INTERVAL_S, LOCK_LOG_INTERVAL_S = 3600.0, 0.2, 10.0
MEMORY_MB = 192
#: Reasons, in the words of the system or of DuckDB, why a file cannot be opened.
_OPEN_FAILURES = (
    "No such file or directory", "Permission denied", "Read-only file system", "No space left on device",
    "not a valid DuckDB database file",
)  # fmt: skip

#: What DuckDB can say about a statement that it rejects, without a value or a name.
_REFUSALS = ("attached in read-only mode", "NOT NULL constraint failed", "Duplicate key", "Could not convert")
#: Settings with which a statement needs the least memory: one thread works on one block of rows at a time, and no row
#: waits for others to be in order.
_LEAST_MEMORY_SETTINGS = {
    "threads": "1",
    "preserve_insertion_order": "false",
    "write_buffer_row_group_count": "1",
    "enable_external_file_cache": "false",
}
#: Settings that can change after :func:`restrict_access`: those of :func:`save_memory`, and those of each session.
_CHANGEABLE_SETTINGS = [
    *_LEAST_MEMORY_SETTINGS, "operator_memory_limit", "memory_limit", "enable_progress_bar", "disabled_optimizers"
]  # fmt: skip
#: With them, the hash tables and sorts of a statement may fill one of this many parts of the memory.
_OPERATOR_PARTS = 3

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")


def is_out_of_memory(error: duckdb.Error) -> bool:
    """Return whether DuckDB ran out of memory, possibly in a query whose rows it was reading."""
    return isinstance(error, duckdb.OutOfMemoryException) or "Out of Memory Error" in str(error)


def save_memory(connection: duckdb.DuckDBPyConnection) -> None:
    """Let a connection run its next statements with as little memory as possible. They take longer.

    DuckDB keeps a hash table in memory if it just fits, without knowing what the other operators of the statement
    will need. So at any memory limit, there are numbers of rows with which the whole does not fit, while it does with
    more rows, because then the hash table is on disk.
    """
    log.info("A statement needs more memory than the data engine may use: it is repeated, with more of it on disk")
    for name, value in _LEAST_MEMORY_SETTINGS.items():
        connection.execute(f"SET {name} = {value}")
    limit_bytes = "parse_formatted_bytes(current_setting('memory_limit'))"
    ((operator_bytes,),) = connection.execute(f"SELECT {limit_bytes} // {_OPERATOR_PARTS}").fetchall()
    connection.execute(f"SET operator_memory_limit = '{operator_bytes}B'")


def restrict_access(
    connection: duckdb.DuckDBPyConnection, folders: Sequence[str] = (), patterns: Sequence[str] = ()
) -> None:
    """Let all connections of this process to a database use no files except its own and these, load no extension,
    see no Python variable, and change no settings except those that a session needs.

    Without this, DuckDB takes the quoted name of a missing table for a file, and a view can read any file.

    :param folders: folders whose files they can read and write, as the statements name them
    :param patterns: paths of other files, as the statements name them
    """
    ((is_restricted,),) = connection.execute("SELECT current_setting('lock_configuration')").fetchall()
    if is_restricted:  # by another connection of this process
        return
    settings = {
        "python_enable_replacements": False,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "allow_community_extensions": False,
        "allowed_directories": list(folders),
        "allowed_paths": list(patterns),
        "enable_external_access": False,
        "allowed_configs": _CHANGEABLE_SETTINGS,
        "lock_configuration": True,
    }
    for name, value in settings.items():
        connection.execute(f"SET GLOBAL {name} = ?", [value])


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

        super().__init__(lambda: run(sql), lambda: run(f"SELECT * FROM ({sql}) LIMIT 0").schema)  # noqa: S608


@contextmanager
def _translate_errors(name: str) -> Iterator[None]:
    """Raise the errors of DuckDB as ours. They are not chained, and only the names of missing tables are passed on of
    their text, because it can quote the values of a row."""
    try:
        yield
    except duckdb.CatalogException as error:
        raise NoSuchTableError(f"warehouse {name!r}: {str(error).splitlines()[0]}") from None
    except duckdb.PermissionException:
        raise WarehouseSettingsError(
            f"warehouse {name!r} rejected a statement, because it uses a file, or a table that does not exist and has"
            " the name of one: check the name, and load the rows of a file into a table instead of reading them in a"
            " view"
        ) from None
    except duckdb.Error as error:
        kind = type(error).__name__
        if is_out_of_memory(error):
            raise WarehouseError(
                f"warehouse {name!r} ran out of memory, although the statement was repeated with less: raise"
                " CODING_MEMORY_MB, or free space on the disk of the warehouse"
            ) from None
        if isinstance(error, duckdb.IOException):
            raise WarehouseError(
                f"warehouse {name!r} cannot read or write its files ({kind}): check the free space and the"
                " permissions of its folder"
            ) from None
        reason = next((reason for reason in _REFUSALS if reason in str(error)), "a value or a name does not fit")
        raise WarehouseError(
            f"warehouse {name!r} rejected a statement ({kind}): {reason}; see the traceback for the step, and check"
            " the tables and views that it reads"
        ) from None


class DuckDBSession(Session):
    """One connection to the warehouse.

    If a statement runs out of memory, it is repeated with less memory. If it is part of a transaction, which has then
    been rolled back, all earlier statements of the transaction are repeated before it. They have the same results as
    before, since nobody else can write to the file.

    :param name: name of the warehouse, for messages
    :param memory_mb: megabytes that it uses before it spills to disk
    """

    dialect = DUCKDB

    def __init__(self, connection: duckdb.DuckDBPyConnection, name: str, memory_mb: int) -> None:
        self._connection, self._name = connection, name
        self._saves_memory = False
        self._transaction: list[Callable[[], object]] | None = None  # what the open transaction has done
        restrict_access(connection)
        connection.execute(f"SET memory_limit = '{memory_mb}MB'")
        connection.execute("SET enable_progress_bar = false")  # else it is written to the task's log

    def execute(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._run(lambda: self._connection.execute(sql, values).fetchall())

    def read(self, sql: str, values: Sequence[Any] = ()) -> pa.RecordBatchReader:
        return self._run(lambda: self._connection.sql(sql, params=values or None).to_arrow_reader(BATCH_ROWS))

    def query(self, sql: str) -> Query:
        """Return the rows of a query, which runs again for each reader."""
        return Query(self._connection, sql)

    def look_up_table(self, schema: str, name: str) -> tuple[str, str] | None:
        tables = (
            "SELECT database_name, schema_name, table_name AS name FROM duckdb_tables() UNION ALL"
            " SELECT database_name, schema_name, view_name FROM duckdb_views()"
        )
        rows = self.execute(  # DuckDB ignores the case of names
            f"SELECT schema_name, name FROM ({tables}) WHERE database_name = current_database()"  # noqa: S608
            " AND lower(schema_name) = lower(?) AND lower(name) = lower(?)",
            [schema, name],
        )
        return (rows[0][0], rows[0][1]) if rows else None

    def columns(self, table: str) -> pa.Schema:
        with _translate_errors(self._name):
            try:
                return self._connection.sql(f"SELECT * FROM {table} LIMIT 0").to_arrow_reader().schema  # noqa: S608
            except (duckdb.CatalogException, duckdb.BinderException, duckdb.ParserException):
                raise NoSuchTableError(f"warehouse {self._name!r} has no table or view {table}") from None

    def lock_and_timestamp(self, table: str) -> datetime:
        """Return the current time in UTC. No lock is needed: nobody writes to the file while it is read."""
        return utc_now()

    def now(self) -> datetime:
        return utc_now()

    def is_open(self) -> bool:
        """Return True: the connection is to a file, which cannot be lost."""
        return True

    @contextmanager
    def staged(self, name: str, rows: ArrowRows, *, is_largest: bool = False) -> Iterator[None]:
        self._run(lambda: self._connection.register(name, rows))
        if is_largest:
            self._expect_many_rows(True)
        try:
            yield
        except BaseException:
            # a failed transaction rejects them too, which must not hide the first error
            with suppress(duckdb.Error, WarehouseError):
                self._connection.unregister(name)
                if is_largest:
                    self._expect_many_rows(False)
            raise
        self._run(lambda: self._connection.unregister(name))
        if is_largest:
            self._expect_many_rows(False)

    def _expect_many_rows(self, is_largest: bool) -> None:
        """Build the hash table of a join from its right side, because DuckDB takes a stream for a small table, and
        insert rows in any order, which takes less time and memory."""
        optimizers, is_ordered = "build_side_probe_side" if is_largest else "", not (is_largest or self._saves_memory)
        self._run(lambda: self._connection.execute(f"SET disabled_optimizers = '{optimizers}'"))
        self._run(lambda: self._connection.execute(f"SET preserve_insertion_order = {is_ordered}"))

    @contextmanager
    def transaction(self, lock: str | None = None) -> Iterator[None]:
        """Commit all statements of the block together, or none of them. The file has only one writer, so no table is
        locked."""
        self._connection.execute("BEGIN")
        self._transaction = []
        try:
            yield
            self._run(lambda: self._connection.execute("COMMIT"))
        except BaseException:
            self._roll_back()
            raise
        finally:
            self._transaction = None

    def _roll_back(self) -> None:
        with suppress(duckdb.Error):  # the transaction can have ended already
            self._connection.execute("ROLLBACK")

    def _run(self, action: Callable[[], _Result]) -> _Result:
        """Return the result of an action; repeat it if it runs out of memory."""
        with _translate_errors(self._name):
            try:
                result = action()
            except duckdb.Error as error:
                if self._saves_memory or not is_out_of_memory(error):
                    raise
                self._saves_memory = True
                self._start_with_less_memory()
                result = action()
        if self._transaction is not None:
            self._transaction.append(action)
        return result

    def _start_with_less_memory(self) -> None:
        """Change the settings of the connection, and repeat what the open transaction has done."""
        if self._transaction is not None:
            self._roll_back()
        save_memory(self._connection)
        if self._transaction is not None:
            self._connection.execute("BEGIN")
            for action in self._transaction:
                action()


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
            yield DuckDBSession(connection, self.name, self._memory_mb)
        finally:
            connection.close()

    def _wait_for_connection(self, read_only: bool) -> duckdb.DuckDBPyConnection:
        start = last_logged = time.monotonic()
        while True:
            try:
                return self._connect(read_only)
            except duckdb.Error as error:
                if "Could not set lock" not in str(error):
                    reason = next((reason for reason in _OPEN_FAILURES if reason in str(error)), "it cannot be read")
                    raise WarehouseError(
                        f"warehouse {self.name!r} cannot be opened: {reason}; check the path in its connection, its"
                        " permissions, and the version of DuckDB that wrote it"
                    ) from None
                now = time.monotonic()
                if now - start > self._lock_timeout_s:
                    raise WarehouseBusyError(
                        f"warehouse {self.name!r} was locked by another process for {self._lock_timeout_s:.0f} s"
                    ) from None
                if now - last_logged > LOCK_LOG_INTERVAL_S:
                    last_logged = now
                    log.info("Waiting for warehouse %r, locked by another process (%.0f s)", self.name, now - start)
            time.sleep(LOCK_POLL_INTERVAL_S)
