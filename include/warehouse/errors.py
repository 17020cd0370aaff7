"""What can go wrong with a warehouse."""

from __future__ import annotations

from collections.abc import Collection

#: SQLSTATE of a right that is missing.
_NO_RIGHT = "42501"


class WarehouseError(Exception):
    """The warehouse cannot be reached, breaks off, or refuses a statement; it may pass."""


class WarehouseSettingsError(WarehouseError):
    """The Airflow connection of the warehouse, the rights of its user or the version of the tables do not fit;
    somebody has to act."""


class WarehouseBusyError(WarehouseError):
    """Another process has held the embedded warehouse for longer than we wait."""


class NoSuchTableError(WarehouseError):
    """A table or view does not exist, or may not be seen."""


def error_of_state(
    warehouse: str, state: str | None, said: str, what: str, no_such_table: Collection[str]
) -> WarehouseError:
    """Return the error that a server's SQLSTATE stands for.

    :param warehouse: its name
    :param said: the server's words, one line that quotes no row
    :param what: the warehouse did, if it is nothing else
    :param no_such_table: states of a table, a schema or a database that is not there
    """
    if state in no_such_table:
        return NoSuchTableError(f"warehouse {warehouse!r}: {said}")
    if state == _NO_RIGHT:
        return WarehouseSettingsError(f"warehouse {warehouse!r}: {said}; grant it to the user of the connection")
    return WarehouseError(f"warehouse {warehouse!r} {what}: {said}")
