"""Opens warehouses of all kinds, for tests that run on each of them."""

from __future__ import annotations

from pathlib import Path

import duckdb

from include.warehouse.duckdb_warehouse import DuckDBWarehouse
from include.warehouse.postgres_warehouse import PostgresWarehouse
from include.warehouse.warehouse import Warehouse
from tests.support.redshift import open_redshift


def open_warehouse(place: str | Path, lock_timeout_s: float = 30.0) -> Warehouse:
    """Open a warehouse: `place` is a connection string of libpq, a URL of the Redshift stand-in, or the path of a DuckDB file."""
    if str(place).startswith("redshift:"):
        return open_redshift(str(place))
    if str(place).startswith("host="):
        return PostgresWarehouse(lambda: str(place), "postgres://tests")
    return DuckDBWarehouse(
        lambda read_only: duckdb.connect(str(place), read_only=read_only), str(place), lock_timeout_s=lock_timeout_s
    )
