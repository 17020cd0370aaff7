"""The project's tables: made, migrated forwards, and never taken for what they are not."""

import threading

import pytest

from include.coding import tables
from include.coding.tables import create_tables
from include.warehouse.errors import WarehouseSettingsError
from include.warehouse.postgres_warehouse import PostgresWarehouse
from tests.support.warehouses import open_warehouse

MIGRATIONS = (
    "ALTER TABLE {schema}.coding_runs ADD COLUMN remark VARCHAR; -- said; by people\nCREATE TABLE {schema}.extra (a INTEGER)",
    "UPDATE {schema}.coding_runs SET remark = 'none'; CREATE INDEX extra_a ON {schema}.extra (a)",
)


#: The version that a new schema gets.
NOW = 1 + len(tables.MIGRATIONS)
#: The tables as they were at first.
FIRST = """
CREATE SCHEMA coding;
CREATE TABLE coding.schema_version (version INTEGER NOT NULL, migrated_at TIMESTAMP NOT NULL);
INSERT INTO coding.schema_version VALUES (1, TIMESTAMP '2026-11-01 00:00:00');
CREATE TABLE coding.coding_operations (
    operation_id VARCHAR NOT NULL, run_id VARCHAR NOT NULL, part INTEGER NOT NULL, topic VARCHAR NOT NULL,
    model_id VARCHAR NOT NULL, records BIGINT NOT NULL, bytes BIGINT NOT NULL, state VARCHAR NOT NULL, error VARCHAR,
    usable BIGINT NOT NULL, set_aside BIGINT NOT NULL, metadata VARCHAR, landed_at TIMESTAMP NOT NULL
);
INSERT INTO coding.coding_operations
VALUES ('o', 'r', 0, 'osca', 'm', 1, 1, 'complete', NULL, 1, 0, NULL, TIMESTAMP '2026-11-01 00:00:00')
"""


@pytest.fixture
def warehouse(place):
    return open_warehouse(place)


def create(warehouse, *migrations, schema="coding"):
    with warehouse.session() as session:
        create_tables(session, schema, (*tables.MIGRATIONS, *migrations))


def ask(warehouse, sql):
    with warehouse.session(read_only=True) as session:
        return session.execute(sql)


def test_tables_are_made_once_and_a_second_time_changes_nothing(warehouse):
    create(warehouse)
    create(warehouse)
    assert ask(warehouse, "SELECT version FROM coding.schema_version") == [(NOW,)]


def test_tables_are_migrated_from_the_version_that_they_have(warehouse):
    create(warehouse)
    create(warehouse, *MIGRATIONS[:1])
    assert ask(warehouse, "SELECT count(remark) FROM coding.coding_runs") == [(0,)]
    create(warehouse, *MIGRATIONS)
    assert ask(warehouse, "SELECT max(version), count(*) FROM coding.schema_version") == [(NOW + 2, 3)]
    assert ask(warehouse, "SELECT count(*) FROM coding.extra") == [(0,)]


def test_tables_that_an_earlier_project_made_without_a_version_are_taken_up(warehouse):
    create(warehouse)
    with warehouse.session() as session:
        session.execute("DROP TABLE coding.schema_version")
    create(warehouse)
    assert ask(warehouse, "SELECT version FROM coding.schema_version") == [(NOW,)]


def test_the_tables_of_the_first_version_become_those_of_a_new_schema_and_keep_their_rows(warehouse):
    with warehouse.session() as session:
        for statement in FIRST.split(";"):
            session.execute(statement)
        create_tables(session, "coding")
        create_tables(session, "anew")
    for table in ("coding_operations", "pinned_models"):
        with warehouse.session(read_only=True) as session:
            assert session.columns(f'"coding"."{table}"').names == session.columns(f'"anew"."{table}"').names
    assert ask(warehouse, "SELECT operation_id, seconds FROM coding.coding_operations") == [("o", None)]


def test_a_migration_that_fails_leaves_the_tables_as_they_were(warehouse):
    create(warehouse)
    with pytest.raises(Exception, match="nowhere"):
        create(warehouse, MIGRATIONS[0] + "; DROP TABLE {schema}.nowhere")
    assert ask(warehouse, "SELECT max(version) FROM coding.schema_version") == [(NOW,)]
    create(warehouse, *MIGRATIONS[:1])
    assert ask(warehouse, "SELECT max(version) FROM coding.schema_version") == [(NOW + 1,)]


def test_tables_of_a_later_project_are_left_alone(warehouse):
    create(warehouse, *MIGRATIONS)
    with pytest.raises(
        WarehouseSettingsError, match=f"are of version {NOW + 2}, this project knows them up to version {NOW}: update"
    ):
        create(warehouse)


@pytest.mark.parametrize("place", ["postgres"], indirect=True)
def test_of_many_that_make_the_tables_at_once_all_succeed(warehouse):
    errors, start = [], threading.Barrier(6)

    def make():
        start.wait()
        try:
            create(warehouse)
        except Exception as error:  # noqa: BLE001 a thread's error is the test's
            errors.append(error)

    threads = [threading.Thread(target=make) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert ask(warehouse, "SELECT max(version) FROM coding.schema_version") == [(NOW,)]


def test_a_user_without_rights_is_told_what_is_missing_and_one_that_may_only_use_the_tables_can(postgres):
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
    assert ask(coder, "SELECT count(*) FROM coding.coded_records") == [(0,)]


def test_a_user_who_owns_the_schema_but_may_make_none_gets_the_tables(postgres):
    database = postgres.create_database()
    postgres.execute("DROP ROLE IF EXISTS owner")
    postgres.execute("CREATE ROLE owner LOGIN")
    postgres.execute("CREATE SCHEMA coding AUTHORIZATION owner", database)
    owner = PostgresWarehouse(lambda: postgres.conninfo(database, "owner"), "postgres://tests")
    create(owner)
    assert ask(owner, "SELECT version FROM coding.schema_version") == [(NOW,)]


@pytest.mark.parametrize("place", ["postgres"], indirect=True)
def test_of_many_that_migrate_at_once_one_does(warehouse):
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
    assert ask(warehouse, "SELECT version FROM coding.schema_version ORDER BY 1") == [(NOW,), (NOW + 2,)]
