"""The project's tables in the warehouse: created by `tables.sql`, changed by migrations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from include.warehouse.errors import NoSuchTableError, WarehouseError, WarehouseSettingsError
from include.warehouse.warehouse import Dialect, Session, quote_table

_SQL = Path(__file__).with_name("tables.sql")
_ADD_REASON = "ALTER TABLE {schema}.coded_texts ADD COLUMN reason VARCHAR"
#: The entries migrate tables from version 1 to 2, from 2 to 3, and so on; `;` separates their statements. A change
#: of `tables.sql` needs a new entry, and no entry is ever changed. {schema} is the quoted name of the schema.
MIGRATIONS: tuple[str, ...] = (
    """
    ALTER TABLE {schema}.coding_operations ADD COLUMN seconds DOUBLE PRECISION;
    CREATE TABLE {schema}.pinned_models (
        backfill VARCHAR NOT NULL, topic VARCHAR NOT NULL, model VARCHAR NOT NULL, model_id VARCHAR NOT NULL,
        model_version DOUBLE PRECISION, pinned_at TIMESTAMP NOT NULL
    )
    """,
    """
    ALTER TABLE {schema}.coding_runs RENAME COLUMN rows_of TO published_by_run;
    ALTER TABLE {schema}.coding_operations RENAME COLUMN set_aside TO discarded_lines
    """,
    _ADD_REASON,
)


def table(schema: str, name: str) -> str:
    """Return the quoted name of one of the project's tables."""
    return f"{quote_table(schema)}.{name}"


def create_tables(session: Session, schema: str, migrations: Sequence[str] = MIGRATIONS) -> None:
    """Bring the tables of `schema` to the version of this project: create them, or migrate those of an earlier one.

    :raises WarehouseSettingsError: the tables are of a later version, or the user cannot create or alter tables
    """
    target, current = 1 + len(migrations), _read_version(session, schema)
    if current == target:
        return
    if current is not None and current > target:
        raise WarehouseSettingsError(
            f"the tables of schema {schema!r} have version {current}, but this project supports them up to version"
            f" {target}: update the project"
        )
    versions = table(schema, "schema_version")
    try:
        with session.transaction(lock=None if current is None else versions):
            if current is None or _read_version(session, schema) == current:  # else another run has migrated them
                scripts = [_SQL.read_text(encoding="utf-8")] if current is None else migrations[current - 1 :]
                _run_scripts(session, schema, scripts)
                session.execute(f"INSERT INTO {versions} VALUES (?, ?)", [target, session.now()])
    except WarehouseSettingsError:
        raise
    except WarehouseError:
        if _read_version(session, schema) != target:  # if two runs create a new schema at once, one of them fails
            raise


def _run_scripts(session: Session, schema: str, scripts: Sequence[str]) -> None:
    has_schema = session.execute("SELECT count(*) FROM pg_namespace WHERE nspname = ?", [schema]) != [(0,)]
    for script in scripts:
        for statement in _split_statements(script, schema, session.dialect):
            # A user can own a schema and still not be allowed to create one, even with IF NOT EXISTS.
            if not (has_schema and statement.startswith("CREATE SCHEMA")):
                session.execute(statement)


def _read_version(session: Session, schema: str) -> int | None:
    """Return the version of the tables, None if there are none that state it."""
    try:
        rows = session.execute(f"SELECT max(version) FROM {table(schema, 'schema_version')}")
    except NoSuchTableError:
        return None
    return None if rows[0][0] is None else int(rows[0][0])


def _split_statements(script: str, schema: str, dialect: Dialect) -> list[str]:
    """Return the statements of a script in the given dialect, without comments."""
    without_comments = "\n".join(line.partition("--")[0] for line in script.splitlines())
    sql = without_comments.replace("VARCHAR", dialect.text).replace("{schema}", quote_table(schema))
    statements = [statement.strip() for statement in sql.split(";")]
    return [
        statement for statement in statements
        if statement and (dialect.has_indexes or not statement.startswith(("CREATE INDEX", "CREATE UNIQUE INDEX")))
    ]  # fmt: skip
