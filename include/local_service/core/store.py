"""The state of the service in SQLite. Every change is on disk before the client gets the response."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from include.local_service.core.operation import Operation, State

SCHEMA = """
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tokens (
    digest TEXT PRIMARY KEY, client_id TEXT NOT NULL, expires_at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS operations (
    number INTEGER PRIMARY KEY, operation_id TEXT NOT NULL UNIQUE, client_id TEXT NOT NULL,
    topic TEXT NOT NULL, model_id TEXT NOT NULL, created_at REAL NOT NULL, state TEXT NOT NULL,
    uploaded_at REAL, started_at REAL, finished_at REAL, polls INTEGER NOT NULL, input_file TEXT,
    records INTEGER, successful INTEGER, error TEXT, faults TEXT NOT NULL, files_deleted INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS objects (
    key TEXT PRIMARY KEY, file TEXT NOT NULL, size INTEGER NOT NULL, etag TEXT NOT NULL,
    kms_key TEXT NOT NULL, modified_at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS journal (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, method TEXT NOT NULL,
    path TEXT NOT NULL, status INTEGER, client_id TEXT, operation_id TEXT,
    bytes_received INTEGER NOT NULL, bytes_sent INTEGER NOT NULL);
"""
RESET_TABLES = ("settings", "tokens", "operations", "objects", "journal", "sqlite_sequence")


@dataclass(frozen=True)
class StoredObject:
    """An object of the storage: the file with its bytes, and the values of its headers."""

    key: str
    file: str
    size: int
    etag: str
    kms_key: str
    modified_at: float


@dataclass(frozen=True)
class JournalEntry:
    """One request with its response; `status` is None if the connection ended without a response."""

    time: float
    method: str
    path: str
    status: int | None
    client_id: str | None
    operation_id: str | None
    bytes_received: int
    bytes_sent: int
    sequence: int | None = None


class Store:
    """One SQLite file with one connection and one writer at a time.

    :param path: the database file, created if missing.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("PRAGMA journal_mode = WAL")
        # FULL, because with NORMAL a power cut could undo a request whose response the client already has.
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.executescript(SCHEMA)

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit all changes of the ``with`` block, or none; of nested blocks the outermost one commits."""
        with self._lock:
            if self._connection.in_transaction:
                yield
                return
            with self._connection:  # commits at the end, or rolls back after an error
                self._connection.execute("BEGIN IMMEDIATE")
                yield

    def _run(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        with self._lock:
            return self._connection.execute(sql, values).fetchall()

    # settings

    def setting(self, name: str, default: str) -> str:
        """Return a setting, or the default if it was never saved."""
        rows = self._run("SELECT value FROM settings WHERE name = ?", name)
        return str(rows[0]["value"]) if rows else default

    def save_setting(self, name: str, value: str) -> None:
        """Save a setting."""
        self._run("INSERT OR REPLACE INTO settings VALUES (?, ?)", name, value)

    # tokens

    def save_token(self, digest: str, client_id: str, expires_at: float) -> None:
        """Save the digest of a token."""
        self._run("INSERT INTO tokens VALUES (?, ?, ?)", digest, client_id, expires_at)

    def token_client(self, digest: str, now: float) -> str | None:
        """Return the id of the token's client, or None if the token is unknown or expired."""
        rows = self._run("SELECT client_id FROM tokens WHERE digest = ? AND expires_at > ?", digest, now)
        return str(rows[0]["client_id"]) if rows else None

    # operations

    def add_operation(self, operation: Operation) -> None:
        """Add a new operation."""
        self._insert("INSERT", "operations", _to_row(operation))

    def save_operation(self, operation: Operation) -> None:
        """Update an operation."""
        row = _to_row(operation)
        changes = ", ".join(f"{name} = :{name}" for name in row)
        with self._lock:
            self._connection.execute(f"UPDATE operations SET {changes} WHERE operation_id = :operation_id", row)  # noqa: S608

    def operation(self, operation_id: str) -> Operation | None:
        """Return an operation, or None."""
        return next(iter(self._select_operations("operation_id = ?", operation_id)), None)

    def operations(self, state: State | None = None) -> list[Operation]:
        """Return the operations in the order of their creation: all, or those in one state."""
        return self._select_operations("state = coalesce(?, state)", state)

    def operations_without_input(self, created_before: float) -> list[Operation]:
        """Return the operations that were created before this time and still await their input."""
        return self._select_operations("state = ? AND created_at <= ?", State.AWAITING_INPUT, created_before)

    def operations_by_state(self) -> dict[str, int]:
        """Return the number of operations in each state."""
        counts = {row["state"]: row["n"] for row in self._run("SELECT state, count(*) n FROM operations GROUP BY 1")}
        return {str(state): counts.get(state, 0) for state in State}

    def operations_to_delete(self, finished_before: float) -> list[Operation]:
        """Return the operations that ended before this time and still have their files."""
        return self._select_operations("NOT files_deleted AND finished_at <= ?", finished_before)

    def _select_operations(self, condition: str, *values: Any) -> list[Operation]:
        sql = f"SELECT * FROM operations WHERE {condition} ORDER BY number"  # noqa: S608
        return [_from_row(row) for row in self._run(sql, *values)]

    # objects

    def put_object(self, stored: StoredObject) -> None:
        """Store an object under its key; it replaces an earlier one."""
        self._insert("INSERT OR REPLACE", "objects", asdict(stored))

    def object(self, key: str) -> StoredObject | None:
        """Return the object under a key, or None."""
        rows = self._run("SELECT * FROM objects WHERE key = ?", key)
        return StoredObject(**rows[0]) if rows else None

    def delete_object(self, key: str) -> None:
        """Delete the object under a key, if there is one."""
        self._run("DELETE FROM objects WHERE key = ?", key)

    def files_in_use(self) -> set[str]:
        """Return the names of the files that belong to an object or are the input of an operation."""
        sql = "SELECT file FROM objects UNION SELECT input_file FROM operations WHERE NOT files_deleted"
        return {row["file"] for row in self._run(sql) if row["file"]}

    # journal

    def add_entry(self, entry: JournalEntry) -> None:
        """Add an entry to the journal."""
        self._insert("INSERT", "journal", asdict(entry))

    def entries(self, since: int = 0) -> list[JournalEntry]:
        """Return the entries after this sequence number, oldest first."""
        rows = self._run("SELECT * FROM journal WHERE sequence > ? ORDER BY sequence", since)
        return [JournalEntry(**row) for row in rows]

    def reset(self) -> None:
        """Delete all state."""
        with self.transaction():
            for table in RESET_TABLES:
                self._run(f"DELETE FROM {table}")  # noqa: S608

    def _insert(self, verb: str, table: str, row: Mapping[str, Any]) -> None:
        placeholders = ", ".join(f":{name}" for name in row)
        with self._lock:
            self._connection.execute(f"{verb} INTO {table} ({', '.join(row)}) VALUES ({placeholders})", row)


def _to_row(operation: Operation) -> dict[str, Any]:
    return {**asdict(operation), "faults": json.dumps(operation.faults)}


def _from_row(row: sqlite3.Row) -> Operation:
    faults, files_deleted = json.loads(row["faults"]), bool(row["files_deleted"])
    return msgspec.convert({**row, "faults": faults, "files_deleted": files_deleted}, Operation)
