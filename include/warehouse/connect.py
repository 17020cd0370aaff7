"""Open the warehouse that an Airflow connection describes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
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

#: The types of connections, and what their host is.
_HOSTS = {
    "duckdb": "the path of the DuckDB file",
    "postgres": "that of the server",
    "redshift": "that of the cluster",
}


def connect(
    conn_id: str,
    *,
    memory_mb: int = MEMORY_MB,
    exchange_uri: str | None = None,
    open_exchange: Callable[[str], Any] | None = None,
    storage_conn_id: str | None = None,
) -> Warehouse:
    """Return the warehouse that an Airflow connection describes. Only Redshift needs an exchange folder.

    :param memory_mb: megabytes that an embedded warehouse uses before it spills to disk
    :param exchange_uri: `s3://bucket/prefix` below which rows are exchanged with Redshift
    :param open_exchange: returns the fsspec file system of that URI, which encrypts as both sides should
    :param storage_conn_id: Airflow connection with the role or keys that Redshift uses for S3; if it does not exist,
        the default of the S3 hook is used
    :raises WarehouseSettingsError: there is no such connection, its type or a field is wrong, or Redshift has no
        exchange folder in S3
    """
    try:
        connection = BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        example = """'{"conn_type": "duckdb", "host": "/data/warehouse.duckdb"}'"""
        raise WarehouseSettingsError(
            f"there is no Airflow connection {conn_id!r}: create one of type duckdb, postgres or redshift, under"
            f" Admin > Connections or as AIRFLOW_CONN_{conn_id.upper()}={example}"
        ) from None
    kind, host = connection.conn_type, connection.host
    if kind not in _HOSTS:
        raise WarehouseSettingsError(
            f"connection {conn_id!r} is of type {kind!r}; supported: {', '.join(map(repr, _HOSTS))}"
        )
    if not host:
        raise WarehouseSettingsError(f"connection {conn_id!r} has no host: set it to {_HOSTS[kind]}")
    if kind == "duckdb":
        return DuckDBWarehouse(partial(_open_duckdb_file, conn_id), host, memory_mb=memory_mb)
    name = f"{kind}://{host}/{connection.schema or ''}"
    if kind == "postgres":
        return PostgresWarehouse(partial(_get_conninfo, connection), name)
    return _open_redshift(connection, name, exchange_uri, open_exchange, storage_conn_id)


def _open_duckdb_file(conn_id: str, read_only: bool) -> Any:
    return DuckDBHook(duckdb_conn_id=conn_id, read_only=read_only).get_conn()


def _get_conninfo(connection: Any) -> str:
    """Return the connection string. As in Airflow's PostgresHook, extras are options of libpq (`sslmode`, `options`,
    ...), or `iam` for a token of AWS or Azure instead of the password."""
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
    except ProgrammingError:  # its message can contain the password
        raise WarehouseSettingsError(
            f"the extra of connection {connection.conn_id!r} has an option that libpq does not know; its options are"
            f" {sorted(options)}"
        ) from None


def _open_redshift(
    connection: Any,
    name: str,
    exchange_uri: str | None,
    open_exchange: Callable[[str], Any] | None,
    storage_conn_id: str | None,
) -> Warehouse:
    """Read the fields as the provider's RedshiftSQLHook does: extras are options of redshift_connector, such as `iam`
    for a temporary password."""
    # imported here because it takes a second, which other warehouses do not need
    from airflow.providers.amazon.aws.hooks.redshift_sql import RedshiftSQLHook

    from include.warehouse.exchange import check_exchange_uri
    from include.warehouse.redshift_warehouse import RedshiftWarehouse

    uri = check_exchange_uri(exchange_uri)
    if open_exchange is None:
        raise TypeError("connect() needs open_exchange for Redshift")
    return RedshiftWarehouse(
        RedshiftSQLHook(redshift_conn_id=connection.conn_id).get_conn,
        name,
        uri,
        partial(_get_storage_credentials, _get_storage_hook(storage_conn_id)),
        open_exchange(uri),
    )


def _get_storage_hook(conn_id: str | None) -> Any:
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

    try:
        BaseHook.get_connection(conn_id or S3Hook.default_conn_name)
    except AirflowNotFoundException:
        conn_id = None
    return S3Hook(aws_conn_id=conn_id or S3Hook.default_conn_name)


def _get_storage_credentials(hook: Any) -> str:
    """Return the credentials that the cluster uses for S3. As in the provider's operators, they are the role that the
    connection names, or the keys that we use ourselves."""
    from airflow.providers.amazon.aws.utils.redshift import build_credentials_block

    if role := hook.conn_config.role_arn:
        return f"aws_iam_role={role}"
    if hook.get_session().get_credentials() is None:
        raise WarehouseSettingsError(
            f"connection {hook.aws_conn_id!r} has no credentials for S3: set `role_arn` in its extra to the cluster's"
            " role, or add access keys"
        )
    return str(build_credentials_block(hook.get_credentials()))  # the hook masks them in logs
