"""The behaviour of every warehouse: statements, Arrow in and out, transactions."""

import threading
from datetime import date, datetime

import duckdb
import pyarrow as pa
import pytest

from include.warehouse.duckdb_warehouse import Query
from include.warehouse.errors import NoSuchTableError, WarehouseError, WarehouseSettingsError
from include.warehouse.warehouse import quote_column, quote_table
from tests.support.warehouses import open_warehouse


@pytest.fixture
def warehouse(place):
    warehouse = open_warehouse(place)
    with warehouse.session() as session:
        session.execute("CREATE TABLE t AS SELECT 1 AS a, 'x' AS b")
    return warehouse


@pytest.mark.parametrize(
    ("name", "sql"),
    [
        ("a", '"a"'),
        ("s.a", '"s"."a"'),
        ("select", '"select"'),
        ('a"b', '"a""b"'),
        ('a"; DROP TABLE t; --', '"a""; DROP TABLE t; --"'),
        ("w x.ÿ", '"w x"."ÿ"'),
    ],
)
def test_each_part_of_a_table_name_is_quoted(name, sql):
    assert quote_table(name) == sql


def test_a_dot_in_a_column_name_is_part_of_it():
    assert quote_column('job."title') == '"job.""title"'


@pytest.mark.parametrize("value", ["'; --", 7, 0.5, True, date(2026, 10, 5), datetime(2026, 10, 5, 1, 2, 3, 4), None])
def test_a_statement_returns_its_rows_and_binds_values(warehouse, value):
    with warehouse.session() as session:
        assert session.execute("SELECT a, ? FROM t WHERE b = ?", [value, "x"]) == [(1, value)]


def test_a_question_mark_in_quotes_is_not_a_placeholder(warehouse):
    with warehouse.session() as session:
        assert session.execute("""SELECT a AS "?", '?''?', ? FROM t""", ["x"]) == [(1, "?'?", "x")]


@pytest.mark.parametrize("method", ["execute", "read"])
@pytest.mark.parametrize("name", ["missing", "nowhere.missing", "sql", "self", "values"])
def test_a_missing_table_has_its_own_error(warehouse, method, name):
    with warehouse.session(read_only=True) as session, pytest.raises(NoSuchTableError, match=name):
        getattr(session, method)(f"SELECT * FROM {quote_table(name)}")


@pytest.mark.parametrize("place", ["postgres", "redshift"], indirect=True)
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
        ("SELECT 1 / 0", WarehouseError, "://tests' rejected a statement or closed the connection: division by zero"),
        ("SELEC 1", WarehouseError, "syntax error"),
    ],
)
def test_the_class_of_a_server_error_tells_whether_it_is_retryable(postgres, warehouse, sql, error, message):
    postgres.execute("DROP ROLE IF EXISTS guest")
    postgres.execute("CREATE ROLE guest")
    create = ["CREATE TABLE secrets (a INT)", "CREATE SCHEMA hidden", "CREATE TABLE hidden.t (a INT)"]
    with warehouse.session() as session:
        for statement in (*create, "SET ROLE guest"):
            session.execute(statement)
        with pytest.raises(error) as excinfo:
            session.execute(sql)
    assert (type(excinfo.value), message in str(excinfo.value)) == (error, True)


def test_rows_are_read_in_batches(warehouse):
    with warehouse.session() as session:
        reader = session.read("SELECT n, repeat('x', 300) AS t FROM generate_series(1, ?) AS s(n)", [250_000])
        assert reader.schema.names == ["n", "t"]
        sizes = [batch.num_rows for batch in reader]
    assert sum(sizes) == 250_000
    assert max(sizes) <= 100_000


def test_a_query_with_values_can_be_read(warehouse):
    query = "SELECT ? AS t, ? AS n, '?' AS mark, a FROM t WHERE b = ? AND DATE '2026-10-05' = ?"
    with warehouse.session() as session:
        (row,) = session.read(query, ["it's", 7, "x", date(2026, 10, 5)]).read_all().to_pylist()
    assert list(row.values()) == ["it's", 7, "?", 1]


def test_a_query_can_be_read_more_than_once(warehouse):
    with duckdb.connect() as engine, warehouse.session(read_only=True) as session:
        engine.register("numbers", session.query("SELECT n FROM generate_series(1, 3000) AS s(n)"))
        assert engine.execute("SELECT n FROM numbers LIMIT 1").fetchall() == [(1,)]
        assert [engine.execute("SELECT sum(n) FROM numbers").fetchall() for _ in range(2)] == [[(4_501_500,)]] * 2
        engine.unregister("numbers")


def test_a_transaction_is_committed(warehouse):
    with warehouse.session() as session, session.transaction():
        session.execute("INSERT INTO t VALUES (2, 'y')")
    with warehouse.session(read_only=True) as session:
        assert session.execute("SELECT count(*) FROM t") == [(2,)]


