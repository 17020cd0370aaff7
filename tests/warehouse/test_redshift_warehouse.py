"""Redshift as the warehouse: the statements it receives, the files in S3, errors and secrets.

The cluster is a stand-in (tests/support/redshift.py). The tests of every warehouse (test_warehouse.py) run on it too.
"""

import gc
import logging
import re
import threading
import traceback
from contextlib import nullcontext
from datetime import datetime
from urllib.parse import urlsplit

import boto3
import duckdb
import pyarrow as pa
import pytest

from include.warehouse import exchange
from include.warehouse.errors import NoSuchTableError, WarehouseError, WarehouseSettingsError
from include.warehouse.redshift_warehouse import RedshiftWarehouse
from include.warehouse.warehouse import quote_column
from tests.support.redshift import BUCKET, REGION, ROLE, Access, keys_below, open_redshift

KEYS = "aws_access_key_id=AKIA;aws_secret_access_key=open+sesame"
KMS_KEY = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "key-1"}
UNLOAD_OPTIONS = "FORMAT AS PARQUET MAXFILESIZE 256 MB"


@pytest.fixture
def place(redshift):
    return redshift.create_place()


@pytest.fixture
def access():
    return Access()


@pytest.fixture
def warehouse(place, access):
    return open_redshift(place, access)


@pytest.fixture
def session(warehouse):
    with warehouse.session() as session:
        yield session


@pytest.fixture
def keys(place, s3):
    """Return a function that lists the keys of the exchange folder."""
    return lambda: keys_below(s3.url, f"s3://{BUCKET}{urlsplit(place).path}/")


def find_uri(statement):
    return re.search(r"'(s3://[^']*)'", statement)[1]


def test_each_query_is_unloaded_as_parquet_into_its_own_folder(session, access):
    session.read("SELECT 1 AS a").read_all()
    session.read("SELECT 2 AS a").read_all()
    first, second = access.statements
    assert first == f"UNLOAD ('SELECT 1 AS a') TO '{find_uri(first)}' IAM_ROLE '{ROLE}' {UNLOAD_OPTIONS}"
    assert re.fullmatch(rf"s3://{BUCKET}/test_\d+/exchange/[0-9a-f]{{32}}-[0-9a-f]{{12}}/1/", find_uri(first))
    assert find_uri(second) == find_uri(first).replace("/1/", "/2/")


def test_rows_are_copied_into_a_temporary_table_with_the_types_of_the_file(session, access):
    rows = pa.table(
        {
            "text": pa.array(["a"], pa.string_view()),
            "small": pa.array([1], pa.int8()),
            "number": pa.array([1], pa.uint32()),
            "large": pa.array([1], pa.int64()),
            "share": pa.array([0.5], pa.float32()),
            "is": [True],
            "moment": pa.array([datetime(2026, 10, 5)], pa.timestamp("ns")),
            "nothing": pa.nulls(1),
        }
    )
    with session.staged("rows_in", rows):
        ((row,),) = [session.execute('SELECT * FROM "rows_in"')]
    assert row == ("a", 1, 1, 1, 0.5, True, datetime(2026, 10, 5), None)
    create, copy, _, drop = access.statements
    assert create == (
        'CREATE TEMP TABLE "rows_in" ("text" VARCHAR(65535), "small" INTEGER, "number" BIGINT, "large" BIGINT,'
        ' "share" DOUBLE PRECISION, "is" BOOLEAN, "moment" TIMESTAMP, "nothing" VARCHAR(65535))'
    )
    assert copy == f"COPY \"rows_in\" FROM '{find_uri(copy)}' IAM_ROLE '{ROLE}' FORMAT AS PARQUET"
    assert drop == 'DROP TABLE "rows_in"'


def test_a_field_without_a_column_type_is_named(session):
    rows = pa.table({"when": pa.array([datetime(2026, 10, 5)], pa.timestamp("us", tz="UTC"))})
    with (
        pytest.raises(WarehouseError, match=r"no column type for 'when', which is timestamp\[us, tz=UTC\]"),
        session.staged("t", rows),
    ):
        pass


def test_many_rows_become_several_files_and_no_rows_none(session, access, keys, monkeypatch):
    monkeypatch.setattr(exchange, "FILE_ROWS", 1000)
    monkeypatch.setattr(exchange, "BATCH_ROWS", 400)
    counts, write = [], exchange.Exchange.write

    def count_files(self, folder, rows, schema):
        files = write(self, folder, rows, schema)
        counts.append((files, len(keys())))
        return files

    monkeypatch.setattr(exchange.Exchange, "write", count_files)
    with session.staged("many", pa.table({"n": pa.array(range(2500), pa.int32())})):
        assert session.execute("SELECT count(*), sum(n) FROM many") == [(2500, 3_123_750)]
    with session.staged("none", pa.table({"n": pa.array([], pa.int32())})):
        assert session.execute("SELECT count(*) FROM none") == [(0,)]
    assert counts == [(3, 3), (0, 0)]
    assert sum(sql.startswith("COPY") for sql in access.statements) == 1


