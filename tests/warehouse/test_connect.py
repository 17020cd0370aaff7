"""From an Airflow connection to a warehouse."""

import json

import pytest

from include.warehouse.connect import connect
from include.warehouse.errors import WarehouseError, WarehouseSettingsError


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
    assert "there is no Airflow connection 'no_such_warehouse': make one of type duckdb or postgres" in str(
        caught.value
    )
    assert 'AIRFLOW_CONN_NO_SUCH_WAREHOUSE=\'{"conn_type": "duckdb", "host": ' in str(caught.value)


@pytest.mark.parametrize("kind", ["mysql", "http", "sqlite"])
def test_a_connection_of_another_type_is_refused(define, kind):
    define(conn_type=kind, host="somewhere")
    with pytest.raises(
        WarehouseError, match=f"'warehouse_default' is of type '{kind}'; supported: 'duckdb', 'postgres'"
    ):
        connect()


@pytest.mark.parametrize("host", ["", None])
@pytest.mark.parametrize(
    ("kind", "what"), [("duckdb", "the path of the DuckDB file"), ("postgres", "that of the server")]
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
    with pytest.raises(WarehouseSettingsError, match=r"none of libpq; it has \['sslmod'\]") as caught:
        connect()
    assert "sesame" not in str(caught.value)
