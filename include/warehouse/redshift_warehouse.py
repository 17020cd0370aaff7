"""Amazon Redshift as the warehouse: statements by its own driver, rows by COPY and UNLOAD as Parquet in S3.

What is told here about Redshift stands in its Database Developer Guide, under the names of the commands. None of it
has been run against a live cluster; docs/redshift.md says what has been run, and against what.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cached_property
from typing import Any

import pyarrow as pa
from redshift_connector import Error
from redshift_connector.utils.oids import RedshiftOID

from include.warehouse.errors import WarehouseError, WarehouseSettingsError, error_of_state
from include.warehouse.exchange import Exchange, check_base
from include.warehouse.warehouse import REDSHIFT, ArrowRows, inline_values, quote_column, quote_literal, utc_now

#: SQLSTATE of a table, a schema, and a database that are not there.
_NO_SUCH_TABLE = ("42P01", "3F000", "3D000")
#: Arrow's types of the columns of a result. What is missing here is no text, number or date.
_ARROW = {
    RedshiftOID.BOOLEAN: pa.bool_(),
    RedshiftOID.SMALLINT: pa.int16(),
    RedshiftOID.INTEGER: pa.int32(),
    RedshiftOID.BIGINT: pa.int64(),
    RedshiftOID.REAL: pa.float32(),
    RedshiftOID.FLOAT: pa.float64(),
    RedshiftOID.NUMERIC: pa.decimal128(38, 0),  # the driver does not tell its digits
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


class RedshiftQuery:
    """The rows of a query as Arrow, for an engine to read: it is unloaded once, when it is first asked for, and its
    files are read whenever it is asked for again."""

    def __init__(self, session: RedshiftSession, sql: str) -> None:
        self._session, self._sql = session, sql

    @cached_property
    def _folder(self) -> str:
        return self._session.unload(self._sql)

    @cached_property
    def _schema(self) -> pa.Schema:
        return self._read().schema

    def __arrow_c_schema__(self) -> object:
        return self._schema.__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self._read().__arrow_c_stream__(requested_schema)

    def _read(self) -> pa.RecordBatchReader:
        return self._session.read_unloaded(self._folder, self._sql)


class RedshiftSession:
    """One connection to the cluster.

    :param connection: of `redshift_connector`, which commits each statement that stands alone
    :param name: of the warehouse, for messages
    :param credentials: returns what `CREDENTIALS` of COPY and UNLOAD says, a secret
    """

    dialect = REDSHIFT

    def __init__(self, connection: Any, name: str, exchange: Exchange, credentials: Callable[[], str]) -> None:
        self._connection, self._name = connection, name
        self._exchange, self._credentials = exchange, credentials

    def execute(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement with bound values and return its rows."""
        with self._run(sql, values) as cursor:
            return [tuple(row) for row in cursor.fetchall()] if cursor.description else []

    def read(self, sql: str, values: Sequence[Any] = ()) -> pa.RecordBatchReader:
        """Run a query and stream its rows as Arrow."""
        written = inline_values(sql, values, write_text=_text)
        return self.read_unloaded(self.unload(written), written)

    def query(self, sql: str) -> RedshiftQuery:
        """Return the rows of a query that may be read more than once."""
        return RedshiftQuery(self, sql)

    def columns(self, table: str) -> pa.Schema:
        """Return the names and types of the columns of a table or view."""
        return self._describe(f"SELECT * FROM {table} LIMIT 0")

    def lock_and_timestamp(self, table: str) -> datetime:
        """The moment before that which the session sees, by the clock of this machine. A TRUNCATE commits at once and
        empties the table for everybody: no lock that a reader could have keeps it away."""
        return utc_now()

    def now(self) -> datetime:
        """The time of this machine, UTC: what the cluster has for it, its leader alone knows."""
        return utc_now()

    def is_open(self) -> bool:
        """Whether the connection still answers; it ends the transaction, if there is one."""
        try:
            self.execute("ROLLBACK")
        except WarehouseError:
            return False
        return True

    def unload(self, sql: str) -> str:
        """Have the cluster write the rows of a query into the exchange; return the folder."""
        folder = self._exchange.make_folder()
        with self._run(f"UNLOAD ({_nested(sql)}) TO {quote_literal(folder)} {self._unload_options()}"):
            return folder

    def read_unloaded(self, folder: str, sql: str) -> pa.RecordBatchReader:
        """Stream the rows of a query from its folder. If there are none, there may be no file that tells their types
        either, and the cluster is asked for them."""
        reader = self._exchange.read(folder)
        if reader is None:
            reader = self._describe(f"SELECT * FROM ({sql}) AS unloaded LIMIT 0").empty_table().to_reader()
        return reader

    @contextmanager
    def staged(self, name: str, rows: ArrowRows) -> Iterator[None]:
        """Copy `rows` into a temporary table for the statements of the block. Its statistics come with the first
        COPY into it."""
        self._stage(quote_column(name), pa.RecordBatchReader.from_stream(rows))
        drop = f"DROP TABLE {quote_column(name)}"
        try:
            yield
        except BaseException:
            with suppress(WarehouseError):  # what broke off a transaction lets nothing else through, and is the news
                self.execute(drop)
            raise
        self.execute(drop)

    def _stage(self, table: str, rows: pa.RecordBatchReader) -> None:
        types = [_column_type(field) for field in rows.schema]
        schema = pa.schema([(field.name, kind) for field, (_, kind) in zip(rows.schema, types, strict=True)])
        columns = [f"{quote_column(name)} {sql}" for name, (sql, _) in zip(schema.names, types, strict=True)]
        folder = self._exchange.make_folder()
        try:
            files = self._exchange.write(folder, rows, schema)
            self.execute(f"CREATE TEMP TABLE {table} ({', '.join(columns)})")
            if files:
                self._copy(table, folder)
        finally:
            self._exchange.remove(folder)

    def _copy(self, table: str, folder: str) -> None:
        try:
            self.execute(
                f"COPY {table} FROM {quote_literal(folder)} {_authorization(self._credentials())} FORMAT AS PARQUET"
            )
        except WarehouseError:
            with suppress(WarehouseError):  # a transaction that broke off takes it along
                self.execute(f"DROP TABLE {table}")
            raise

    @contextmanager
    def transaction(self, lock: str | None = None) -> Iterator[None]:
        """All statements of the block, or none of them. Who reads a table that is locked waits as well: that is the
        only lock that Redshift has. It comes first, since the first statement settles what moment is seen."""
        self.execute("BEGIN")
        try:
            if lock:
                self.execute(f"LOCK TABLE {lock}")
            yield
        except BaseException:
            with suppress(WarehouseError):  # the cluster may be gone, and the transaction with it
                self.execute("ROLLBACK")
            raise
        self.execute("COMMIT")

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Statements of the block see one moment, that of the first of them which reads a table, and leave nothing.
        Tables that others drop or make meanwhile are no part of it: Redshift's catalog knows no moments."""
        self.execute("BEGIN")
        try:
            yield
        finally:
            with suppress(WarehouseError):
                self.execute("ROLLBACK")

    def _describe(self, sql: str) -> pa.Schema:
        with self._run(sql) as cursor:
            return pa.schema([(column[0], _ARROW.get(column[1], pa.binary())) for column in cursor.description])

    def _unload_options(self) -> str:
        """Parquet, encrypted as the exchange is. Without a word of it UNLOAD has S3 encrypt with keys of its own,
        whatever the bucket's default is."""
        options = "FORMAT AS PARQUET MAXFILESIZE 256 MB"
        kind, key = self._exchange.encryption
        if kind in ("", "AES256"):
            return f"{_authorization(self._credentials())} {options}"
        if kind != "aws:kms":
            raise WarehouseSettingsError(
                f"UNLOAD of Redshift has no server-side encryption {kind!r}; it has 'AES256' and 'aws:kms'"
            )
        if key is None:
            return f"{_authorization(self._credentials())} {options} ENCRYPTED AUTO"
        return f"{_authorization(self._credentials(), one_by_one=True)} {options} ENCRYPTED KMS_KEY_ID {quote_literal(key)}"

    @contextmanager
    def _run(self, sql: str, values: Sequence[Any] = ()) -> Iterator[Any]:
        """The cursor of a statement that has run."""
        with _told(self._name):
            cursor = self._connection.cursor()
            cursor.paramstyle = "qmark"
            try:
                cursor.execute(sql, tuple(values) or None)
                yield cursor
            finally:
                cursor.close()


