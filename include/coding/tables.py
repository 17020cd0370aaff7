"""The project's tables in the warehouse, and how they came to be what they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from include.warehouse.errors import NoSuchTableError, WarehouseError, WarehouseSettingsError
from include.warehouse.warehouse import Dialect, Session, quote_table

_SQL = Path(__file__).with_name("tables.sql")
#: What brings tables of version 1, 2, ... to the next one, statements separated by `;`. A change of `tables.sql`
#: comes with one more of these, and none of them is ever changed. {schema} is the schema's quoted name.
MIGRATIONS: tuple[str, ...] = (
    """
    ALTER TABLE {schema}.coding_operations ADD COLUMN seconds DOUBLE PRECISION;
    CREATE TABLE {schema}.pinned_models (
        backfill VARCHAR NOT NULL, topic VARCHAR NOT NULL, model VARCHAR NOT NULL, model_id VARCHAR NOT NULL,
        model_version DOUBLE PRECISION, pinned_at TIMESTAMP NOT NULL
    )
    """,
)


def table(schema: str, name: str) -> str:
    """Quoted name of one of the project's tables."""
    return f"{quote_table(schema)}.{name}"


def create_tables(session: Session, schema: str, migrations: Sequence[str] = MIGRATIONS) -> None:
    """Bring the tables of `schema` to the version that this project knows: create what `tables.sql` describes, or
    migrate what an earlier project made.

    :raises WarehouseSettingsError: a later project made them, or the user may not create or alter tables
    """
    known, found = 1 + len(migrations), _version(session, schema)
    if found == known:
        return
    if found is not None and found > known:
        raise WarehouseSettingsError(
            f"the tables of schema {schema!r} are of version {found}, this project knows them up to version {known}:"
            " update the project"
        )
    versions = table(schema, "schema_version")
    try:
        with session.transaction(lock=None if found is None else versions):
            if found is None or _version(session, schema) == found:  # else another run was a moment quicker
                steps = [_SQL.read_text(encoding="utf-8")] if found is None else migrations[found - 1 :]
                _take_steps(session, schema, steps)
                session.execute(f"INSERT INTO {versions} VALUES (?, ?)", [known, session.now()])
    except WarehouseSettingsError:
        raise
    except WarehouseError:
        if _version(session, schema) != known:  # two may make a new schema at once, and one of them fails
            raise


def _take_steps(session: Session, schema: str, steps: Sequence[str]) -> None:
    has_schema = session.execute("SELECT count(*) FROM pg_namespace WHERE nspname = ?", [schema]) != [(0,)]
    for step in steps:
        for statement in _statements(step, schema, session.dialect):
            # a user may own a schema and yet make none, not even one that exists
            if not (has_schema and statement.startswith("CREATE SCHEMA")):
                session.execute(statement)


def _version(session: Session, schema: str) -> int | None:
    """Version of the tables, None if there are none that tell it."""
    try:
        rows = session.execute(f"SELECT max(version) FROM {table(schema, 'schema_version')}")
    except NoSuchTableError:
        return None
    return None if rows[0][0] is None else int(rows[0][0])


def _statements(step: str, schema: str, dialect: Dialect) -> list[str]:
    """The statements of a step, without comments, as the dialect wants them."""
    without_comments = "\n".join(line.partition("--")[0] for line in step.splitlines())
    filled = without_comments.replace("VARCHAR", dialect.text).replace("{schema}", quote_table(schema))
    found = [statement.strip() for statement in filled.split(";")]
    return [
        statement for statement in found
        if statement and (dialect.has_indexes or not statement.startswith(("CREATE INDEX", "CREATE UNIQUE INDEX")))
    ]  # fmt: skip
