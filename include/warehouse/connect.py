"""From an Airflow connection to a warehouse."""

from __future__ import annotations

from collections.abc import Callable
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
#: The connection to S3, where Redshift hands rows over; without it that of the provider counts.
STORAGE_CONN_ID = "staging_default"


def connect(conn_id: str = CONN_ID, *, memory_mb: int = MEMORY_MB, exchange: str | None = None) -> Warehouse:
    """Return the warehouse that an Airflow connection names.

    :param memory_mb: megabytes that an embedded warehouse takes before it spills to disk
    :param exchange: `s3://bucket/prefix` below which Redshift hands rows over; others need none
    :raises WarehouseSettingsError: there is no such connection, or its type or a field does not fit; or the exchange
        is no place in S3 and the warehouse needs it
    """
    try:
        connection = BaseHook.get_connection(conn_id)
    except AirflowNotFoundException as error:
        example = """'{"conn_type": "duckdb", "host": "/data/warehouse.duckdb"}'"""
        raise WarehouseSettingsError(
            f"there is no Airflow connection {conn_id!r}: make one of type duckdb, postgres or redshift, under"
            f" Admin > Connections or as AIRFLOW_CONN_{conn_id.upper()}={example}"
        ) from error
    match connection.conn_type:
        case "duckdb":
            return _duckdb(connection, memory_mb)
        case "postgres":
            return _postgres(connection)
        case "redshift":
            return _redshift(connection, exchange)
        case other:
            raise WarehouseSettingsError(
                f"connection {conn_id!r} is of type {other!r}; supported: 'duckdb', 'postgres', 'redshift'"
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
    return PostgresWarehouse(lambda: _conninfo(connection), f"postgres://{connection.host}/{connection.schema or ''}")


def _conninfo(connection: Any) -> str:
    extra = connection.extra_dejson
    login, password, port = connection.login, connection.password, connection.port
    if extra.get("iam"):
        login, password, port = PostgresHook(postgres_conn_id=connection.conn_id).get_iam_token(connection)
    options = {name: value for name, value in extra.items() if name not in PostgresHook.ignored_extra_options}
    try:
        return make_conninfo(
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


def _redshift(connection: Any, exchange: str | None) -> Warehouse:
    """As the provider's RedshiftSQLHook connects: extras are options of redshift_connector, `iam` for a temporary
    password among them."""
    # not before: other warehouses do not need these, which take a second
    from airflow.providers.amazon.aws.hooks.redshift_sql import RedshiftSQLHook
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook
    from airflow.sdk import ObjectStoragePath

    from include.warehouse.exchange import check_base
    from include.warehouse.redshift_warehouse import RedshiftWarehouse

    if not connection.host:
        raise WarehouseSettingsError(f"connection {connection.conn_id!r} has no host: put that of the cluster there")
    storage = _storage_conn_id(S3Hook.default_conn_name)
    hook = S3Hook(aws_conn_id=storage)
    filesystem = ObjectStoragePath(check_base(exchange), conn_id=storage).fs
    filesystem.s3_additional_kwargs.update(hook.service_config.get("s3_additional_kwargs", {}))
    return RedshiftWarehouse(
        RedshiftSQLHook(redshift_conn_id=connection.conn_id).get_conn,
        f"redshift://{connection.host}/{connection.schema or ''}",
        exchange,
        _credentials(hook, storage),
        filesystem,
    )


def _storage_conn_id(default: str) -> str:
    try:
        BaseHook.get_connection(STORAGE_CONN_ID)
    except AirflowNotFoundException:
        return default
    return STORAGE_CONN_ID


def _credentials(hook: Any, conn_id: str) -> Callable[[], str]:
    """What the cluster gets to use S3, asked for anew each time since it may expire: as the provider's operators have
    it, the role that the connection names, or the keys by which we use S3 ourselves."""
    from airflow.providers.amazon.aws.utils.redshift import build_credentials_block

    def get() -> str:
        if role := hook.conn_config.role_arn:
            return f"aws_iam_role={role}"
        if hook.get_session().get_credentials() is None:
            raise WarehouseSettingsError(
                f"connection {conn_id!r} gives no credentials for S3: put the role of the cluster there, as"
                " `role_arn` of its extra, or keys"
            )
        return str(build_credentials_block(hook.get_credentials()))  # the hook has logs mask them

    return get
