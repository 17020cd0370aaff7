"""The project's tables: how they are created and migrated, and which versions are refused."""

import json
import threading
from pathlib import Path

import duckdb
import psycopg
import pytest

from include.coding import tables
from include.coding.model_pins import pin_model
from include.coding.tables import create_tables
from include.warehouse.errors import NoSuchTableError, WarehouseSettingsError
from include.warehouse.postgres_warehouse import PostgresWarehouse
from tests.coding.conftest import MODEL, on_all_warehouses, on_duckdb_and_postgres, on_postgres
from tests.support.warehouses import open_warehouse

MIGRATIONS = (
    "ALTER TABLE {schema}.coding_runs ADD COLUMN remark VARCHAR; -- a remark; of people\nCREATE TABLE {schema}.extra (a INTEGER)",
    "UPDATE {schema}.coding_runs SET remark = 'none'; CREATE INDEX extra_a ON {schema}.extra (a)",
)


#: The version of a new schema.
VERSION = 1 + len(tables.MIGRATIONS)
#: The tables of version 1.
TABLES_VERSION_1 = """
CREATE SCHEMA coding;
CREATE TABLE coding.schema_version (version INTEGER NOT NULL, migrated_at TIMESTAMP NOT NULL);
INSERT INTO coding.schema_version VALUES (1, TIMESTAMP '2026-11-01 00:00:00');
CREATE TABLE coding.coded_texts (
    text_key VARCHAR NOT NULL, topic VARCHAR NOT NULL, model_id VARCHAR NOT NULL, model_version DOUBLE PRECISION,
    occp_text VARCHAR NOT NULL, tasks_text VARCHAR NOT NULL, outcome VARCHAR NOT NULL, code VARCHAR, label VARCHAR,
    confidence DOUBLE PRECISION, level INTEGER, suggestions VARCHAR, operation_id VARCHAR NOT NULL,
    run_id VARCHAR NOT NULL, coded_at TIMESTAMP NOT NULL
);
CREATE TABLE coding.coding_operations (
    operation_id VARCHAR NOT NULL, run_id VARCHAR NOT NULL, part INTEGER NOT NULL, topic VARCHAR NOT NULL,
    model_id VARCHAR NOT NULL, records BIGINT NOT NULL, bytes BIGINT NOT NULL, state VARCHAR NOT NULL, error VARCHAR,
    usable BIGINT NOT NULL, set_aside BIGINT NOT NULL, metadata VARCHAR, landed_at TIMESTAMP NOT NULL
);
CREATE TABLE coding.coding_runs (
    run_id VARCHAR NOT NULL, topic VARCHAR NOT NULL, model_id VARCHAR NOT NULL, model_version DOUBLE PRECISION,
    source VARCHAR NOT NULL, selection VARCHAR NOT NULL, from_date DATE NOT NULL, to_date DATE NOT NULL,
    read_at TIMESTAMP NOT NULL, checksum VARCHAR, rows_of VARCHAR NOT NULL, records BIGINT NOT NULL,
    coded BIGINT NOT NULL, uncoded BIGINT NOT NULL, rejected BIGINT NOT NULL, texts BIGINT NOT NULL,
    texts_sent BIGINT NOT NULL, operations INTEGER NOT NULL, landed_at TIMESTAMP NOT NULL
);
CREATE TABLE coding.coded_records (
    record_id VARCHAR NOT NULL, occurrence INTEGER NOT NULL, response_date DATE NOT NULL, topic VARCHAR NOT NULL,
    model_id VARCHAR NOT NULL, model_version DOUBLE PRECISION, outcome VARCHAR NOT NULL, code VARCHAR, label VARCHAR,
    confidence DOUBLE PRECISION, level INTEGER, suggestions VARCHAR, reason VARCHAR, text_key VARCHAR,
    operation_id VARCHAR, run_id VARCHAR NOT NULL, coded_at TIMESTAMP NOT NULL
);
INSERT INTO coding.coding_operations
VALUES ('o', 'r', 0, 'osca', 'm', 1, 1, 'complete', NULL, 1, 0, NULL, TIMESTAMP '2026-11-01 00:00:00')
"""

#: All tables of version 2, and the source that a run of that version read.
TABLES_VERSION_2 = Path(__file__).with_name("tables_version_2.sql")
TABLES = ("coded_texts", "coded_records", "coding_operations", "coding_runs", "pinned_models")


@pytest.fixture
def warehouse(place):
    return open_warehouse(place)


