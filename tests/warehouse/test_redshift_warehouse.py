"""Redshift as the warehouse: the statements that are sent, what lies in S3 meanwhile, errors and secrets.

The cluster is a stand-in (tests/support/redshift.py); what every warehouse does is in test_warehouse.py, and runs over it too.
"""

import gc
import logging
import re
import threading
import traceback
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
UNLOADED = "FORMAT AS PARQUET MAXFILESIZE 256 MB"


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
    """What lies in the exchange of the place."""
    return lambda: keys_below(s3.url, f"s3://{BUCKET}{urlsplit(place).path}/")


def uri_in(statement):
    return re.search(r"'(s3://[^']*)'", statement)[1]


def test_a_query_is_unloaded_as_parquet_into_a_folder_of_its_own(session, access):
    session.read("SELECT 1 AS a").read_all()
    session.read("SELECT 2 AS a").read_all()
    first, second = access.sent
    assert first == f"UNLOAD ('SELECT 1 AS a') TO '{uri_in(first)}' IAM_ROLE '{ROLE}' {UNLOADED}"
    assert re.fullmatch(rf"s3://{BUCKET}/test_\d+/exchange/[0-9a-f]{{32}}/1/", uri_in(first))
    assert uri_in(second) == uri_in(first).replace("/1/", "/2/")


def test_rows_are_staged_by_copy_into_a_temporary_table_with_the_types_of_the_file(session, access):
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
    create, copy, _, drop = access.sent
    assert create == (
        'CREATE TEMP TABLE "rows_in" ("text" VARCHAR(65535), "small" INTEGER, "number" BIGINT, "large" BIGINT,'
        ' "share" DOUBLE PRECISION, "is" BOOLEAN, "moment" TIMESTAMP, "nothing" VARCHAR(65535))'
    )
    assert copy == f"COPY \"rows_in\" FROM '{uri_in(copy)}' IAM_ROLE '{ROLE}' FORMAT AS PARQUET"
    assert drop == 'DROP TABLE "rows_in"'


def test_a_type_that_no_column_takes_is_named(session):
    rows = pa.table({"when": pa.array([datetime(2026, 10, 5)], pa.timestamp("us", tz="UTC"))})
    with (
        pytest.raises(WarehouseError, match=r"takes 'when', which is timestamp\[us, tz=UTC\]"),
        session.staged("t", rows),
    ):
        pass


def test_many_rows_are_staged_in_several_files_and_no_rows_in_none(session, access, keys, monkeypatch):
    monkeypatch.setattr(exchange, "FILE_ROWS", 1000)
    monkeypatch.setattr(exchange, "BATCH_ROWS", 400)
    seen, write = [], exchange.Exchange.write

    def look(self, folder, rows, schema):
        files = write(self, folder, rows, schema)
        seen.append((files, len(keys())))
        return files

    monkeypatch.setattr(exchange.Exchange, "write", look)
    with session.staged("many", pa.table({"n": pa.array(range(2500), pa.int32())})):
        assert session.execute("SELECT count(*), sum(n) FROM many") == [(2500, 3_123_750)]
    with session.staged("none", pa.table({"n": pa.array([], pa.int32())})):
        assert session.execute("SELECT count(*) FROM none") == [(0,)]
    assert seen == [(3, 3), (0, 0)]
    assert sum(sql.startswith("COPY") for sql in access.sent) == 1


def test_what_is_handed_over_is_removed_as_soon_as_it_may_be(warehouse, keys):
    with warehouse.session() as session:
        with session.staged("t", pa.table({"a": [1]})):
            assert keys() == []
        reader = session.read("SELECT 1 AS a UNION ALL SELECT 2")
        assert len(keys()) == 2
        assert reader.read_all().num_rows == 2
    assert keys() == []


def test_it_is_removed_after_a_failure_too(warehouse, keys):
    def fail():
        with warehouse.session() as session:
            session.read("SELECT 1 AS a")
            session.execute("SELECT 1 / 0")

    with pytest.raises(WarehouseError, match="division by zero"):
        fail()
    assert keys() == []


