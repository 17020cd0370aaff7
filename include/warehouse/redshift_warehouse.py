"""Amazon Redshift as the warehouse. Its driver runs the statements; COPY and UNLOAD exchange rows as Parquet in S3.

Facts about Redshift are from its Database Developer Guide, under the names of the commands. Nothing here has run on a
live cluster; docs/redshift.md says what has been tested, and how.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from datetime import datetime
from functools import cache, partial
from typing import Any

import pyarrow as pa
from redshift_connector import Error
from redshift_connector.utils.oids import RedshiftOID

from include.warehouse.errors import WarehouseError, WarehouseSettingsError
from include.warehouse.exchange import Exchange, check_exchange_uri
from include.warehouse.server import ServerError, ServerSession, translate_errors
from include.warehouse.warehouse import (
    REDSHIFT,
    ArrowRows,
    QueryRows,
    inline_values,
    quote_column,
    quote_literal,
    utc_now,
)

#: SQLSTATEs of a missing table, schema and database.
_MISSING_TABLE_STATES = ("42P01", "3F000", "3D000")
#: Arrow types of the columns of a result. Any type that is missing here is not a text, number or date.
_ARROW_TYPES = {
    RedshiftOID.BOOLEAN: pa.bool_(),
    RedshiftOID.SMALLINT: pa.int16(),
    RedshiftOID.INTEGER: pa.int32(),
    RedshiftOID.BIGINT: pa.int64(),
    RedshiftOID.REAL: pa.float32(),
    RedshiftOID.FLOAT: pa.float64(),
    RedshiftOID.NUMERIC: pa.decimal128(38, 0),  # the driver does not report the scale
    RedshiftOID.DATE: pa.date32(),
    RedshiftOID.TIMESTAMP: pa.timestamp("us"),
    RedshiftOID.TIMESTAMPTZ: pa.timestamp("us", tz="UTC"),
    RedshiftOID.TIME: pa.time64("us"),
    **dict.fromkeys(
        (RedshiftOID.VARCHAR, RedshiftOID.BPCHAR, RedshiftOID.CHAR, RedshiftOID.TEXT, RedshiftOID.NAME,
         RedshiftOID.UNKNOWN),
        pa.string(),
    ),
}  # fmt: skip


#: Fields of an error that name what it is about.
_OBJECT_FIELDS = {"s": "schema", "t": "table", "c": "column", "d": "type", "n": "constraint"}


def _parse_error(error: Exception, is_connecting: bool = False) -> ServerError:
    fields = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
    return ServerError(
        fields.get("M") or str(error),
        fields.get("C", ""),
        kind=type(error).__name__,
        objects={kind: fields[name] for name, kind in _OBJECT_FIELDS.items() if name in fields},
        is_connecting=is_connecting,
    )


_translate_errors = partial(translate_errors, driver_errors=(Error, OSError))


class RedshiftSession(ServerSession):
    """One connection to the cluster.

    A lock also makes readers of the table wait: Redshift has only one lock mode. A snapshot is that of the first
    statement that reads a table; it does not cover the catalog, so tables that others create or drop still change.

    :param connection: connection of `redshift_connector`, in autocommit mode
    :param name: name of the warehouse, for messages
    :param get_credentials: returns a secret, the value of `CREDENTIALS` of COPY and UNLOAD
    """

    dialect = REDSHIFT

    def __init__(self, connection: Any, name: str, exchange: Exchange, get_credentials: Callable[[], str]) -> None:
        super().__init__(connection, name)
        self._exchange, self._get_credentials = exchange, get_credentials

    def execute(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._run(sql, values) as cursor:
            return [tuple(row) for row in cursor.fetchall()] if cursor.description else []

    def read(self, sql: str, values: Sequence[Any] = ()) -> pa.RecordBatchReader:
        query = inline_values(sql, values, quote_text=_quote_text)
        return self._read_folder(self._unload(query), query)

    def query(self, sql: str) -> QueryRows:
        """Return the rows of a query. It is unloaded once, for the first reader; all readers read the same files."""
        unload = cache(partial(self._unload, sql))

        def read() -> pa.RecordBatchReader:
            return self._read_folder(unload(), sql)

        return QueryRows(read, cache(lambda: read().schema))

    def columns(self, table: str) -> pa.Schema:
        with self._run(f"SELECT * FROM {table} LIMIT 0") as cursor:  # noqa: S608
            return pa.schema([(column[0], _ARROW_TYPES.get(column[1], pa.binary())) for column in cursor.description])

    def lock_and_timestamp(self, table: str) -> datetime:
        """Return the time of this machine, just before the session's snapshot. Nothing is locked: TRUNCATE commits at
        once and empties the table for all sessions, and no lock that a reader can have prevents it."""
        return utc_now()

    def now(self) -> datetime:
        """Return the time of this machine in UTC; in Redshift only the leader node has functions for the time."""
        return utc_now()

    def _unload(self, sql: str) -> str:
        """Have the cluster write the rows of a query into the exchange, and return the folder."""
        folder = self._exchange.make_folder()
        query = quote_literal(sql.replace("\\", "\\\\"))
        with self._run(f"UNLOAD ({query}) TO {quote_literal(folder)} {self._unload_options()}"):
            return folder

    def _unload_options(self) -> str:
        """Return the options for Parquet with the encryption of the exchange. Without an option, UNLOAD encrypts with
        S3's own keys, even if the bucket's default is another."""
        kind, kms_key = self._exchange.encryption
        if kind not in ("", "AES256", "aws:kms"):
            raise WarehouseSettingsError(
                f"Redshift's UNLOAD does not support server-side encryption {kind!r}: use 'AES256' or 'aws:kms'"
            )
        options, has_key = "FORMAT AS PARQUET MAXFILESIZE 256 MB", kind == "aws:kms" and kms_key is not None
        if kind == "aws:kms":
            options += f" ENCRYPTED KMS_KEY_ID {quote_literal(str(kms_key))}" if has_key else " ENCRYPTED AUTO"
        return f"{_authorization_clause(self._get_credentials(), as_parameters=has_key)} {options}"

    def _read_folder(self, folder: str, sql: str) -> pa.RecordBatchReader:
        """Stream the rows of an unloaded query. If there are none, there can be no file with their types either; they
        are then queried."""
        reader = self._exchange.read(folder)
        return reader or self.columns(f"({sql}) AS unloaded").empty_table().to_reader()

    def _create_staging_table(self, name: str, rows: ArrowRows) -> str:
        table, reader = quote_column(name), pa.RecordBatchReader.from_stream(rows)
        types = [_column_type(field) for field in reader.schema]
        schema = pa.schema([(name, kind) for name, (_, kind) in zip(reader.schema.names, types, strict=True)])
        columns = [f"{quote_column(name)} {sql}" for name, (sql, _) in zip(schema.names, types, strict=True)]
        folder = self._exchange.make_folder()
        try:
            files = self._exchange.write(folder, reader, schema)
            self.execute(f"CREATE TEMP TABLE {table} ({', '.join(columns)})")
            if files:  # the first COPY into a table also computes its statistics
                self._copy(table, folder)
        finally:
            self._exchange.remove(folder)
        return table

    def _copy(self, table: str, folder: str) -> None:
        source = f"{quote_literal(folder)} {_authorization_clause(self._get_credentials())}"
        try:
            self.execute(f"COPY {table} FROM {source} FORMAT AS PARQUET")
        except WarehouseError:
            with suppress(WarehouseError):  # a failed transaction drops the table itself
                self.execute(f"DROP TABLE {table}")
            raise

    @contextmanager
    def _run(self, sql: str, values: Sequence[Any] = ()) -> Iterator[Any]:
        """Run a statement and yield its cursor."""
        with _translate_errors(self._name, parse=_parse_error, missing_table_states=_MISSING_TABLE_STATES):
            cursor = self._connection.cursor()
            cursor.paramstyle = "qmark"
            try:
                cursor.execute(sql, tuple(values) or None)
                yield cursor
            finally:
                cursor.close()

    def close(self) -> None:
        """Remove the session's files from the exchange and close the connection."""
        self._exchange.close()
        with suppress(Error, OSError):  # the connection can be lost
            self._connection.close()