def delete_and_fail(session, error):
    with session.transaction():
        session.execute("DELETE FROM t")
        raise error


def delete_and_execute(session, sql):
    with session.transaction():
        session.execute("DELETE FROM t")
        session.execute(sql)


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), duckdb.ConversionException("no")])
def test_a_failed_transaction_is_rolled_back_and_the_session_still_works(warehouse, error):
    with warehouse.session() as session:
        with pytest.raises(type(error)):
            delete_and_fail(session, error)
        assert session.execute("SELECT count(*) FROM t") == [(1,)]
        with session.transaction():
            session.execute("INSERT INTO t VALUES (2, 'y')")
        assert session.execute("SELECT count(*) FROM t") == [(2,)]


def test_a_failed_statement_rolls_back_its_transaction(warehouse):
    with warehouse.session() as session:
        with pytest.raises(WarehouseError, match="ConversionException|22P02"):
            delete_and_execute(session, "SELECT CAST('x' AS INTEGER)")
        assert session.execute("SELECT count(*) FROM t") == [(1,)]


@pytest.mark.parametrize("place", ["postgres"], indirect=True)  # a DuckDB file has one writer anyway
def test_transactions_that_lock_a_table_wait_for_each_other(warehouse):
    counts = []

    def add(number):
        with warehouse.session() as session, session.transaction(lock="t"):
            ((count,),) = session.execute("SELECT count(*) FROM t")
            counts.append(count)
            session.execute("INSERT INTO t VALUES (?, 'y')", [number])

    threads = [threading.Thread(target=add, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [1, 2, 3, 4]


@pytest.mark.parametrize("place", ["postgres"], indirect=True)  # nobody writes to a DuckDB file while it is read
def test_a_read_only_session_reads_one_snapshot(warehouse):
    with warehouse.session(read_only=True) as reader:
        before = reader.execute("SELECT count(*) FROM t")
        with warehouse.session() as writer:
            writer.execute("INSERT INTO t VALUES (2, 'y')")
        assert reader.execute("SELECT count(*) FROM t") == before
    with warehouse.session(read_only=True) as reader:
        assert reader.execute("SELECT count(*) FROM t") == [(2,)]


def test_staged_rows_can_be_read_more_than_once_but_only_within_the_block(warehouse):
    with duckdb.connect() as engine, warehouse.session() as session:
        with session.staged("numbers", Query(engine, "SELECT i FROM range($n) t(i)", {"n": 3})):
            assert session.execute("SELECT CAST(sum(i) AS BIGINT) FROM numbers") == [(3,)]
            assert session.execute("SELECT count(*) FROM numbers AS a JOIN numbers AS b USING (i)") == [(3,)]
        with pytest.raises(NoSuchTableError, match="numbers"):
            session.execute("SELECT * FROM numbers")


def test_staged_rows_keep_their_types_and_characters(warehouse):
    rows = pa.table(
        {
            "text": ['it\'s \\ \t, "x" \U0001f600', "", None],
            "number": [1, -(2**31), None],
            "share": [0.1, float("inf"), None],
            "day": [date(2026, 10, 5), date(1, 1, 1), None],
            "moment": [datetime(2026, 10, 5, 1, 2, 3, 4), datetime(1970, 1, 1), None],
        }
    )
    with warehouse.session() as session, session.staged("rows_in", rows):
        assert session.read("SELECT * FROM rows_in").read_all().to_pylist() == rows.to_pylist()


def test_rows_staged_in_a_failed_transaction_are_removed(warehouse):
    def fail(session):
        with session.transaction(), session.staged("numbers", pa.table({"i": [1]})):
            session.execute("SELECT * FROM nowhere")

    with warehouse.session() as session:
        with pytest.raises(NoSuchTableError, match="nowhere"):
            fail(session)
        with session.staged("numbers", pa.table({"i": [2]})):
            assert session.execute("SELECT i FROM numbers") == [(2,)]


def test_the_catalogue_has_tables_and_views_but_no_temporary_ones(warehouse):
    with warehouse.session() as session:
        for statement in (
            "CREATE SCHEMA other", "CREATE TABLE other.answers (a INTEGER)", "CREATE VIEW other.v AS SELECT a FROM other.answers",
            "CREATE TEMP TABLE hidden (a INTEGER)",
        ):  # fmt: skip
            session.execute(statement)
        ((schema,),) = session.execute("SELECT CAST(current_schema() AS VARCHAR)")
        assert session.look_up_table("other", "answers") == ("other", "answers")
        assert session.look_up_table("other", "v") == ("other", "v")
        for name in (
            (schema, "answers"),
            (schema, "hidden"),
            ("nowhere", "answers"),
            ("", ""),
            ("other", "answers' OR ''='"),
        ):
            assert session.look_up_table(*name) is None
