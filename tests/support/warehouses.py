"""The warehouse of a place, for tests that run over warehouses of every kind."""

from __future__ import annotations

from pathlib import Path

import duckdb

from include.warehouse.duckdb_warehouse import DuckDBWarehouse
from include.warehouse.postgres_warehouse import PostgresWarehouse
from include.warehouse.warehouse import Warehouse
from tests.support.redshift import open_redshift


def open_warehouse(place: str | Path, patience: float = 30.0) -> Warehouse:
    """The warehouse in a place: what libpq is told for PostgreSQL, a URL for Redshift, else the path of a DuckDB file."""
    if str(place).startswith("redshift:"):
        return open_redshift(str(place))
    if str(place).startswith("host="):
        return PostgresWarehouse(lambda: str(place), "postgres://tests")
    return DuckDBWarehouse(
        lambda read_only: duckdb.connect(str(place), read_only=read_only), str(place), patience=patience
    )