def test_files_are_removed_as_soon_as_they_have_been_used(warehouse, keys):
    with warehouse.session() as session:
        with session.staged("t", pa.table({"a": [1]})):
            assert keys() == []
        reader = session.read("SELECT 1 AS a UNION ALL SELECT 2")
        assert len(keys()) == 2
        assert reader.read_all().num_rows == 2
    assert keys() == []


def test_files_are_removed_after_a_failure(warehouse, keys):
    def fail():
        with warehouse.session() as session:
            session.read("SELECT 1 AS a")
            session.execute("SELECT 1 / 0")

    with pytest.raises(WarehouseError, match="division by zero"):
        fail()
    assert keys() == []


@pytest.mark.parametrize("is_in_transaction", [True, False])
def test_a_failed_copy_leaves_no_files_and_no_table(session, access, keys, is_in_transaction):
    def stage():
        with session.transaction() if is_in_transaction else nullcontext(), session.staged("t", pa.table({"a": [1]})):
            pass

    access.credentials = "aws_iam_role=nobody"
    with pytest.raises(WarehouseError, match="rejected a statement"):
        stage()
    access.credentials = f"aws_iam_role={ROLE}"
    assert keys() == []
    with pytest.raises(NoSuchTableError):
        session.execute('SELECT * FROM "t"')
    with session.staged("t", pa.table({"a": [2]})):
        assert session.execute("SELECT a FROM t") == [(2,)]


TRICKY = "it's \\ \\' '' \\\\n ? \"x\" $$ %s\n\\"


def test_values_with_quotes_and_backslashes_are_unchanged(session):
    (row,) = session.read("SELECT ? AS a, '?' AS b, ? AS c", [TRICKY, "'"]).read_all().to_pylist()
    assert row == {"a": TRICKY, "b": "?", "c": "'"}
    assert session.execute("SELECT ?", [TRICKY]) == [(TRICKY,)]


def test_a_value_cannot_inject_sql(session):
    session.execute("CREATE TABLE t AS SELECT 1 AS a")
    session.read("SELECT ? AS a", ["\\'; DROP TABLE t; --"]).read_all()
    assert session.execute("SELECT a FROM t") == [(1,)]


def test_names_with_quotes_and_backslashes_are_unchanged(session):
    name, column = "it's \\ \"here", "a'\\b\""
    session.execute(f"CREATE TABLE {quote_column(name)} ({quote_column(column)} INTEGER)")
    session.execute(f"INSERT INTO {quote_column(name)} VALUES (7)")
    assert session.columns(quote_column(name)) == pa.schema([(column, pa.int32())])
    assert session.read(f"SELECT * FROM {quote_column(name)}").read_all().to_pylist() == [{column: 7}]
    with session.staged(name, pa.table({column: [1]})):
        assert session.execute(f"SELECT {quote_column(column)} FROM {quote_column(name)}") == [(1,)]


def test_a_query_without_rows_has_column_types_although_there_is_no_file(session, keys):
    sql = (
        "SELECT CAST(1 AS SMALLINT) AS a, 2 AS b, CAST(3 AS BIGINT) AS c, CAST(4 AS REAL) AS d, CAST(5 AS FLOAT) AS e,"
        " CAST('x' AS VARCHAR(9)) AS f, CAST('x' AS CHAR(9)) AS g, DATE '2026-10-05' AS h, true AS i,"
        " CAST('2026-10-05' AS TIMESTAMP) AS j WHERE 1 = 0"
    )
    kinds = [
        pa.int16(), pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.string(), pa.string(), pa.date32(),
        pa.bool_(), pa.timestamp("us"),
    ]  # fmt: skip
    reader = session.read(sql)
    assert (reader.schema.types, reader.read_all().num_rows, keys()) == (kinds, 0, [])
    with duckdb.connect() as engine:
        engine.register("nothing", session.query(sql))
        assert [engine.execute("SELECT count(f) FROM nothing").fetchall() for _ in range(2)] == [[(0,)]] * 2


def test_an_empty_table_has_the_same_column_types_as_one_with_rows(session):
    session.execute("CREATE TABLE t (a SMALLINT, b BIGINT, c VARCHAR(9), d DATE, e TIMESTAMP, f BOOLEAN, g FLOAT)")
    empty = session.columns("t")
    session.execute("INSERT INTO t VALUES (1, 2, 'x', '2026-10-05', '2026-10-05 01:02:03.000004', true, 0.5)")
    assert session.read("SELECT * FROM t").schema == empty == session.columns("t")