class RedshiftWarehouse:
    """A warehouse in a Redshift database.

    :param connect: opens a connection of `redshift_connector`
    :param name: name for messages
    :param exchange_uri: `s3://bucket/prefix`; rows are exchanged in a subfolder for each session, removed at its end
    :param get_credentials: returns a secret, the value of `CREDENTIALS` of COPY and UNLOAD: `aws_iam_role=...`, or
        `aws_access_key_id=...;aws_secret_access_key=...` with `;token=...` if the keys are temporary
    :param filesystem: fsspec file system of the exchange
    :raises WarehouseSettingsError: the exchange folder is not in S3
    """

    def __init__(
        self, connect: Callable[[], Any], name: str, exchange_uri: str | None, get_credentials: Callable[[], str],
        filesystem: Any,
    ) -> None:  # fmt: skip
        self._connect, self.name, self._exchange_uri = connect, name, check_exchange_uri(exchange_uri)
        self._get_credentials, self._filesystem = get_credentials, filesystem

    @contextmanager
    def session(self, *, read_only: bool = False) -> Iterator[RedshiftSession]:
        """Connect.

        :raises WarehouseError: the cluster cannot be reached, or refuses the user
        """
        parse = partial(_parse_error, is_connecting=True)
        with _translate_errors(self.name, "cannot be reached", parse=parse, missing_table_states=()):
            connection = self._connect()
        connection.autocommit = True
        exchange = Exchange(self._filesystem, self._exchange_uri)
        with (
            closing(RedshiftSession(connection, self.name, exchange, self._get_credentials)) as session,
            session.snapshot() if read_only else nullcontext(),
        ):
            yield session


