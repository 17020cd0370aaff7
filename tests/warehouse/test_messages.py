"""What a warehouse or an engine says about a row never reaches a message, a traceback or a log."""

import logging
import traceback

import pyarrow as pa
import pytest

from include.coding.engine import open_engine
from include.coding.errors import EngineError
from include.warehouse.errors import WarehouseError
from tests.support.warehouses import open_warehouse

SECRET = "what a person wrote"
TABLE = "CREATE TABLE answers (a VARCHAR(40) PRIMARY KEY, b INTEGER NOT NULL CHECK (b < 10))"
ROW = f"INSERT INTO answers VALUES ('{SECRET}', 1)"
#: Statements that fail, and what PostgreSQL's message contains.
FAILURES = {
    "a duplicate key": (ROW, "unique violation (SQLSTATE 23505), schema 'public', table 'answers'"),
    "a missing value": (f"INSERT INTO answers VALUES ('{SECRET}!', NULL)", "SQLSTATE 23502"),
    "a check": (f"INSERT INTO answers VALUES ('{SECRET}!', 11)", "constraint 'answers_b_check'"),
    "a conversion": ("SELECT CAST(a AS INTEGER) FROM answers", "invalid text representation (SQLSTATE 22P02)"),
    "a date": ("SELECT CAST(a AS DATE) FROM answers", "SQLSTATE 22007"),
    "a conversion in a view": ("SELECT * FROM numbers", "SQLSTATE 22P02"),
    "a missing column": (f"SELECT c FROM answers WHERE a = '{SECRET}'", 'column "c" does not exist'),
    "a missing table": (f"SELECT 1 FROM nowhere WHERE a = '{SECRET}'", "nowhere"),
    "a syntax error": (f"SELEC 1 FROM answers WHERE a = '{SECRET}'", "syntax error"),
}


@pytest.fixture
def warehouse(place):
    warehouse = open_warehouse(place)
    with warehouse.session() as session:
        for statement in (TABLE, ROW, "CREATE VIEW numbers AS SELECT CAST(a AS INTEGER) AS n FROM answers"):
            session.execute(statement)
    return warehouse


def format_all(error, caplog):
    return "".join(traceback.format_exception(error)) + repr(error) + caplog.text


@pytest.mark.parametrize("place", ["duckdb", "postgres"], indirect=True)
@pytest.mark.parametrize("failure", FAILURES)
def test_a_failed_statement_is_described_without_the_values_of_a_row(warehouse, place, failure, caplog):
    caplog.set_level(logging.DEBUG)
    sql, detail = FAILURES[failure]
    with warehouse.session() as session, pytest.raises(WarehouseError) as excinfo:
        session.execute(sql)
    assert SECRET not in format_all(excinfo.value, caplog)
    if str(place).startswith("host="):
        assert detail in str(excinfo.value)


@pytest.mark.parametrize("place", ["duckdb", "postgres"], indirect=True)
def test_an_error_in_a_transaction_with_staged_rows_quotes_none_of_them(warehouse, caplog):
    caplog.set_level(logging.DEBUG)

    def add_rows(session):
        with session.transaction(), session.staged("rows_in", pa.table({"a": [SECRET], "b": [2]})):
            session.execute("INSERT INTO answers SELECT a, CAST(b AS INTEGER) FROM rows_in")

    with warehouse.session() as session, pytest.raises(WarehouseError) as excinfo:
        add_rows(session)
    assert SECRET not in format_all(excinfo.value, caplog)


@pytest.mark.parametrize("place", ["postgres"], indirect=True)
def test_what_a_function_of_the_server_raises_is_not_passed_on(warehouse, caplog):
    caplog.set_level(logging.DEBUG)
    raise_text = f"DO $$ BEGIN RAISE EXCEPTION '{SECRET}' USING DETAIL = '{SECRET}', HINT = '{SECRET}'; END $$"
    with (
        warehouse.session() as session,
        pytest.raises(WarehouseError, match="raise exception .SQLSTATE P0001") as excinfo,
    ):
        session.execute(raise_text)
    assert SECRET not in format_all(excinfo.value, caplog)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT CAST(a AS INTEGER) FROM answers",
        "SELECT strptime(a, '%Y') FROM answers",
        "SELECT error(a) FROM answers",
        f"INSERT INTO answers VALUES ('{SECRET}')",
        f"SELECT nothing FROM answers WHERE a = '{SECRET}'",
        f"SELECT * FROM nowhere WHERE a = '{SECRET}'",
    ],
)
def test_a_failed_statement_of_the_data_engine_is_described_without_the_values_of_a_row(tmp_path, sql, caplog):
    caplog.set_level(logging.DEBUG)

    def run():
        with open_engine(tmp_path, "test", 256) as engine:
            engine.execute("CREATE TABLE answers (a VARCHAR PRIMARY KEY)")
            engine.execute(f"INSERT INTO answers VALUES ('{SECRET}')")
            engine.execute(sql).fetchall()

    with pytest.raises(EngineError, match=r"the data engine rejected a statement \(\w+Exception\)") as excinfo:
        run()
    assert SECRET not in format_all(excinfo.value, caplog)