class RedshiftWarehouse:
    """A warehouse in a Redshift database.

    :param connect: opens a connection of `redshift_connector`
    :param name: for messages
    :param exchange: `s3://bucket/prefix` below which rows are handed over, a folder for each session, removed with it
    :param credentials: returns what `CREDENTIALS` of COPY and UNLOAD says, a secret: `aws_iam_role=...`, or
        `aws_access_key_id=...;aws_secret_access_key=...`, and `;token=...` if it is temporary
    :param filesystem: of fsspec, by which we read and write the exchange
    :raises WarehouseSettingsError: the exchange is no place in S3
    """

    def __init__(
        self, connect: Callable[[], Any], name: str, exchange: str | None, credentials: Callable[[], str],
        filesystem: Any,
    ) -> None:  # fmt: skip
        self._connect, self.name, self._exchange = connect, name, check_base(exchange)
        self._credentials, self._filesystem = credentials, filesystem

    @contextmanager
    def session(self, *, read_only: bool = False) -> Iterator[RedshiftSession]:
        """Connect.

        :raises WarehouseError: the cluster cannot be reached, or refuses the user
        """
        with _told(self.name, "cannot be reached", no_such_table=()):
            connection = self._connect()
        connection.autocommit = True
        exchange = Exchange(self._filesystem, self._exchange)
        session = RedshiftSession(connection, self.name, exchange, self._credentials)
        try:
            if read_only:
                with session.snapshot():
                    yield session
            else:
                yield session
        finally:
            exchange.close()
            with suppress(Error, OSError):  # it may be broken
                connection.close()


