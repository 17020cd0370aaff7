"""The project's tables in the warehouse."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from include.warehouse.duckdb_warehouse import Session, quoted

_SQL = Path(__file__).with_name("tables.sql")


def table(schema: str, name: str) -> str:
    """Quoted name of one of the project's tables."""
    return f"{quoted(schema)}.{name}"


def utc_now() -> datetime:
    """The time as the tables hold it: UTC, and no offset that would say so."""
    return datetime.now(UTC).replace(tzinfo=None)


def create_tables(session: Session, schema: str) -> None:
    """Create what `tables.sql` describes, where it is missing."""
    lines = _SQL.read_text(encoding="utf-8").splitlines()
    without_comments = "\n".join(line.partition("--")[0] for line in lines)
    with session.transaction():
        for statement in filter(str.strip, without_comments.split(";")):
            session.execute(statement.replace("{schema}", quoted(schema)))
