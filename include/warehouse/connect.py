"""From an Airflow connection to a warehouse."""

from __future__ import annotations

from typing import Any

from airflow.providers.duckdb.hooks.duckdb import DuckDBHook
from airflow.providers.postgres.hooks.postgres import PostgresHook
from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException
from psycopg import ProgrammingError
from psycopg.conninfo import make_conninfo

from include.warehouse.duckdb_warehouse import MEMORY_MB, DuckDBWarehouse
from include.warehouse.errors import WarehouseSettingsError
from include.warehouse.postgres_warehouse import PostgresWarehouse
from include.warehouse.warehouse import Warehouse

CONN_ID = "warehouse_default"


def connect(conn_id: str = CONN_ID, *, memory_mb: int = MEMORY_MB) -> Warehouse:
    """Return the warehouse that an Airflow connection names.

    :param memory_mb: megabytes that an embedded warehouse takes before it spills to disk
    :raises WarehouseSettingsError: there is no such connection, or its type or a field does not fit
    """
    try:
        connection = BaseHook.get_connection(conn_id)
    except AirflowNotFoundException as error:
        example = """'{"conn_type": "duckdb", "host": "/data/warehouse.duckdb"}'"""
        raise WarehouseSettingsError(
            f"there is no Airflow connection {conn_id!r}: make one of type duckdb or postgres, under Admin >"
            f" Connections or as AIRFLOW_CONN_{conn_id.upper()}={example}"
        ) from error
    match connection.conn_type:
        case "duckdb":
            return _duckdb(connection, memory_mb)
        case "postgres":
            return _postgres(connection)
        case other:
            raise WarehouseSettingsError(
                f"connection {conn_id!r} is of type {other!r}; supported: 'duckdb', 'postgres'"
            )


def _duckdb(connection: Any, memory_mb: int) -> DuckDBWarehouse:
    conn_id = connection.conn_id
    if not connection.host:
        raise WarehouseSettingsError(f"connection {conn_id!r} has no host: put the path of the DuckDB file there")
    return DuckDBWarehouse(
        lambda read_only: DuckDBHook(duckdb_conn_id=conn_id, read_only=read_only).get_conn(),
        connection.host,
        memory_mb=memory_mb,
    )


def _postgres(connection: Any) -> PostgresWarehouse:
    """As Airflow's PostgresHook connects: extras are options of libpq (`sslmode`, `options`, ...), or `iam` for a
    token of AWS or Azure in place of the password."""
    if not connection.host:
        raise WarehouseSettingsError(f"connection {connection.conn_id!r} has no host: put that of the server there")
    extra = connection.extra_dejson
    login, password, port = connection.login, connection.password, connection.port
    if extra.get("iam"):
        login, password, port = PostgresHook(postgres_conn_id=connection.conn_id).get_iam_token(connection)
    options = {name: value for name, value in extra.items() if name not in PostgresHook.ignored_extra_options}
    try:
        conninfo = make_conninfo(
            **{"fallback_application_name": "occupation coding", **options},
            host=connection.host,
            port=port,
            dbname=connection.schema,
            user=login,
            password=password,
        )
    except ProgrammingError:  # its text may quote the password
        raise WarehouseSettingsError(
            f"the extra of connection {connection.conn_id!r} names options that are none of libpq; it has"
            f" {sorted(options)}"
        ) from None
    return PostgresWarehouse(conninfo, f"postgres://{connection.host}/{connection.schema or ''}")
