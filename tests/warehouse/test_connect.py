"""From an Airflow connection to a warehouse."""

import json
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
import pytest

from include.warehouse.connect import connect
from include.warehouse.errors import WarehouseError, WarehouseSettingsError
from tests.support.redshift import BUCKET, REGION, ROLE, keys_below


@pytest.fixture
def define(monkeypatch):
    """Define the Airflow connection `warehouse_default` in the environment."""
    return lambda **fields: monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE_DEFAULT", json.dumps(fields))


def test_a_connection_of_type_duckdb_gives_a_warehouse_in_its_file(define, tmp_path):
    path = tmp_path / "warehouse.duckdb"
    define(conn_type="duckdb", host=str(path))
    with connect().session() as session:
        session.execute("CREATE TABLE t AS SELECT 1 AS a")
    with connect().session(read_only=True) as session:
        assert session.execute("SELECT a FROM t") == [(1,)]
    assert (path.is_file(), connect().name) == (True, str(path))


def test_a_reader_cannot_write(define, tmp_path):
    define(conn_type="duckdb", host=str(tmp_path / "warehouse.duckdb"))
    with connect().session():
        pass
    with connect().session(read_only=True) as session, pytest.raises(Exception, match="read-only"):
        session.execute("CREATE TABLE t (a INTEGER)")


def test_another_connection_may_be_named(monkeypatch, tmp_path):
    fields = {"conn_type": "duckdb", "host": str(tmp_path / "other.duckdb")}
    monkeypatch.setenv("AIRFLOW_CONN_OTHER_WAREHOUSE", json.dumps(fields))
    assert connect("other_warehouse").name == str(tmp_path / "other.duckdb")


def test_a_missing_connection_is_named_with_a_way_to_make_it():
    with pytest.raises(WarehouseError) as caught:
        connect("no_such_warehouse")
    assert "there is no Airflow connection 'no_such_warehouse': make one of type duckdb, postgres or redshift" in str(
        caught.value
    )
    assert 'AIRFLOW_CONN_NO_SUCH_WAREHOUSE=\'{"conn_type": "duckdb", "host": ' in str(caught.value)


@pytest.mark.parametrize("kind", ["mysql", "http", "sqlite"])
def test_a_connection_of_another_type_is_refused(define, kind):
    define(conn_type=kind, host="somewhere")
    with pytest.raises(
        WarehouseError, match=f"'warehouse_default' is of type '{kind}'; supported: 'duckdb', 'postgres', 'redshift'"
    ):
        connect()


@pytest.mark.parametrize("host", ["", None])
@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("duckdb", "the path of the DuckDB file"),
        ("postgres", "that of the server"),
        ("redshift", "that of the cluster"),
    ],
)
def test_a_connection_without_a_host_is_refused(define, host, kind, what):
    define(conn_type=kind, host=host)
    with pytest.raises(WarehouseSettingsError, match=f"'warehouse_default' has no host: put {what} there"):
        connect()


def test_a_connection_of_type_postgres_gives_a_warehouse_on_its_server(define, postgres):
    database = postgres.create_database()
    extra = {"options": "-c search_path=answers", "sqlalchemy_query": {"a": "b"}}
    define(conn_type="postgres", host=postgres.socket_folder, schema=database, login="postgres", extra=extra)
    with connect().session() as session:
        assert session.execute("SELECT current_database(), current_user, current_setting('search_path')") == [
            (database, "postgres", "answers")
        ]


def test_the_password_stands_in_no_message(define):
    define(conn_type="postgres", host="127.0.0.1", port=1, login="me", password="open sesame", schema="a")
    message = "warehouse 'postgres://127.0.0.1/a' cannot be reached: .*refused"
    with pytest.raises(WarehouseError, match=message) as caught, connect().session():
        pass
    assert "sesame" not in str(caught.value)


def test_an_option_that_libpq_does_not_know_is_named(define):
    define(conn_type="postgres", host="db", password="open sesame", extra={"sslmod": "require"})
    message = r"none of libpq; it has \['sslmod'\]"
    with pytest.raises(WarehouseSettingsError, match=message) as caught, connect().session():
        pass
    assert "sesame" not in str(caught.value)


@pytest.fixture
def storage(monkeypatch, redshift):
    """Define the connection to the S3 server under a name, with more extras if they are given."""

    def define(name="staging_default", **extra):
        fields = {"conn_type": "aws", "login": "key", "password": "open+sesame"}
        extra = {"endpoint_url": redshift.s3, "region_name": REGION, **extra}
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps({**fields, "extra": extra}))

    return define


def define_redshift(define, place):
    """A connection of type redshift whose extras are options of the driver, as Airflow's hook takes them."""
    parts = urlsplit(place)
    extra = {"unix_sock": parse_qs(parts.query)["socket"][0], "ssl": False, "application_name": "tests"}
    define(conn_type="redshift", host="cluster", schema=parts.path[1:], login="postgres", password="p", extra=extra)


def test_a_connection_of_type_redshift_gives_a_warehouse_that_exchanges_by_s3(define, redshift, storage):
    place = redshift.create_place()
    database = urlsplit(place).path[1:]
    define_redshift(define, place)
    storage()
    exchange = f"s3://{BUCKET}/{database}/exchange"
    warehouse = connect(exchange=exchange)
    with warehouse.session() as session:
        assert session.execute("SELECT current_database(), current_user") == [(database, "postgres")]
        session._exchange.write(
            session._exchange.make_folder(), pa.table({"a": [1]}).to_reader(), pa.schema({"a": "int64"})
        )
        assert len(keys_below(redshift.s3, exchange)) == 1
    assert warehouse.name == f"redshift://cluster/{database}"


def test_the_cluster_gets_the_keys_of_the_storage_or_the_role_that_it_names(define, redshift, storage):
    define_redshift(define, redshift.create_place())
    storage("aws_default")
    assert connect(exchange=f"s3://{BUCKET}/x")._credentials() == (
        "aws_access_key_id=key;aws_secret_access_key=open+sesame"
    )
    storage(role_arn=ROLE, service_config={"sts": {"endpoint_url": redshift.s3}})  # the role is ours to assume too
    assert connect(exchange=f"s3://{BUCKET}/x")._credentials() == f"aws_iam_role={ROLE}"


def test_the_exchange_is_encrypted_as_the_connection_of_the_storage_says(define, redshift, storage):
    define_redshift(define, redshift.create_place())
    encryption = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "key-1"}
    storage(service_config={"s3": {"s3_additional_kwargs": encryption}})
    with connect(exchange=f"s3://{BUCKET}/x").session() as session:
        assert session._exchange.encryption == ("aws:kms", "key-1")


@pytest.mark.parametrize("exchange", [None, "file:///data/staging/exchange"])
def test_redshift_without_a_place_in_s3_is_refused(define, redshift, exchange):
    define_redshift(define, redshift.create_place())
    with pytest.raises(WarehouseSettingsError, match="hands rows over by S3, and .*set CODING_STAGING"):
        connect(exchange=exchange)
