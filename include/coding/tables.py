"""The project's tables in the warehouse: created by `tables.sql`, changed by migrations."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path

from include.warehouse.errors import NoSuchTableError, WarehouseBusyError, WarehouseError, WarehouseSettingsError
from include.warehouse.warehouse import Dialect, Session, Warehouse, quote_table

_SQL = Path(__file__).with_name("tables.sql")
_ADD_REASON = "ALTER TABLE {schema}.coded_texts ADD COLUMN reason VARCHAR"
#: Not DROP and CREATE: users have views and grants on the view, and PostgreSQL keeps them only if it is replaced,
#: which needs the same columns in the same order.
_CURRENT_CODES_OF_NEWEST_MODEL = """
    CREATE OR REPLACE VIEW {schema}.current_codes AS
    SELECT record_id, occurrence, response_date, topic, model_id, records.model_version, outcome, code, label,
        confidence, level, suggestions, reason, text_key, operation_id, run_id, records.coded_at, newest
    FROM (
        SELECT topic, response_date, model_id, row_number() OVER (
            PARTITION BY topic, response_date
            ORDER BY max(model_version) DESC NULLS LAST, max(coded_at) DESC, model_id
        ) AS newest
        FROM {schema}.coded_records GROUP BY topic, response_date, model_id
    ) AS models
    JOIN {schema}.coded_records AS records USING (topic, response_date, model_id)
    WHERE newest = 1
    """
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
    f"""
    {_ADD_REASON};
    {_CURRENT_CODES_OF_NEWEST_MODEL};
    ALTER TABLE {{schema}}.coding_runs ADD COLUMN excluded_dates VARCHAR;
    CREATE TABLE {{schema}}.dates_over_limit (
        topic VARCHAR NOT NULL, response_date DATE NOT NULL, since TIMESTAMP NOT NULL, run_id VARCHAR NOT NULL,
        limits VARCHAR NOT NULL
    )
    """,
    """
    CREATE TABLE {schema}.date_claims (
        run_id VARCHAR NOT NULL, topic VARCHAR NOT NULL, model_id VARCHAR NOT NULL, texts VARCHAR NOT NULL,
        from_date DATE NOT NULL, to_date DATE NOT NULL, claimed_at TIMESTAMP NOT NULL
    )
    """,
    # Until here there was one DAG, so all codes are those of its runs.
    """
    CREATE TABLE {schema}.topic_owners (
        topic VARCHAR NOT NULL, dag_id VARCHAR NOT NULL, since TIMESTAMP NOT NULL
    );
    INSERT INTO {schema}.topic_owners
    SELECT topic, 'recode_occupations', min(landed_at) FROM {schema}.coding_runs GROUP BY topic
    """,
    """
    CREATE TABLE {schema}.text_claims (
        text_key VARCHAR NOT NULL, topic VARCHAR NOT NULL, model_id VARCHAR NOT NULL, run_id VARCHAR NOT NULL,
        claimed_at TIMESTAMP NOT NULL
    )
    """,
    "ALTER TABLE {schema}.coding_runs ADD COLUMN file_checksum VARCHAR",
)
#: Tables that version 1 did not have.
_LATER_TABLES = ("schema_version", "pinned_models", "dates_over_limit", "date_claims", "topic_owners", "text_claims")
#: For each entry of `MIGRATIONS`, in order, a table and a column that only tables with that migration have.
_NEW_COLUMNS = (
    ("coding_operations", "seconds"),
    ("coding_runs", "published_by_run"),
    ("coding_runs", "excluded_dates"),
    ("date_claims", "run_id"),
    ("topic_owners", "dag_id"),
    ("text_claims", "run_id"),
    ("coding_runs", "file_checksum"),
)


def table(schema: str, name: str) -> str:
    """Return the quoted name of one of the project's tables."""
    return f"{quote_table(schema)}.{name}"


def is_project_table(name: str) -> bool:
    """Return whether one of the project's tables or views has this name."""
    return name in _parse_tables() or name == "current_codes"


def update_tables(warehouse: Warehouse, schema: str) -> None:
    """Do what :func:`create_tables` does, in a session that writes only if the tables need a change: an embedded
    warehouse has one writer at a time, for which all other tasks wait.

    :raises WarehouseSettingsError: as in :func:`create_tables`
    """
    try:
        with warehouse.session(read_only=True) as session:
            if _read_version(session, schema) == 1 + len(MIGRATIONS):
                return
    except WarehouseBusyError:
        raise
    except WarehouseError:  # the session below raises it again, unless the file did just not exist yet
        pass
    with warehouse.session() as session:
        create_tables(session, schema)


