"""A stand-in for Amazon Redshift in tests.

The driver (`redshift_connector`), its wire protocol, errors and type codes are real. The server is PostgreSQL, from which
Redshift was derived. COPY and UNLOAD, which PostgreSQL lacks, are implemented here with a real S3 server (moto); what
Redshift lacks is refused. The stand-in shares no code with the warehouse that it tests.
"""

from __future__ import annotations

import io
import re
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import redshift_connector
from redshift_connector import ProgrammingError
from s3fs import S3FileSystem

from include.warehouse.redshift_warehouse import RedshiftWarehouse
from tests.support.postgres import Postgres

BUCKET, REGION, ROLE = "exchange", "ap-southeast-2", "arn:aws:iam::123456789012:role/exchange"
#: The startup parameters of the driver that PostgreSQL accepts, and options that make it read literals as Redshift does
#: and give each transaction one snapshot.
_STARTUP = (b"user", b"database", b"application_name")
_OPTIONS = (
    b"options\0-c standard_conforming_strings=off -c escape_string_warning=off"
    rb" -c default_transaction_isolation=repeatable\ read"
    b"\0"
)

#: In a literal of Redshift a backslash escapes the next character.
_LITERAL = r"'(?:[^'\\]|''|\\.)*'"
_QUOTED = rf'{_LITERAL}|"(?:[^"]|"")*"'
_AUTHORIZATION = (
    rf"(?P<authorization>IAM_ROLE {_LITERAL}|CREDENTIALS {_LITERAL}"
    rf"|ACCESS_KEY_ID {_LITERAL} SECRET_ACCESS_KEY {_LITERAL}(?: SESSION_TOKEN {_LITERAL})?)"
)
_UNLOAD = re.compile(
    rf"UNLOAD \((?P<query>{_LITERAL})\) TO (?P<to>{_LITERAL}) {_AUTHORIZATION} FORMAT AS PARQUET"
    rf"(?: MAXFILESIZE \d+ MB)?(?P<encrypted> ENCRYPTED (?:AUTO|KMS_KEY_ID (?P<key>{_LITERAL})))?",
    re.DOTALL,
)
_COPY = re.compile(
    rf'COPY (?P<table>"(?:[^"]|"")*"|\w+) FROM (?P<source>{_LITERAL}) {_AUTHORIZATION} FORMAT AS PARQUET', re.DOTALL
)
#: Syntax that PostgreSQL supports and Redshift does not, or interprets differently.
_REFUSED = re.compile(
    r"\bON CONFLICT\b|\bCREATE (?:UNIQUE )?INDEX\b|\bRETURNING\b|\?\s*::|\$\d+\s*::|\bDISTINCT ON\b|\bFILTER \("
    r"|\bIS (?:NOT )?DISTINCT FROM\b|\bLATERAL\b|\bMODE\b|\bpg_temp\.|\bADD COLUMN IF NOT EXISTS\b|\bFROM \(VALUES\b"
    r"|\b(?:UUID|JSONB?|BYTEA|SERIAL|BIGSERIAL)\b|\bAS TEXT\b|\bCREATE .*\bTEXT\b|^UNLOAD\b|^COPY\b|\bE''",
    re.IGNORECASE | re.DOTALL,
)
#: Arrow types of the columns of a result, by the driver's type codes.
_ARROW_TYPES = {
    16: pa.bool_(), 20: pa.int64(), 21: pa.int16(), 23: pa.int32(), 25: pa.string(), 700: pa.float32(),
    701: pa.float64(), 705: pa.string(), 1042: pa.string(), 1043: pa.string(), 1082: pa.date32(),
    1114: pa.timestamp("us"), 1184: pa.timestamp("us"),
}  # fmt: skip
_COLUMN_TYPES = {
    pa.bool_(): "BOOLEAN", pa.int32(): "INTEGER", pa.int64(): "BIGINT", pa.float64(): "DOUBLE PRECISION",
    pa.string(): "VARCHAR", pa.date32(): "DATE", pa.timestamp("us"): "TIMESTAMP",
}  # fmt: skip


