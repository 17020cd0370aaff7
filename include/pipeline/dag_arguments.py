"""Constants of the data work that DAG files need. It imports no heavy library, because Airflow parses DAGs often."""

from include.coding.errors import DataError
from include.coding.plan import MAX_RECORDS_PER_PART, SELECTIONS
from include.coding.read_options import NAMES as READ_OPTION_NAMES
from include.coding.read_options import SCHEMA as READ_OPTION_SCHEMA
from include.warehouse.errors import WarehouseSettingsError

__all__ = ["MAX_RECORDS_PER_PART", "PERMANENT_ERRORS", "READ_OPTION_NAMES", "READ_OPTION_SCHEMA", "SELECTIONS"]

#: Errors of the data work that a retry does not fix.
PERMANENT_ERRORS = (DataError, WarehouseSettingsError)