def _nested(sql: str) -> str:
    """A query as the text that UNLOAD takes, in which quotes and backslashes have to be escaped."""
    return quote_literal(sql.replace("\\", "\\\\"))


def _text(text: str) -> str:
    """A text as SQL. In a literal of Redshift a backslash escapes the next character, which the guide does not say
    and other servers do not do: with CHR there is nothing to be understood in two ways."""
    pieces = " || CHR(92) || ".join(map(quote_literal, text.split("\\")))
    return f"({pieces})" if "\\" in text else pieces


def _authorization(credentials: str, *, one_by_one: bool = False) -> str:
    """The clause by which COPY and UNLOAD may use S3.

    :param one_by_one: whether keys stand in parameters of their own, as KMS_KEY_ID of UNLOAD wants it; COPY of
        Parquet takes them so by some editions of the guide only
    """
    values = dict(part.partition("=")[::2] for part in credentials.split(";"))
    if role := values.get("aws_iam_role"):
        return f"IAM_ROLE {quote_literal(role)}"
    if not one_by_one:
        return f"CREDENTIALS {quote_literal(credentials)}"
    names = {
        "aws_access_key_id": "ACCESS_KEY_ID",
        "aws_secret_access_key": "SECRET_ACCESS_KEY",
        "token": "SESSION_TOKEN",
    }
    return " ".join(f"{names[name]} {quote_literal(value)}" for name, value in values.items())


def _column_type(field: pa.Field) -> tuple[str, pa.DataType]:
    """Type of a column for an Arrow field, and the type that has to stand in the file: COPY casts nothing.

    :raises WarehouseError: there is none
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
    raise WarehouseError(f"no column of Redshift takes {field.name!r}, which is {kind}: cast it")


@contextmanager
def _told(
    name: str, what: str = "refused a statement or broke off", no_such_table: Sequence[str] = _NO_SUCH_TABLE
) -> Iterator[None]:
    """Errors of the driver become ours, and nothing of them is chained: what else the cluster says may quote a row,
    or the statement with its credentials."""
    try:
        yield
    except (Error, OSError) as error:
        fields = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
        said = fields.get("M") or str(error)
        raise error_of_state(name, fields.get("C", ""), said, what, no_such_table) from None