def create(warehouse, *migrations, schema="coding"):
    with warehouse.session() as session:
        create_tables(session, schema, (*tables.MIGRATIONS, *migrations))


def query(warehouse, sql):
    with warehouse.session(read_only=True) as session:
        return session.execute(sql)


@on_all_warehouses
def test_tables_are_created_once_and_stay_unchanged_the_second_time(warehouse):
    create(warehouse)
    create(warehouse)
    assert query(warehouse, "SELECT version FROM coding.schema_version") == [(VERSION,)]


@on_all_warehouses
def test_tables_are_migrated_from_their_version(warehouse):
    create(warehouse)
    create(warehouse, *MIGRATIONS[:1])
    assert query(warehouse, "SELECT count(remark) FROM coding.coding_runs") == [(0,)]
    create(warehouse, *MIGRATIONS)
    assert query(warehouse, "SELECT max(version), count(*) FROM coding.schema_version") == [(VERSION + 2, 3)]
    assert query(warehouse, "SELECT count(*) FROM coding.extra") == [(0,)]


@on_all_warehouses
def test_tables_without_a_version_get_one(warehouse):
    create(warehouse)
    with warehouse.session() as session:
        session.execute("DROP TABLE coding.schema_version")
    create(warehouse)
    assert query(warehouse, "SELECT version FROM coding.schema_version") == [(VERSION,)]


#: What somebody can have done to the table with the version of the tables.
CHANGES_OF_VERSION = {
    "stated": "SELECT 1",
    "not stated": "DELETE FROM coding.schema_version",
    "older than the table of versions": "DROP TABLE coding.schema_version",
}


@on_all_warehouses
@pytest.mark.parametrize("change", CHANGES_OF_VERSION.values(), ids=CHANGES_OF_VERSION)
def test_tables_of_version_1_get_the_columns_of_a_new_schema_and_keep_their_rows(warehouse, change):
    with warehouse.session() as session:
        for statement in [*TABLES_VERSION_1.split(";"), change]:
            session.execute(statement)
        create_tables(session, "coding")
        create_tables(session, "fresh")
    for table in (*TABLES, "dates_over_limit", "current_codes"):
        with warehouse.session(read_only=True) as session:
            assert session.columns(f'"coding"."{table}"').names == session.columns(f'"fresh"."{table}"').names
    assert query(warehouse, "SELECT operation_id, seconds FROM coding.coding_operations") == [("o", None)]
    assert query(warehouse, "SELECT max(version) FROM coding.schema_version") == [(VERSION,)]


@on_all_warehouses
@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ("DROP TABLE coding.coding_runs", r"lacks the tables \['coding_runs'\]"),
        (
            "ALTER TABLE coding.coded_records ADD COLUMN read_at TIMESTAMP",
            "has 'coded_records' with the columns .*read_at",
        ),
    ],
    ids=["a missing table", "another column"],
)
def test_tables_without_a_version_that_are_of_no_known_version_are_refused_and_stay_unchanged(
    warehouse, change, detail
):
    with warehouse.session() as session:
        for statement in [*TABLES_VERSION_1.split(";"), "DROP TABLE coding.schema_version", change]:
            session.execute(statement)
        with pytest.raises(WarehouseSettingsError, match=f"'coding' has tables .* no version, and {detail}"):
            create_tables(session, "coding")
        assert "seconds" not in session.columns('"coding"."coding_operations"').names
        with pytest.raises(NoSuchTableError):
            session.execute("SELECT * FROM coding.schema_version")


@pytest.fixture
def old_pipeline(pipeline):
    """A pipeline whose warehouse has the tables of version 2."""
    for statement in TABLES_VERSION_2.read_text(encoding="utf-8").strip().removesuffix(";").split(";"):
        pipeline.query(statement)
    return pipeline


def add_reason(rows):
    """Return rows of `coded_texts` with the column that version 4 adds."""
    return [(*row, None) for row in rows]


def read_rows(pipeline):
    return {name: pipeline.query(f"SELECT * FROM coding.{name} ORDER BY 1, 2") for name in TABLES}


def read_view(pipeline, schema):
    """Return the definition of the view `current_codes` with the name of the schema left out."""
    query = {
        "DuckDB": "SELECT sql FROM duckdb_views() WHERE view_name = 'current_codes' AND schema_name = ?",
        "PostgreSQL": "SELECT definition FROM pg_views WHERE viewname = 'current_codes' AND schemaname = ?",
    }
    with pipeline.warehouse.session() as session:
        ((sql,),) = session.execute(query[session.dialect.name], [schema])
    return sql.replace(schema, "")


