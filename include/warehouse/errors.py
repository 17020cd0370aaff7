"""What can go wrong with a warehouse."""

from __future__ import annotations


class WarehouseError(Exception):
    """The warehouse cannot be reached, breaks off, or refuses a statement; it may pass."""


class WarehouseSettingsError(WarehouseError):
    """The Airflow connection of the warehouse, the rights of its user or the version of the tables do not fit;
    somebody has to act."""


class WarehouseBusyError(WarehouseError):
    """Another process has held the embedded warehouse for longer than we wait."""


class NoSuchTableError(WarehouseError):
    """A table or view does not exist, or may not be seen."""
