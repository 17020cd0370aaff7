"""PostgreSQL as the warehouse: permissions, restarts, errors."""

import pytest

from include.warehouse.errors import WarehouseError, WarehouseSettingsError
from include.warehouse.postgres_warehouse import PostgresWarehouse
from tests.support.postgres import run_postgres


@pytest.fixture
def database(postgres):
    return postgres.create_database()


def open_warehouse(postgres, database, user="postgres"):
    return PostgresWarehouse(lambda: postgres.conninfo(database, user), "postgres://tests")


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT 1 / 0", "connection: division by zero (SQLSTATE 22012)"),
        ("SELECT CAST('a person' AS INTEGER)", "connection: invalid text representation (SQLSTATE 22P02)"),
    ],
)
def test_an_error_about_a_value_does_not_contain_it(postgres, database, sql, message):
    with open_warehouse(postgres, database).session() as session, pytest.raises(WarehouseError) as excinfo:
        session.execute(sql)
    assert message in str(excinfo.value)


def test_an_error_contains_nothing_of_a_row(postgres, database):
    with open_warehouse(postgres, database).session() as session:
        session.execute("CREATE TABLE t (a TEXT PRIMARY KEY)")
        session.execute("INSERT INTO t VALUES (?)", ["what a person wrote"])
        with pytest.raises(
            WarehouseError, match="unique violation .SQLSTATE 23505.*table 't', constraint 't_pkey'"
        ) as excinfo:
            session.execute("INSERT INTO t VALUES (?)", ["what a person wrote"])
    assert "person" not in str(excinfo.value)


@pytest.mark.parametrize("user", ["nobody", "postgres"])
def test_a_refused_connection_gives_the_reason(postgres, user):
    warehouse = open_warehouse(postgres, "no_such_database", user)
    message = "'postgres://tests' cannot be reached: .*does not exist"
    with pytest.raises(WarehouseSettingsError, match=message), warehouse.session():
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