@on_duckdb_and_postgres
def test_tables_of_version_2_get_the_columns_of_a_new_schema_and_keep_their_rows(old_pipeline):
    rows = read_rows(old_pipeline)
    rows["coded_texts"] = add_reason(rows["coded_texts"])
    # no run has excluded a date, or has kept the checksum of a file
    rows["coding_runs"] = [(*row, None, None) for row in rows["coding_runs"]]
    with old_pipeline.warehouse.session() as session:
        create_tables(session, "coding")
        create_tables(session, "fresh")
        for table in (*TABLES, "dates_over_limit", "current_codes"):
            assert session.columns(f'"coding"."{table}"') == session.columns(f'"fresh"."{table}"')
    assert read_view(old_pipeline, "coding") == read_view(old_pipeline, "fresh")
    assert old_pipeline.query("SELECT max(version) FROM coding.schema_version") == [(VERSION,)]
    assert read_rows(old_pipeline) == rows
    owners = "SELECT topic, dag_id FROM coding.topic_owners"
    assert old_pipeline.query(owners) == [("osca", "recode_occupations")], "until then there was one DAG"
    operations = "SELECT operation_id, discarded_lines FROM coding.coding_operations ORDER BY 1"
    assert old_pipeline.query(operations) == [("run-1-operation-0", 2), ("run-1-operation-1", 0)]
    runs = "SELECT run_id, published_by_run FROM coding.coding_runs ORDER BY 1"
    assert old_pipeline.query(runs) == [("run-1", "run-1"), ("run-2", "run-1")]
    model = pin_model(old_pipeline.warehouse, "coding", "7 of 2026-10-07T01:02:03", "osca", "latest", pytest.fail)
    assert model == (MODEL, 1.0)


@on_duckdb_and_postgres
def test_a_run_on_tables_of_version_2_sends_nothing_and_publishes_the_same_records(old_pipeline):
    records = (
        "SELECT record_id, occurrence, response_date, topic, model_id, model_version, outcome, code, label, confidence,"
        " level, suggestions, reason, text_key, operation_id FROM coding.coded_records ORDER BY 1, 2"
    )
    before, texts = old_pipeline.query(records), read_rows(old_pipeline)["coded_texts"]
    assert len(before) == 9
    prepared = old_pipeline.prepare(run_id="run-3")
    assert (prepared.parts, prepared.texts, prepared.known_texts) == ((), 4, 4)
    summary = old_pipeline.land()
    assert (summary.read, summary.coded, summary.uncoded, summary.rejected, summary.texts_sent) == (9, 5, 1, 3, 0)
    assert old_pipeline.query(records) == before
    assert read_rows(old_pipeline)["coded_texts"] == add_reason(texts)
    assert old_pipeline.prepare(run_id="run-4").unchanged


@on_duckdb_and_postgres
def test_a_look_back_on_tables_of_version_2_writes_nothing(old_pipeline):
    before = read_rows(old_pipeline)["coded_records"]
    summary = old_pipeline.run(run_id="run-3", changed_only=True)
    assert (summary.days, summary.operations) == ((), 0)
    assert read_rows(old_pipeline)["coded_records"] == before


@on_postgres
def test_a_migration_keeps_the_views_and_grants_of_users_of_current_codes(old_pipeline):
    old_pipeline.query("CREATE VIEW coding.chefs AS SELECT * FROM coding.current_codes WHERE code = '351311'")
    old_pipeline.query("GRANT SELECT ON coding.current_codes TO pg_monitor")
    with old_pipeline.warehouse.session() as session:
        create_tables(session, "coding")
    assert old_pipeline.query("SELECT count(*), min(newest), max(newest) FROM coding.chefs") == [(4, 1, 1)]
    assert old_pipeline.query("SELECT has_table_privilege('pg_monitor', 'coding.current_codes', 'SELECT')") == [
        (True,)
    ]


@on_all_warehouses
def test_a_migration_that_fails_leaves_the_tables_as_they_were(warehouse):
    create(warehouse)
    with pytest.raises(Exception, match="nowhere"):
        create(warehouse, MIGRATIONS[0] + "; DROP TABLE {schema}.nowhere")
    assert query(warehouse, "SELECT max(version) FROM coding.schema_version") == [(VERSION,)]
    create(warehouse, *MIGRATIONS[:1])
    assert query(warehouse, "SELECT max(version) FROM coding.schema_version") == [(VERSION + 1,)]


