"""PostgreSQL as the warehouse: permissions, restarts, errors."""

import pytest

from include.warehouse.errors import NoSuchTableError, WarehouseError, WarehouseSettingsError
from include.warehouse.postgres_warehouse import PostgresWarehouse
from tests.support.postgres import run_postgres


@pytest.fixture
def database(postgres):
    return postgres.create_database()


def open_warehouse(postgres, database, user="postgres"):
    return PostgresWarehouse(lambda: postgres.conninfo(database, user), "postgres://tests")


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
        ("SELECT 1 / 0", WarehouseError, "division by zero (SQLSTATE 22012)"),
        (
            "SELECT CAST('what a person wrote' AS INTEGER)",
            WarehouseError,
            "connection: invalid input syntax for type integer (SQLSTATE 22P02)",
        ),
        ("SELEC 1", WarehouseError, "syntax error"),
    ],
)
def test_the_class_of_a_server_error_tells_whether_it_is_retryable(postgres, database, sql, error, message):
    postgres.execute("DROP ROLE IF EXISTS guest")
    postgres.execute("CREATE ROLE guest LOGIN")
    for statement in ("CREATE TABLE secrets (a INT)", "CREATE SCHEMA hidden", "CREATE TABLE hidden.t (a INT)"):
        postgres.execute(statement, database)
    with open_warehouse(postgres, database, "guest").session() as session, pytest.raises(error) as excinfo:
        session.execute(sql)
    assert (type(excinfo.value), message in str(excinfo.value)) == (error, True)


def test_an_error_contains_nothing_of_a_row(postgres, database):
    with open_warehouse(postgres, database).session() as session:
        session.execute("CREATE TABLE t (a TEXT PRIMARY KEY)")
        session.execute("INSERT INTO t VALUES (?)", ["what a person wrote"])
        with pytest.raises(WarehouseError, match="duplicate key value") as excinfo:
            session.execute("INSERT INTO t VALUES (?)", ["what a person wrote"])
    assert "person" not in str(excinfo.value)


@pytest.mark.parametrize("user", ["nobody", "postgres"])
def test_a_refused_connection_gives_the_reason(postgres, user):
    with (
        pytest.raises(WarehouseSettingsError, match="'postgres://tests' cannot be reached: .*does not exist"),
        open_warehouse(postgres, "no_such_database", user).session(),
    ):
        pass


def insert_during_a_restart(session, server):
    with session.transaction():
        session.execute("INSERT INTO t VALUES (1)")
        server.restart()
        session.execute("INSERT INTO t VALUES (2)")


def test_a_restart_rolls_back_the_transaction_and_another_session_works():
    with run_postgres() as server:
        warehouse = open_warehouse(server, server.create_database())
        with warehouse.session() as session:
            session.execute("CREATE TABLE t (a INT)")
            with pytest.raises(WarehouseError, match="closed the connection: "):
                insert_during_a_restart(session, server)
        with warehouse.session() as session:
            assert session.execute("SELECT count(*) FROM t") == [(0,)]
