"""Constants of the data work that DAG files need. It imports no heavy library, because Airflow parses DAGs often."""

from include.coding.errors import DataError
from include.coding.plan import MAX_RECORDS_PER_PART, SELECTIONS
from include.warehouse.errors import WarehouseSettingsError

__all__ = ["MAX_RECORDS_PER_PART", "PERMANENT_ERRORS", "SELECTIONS"]

#: Errors of the data work that a retry does not fix.
PERMANENT_ERRORS = (DataError, WarehouseSettingsError)