def create_tables(session: Session, schema: str, migrations: Sequence[str] = MIGRATIONS) -> None:
    """Bring the tables of `schema` to the version of this project: create them, or migrate those of an earlier one.

    Tables that state no version are older than `schema_version`, or somebody has removed it; their columns tell.

    :raises WarehouseSettingsError: the tables are of a later version or of none that can be migrated, or the user
        cannot create or alter tables
    """
    target, version = 1 + len(migrations), _read_version(session, schema)
    if version == target:
        return
    if version is not None and version > target:
        raise WarehouseSettingsError(
            f"the tables of schema {schema!r} have version {version}, but this project supports them up to version"
            f" {target}: update the project"
        )
    current = version
    if version is None:
        columns = {name: _read_columns(session, schema, name) for name in _parse_tables()}
        if _read_version(session, schema) is not None:  # another run has just created the tables
            return create_tables(session, schema, migrations)
        current = _detect_version(schema, columns)
    scripts = [*(migrations[current - 1 :] if current else ())]
    if version is None:
        scripts.append(_SQL.read_text(encoding="utf-8"))
    versions = table(schema, "schema_version")
    try:
        with session.transaction(lock=None if version is None else versions):
            if version is None or _read_version(session, schema) == version:  # else another run has migrated them
                _run_scripts(session, schema, scripts)
                if version is None:
                    _check_columns(session, schema)
                session.execute(f"INSERT INTO {versions} VALUES (?, ?)", [target, session.now()])  # noqa: S608
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
        rows = session.execute(f"SELECT max(version) FROM {table(schema, 'schema_version')}")  # noqa: S608
    except NoSuchTableError:
        return None
    return None if rows[0][0] is None else int(rows[0][0])


def _detect_version(schema: str, columns: Mapping[str, list[str] | None]) -> int | None:
    """Return the version of tables that do not state it; None if there are no tables.

    :param columns: names of the columns of each table; None if there is no such table
    :raises WarehouseSettingsError: some tables are missing
    """
    names = [name for name in columns if name not in _LATER_TABLES]
    missing = [name for name in names if columns[name] is None]
    if missing == names:
        return None
    if missing:
        raise _refuse_unversion_tables(schema, f"lacks the tables {missing}")
    return 1 + len(list(takewhile(lambda mark: mark[1] in (columns[mark[0]] or ()), _NEW_COLUMNS)))


def _check_columns(session: Session, schema: str) -> None:
    """Check that migrated tables have the columns of a new schema, because rows are inserted by position."""
    for name, expected in _parse_tables().items():
        columns = _read_columns(session, schema, name)
        if columns != expected:
            raise _refuse_unversion_tables(schema, f"has {name!r} with the columns {columns} instead of {expected}")


def _refuse_unversion_tables(schema: str, detail: str) -> WarehouseSettingsError:
    return WarehouseSettingsError(
        f"schema {schema!r} has tables of the project that state no version, and {detail}: they cannot be migrated."
        " Set CODING_SCHEMA to another schema, or rename this one; the next runs then code their dates again"
    )


def _parse_tables() -> dict[str, list[str]]:
    """Return the names of the tables of a new schema, each with the names of its columns."""
    statements = re.findall(
        r"CREATE TABLE IF NOT EXISTS {schema}\.(\w+) \((.*?)\n\);", _SQL.read_text("utf-8"), re.DOTALL
    )
    return {name: re.findall(r"^    (\w+)", columns, re.MULTILINE) for name, columns in statements}


def _read_columns(session: Session, schema: str, name: str) -> list[str] | None:
    """Return the names of a table's columns; None if it does not exist."""
    try:
        return session.columns(table(schema, name)).names
    except NoSuchTableError:
        return None


def _split_statements(script: str, schema: str, dialect: Dialect) -> list[str]:
    """Return the statements of a script in the given dialect, without comments."""
    without_comments = "\n".join(line.partition("--")[0] for line in script.splitlines())
    sql = without_comments.replace("VARCHAR", dialect.text).replace("{schema}", quote_table(schema))
    statements = [statement.strip() for statement in sql.split(";")]
    return [
        statement for statement in statements
        if statement and (dialect.has_indexes or not statement.startswith(("CREATE INDEX", "CREATE UNIQUE INDEX")))
    ]  # fmt: skip
