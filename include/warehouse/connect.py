"""From an Airflow connection to a warehouse."""

from __future__ import annotations

from airflow.providers.duckdb.hooks.duckdb import DuckDBHook
from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from include.warehouse.duckdb_warehouse import MEMORY_MB, DuckDBWarehouse
from include.warehouse.errors import WarehouseSettingsError

CONN_ID = "warehouse_default"


def connect(conn_id: str = CONN_ID, *, memory_mb: int = MEMORY_MB) -> DuckDBWarehouse:
    """Return the warehouse that an Airflow connection names.

    :param memory_mb: megabytes that an embedded warehouse takes before it spills to disk
    :raises WarehouseSettingsError: there is no such connection, or its type is not supported
    """
    try:
        connection = BaseHook.get_connection(conn_id)
    except AirflowNotFoundException as error:
        example = """'{"conn_type": "duckdb", "host": "/data/warehouse.duckdb"}'"""
        raise WarehouseSettingsError(
            f"there is no Airflow connection {conn_id!r}: make one of type duckdb, under Admin > Connections"
            f" or as AIRFLOW_CONN_{conn_id.upper()}={example}"
        ) from error
    if connection.conn_type != "duckdb":
        raise WarehouseSettingsError(
            f"connection {conn_id!r} is of type {connection.conn_type!r}; supported: 'duckdb'"
        )
    if not connection.host:
        raise WarehouseSettingsError(f"connection {conn_id!r} has no host: put the path of the DuckDB file there")
    return DuckDBWarehouse(
        lambda read_only: DuckDBHook(duckdb_conn_id=conn_id, read_only=read_only).get_conn(),
        connection.host,
        memory_mb=memory_mb,
    )