@pytest.mark.parametrize("is_in_transaction", [True, False])
def test_a_copy_that_fails_leaves_nothing(session, access, keys, is_in_transaction):
    def stage():
        if not is_in_transaction:
            with session.staged("t", pa.table({"a": [1]})):
                pass
        else:
            with session.transaction(), session.staged("t", pa.table({"a": [1]})):
                pass

    access.credentials = "aws_iam_role=nobody"
    with pytest.raises(WarehouseError, match="refused a statement"):
        stage()
    access.credentials = f"aws_iam_role={ROLE}"
    assert keys() == []
    with pytest.raises(NoSuchTableError):
        session.execute('SELECT * FROM "t"')
    with session.staged("t", pa.table({"a": [2]})):
        assert session.execute("SELECT a FROM t") == [(2,)]


TRICKY = "it's \\ \\' '' \\\\n ? \"x\" $$ %s\n\\"


def test_values_with_quotes_and_backslashes_come_back_as_they_were(session):
    (row,) = session.read("SELECT ? AS a, '?' AS b, ? AS c", [TRICKY, "'"]).read_all().to_pylist()
    assert row == {"a": TRICKY, "b": "?", "c": "'"}
    assert session.execute("SELECT ?", [TRICKY]) == [(TRICKY,)]


def test_a_value_cannot_leave_its_quotes(session):
    session.execute("CREATE TABLE t AS SELECT 1 AS a")
    session.read("SELECT ? AS a", ["\\'; DROP TABLE t; --"]).read_all()
    assert session.execute("SELECT a FROM t") == [(1,)]


def test_names_with_quotes_and_backslashes_are_kept(session):
    name, column = "it's \\ \"here", "a'\\b\""
    session.execute(f"CREATE TABLE {quote_column(name)} ({quote_column(column)} INTEGER)")
    session.execute(f"INSERT INTO {quote_column(name)} VALUES (7)")
    assert session.columns(quote_column(name)) == pa.schema([(column, pa.int32())])
    assert session.read(f"SELECT * FROM {quote_column(name)}").read_all().to_pylist() == [{column: 7}]
    with session.staged(name, pa.table({column: [1]})):
        assert session.execute(f"SELECT {quote_column(column)} FROM {quote_column(name)}") == [(1,)]


def test_a_query_without_rows_has_its_types_though_no_file_is_written(session, keys):
    sql = (
        "SELECT CAST(1 AS SMALLINT) AS a, 2 AS b, CAST(3 AS BIGINT) AS c, CAST(4 AS REAL) AS d, CAST(5 AS FLOAT) AS e,"
        " CAST('x' AS VARCHAR(9)) AS f, CAST('x' AS CHAR(9)) AS g, DATE '2026-10-05' AS h, true AS i,"
        " CAST('2026-10-05' AS TIMESTAMP) AS j WHERE 1 = 0"
    )
    kinds = [
        pa.int16(), pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.string(), pa.string(), pa.date32(),
        pa.bool_(), pa.timestamp("us"),
    ]  # fmt: skip
    found = session.read(sql)
    assert (found.schema.types, found.read_all().num_rows, keys()) == (kinds, 0, [])
    with duckdb.connect() as engine:
        engine.register("nothing", session.query(sql))
        assert [engine.execute("SELECT count(f) FROM nothing").fetchall() for _ in range(2)] == [[(0,)]] * 2


def test_the_types_of_columns_without_rows_are_those_of_their_rows(session):
    session.execute("CREATE TABLE t (a SMALLINT, b BIGINT, c VARCHAR(9), d DATE, e TIMESTAMP, f BOOLEAN, g FLOAT)")
    empty = session.columns("t")
    session.execute("INSERT INTO t VALUES (1, 2, 'x', '2026-10-05', '2026-10-05 01:02:03.000004', true, 0.5)")
    assert session.read("SELECT * FROM t").schema == empty == session.columns("t")


def test_a_query_is_unloaded_once_however_often_it_is_read(session, access):
    session.execute("CREATE TABLE t AS SELECT 1 AS a")
    with duckdb.connect() as engine:
        engine.register("rows_out", session.query("SELECT a FROM t"))
        before = engine.execute("SELECT * FROM rows_out").fetchall()
        session.execute("INSERT INTO t VALUES (2)")
        assert (
            engine.execute("SELECT * FROM rows_out AS x JOIN rows_out AS y USING (a)").fetchall() == before == [(1,)]
        )
    assert sum(sql.startswith("UNLOAD") for sql in access.sent) == 1


