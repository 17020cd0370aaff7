"""Opening the warehouse that an Airflow connection describes."""

import json
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
import pytest

from include.warehouse.connect import connect
from include.warehouse.errors import WarehouseError, WarehouseSettingsError
from tests.support.redshift import BUCKET, REGION, ROLE, keys_below, open_filesystem

CONN_ID = "warehouse_default"


@pytest.fixture
def define(monkeypatch):
    """Define the Airflow connection `warehouse_default` in the environment."""
    return lambda **fields: monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE_DEFAULT", json.dumps(fields))


def test_a_duckdb_connection_opens_a_warehouse_in_its_file(define, tmp_path):
    path = tmp_path / "warehouse.duckdb"
    define(conn_type="duckdb", host=str(path))
    with connect(CONN_ID).session() as session:
        session.execute("CREATE TABLE t AS SELECT 1 AS a")
    with connect(CONN_ID).session(read_only=True) as session:
        assert session.execute("SELECT a FROM t") == [(1,)]
    assert (path.is_file(), connect(CONN_ID).name) == (True, str(path))


def test_a_read_only_session_cannot_write(define, tmp_path):
    define(conn_type="duckdb", host=str(tmp_path / "warehouse.duckdb"))
    with connect(CONN_ID).session():
        pass
    with connect(CONN_ID).session(read_only=True) as session, pytest.raises(Exception, match="read-only"):
        session.execute("CREATE TABLE t (a INTEGER)")


def test_the_connection_can_have_any_id(monkeypatch, tmp_path):
    fields = {"conn_type": "duckdb", "host": str(tmp_path / "other.duckdb")}
    monkeypatch.setenv("AIRFLOW_CONN_OTHER_WAREHOUSE", json.dumps(fields))
    assert connect("other_warehouse").name == str(tmp_path / "other.duckdb")


def test_a_missing_connection_is_named_with_a_way_to_create_it():
    with pytest.raises(WarehouseError) as excinfo:
        connect("no_such_warehouse")
    message = "there is no Airflow connection 'no_such_warehouse': create one of type duckdb, postgres or redshift"
    assert message in str(excinfo.value)
    assert 'AIRFLOW_CONN_NO_SUCH_WAREHOUSE=\'{"conn_type": "duckdb", "host": ' in str(excinfo.value)


@pytest.mark.parametrize("kind", ["mysql", "http", "sqlite"])
def test_a_connection_of_an_unsupported_type_is_refused(define, kind):
    define(conn_type=kind, host="somewhere")
    message = f"'warehouse_default' is of type '{kind}'; supported: 'duckdb', 'postgres', 'redshift'"
    with pytest.raises(WarehouseError, match=message):
        connect(CONN_ID)


@pytest.mark.parametrize("host", ["", None])
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("duckdb", "the path of the DuckDB file"),
        ("postgres", "that of the server"),
        ("redshift", "that of the cluster"),
    ],
)
def test_a_connection_without_a_host_is_refused(define, host, kind, expected):
    define(conn_type=kind, host=host)
    with pytest.raises(WarehouseSettingsError, match=f"'warehouse_default' has no host: set it to {expected}"):
        connect(CONN_ID)


def test_a_postgres_connection_opens_a_warehouse_on_its_server(define, postgres):
    database = postgres.create_database()
    extra = {"options": "-c search_path=answers", "sqlalchemy_query": {"a": "b"}}
    define(conn_type="postgres", host=postgres.socket_folder, schema=database, login="postgres", extra=extra)
    with connect(CONN_ID).session() as session:
        assert session.execute("SELECT current_database(), current_user, current_setting('search_path')") == [
            (database, "postgres", "answers")
        ]


def test_the_password_is_not_in_the_error_message(define):
    define(conn_type="postgres", host="127.0.0.1", port=1, login="me", password="open sesame", schema="a")
    message = "warehouse 'postgres://127.0.0.1/a' cannot be reached: .*refused"
    with pytest.raises(WarehouseError, match=message) as excinfo, connect(CONN_ID).session():
        pass
    assert "sesame" not in str(excinfo.value)