@on_all_warehouses
def test_tables_of_a_later_version_are_refused(warehouse):
    create(warehouse, *MIGRATIONS)
    with pytest.raises(
        WarehouseSettingsError,
        match=f"have version {VERSION + 2}, but this project supports them up to version {VERSION}: update",
    ):
        create(warehouse)


@on_postgres
def test_runs_that_create_the_tables_at_the_same_time_all_succeed(warehouse):
    errors, start = [], threading.Barrier(6)

    def create_at_once():
        start.wait()
        try:
            create(warehouse)
        except Exception as error:  # noqa: BLE001 the test asserts that there is none
            errors.append(error)

    threads = [threading.Thread(target=create_at_once) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert query(warehouse, "SELECT max(version) FROM coding.schema_version") == [(VERSION,)]


def test_a_missing_permission_is_named_and_a_user_of_existing_tables_needs_no_other(postgres):
    database = postgres.create_database()
    postgres.execute("DROP ROLE IF EXISTS coder")
    postgres.execute("CREATE ROLE coder LOGIN")
    coder = PostgresWarehouse(lambda: postgres.conninfo(database, "coder"), "postgres://tests")
    with pytest.raises(WarehouseSettingsError, match="permission denied for database test_.*; grant it to the user"):
        create(coder)
    create(PostgresWarehouse(lambda: postgres.conninfo(database), "postgres://tests"))
    postgres.execute("GRANT USAGE ON SCHEMA coding TO coder", database)
    postgres.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA coding TO coder", database)
    create(coder)
    assert query(coder, "SELECT count(*) FROM coding.coded_records") == [(0,)]


def test_the_owner_of_a_schema_can_create_the_tables_without_the_right_to_create_schemas(postgres):
    database = postgres.create_database()
    postgres.execute("DROP ROLE IF EXISTS owner")
    postgres.execute("CREATE ROLE owner LOGIN")
    postgres.execute("CREATE SCHEMA coding AUTHORIZATION owner", database)
    owner = PostgresWarehouse(lambda: postgres.conninfo(database, "owner"), "postgres://tests")
    create(owner)
    assert query(owner, "SELECT version FROM coding.schema_version") == [(VERSION,)]


@on_postgres
def test_one_of_several_simultaneous_runs_migrates_the_tables(warehouse):
    create(warehouse)
    start = threading.Barrier(4)

    def migrate():
        start.wait()
        create(warehouse, *MIGRATIONS)

    threads = [threading.Thread(target=migrate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert query(warehouse, "SELECT version FROM coding.schema_version ORDER BY 1") == [(VERSION,), (VERSION + 2,)]


# ---- current_codes -----------------------------------------------------------------------------------------------

RECORDS_OF_100_DAYS = f"""
    INSERT INTO coding.coded_records
    SELECT 'R' || i, 1, DATE '2026-01-01' + CAST(floor(i / 3000.0) AS INTEGER), 'osca', '{MODEL}', 1.0, 'coded', '351311',
        'Chef', 0.9, 6, NULL, NULL, 'key', 'operation', 'run', TIMESTAMP '2026-11-01 00:00:00'
    FROM generate_series(0, 299999) AS numbers(i)
"""


@on_duckdb_and_postgres
@pytest.mark.parametrize("condition", ["= DATE '2026-03-05'", "BETWEEN DATE '2026-03-05' AND DATE '2026-03-08'"])
def test_the_current_codes_of_some_dates_are_read_without_the_records_of_others(warehouse, place, condition):
    create(warehouse)
    query = f"SELECT * FROM coding.current_codes WHERE response_date {condition}"
    if str(place).startswith("host="):
        with psycopg.connect(str(place)) as connection:
            connection.execute(RECORDS_OF_100_DAYS)
            connection.execute("ANALYZE coding.coded_records")
            assert "Seq Scan" not in str(connection.execute(f"EXPLAIN {query}").fetchall())
    else:
        with duckdb.connect(str(place)) as connection:
            connection.execute(RECORDS_OF_100_DAYS)
            ((_, profile),) = connection.execute(f"EXPLAIN (ANALYZE, FORMAT json) {query}").fetchall()
            # the view reads the table twice, each time one of its three row groups
            assert json.loads(profile)["query"]["total_row_groups_scanned"] == 2