def test_a_limit_for_all_of_a_query_is_refused_as_unload_has_none(session):
    with pytest.raises(WarehouseError, match="Limit clause is not supported"):
        session.read("SELECT 1 AS a LIMIT 1")


def test_a_table_is_locked_before_anything_is_read(session, access):
    session.execute("CREATE TABLE t (a INTEGER)")
    with session.transaction(lock='"t"'):
        session.execute("SELECT * FROM t")
    assert access.sent[1:] == ["BEGIN", 'LOCK TABLE "t"', "SELECT * FROM t", "COMMIT"]


def test_keys_go_to_the_cluster_where_there_is_no_role(place, access):
    access.credentials = KEYS + ";token=x'y"
    with open_redshift(place, access).session() as session:
        session.read("SELECT 1 AS a").read_all()
        with session.staged("t", pa.table({"a": [1]})):
            pass
    told = f"CREDENTIALS '{KEYS};token=x''y'"
    assert f"' {told} {UNLOADED}" in access.sent[0]
    assert f"' {told} FORMAT AS PARQUET" in access.sent[2]


@pytest.mark.parametrize(
    ("encryption", "credentials", "clause"),
    [
        ({"ServerSideEncryption": "AES256"}, f"aws_iam_role={ROLE}", f"IAM_ROLE '{ROLE}' {UNLOADED}"),
        ({"ServerSideEncryption": "aws:kms"}, KEYS, f"CREDENTIALS '{KEYS}' {UNLOADED} ENCRYPTED AUTO"),
        (
            {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "key-1"},
            f"aws_iam_role={ROLE}",
            f"IAM_ROLE '{ROLE}' {UNLOADED} ENCRYPTED KMS_KEY_ID 'key-1'",
        ),
        (
            {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "key-1"},
            KEYS + ";token=t",
            "ACCESS_KEY_ID 'AKIA' SECRET_ACCESS_KEY 'open+sesame' SESSION_TOKEN 't'"
            f" {UNLOADED} ENCRYPTED KMS_KEY_ID 'key-1'",
        ),
    ],
)
def test_both_sides_encrypt_as_the_filesystem_says(place, s3, keys, encryption, credentials, clause, monkeypatch):
    monkeypatch.setattr(exchange.Exchange, "remove", lambda *_: None)
    access = Access(encryption=encryption, credentials=credentials)
    with open_redshift(place, access).session() as session:
        with session.staged("t", pa.table({"a": [1]})):
            pass
        (ours,) = keys()
        session.read("SELECT 1 AS a").read_all()
        (theirs,) = set(keys()) - {ours}
    assert next(sql for sql in access.sent if sql.startswith("UNLOAD")).endswith(f"' {clause}")
    client = boto3.client(
        "s3", endpoint_url=s3.url, region_name=REGION, aws_access_key_id="a", aws_secret_access_key="b"
    )
    found = [client.head_object(Bucket=BUCKET, Key=key) for key in (ours, theirs)]
    assert [one["ServerSideEncryption"] for one in found] == [encryption["ServerSideEncryption"]] * 2
    if key := encryption.get("SSEKMSKeyId"):
        assert [one["SSEKMSKeyId"] for one in found] == [key] * 2


def test_an_encryption_that_unload_has_not_is_refused(place):
    access = Access(encryption={"ServerSideEncryption": "aws:kms:dsse"})
    with (
        pytest.raises(WarehouseSettingsError, match=r"'aws:kms:dsse'; it has 'AES256' and 'aws:kms'"),
        open_redshift(place, access).session() as session,
    ):
        session.read("SELECT 1 AS a")


@pytest.mark.parametrize(
    ("sql", "error", "message"),
    [
        (
            "SELECT * FROM secrets",
            WarehouseSettingsError,
            "permission denied for table secrets; grant it to the user",
        ),
        ("CREATE SCHEMA coding", WarehouseSettingsError, "permission denied for database"),
        ("SELECT * FROM hidden.t", WarehouseSettingsError, "permission denied for schema hidden"),
        ("SELECT * FROM nowhere", NoSuchTableError, 'relation "nowhere" does not exist'),
        ("SELECT 1 / 0", WarehouseError, "'redshift://tests' refused a statement or broke off: division by zero"),
        ("SELEC 1", WarehouseError, "syntax error"),
    ],
)
def test_an_error_of_the_cluster_says_whether_somebody_has_to_act(postgres, place, sql, error, message):
    postgres.execute("DROP ROLE IF EXISTS visitor")
    postgres.execute("CREATE ROLE visitor LOGIN")
    for statement in ("CREATE TABLE secrets (a INT)", "CREATE SCHEMA hidden", "CREATE TABLE hidden.t (a INT)"):
        postgres.execute(statement, urlsplit(place).path[1:])
    with open_redshift(place, Access(user="visitor")).session() as session, pytest.raises(error) as caught:
        session.execute(sql)
    assert (type(caught.value), message in str(caught.value)) == (error, True)


