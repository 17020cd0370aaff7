"""Reads everything that Airflow's metadata database of a test contains."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path


def read_database(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield every value of every table of a SQLite database, as (table.column, bytes)."""
    with closing(sqlite3.connect(path)) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            cursor = database.execute(f'SELECT * FROM "{table}"')
            names = [column[0] for column in cursor.description]
            for row in cursor:
                for name, value in zip(names, row, strict=True):
                    if isinstance(value, str | bytes):
                        yield f"{table}.{name}", value.encode() if isinstance(value, str) else value