def test_an_unknown_option_of_libpq_is_named(define):
    define(conn_type="postgres", host="db", password="open sesame", extra={"sslmod": "require"})
    message = r"libpq does not know; its options are \['sslmod'\]"
    with pytest.raises(WarehouseSettingsError, match=message) as excinfo, connect(CONN_ID).session():
        pass
    assert "sesame" not in str(excinfo.value)


@pytest.fixture
def storage(monkeypatch, redshift):
    """Define an Airflow connection to the S3 server, with additional extras."""

    def define(name="staging_default", **extra):
        fields = {"conn_type": "aws", "login": "key", "password": "open+sesame"}
        extra = {"endpoint_url": redshift.s3, "region_name": REGION, **extra}
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps({**fields, "extra": extra}))

    return define


@pytest.fixture
def connect_redshift(define, redshift):
    """Connect to a database of the stand-in; the extras are options of the driver, which Airflow's hook passes on."""
    parts = urlsplit(redshift.create_place())
    extra = {"unix_sock": parse_qs(parts.query)["socket"][0], "ssl": False, "application_name": "tests"}
    define(conn_type="redshift", host="cluster", schema=parts.path[1:], login="postgres", password="p", extra=extra)

    def connect_to(exchange_uri=f"s3://{BUCKET}{parts.path}/exchange", **encryption):
        return connect(
            CONN_ID,
            exchange_uri=exchange_uri,
            open_exchange=lambda uri: open_filesystem(redshift.s3, encryption),
            storage_conn_id="staging_default",
        )

    return connect_to


def test_a_redshift_connection_opens_a_warehouse_that_exchanges_rows_through_s3(connect_redshift, redshift, storage):
    storage()
    warehouse = connect_redshift()
    with warehouse.session() as session:
        ((database, user),) = session.execute("SELECT current_database(), current_user")
        rows, folder = pa.table({"a": [1]}), session._exchange.make_folder()
        session._exchange.write(folder, rows.to_reader(), rows.schema)
        assert len(keys_below(redshift.s3, f"s3://{BUCKET}/{database}/exchange")) == 1
    assert (warehouse.name, user) == (f"redshift://cluster/{database}", "postgres")


def test_the_exchange_folder_is_opened_by_its_uri(connect_redshift, redshift):
    uris = []

    def open_exchange(uri):
        uris.append(uri)
        return open_filesystem(redshift.s3)

    connect(CONN_ID, exchange_uri=f"s3://{BUCKET}/x", open_exchange=open_exchange)
    assert uris == [f"s3://{BUCKET}/x"]


def test_the_cluster_uses_the_keys_of_the_storage_connection_or_its_role(connect_redshift, redshift, storage):
    storage("aws_default")  # the default of the S3 hook, used while `staging_default` does not exist
    assert connect_redshift()._get_credentials() == "aws_access_key_id=key;aws_secret_access_key=open+sesame"
    storage(role_arn=ROLE, service_config={"sts": {"endpoint_url": redshift.s3}})  # we assume the role as well
    assert connect_redshift()._get_credentials() == f"aws_iam_role={ROLE}"


def test_missing_storage_credentials_are_named_with_the_connection(connect_redshift, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AIRFLOW_CONN_STAGING_DEFAULT", json.dumps({"conn_type": "aws"}))
    warehouse = connect_redshift()
    with pytest.raises(WarehouseSettingsError, match="'staging_default' has no credentials for S3: set `role_arn`"):
        warehouse._get_credentials()


def test_the_exchange_has_the_encryption_of_its_file_system(connect_redshift, storage):
    storage()
    encryption = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "key-1"}
    with connect_redshift(**encryption).session() as session:
        assert session._exchange.encryption == ("aws:kms", "key-1")


@pytest.mark.parametrize("uri", [None, "file:///data/staging/exchange"])
def test_redshift_without_an_exchange_folder_in_s3_is_refused(connect_redshift, uri):
    with pytest.raises(WarehouseSettingsError, match="exchanges rows through S3, and .*set CODING_STAGING"):
        connect_redshift(uri)


def test_redshift_needs_a_way_to_open_its_exchange_folder(connect_redshift):
    with pytest.raises(TypeError, match="needs open_exchange"):
        connect(CONN_ID, exchange_uri=f"s3://{BUCKET}/x")