@pytest.mark.parametrize("sql", ["UNLOAD nonsense", "INSERT INTO t (a) VALUES ('what a person wrote')"])
def test_an_error_quotes_no_row_and_chains_nothing_that_does(session, sql):
    session.execute("CREATE TABLE t (a VARCHAR(99), b VARCHAR(9) NOT NULL)")
    with pytest.raises(WarehouseError) as caught:
        session.execute(sql)
    assert "person" not in "".join(traceback.format_exception(caught.value))


def test_the_credentials_stand_in_no_message_representation_or_log(place, access, caplog):
    caplog.set_level(logging.DEBUG)
    access.credentials = KEYS
    warehouse = open_redshift(place, access)
    said = []
    with warehouse.session() as session:
        said += [repr(warehouse), repr(session), repr(session.query("SELECT 1 AS a"))]
        for sql in ("SELECT * FROM nowhere", "SELECT 1 AS a LIMIT 1", "SELEC '\\'"):
            with pytest.raises(WarehouseError) as caught:
                session.read(sql)
            said += traceback.format_exception(caught.value)
    assert any("sesame" in sql for sql in access.sent)
    assert "sesame" not in "".join(said) + caplog.text


@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket")  # the driver leaves a socket of its own open
@pytest.mark.parametrize(
    ("change", "message"), [("", "role .nobody. does not exist"), ("socket=[^&]*", "No such file or directory")]
)
def test_a_cluster_that_cannot_be_reached_says_why(place, change, message):
    place = re.sub(change, "socket=/nowhere", place) if change else place
    with (
        pytest.raises(WarehouseError, match=f"'redshift://tests' cannot be reached: .*{message}"),
        open_redshift(place, Access(user="nobody")).session(),
    ):
        pass
    gc.collect()


def test_an_exchange_that_cannot_be_reached_is_named_and_fails_nothing_that_is_done(place, caplog):
    gone = re.sub("s3=.*", "s3=http://127.0.0.1:9", place)
    filesystem = open_redshift(gone)._filesystem
    warehouse = RedshiftWarehouse(
        open_redshift(place)._connect, "w", "s3://exchange/x", lambda: "aws_iam_role=r", filesystem
    )
    with (
        warehouse.session() as session,
        pytest.raises(WarehouseError, match=r"handed over by 's3://exchange/x/\w+': Could"),
    ):
        session.read("SELECT 1 AS a")
    assert "stays and may hold people's texts; remove it" in caplog.text


@pytest.mark.parametrize(
    "base", [None, "", "file:///data/staging/exchange", "s3://", "s3:///x", "s3://b/it's", "bucket/x"]
)
def test_an_exchange_that_is_no_place_in_s3_is_refused(base):
    with pytest.raises(WarehouseSettingsError, match="hands rows over by S3, and .*set CODING_STAGING"):
        RedshiftWarehouse(lambda: None, "w", base, lambda: "", None)


def test_a_connection_that_others_break_off_undoes_its_transaction(postgres, place, warehouse):
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
def test_the_stand_in_refuses_what_redshift_has_not(session, sql):
    session.execute("CREATE TABLE t (a INTEGER)")
    with pytest.raises(WarehouseError, match="syntax error"):
        session.execute(sql)


def test_readers_wait_for_a_lock(warehouse):
    with warehouse.session() as session:
        session.execute("CREATE TABLE t (a INTEGER)")
        with session.transaction(lock="t"):
            session.execute("INSERT INTO t VALUES (1)")
            found = []

            def read():
                with warehouse.session(read_only=True) as reader:
                    found.append(reader.execute("SELECT count(*) FROM t"))

            thread = threading.Thread(target=read)
            thread.start()
            thread.join(timeout=1)
            assert found == []
        thread.join()
    assert len(found) == 1