def _quote_text(text: str) -> str:
    """Return a text as SQL. In Redshift's literals a backslash escapes the next character, which the guide does not
    document and other servers do not do. CHR(92) means a backslash in both."""
    literals = " || CHR(92) || ".join(map(quote_literal, text.split("\\")))
    return f"({literals})" if "\\" in text else literals


def _authorization_clause(credentials: str, *, as_parameters: bool = False) -> str:
    """Return the clause that lets COPY and UNLOAD use S3.

    :param as_parameters: whether each key is a parameter of its own, as KMS_KEY_ID of UNLOAD requires; only some
        editions of the guide allow this for COPY of Parquet
    """
    values = dict(part.partition("=")[::2] for part in credentials.split(";"))
    if role := values.get("aws_iam_role"):
        return f"IAM_ROLE {quote_literal(role)}"
    if not as_parameters:
        return f"CREDENTIALS {quote_literal(credentials)}"
    names = {
        "aws_access_key_id": "ACCESS_KEY_ID",
        "aws_secret_access_key": "SECRET_ACCESS_KEY",
        "token": "SESSION_TOKEN",
    }
    return " ".join(f"{names[name]} {quote_literal(value)}" for name, value in values.items())


def _column_type(field: pa.Field) -> tuple[str, pa.DataType]:
    """Return the column type for an Arrow field, and the type that the file must have: COPY does not cast.

    :raises WarehouseError: there is no such column type
    """
    kind, is_ = field.type, pa.types
    if is_.is_string(kind) or is_.is_large_string(kind) or is_.is_string_view(kind) or is_.is_null(kind):
        return REDSHIFT.text, pa.string()
    if is_.is_boolean(kind):
        return "BOOLEAN", pa.bool_()
    if is_.is_integer(kind) and not is_.is_uint64(kind):
        return ("BIGINT", pa.int64()) if kind.bit_width == 64 or is_.is_uint32(kind) else ("INTEGER", pa.int32())
    if is_.is_floating(kind):
        return "DOUBLE PRECISION", pa.float64()
    if is_.is_date(kind):
        return "DATE", pa.date32()
    if is_.is_timestamp(kind) and kind.tz is None:
        return "TIMESTAMP", pa.timestamp("us")
    raise WarehouseError(f"Redshift has no column type for {field.name!r}, which is {kind}: cast it")
