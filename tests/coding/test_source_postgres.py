"""Sources in PostgreSQL: their types, and reading them while others write."""

import threading
import time

import psycopg
import pytest

from include.coding.errors import SourceError
from include.warehouse.errors import WarehouseError, WarehouseSettingsError
from tests.coding.conftest import DAY, Pipeline, make_key
from tests.support.postgres import Postgres


@pytest.fixture
def database(postgres):
    return postgres.create_database()


@pytest.fixture
def pipeline(tmp_path, postgres, database):
    return Pipeline(tmp_path, postgres.conninfo(database))


def fill(pipeline, record_id, occp_text="'chef'", rows="generate_series(1, 1)"):
    pipeline.query(
        f"CREATE TABLE survey_responses AS SELECT {record_id} AS record_id, DATE '{DAY}' AS response_date,"
        f" {occp_text} AS occp_text, '' AS tasks_text FROM {rows} AS s(n)"
    )


@pytest.mark.parametrize(
    ("expression", "record_id"),
    [("CAST('R1' AS CHAR(10))", "R1"), ("CAST(12345678901234567890 AS NUMERIC(20))", "12345678901234567890")],
)
def test_ids_are_read_as_the_server_writes_them(pipeline, expression, record_id):
    fill(pipeline, expression)
    pipeline.run()
    assert pipeline.read_outcomes() == [(record_id, "coded")]


def test_a_reader_waits_for_a_loader_and_sees_its_records(pipeline, postgres, database):
    fill(pipeline, "'old'")
    pipeline.run()
    with psycopg.connect(postgres.conninfo(database)) as loader:
        loader.execute("TRUNCATE survey_responses")
        loader.execute(f"INSERT INTO survey_responses VALUES ('new', '{DAY}', 'baker', '')")
        reader = threading.Thread(target=pipeline.prepare, kwargs={"run_id": "run-2"})
        reader.start()
        deadline = time.monotonic() + 30
        while pipeline.query("SELECT count(*) FROM pg_locks WHERE NOT granted") == [(0,)]:
            assert time.monotonic() < deadline, "the reader does not wait"
    reader.join()
    assert pipeline.prepared.read == 1
    pipeline.land()
    assert pipeline.read_outcomes() == [("new", "coded")]


def test_a_materialized_view_is_read(pipeline):
    fill(pipeline, "'1'")
    pipeline.query("CREATE MATERIALIZED VIEW answers AS SELECT * FROM survey_responses")
    assert pipeline.run(source="answers").coded == 1


def create_database_with_encoding(postgres: Postgres, encoding: str) -> str:
    name = f"{postgres.create_database()}_{encoding.lower()}"
    postgres.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    return postgres.conninfo(name)


def test_texts_of_a_database_with_another_encoding_are_read_correctly(tmp_path, postgres):
    pipeline = Pipeline(tmp_path, create_database_with_encoding(postgres, "LATIN1"))
    fill(pipeline, "'é1'", "'café'")
    pipeline.run()
    assert pipeline.query("SELECT record_id, text_key FROM coding.coded_records") == [("é1", make_key("cafe", ""))]


def test_a_database_without_an_encoding_is_refused(tmp_path, postgres):
    pipeline = Pipeline(tmp_path, create_database_with_encoding(postgres, "SQL_ASCII"))
    with pytest.raises(WarehouseSettingsError, match="has the encoding SQL_ASCII.*use a database in UTF8"):
        pipeline.prepare()


def test_a_connection_lost_while_a_source_is_read_is_a_retryable_error(pipeline):
    fill(pipeline, "CAST(n AS VARCHAR)", "'job ' || n", "generate_series(1, 1000)")
    pipeline.query(
        "CREATE FUNCTION break_off() RETURNS TEXT LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END'"
    )
    pipeline.query(
        "CREATE VIEW v AS SELECT record_id, response_date, tasks_text,"
        " CASE WHEN record_id = '900' THEN break_off() ELSE occp_text END AS occp_text FROM survey_responses"
    )
    with pytest.raises(WarehouseError, match="lost the connection while 'v' was read"):
        pipeline.prepare(source="v")


def test_neither_an_error_nor_its_chain_contains_the_texts_of_a_person(pipeline):
    fill(pipeline, "'1'", "'what a person wrote'")
    pipeline.query(
        "CREATE VIEW v AS SELECT record_id, response_date, tasks_text,"
        " CAST(CAST(occp_text AS INTEGER) AS TEXT) AS occp_text FROM survey_responses"
    )
    with pytest.raises(SourceError, match="a query of its rows fails") as excinfo:
        pipeline.prepare(source="v")
    assert "person" not in str(excinfo.value)
    assert excinfo.value.__suppress_context__


def test_many_long_answers_are_rejected_within_the_memory_limit(pipeline):
    wide = "repeat(md5(CAST(n AS TEXT)), 40)"
    fill(pipeline, "CAST(n AS VARCHAR)", wide, "generate_series(1, 150000)")
    prepared = pipeline.prepare(memory_mb=384, max_rejected_share=1)
    assert (prepared.read, prepared.rejected, prepared.texts) == (150_000, 150_000, 0)


def test_a_long_text_in_another_script_is_rejected_for_its_letters(pipeline):
    fill(pipeline, "'1'", "repeat('护士', 400)")
    pipeline.run(max_rejected_share=1)
    assert pipeline.query("SELECT reason FROM coding.coded_records") == [("not_printable_ascii",)]