def test_a_query_is_unloaded_once_for_all_its_readers(session, access):
    session.execute("CREATE TABLE t AS SELECT 1 AS a")
    with duckdb.connect() as engine:
        engine.register("rows_out", session.query("SELECT a FROM t"))
        before = engine.execute("SELECT * FROM rows_out").fetchall()
        session.execute("INSERT INTO t VALUES (2)")
        joined = engine.execute("SELECT * FROM rows_out AS x JOIN rows_out AS y USING (a)").fetchall()
        assert joined == before == [(1,)]
    assert sum(sql.startswith("UNLOAD") for sql in access.statements) == 1


def test_a_limit_at_the_outer_level_is_refused_since_unload_has_none(session):
    with pytest.raises(WarehouseError, match="Limit clause is not supported"):
        session.read("SELECT 1 AS a LIMIT 1")


def test_a_transaction_starts_with_its_lock(session, access):
    session.execute("CREATE TABLE t (a INTEGER)")
    with session.transaction(lock='"t"'):
        session.execute("SELECT * FROM t")
    assert access.statements[1:] == ["BEGIN", 'LOCK TABLE "t"', "SELECT * FROM t", "COMMIT"]


def test_without_a_role_the_cluster_gets_keys(place, access):
    access.credentials = KEYS + ";token=x'y"
    with open_redshift(place, access).session() as session:
        session.read("SELECT 1 AS a").read_all()
        with session.staged("t", pa.table({"a": [1]})):
            pass
    clause = f"CREDENTIALS '{KEYS};token=x''y'"
    assert f"' {clause} {UNLOAD_OPTIONS}" in access.statements[0]
    assert f"' {clause} FORMAT AS PARQUET" in access.statements[2]


@pytest.mark.parametrize(
    ("encryption", "credentials", "clause"),
    [
        ({"ServerSideEncryption": "AES256"}, f"aws_iam_role={ROLE}", f"IAM_ROLE '{ROLE}' {UNLOAD_OPTIONS}"),
        ({"ServerSideEncryption": "aws:kms"}, KEYS, f"CREDENTIALS '{KEYS}' {UNLOAD_OPTIONS} ENCRYPTED AUTO"),
        (KMS_KEY, f"aws_iam_role={ROLE}", f"IAM_ROLE '{ROLE}' {UNLOAD_OPTIONS} ENCRYPTED KMS_KEY_ID 'key-1'"),
        (
            KMS_KEY,
            KEYS + ";token=t",
            "ACCESS_KEY_ID 'AKIA' SECRET_ACCESS_KEY 'open+sesame' SESSION_TOKEN 't'"
            f" {UNLOAD_OPTIONS} ENCRYPTED KMS_KEY_ID 'key-1'",
        ),
    ],
)
def test_both_sides_use_the_encryption_of_the_file_system(
    place, s3, keys, encryption, credentials, clause, monkeypatch
):
    monkeypatch.setattr(exchange.Exchange, "remove", lambda *_: None)
    access = Access(encryption=encryption, credentials=credentials)
    with open_redshift(place, access).session() as session:
        with session.staged("t", pa.table({"a": [1]})):
            pass
        (our_key,) = keys()
        session.read("SELECT 1 AS a").read_all()
        (cluster_key,) = set(keys()) - {our_key}
    assert next(sql for sql in access.statements if sql.startswith("UNLOAD")).endswith(f"' {clause}")
    client = boto3.client(
        "s3", endpoint_url=s3.url, region_name=REGION, aws_access_key_id="a", aws_secret_access_key="b"
    )
    heads = [client.head_object(Bucket=BUCKET, Key=key) for key in (our_key, cluster_key)]
    assert [head["ServerSideEncryption"] for head in heads] == [encryption["ServerSideEncryption"]] * 2
    if key := encryption.get("SSEKMSKeyId"):
        assert [head["SSEKMSKeyId"] for head in heads] == [key] * 2


def test_an_encryption_that_unload_does_not_support_is_refused(place):
    warehouse = open_redshift(place, Access(encryption={"ServerSideEncryption": "aws:kms:dsse"}))
    message = "'aws:kms:dsse': use 'AES256' or 'aws:kms'"
    with warehouse.session() as session, pytest.raises(WarehouseSettingsError, match=message):
        session.read("SELECT 1 AS a")


@pytest.mark.parametrize("sql", ["UNLOAD nonsense", "INSERT INTO t (a) VALUES ('what a person wrote')"])
def test_an_error_and_its_chain_contain_nothing_of_a_row(session, sql):
    session.execute("CREATE TABLE t (a VARCHAR(99), b VARCHAR(9) NOT NULL)")
    with pytest.raises(WarehouseError) as excinfo:
        session.execute(sql)
    assert "person" not in "".join(traceback.format_exception(excinfo.value))


