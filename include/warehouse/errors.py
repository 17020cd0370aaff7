"""The errors of a warehouse."""


class WarehouseError(Exception):
    """The warehouse cannot be reached, rejects a statement or closes the connection. Retryable."""


class WarehouseSettingsError(WarehouseError):
    """The Airflow connection, the user's permissions or the version of the tables has to be fixed. Not retryable."""


class WarehouseBusyError(WarehouseError):
    """Other processes locked the embedded warehouse for longer than the lock timeout."""


class NoSuchTableError(WarehouseError):
    """A table or view does not exist, or is not visible to the user."""