class Connection:
    """A connection of the driver to the stand-in.

    :param s3: URL of the S3 server
    :param statements: list to which each statement is added
    """

    def __init__(self, connection: redshift_connector.Connection, s3: str, statements: list[str]) -> None:
        self._connection, self.s3, self.statements = connection, s3, statements

    @property
    def autocommit(self) -> bool:
        return self._connection.autocommit

    @autocommit.setter
    def autocommit(self, value: bool) -> None:
        self._connection.autocommit = value

    def cursor(self) -> Cursor:
        return Cursor(self, self._connection.cursor())

    def close(self) -> None:
        self._connection.close()


class Cursor:
    """A cursor of the driver that adds COPY and UNLOAD and refuses what Redshift lacks."""

    def __init__(self, connection: Connection, cursor: redshift_connector.Cursor) -> None:
        self._connection, self._cursor, self._has_exchanged = connection, cursor, False

    @property
    def paramstyle(self) -> str:
        return str(self._cursor.paramstyle)

    @paramstyle.setter
    def paramstyle(self, value: str) -> None:
        self._cursor.paramstyle = value

    @property
    def description(self) -> list[tuple[Any, ...]] | None:
        return None if self._has_exchanged else self._cursor.description

    def execute(self, sql: str, args: Sequence[Any] | None = None) -> Cursor:
        self._connection.statements.append(sql)
        self._has_exchanged = True
        if match := _UNLOAD.fullmatch(sql):
            self._unload(match)
        elif match := _COPY.fullmatch(sql):
            self._copy(match)
        else:
            self._has_exchanged = False
            self._run(sql, args)
        return self

    def fetchall(self) -> Sequence[Sequence[Any]]:
        return self._cursor.fetchall()

    def close(self) -> None:
        self._cursor.close()

    def _run(self, sql: str, args: Sequence[Any] | None = None) -> None:
        if match := _REFUSED.search(re.sub(_QUOTED, lambda quotation: quotation[0][0] * 2, sql)):
            self._fail("42601", f'syntax error at or near "{match[0]}"')
        if re.match("CREATE (TEMP )?TABLE|ALTER TABLE", sql):
            sql = re.sub(r"\bVARCHAR\b(?! *\()", "VARCHAR(256)", sql)
        try:
            self._cursor.execute(sql, args)
        except ProgrammingError as error:
            if "cross-database references" not in error.args[0]["M"]:
                raise
            self._fail("3D000", f"database does not exist: {error.args[0]['M'].split()[-1]}")  # Redshift has them

    def _fail(self, state: str, message: str) -> None:
        with suppress(ProgrammingError):
            self._cursor.execute("SELECT 1 / 0")  # any failed statement aborts the transaction
        # as the driver raises it; the detail must not reach any message or log
        raise ProgrammingError({"S": "ERROR", "C": state, "M": message, "D": "row: what a person wrote", "R": "here"})

    def _unload(self, match: re.Match[str]) -> None:
        query, to = _content(match["query"]), _content(match["to"])
        if re.search(r"\bLIMIT\b", _outer(query), re.IGNORECASE):
            self._fail("0A000", "Limit clause is not supported in the outer select of UNLOAD")
        if match["key"] and match["authorization"].startswith("CREDENTIALS"):
            self._fail("42601", "KMS_KEY_ID is not supported with CREDENTIALS")
        self._run(query)
        if keys_below(self._connection.s3, to):
            self._fail("XX000", f"Specified unload destination on S3 is not empty: {to}")
        names, kinds = zip(
            *[(column[0], _ARROW_TYPES[column[1]]) for column in self._cursor.description], strict=True
        )
        if len(set(names)) < len(names):
            self._fail("XX000", "duplicate column names")
        rows = self._cursor.fetchall()
        columns = list(zip(*rows, strict=True)) or [()] * len(names)
        table = pa.table([pa.array(column, kind) for column, kind in zip(columns, kinds, strict=True)], list(names))
        for number, half in enumerate((table[: len(rows) // 2], table[len(rows) // 2 :])):
            if half.num_rows:
                self._put(half, f"{to}{number:04}_part_00.parquet", match)

    def _put(self, table: pa.Table, uri: str, match: re.Match[str]) -> None:
        body, parts = io.BytesIO(), urlsplit(uri)
        pq.write_table(table, body, version="1.0", use_deprecated_int96_timestamps=True, store_schema=False)
        encryption = {"ServerSideEncryption": "aws:kms" if match["encrypted"] else "AES256"}
        if match["key"]:
            encryption["SSEKMSKeyId"] = _content(match["key"])
        _client(self._connection.s3).put_object(
            Bucket=parts.netloc, Key=parts.path[1:], Body=body.getvalue(), **encryption
        )

    def _copy(self, match: re.Match[str]) -> None:
        if "nobody" in match["authorization"]:
            self._fail("XX000", "User is not authorized to assume IAM Role")
        self._cursor.execute(f"SELECT * FROM {match['table']} LIMIT 0")
        kinds = [_ARROW_TYPES[column[1]] for column in self._cursor.description]
        source = _content(match["source"])
        keys = keys_below(self._connection.s3, source)
        if not keys:
            self._fail("XX000", f"The specified S3 prefix {source!r} does not exist")
        for key in keys:
            body = _client(self._connection.s3).get_object(Bucket=urlsplit(source).netloc, Key=key)["Body"].read()
            self._load(match["table"], kinds, pq.ParquetFile(io.BytesIO(body), coerce_int96_timestamp_unit="us"))

    def _load(self, table: str, kinds: Sequence[pa.DataType], file: pq.ParquetFile) -> None:
        physical = [file.schema.column(number).physical_type for number in range(len(file.schema))]
        is_timestamp = [pa.types.is_timestamp(kind) for kind in kinds]
        if file.schema_arrow.types != list(kinds) or [name == "INT96" for name in physical] != is_timestamp:
            self._fail(
                "XX000", f"Spectrum Scan Error: incompatible Parquet schema {file.schema_arrow.types}, {kinds}"
            )
        row = f"({', '.join(f'CAST(? AS {_COLUMN_TYPES[kind]})' for kind in kinds)})"
        for batch in file.iter_batches(1000):
            values = [value for values in zip(*batch.to_pydict().values(), strict=True) for value in values]
            self._cursor.execute(f"INSERT INTO {table} VALUES {', '.join([row] * batch.num_rows)}", values)


@dataclass
class Redshift:
    """A running stand-in and its databases. A place is the URL of a database, for `open_redshift`.

    :param socket_path: socket for the driver; over TCP it would delay each statement by 40 ms
    :param s3: URL of its S3 server
    """

    postgres: Postgres
    socket_path: Path
    s3: str

    def create_place(self) -> str:
        """Create an empty database and return its place."""
        return self._format_place(self.postgres.create_database())

    @contextmanager
    def lend_place(self) -> Iterator[str]:
        """Yield the place of an empty database, which is used again afterwards."""
        with self.postgres.lend_database() as database:
            yield self._format_place(database)
        for key in keys_below(self.s3, f"s3://{BUCKET}/{database}/"):
            _client(self.s3).delete_object(Bucket=BUCKET, Key=key)

    def _format_place(self, database: str) -> str:
        return f"redshift:///{database}?socket={self.socket_path}&s3={self.s3}"


@dataclass
class Access:
    """What a test sets and observes: credentials, encryption and user, and the statements that the server received."""

    statements: list[str] = field(default_factory=list)
    credentials: str = f"aws_iam_role={ROLE}"
    encryption: dict[str, str] = field(default_factory=dict)
    user: str = "postgres"


def open_redshift(place: str, access: Access | None = None) -> RedshiftWarehouse:
    """Open the warehouse of a place."""
    parts, access = urlsplit(place), access or Access()
    query = parse_qs(parts.query)
    (s3,) = query["s3"]

    def connect() -> Connection:
        connection = redshift_connector.connect(
            unix_sock=query["socket"][0], database=parts.path[1:], user=access.user, password="", ssl=False,
            application_name="tests",
        )  # fmt: skip
        return Connection(connection, s3, access.statements)

    filesystem = open_filesystem(s3, access.encryption)
    exchange = f"s3://{BUCKET}{parts.path}/exchange"
    return RedshiftWarehouse(connect, "redshift://tests", exchange, lambda: access.credentials, filesystem)


def open_filesystem(s3: str, encryption: dict[str, str] | None = None) -> S3FileSystem:
    return S3FileSystem(
        key="key", secret="secret", endpoint_url=s3, client_kwargs={"region_name": REGION},
        s3_additional_kwargs=encryption or {}, config_kwargs={"retries": {"max_attempts": 0}},
    )  # fmt: skip


def keys_below(s3: str, uri: str) -> list[str]:
    """Return the keys of the objects whose URI starts with this one."""
    parts = urlsplit(uri)
    response = _client(s3).list_objects_v2(Bucket=parts.netloc, Prefix=parts.path[1:])
    return [entry["Key"] for entry in response.get("Contents", [])]


@cache
def _client(s3: str) -> Any:
    return boto3.client(
        "s3", endpoint_url=s3, region_name=REGION, aws_access_key_id="cluster", aws_secret_access_key="secret"
    )


def _content(literal: str) -> str:
    """Return the text of a Redshift literal."""
    return re.sub(r"''|\\(.)", lambda match: match[1] or "'", literal[1:-1], flags=re.DOTALL)


def _outer(query: str) -> str:
    """Return a query without the parts in quotes and parentheses."""
    outer, before = re.sub(_QUOTED, "", query), None
    while outer != before:
        outer, before = re.sub(r"\([^()]*\)", "", outer), outer
    return outer


@contextmanager
def run_redshift(postgres: Postgres, s3: str) -> Iterator[Redshift]:
    """Run the stand-in in front of a PostgreSQL server.

    :param s3: URL of the S3 server for COPY and UNLOAD
    """
    _client(s3).create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    (path,) = Path(postgres.socket_folder).glob(".s.PGSQL.*[0-9]")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path.with_name("redshift")))
        listener.listen()
        threading.Thread(target=_serve, args=(listener, str(path)), daemon=True).start()
        yield Redshift(postgres, path.with_name("redshift"), s3)
        listener.shutdown(socket.SHUT_RDWR)


def _serve(listener: socket.socket, path: str) -> None:
    with suppress(OSError):  # the socket is closed at the end of the tests
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_connect, args=(client, path), daemon=True).start()


def _connect(client: socket.socket, path: str) -> None:
    """Connect a client to the server, without the startup parameters that PostgreSQL does not know."""
    with client, socket.socket(socket.AF_UNIX) as server:
        (length,) = struct.unpack("!I", client.recv(4, socket.MSG_WAITALL))
        first = client.recv(length - 4, socket.MSG_WAITALL)
        fields = first[4:].split(b"\0")
        parameters = {name: value for name, value in zip(fields[::2], fields[1::2], strict=False) if name in _STARTUP}
        pairs = b"".join(name + b"\0" + value + b"\0" for name, value in parameters.items())
        startup = first[:4] + pairs + _OPTIONS + b"\0"
        server.connect(path)
        server.sendall(struct.pack("!I", len(startup) + 4) + startup)
        responses = threading.Thread(target=_forward, args=(server, client), daemon=True)
        responses.start()
        _forward(client, server)
        responses.join()


def _forward(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for side in (source, target):
        with suppress(OSError):
            side.shutdown(socket.SHUT_RDWR)
