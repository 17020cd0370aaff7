"""What PostgreSQL and Redshift share: transactions, snapshots and staging tables in plain SQL, and their errors."""

from __future__ import annotations

import logging
import re
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg.errors

from include.warehouse.errors import NoSuchTableError, WarehouseError, WarehouseSettingsError
from include.warehouse.warehouse import ArrowRows, Session

#: Classes of SQLSTATEs whose texts contain only names, of tables, columns, users, settings and the like: connections,
#: unsupported features, transactions, logins, missing databases, syntax and access, resources, locks, shutdowns.
_STATES_ABOUT_NAMES = ("08", "0A", "25", "28", "3D", "3F", "42", "53", "55", "57")
#: SQLSTATE of a missing permission.
_PERMISSION_DENIED = "42501"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServerError:
    """What a server reported about a failure.

    :param text: its own text, which can quote the values of a row
    :param state: its SQLSTATE; empty if there is none
    :param kind: what kind of failure it is if there is no SQLSTATE
    :param objects: what it is about: names by kind, such as `table` and `column`
    :param is_refusal: whether the server refuses the settings of the connection
    :param is_connecting: whether no statement had been sent yet
    """

    text: str
    state: str = ""
    kind: str = ""
    objects: Mapping[str, str] = field(default_factory=dict)
    is_refusal: bool = False
    is_connecting: bool = False

    @property
    def message(self) -> str:
        """One line without any value of a row."""
        if self.is_connecting or self.state.startswith(_STATES_ABOUT_NAMES):
            return self.text.splitlines()[0]
        kind = f"{_name_condition(self.state)} (SQLSTATE {self.state})" if self.state else self.kind
        return ", ".join([kind, *(f"{name} {value!r}" for name, value in self.objects.items())])


def _name_condition(state: str) -> str:
    """Return the name of an SQLSTATE: "division by zero"."""
    try:
        name = psycopg.errors.lookup(state).__name__
    except KeyError:
        return "an error"
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).strip("_").lower()


@contextmanager
def translate_errors(
    warehouse: str,
    failure: str = "rejected a statement or closed the connection",
    *,
    driver_errors: type[Exception] | tuple[type[Exception], ...],
    parse: Callable[[Any], ServerError],
    missing_table_states: Collection[str],
) -> Iterator[None]:
    """Raise a driver's errors as ours. They are not chained, since a driver's error can quote a row of a table, or a
    statement with its credentials.

    :param failure: what the warehouse did, for the message
    :param parse: returns what the server reported
    :param missing_table_states: SQLSTATEs of a missing table, schema or database
    """
    try:
        yield
    except driver_errors as exception:
        error, prefix = parse(exception), f"warehouse {warehouse!r}"
        if error.state in missing_table_states:
            raise NoSuchTableError(f"{prefix}: {error.message}") from None
        if error.state == _PERMISSION_DENIED:
            raise WarehouseSettingsError(
                f"{prefix}: {error.message}; grant it to the user of the connection"
            ) from None
        error_class = WarehouseSettingsError if error.is_refusal else WarehouseError
        raise error_class(f"{prefix} {failure}: {error.message}") from None


class ServerSession(Session):
    """One connection to a server.

    :param connection: connection of the server's driver, which commits each statement outside a transaction
    :param name: name of the warehouse, for messages
    """

    _begin_snapshot = "BEGIN"
    _lock_mode = ""

    def __init__(self, connection: Any, name: str) -> None:
        self._connection, self._name = connection, name

    @abstractmethod
    def _create_staging_table(self, name: str, rows: ArrowRows) -> str:
        """Copy rows into a new temporary table and return its name as SQL."""

    def look_up_table(self, schema: str, name: str) -> tuple[str, str] | None:
        # Unlike information_schema, this has materialized views. Temporary tables are in schemas of their own.
        rows = self.execute(
            "SELECT count(*) FROM pg_class JOIN pg_namespace ON pg_namespace.oid = pg_class.relnamespace"
            " WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND nspname = ? AND relname = ?",
            [schema, name],
        )
        return (schema, name) if rows != [(0,)] else None

    def is_open(self) -> bool:
        try:
            self.execute("ROLLBACK")
        except WarehouseError:
            return False
        return True

    @contextmanager
    def staged(self, name: str, rows: ArrowRows, *, is_largest: bool = False) -> Iterator[None]:
        """Copy `rows` into a temporary table for the statements of the block."""
        drop = f"DROP TABLE {self._create_staging_table(name, rows)}"
        try:
            yield
        except BaseException:
            with suppress(WarehouseError):  # a failed transaction rejects it too, which must not hide the first error
                self.execute(drop)
            raise
        self.execute(drop)

    @contextmanager
    def transaction(self, lock: str | None = None) -> Iterator[None]:
        self.execute("BEGIN")
        try:
            if lock:  # this comes first, since the first statement can determine the snapshot
                log.info("Locking %s; this waits while another run holds the lock", lock)
                self.execute(f"LOCK TABLE {lock}{self._lock_mode}")
            yield
        except BaseException:
            self._roll_back()
            raise
        self.execute("COMMIT")

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Let all statements of the block read one snapshot, and undo whatever they change."""
        self.execute(self._begin_snapshot)
        try:
            yield
        finally:
            self._roll_back()

    def _roll_back(self) -> None:
        with suppress(WarehouseError):  # a lost connection has ended the transaction already
            self.execute("ROLLBACK")