def test_the_credentials_are_in_no_message_representation_or_log(place, access, caplog):
    caplog.set_level(logging.DEBUG)
    access.credentials = KEYS
    warehouse = open_redshift(place, access)
    outputs = []
    with warehouse.session() as session:
        outputs += [repr(warehouse), repr(session), repr(session.query("SELECT 1 AS a"))]
        for sql in ("SELECT * FROM nowhere", "SELECT 1 AS a LIMIT 1", "SELEC '\\'"):
            with pytest.raises(WarehouseError) as excinfo:
                session.read(sql)
            outputs += traceback.format_exception(excinfo.value)
    assert any("sesame" in sql for sql in access.statements)
    assert "sesame" not in "".join(outputs) + caplog.text


@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket")  # the driver leaves a socket open
@pytest.mark.parametrize(
    ("change", "message"), [("", "role .nobody. does not exist"), ("socket=[^&]*", "No such file or directory")]
)
def test_a_failed_connection_gives_the_reason(place, change, message):
    place = re.sub(change, "socket=/nowhere", place) if change else place
    warehouse = open_redshift(place, Access(user="nobody"))
    with (
        pytest.raises(WarehouseError, match=f"'redshift://tests' cannot be reached: .*{message}"),
        warehouse.session(),
    ):
        pass
    gc.collect()


def test_an_unreachable_exchange_fails_reading_but_not_the_removal_of_files(place, caplog):
    unreachable = re.sub("s3=.*", "s3=http://127.0.0.1:9", place)
    filesystem = open_redshift(unreachable)._filesystem
    connect = open_redshift(place)._connect
    warehouse = RedshiftWarehouse(connect, "w", "s3://exchange/x", lambda: "aws_iam_role=r", filesystem)
    message = r"exchanged through 's3://exchange/x/[-\w]+' .EndpointConnectionError"
    with warehouse.session() as session, pytest.raises(WarehouseError, match=message):
        session.read("SELECT 1 AS a")
    assert "It can contain people's texts; remove it" in caplog.text


@pytest.mark.parametrize(
    "uri", [None, "", "file:///data/staging/exchange", "s3://", "s3:///x", "s3://b/it's", "bucket/x"]
)
def test_an_exchange_folder_outside_s3_is_refused(uri):
    with pytest.raises(WarehouseSettingsError, match="exchanges rows through S3, and .*set CODING_STAGING"):
        RedshiftWarehouse(lambda: None, "w", uri, lambda: "", None)


def test_a_terminated_connection_rolls_back_its_transaction(postgres, place, warehouse):
    with warehouse.session() as session:
        session.execute("CREATE TABLE t (a INTEGER)")
        ((process,),) = session.execute("SELECT pg_backend_pid()")

        def insert():
            with session.transaction():
                session.execute("INSERT INTO t VALUES (1)")
                postgres.execute(f"SELECT pg_terminate_backend({process})")
                session.execute("INSERT INTO t VALUES (2)")

        with pytest.raises(WarehouseError):
            insert()
    with warehouse.session() as session:
        assert session.execute("SELECT count(*) FROM t") == [(0,)]


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING",
        "CREATE INDEX t_a ON t (a)",
        "CREATE TABLE u (a TEXT)",
        "CREATE TABLE u (a UUID)",
        "DELETE FROM t RETURNING a",
        "SELECT DISTINCT ON (a) a FROM t",
        "LOCK TABLE t IN EXCLUSIVE MODE",
        "SELECT * FROM t WHERE a IS NOT DISTINCT FROM 1",
        "UNLOAD ('SELECT 1') TO 's3://exchange/x/' IAM_ROLE 'r' FORMAT AS AVRO",
        "COPY t FROM 's3://exchange/x/' IAM_ROLE 'r' FORMAT AS PARQUET MAXERROR 3",
    ],
)
def test_the_stand_in_refuses_what_redshift_does_not_support(session, sql):
    session.execute("CREATE TABLE t (a INTEGER)")
    with pytest.raises(WarehouseError, match="syntax error"):
        session.execute(sql)


def test_readers_wait_for_a_lock(warehouse):
    with warehouse.session() as session:
        session.execute("CREATE TABLE t (a INTEGER)")
        with session.transaction(lock="t"):
            session.execute("INSERT INTO t VALUES (1)")
            counts = []

            def read():
                with warehouse.session(read_only=True) as reader:
                    counts.append(reader.execute("SELECT count(*) FROM t"))

            thread = threading.Thread(target=read)
            thread.start()
            thread.join(timeout=1)
            assert counts == []
        thread.join()
    assert len(counts) == 1
