"""State that processes share and change under a lock: a file on this machine, or a row in PostgreSQL."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.errors import DuplicateObject, DuplicateTable, UniqueViolation
from psycopg.types.json import Jsonb

from coding_service.errors import BudgetError, LocalFaultError, SettingsError

#: Errors of the disk that last until somebody changes the folder or its rights.
PERMANENT_DISK_ERRORS = frozenset({
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP,
    errno.ENAMETOOLONG,
})  # fmt: skip
CREATE_TABLE = "CREATE TABLE coding_service_state (name text PRIMARY KEY, state jsonb NOT NULL)"
#: libpq options that keep a caller from waiting indefinitely for a host that has stopped responding.
TIMEOUT_OPTIONS = {"connect_timeout": 10, "tcp_user_timeout": 10_000, "keepalives_idle": 5, "keepalives_interval": 5}
#: The server ends the transaction of a caller that has stopped responding, which releases its lock.
SET_TIMEOUTS_AND_FIND_TABLE = """
    SELECT set_config('lock_timeout', '20s', true), set_config('idle_in_transaction_session_timeout', '10s', true),
        to_regclass('coding_service_state')
"""
#: The time is read after the lock is acquired, from the one clock that all machines share: the server's.
LOCK_ROW = """
    WITH locked AS MATERIALIZED (SELECT state FROM coding_service_state WHERE name = %s FOR UPDATE)
    SELECT state, extract(epoch FROM clock_timestamp())::float8 FROM locked
"""


class SharedFile:
    """State in a file, shared by the processes of one machine.

    :param clock: returns seconds since the epoch; a wall clock, because processes compare its times
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = path, clock

    @contextmanager
    def lock(self) -> Iterator[tuple[dict[str, Any], float]]:
        """Lock the file and yield its state, to be changed in place, with the time (s since the epoch).

        :raises SettingsError, LocalFaultError: see :func:`lock_file`
        """
        file = lock_file(self._path)
        assert file is not None
        try:
            yield file.state, self._clock()
            file.save()
        finally:
            file.release()


class LockedFile:
    """A JSON file while this process holds its lock.

    The lock ends with its process, with :meth:`release`, or when nothing refers to this object any more: a thread
    that acquires it for a call that has been cancelled must not keep it.

    :param state: content of the file, to be changed in place
    """

    def __init__(self, path: Path, descriptor: int, state: dict[str, Any]) -> None:
        self._path, self.state, self._saved_text = path, state, json.dumps(state)
        self.release = weakref.finalize(self, os.close, descriptor)

    def save(self) -> None:
        """Write the state if it has changed.

        :raises SettingsError, LocalFaultError: see :func:`lock_file`
        """
        text = json.dumps(self.state)
        if text != self._saved_text:
            with _translate_disk_errors(self._path):
                _write_atomically(self._path, text)
            self._saved_text = text


def lock_file(path: Path, *, wait: bool = True) -> LockedFile | None:
    """Lock a JSON file that only its owner can read.

    A missing or damaged file reads as empty: its content can be obtained again.

    :param wait: whether to wait for the lock; if false and another process holds it, None is returned
    :raises SettingsError: the folder of the file does not allow its use
    :raises LocalFaultError: the disk failed in a way that can pass
    """
    with _translate_disk_errors(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            return LockedFile(path, descriptor, _read(path))
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                return None
            raise


@contextmanager
def _translate_disk_errors(path: Path) -> Iterator[None]:
    """Translate an error of the disk into one that names the folder and says what to do."""
    try:
        yield
    except OSError as error:
        text = f"token and call budget cannot be kept in {str(path.parent)!r} ({error.strerror}): "
        if error.errno in PERMANENT_DISK_ERRORS:
            raise SettingsError(
                f"{text}let the user of the Airflow processes write to this folder, or name another one as"
                " `state_dir` in the extra of the connection"
            ) from None
        raise LocalFaultError(f"{text}check free space and the disk of this machine") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        state = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def _write_atomically(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    partial.replace(path)


class SharedRow:
    """State in a PostgreSQL row, shared by all machines that reach the database. Each use opens a short connection.

    :param conninfo: libpq connection string
    :param name: name of the row
    :param conn_id: Airflow connection of the database, for error messages
    """

    def __init__(self, conninfo: str, name: str, conn_id: str) -> None:
        self._conninfo, self._name, self._conn_id = conninfo, name, conn_id

    @classmethod
    def from_connection(cls, connection: Any, extra: Mapping[str, Any], name: str) -> Self:
        """Return the row `name` in the database of an Airflow connection, whose extras are libpq options.

        :raises SettingsError: the connection is not of type postgres, or an extra is not a libpq option
        """
        problem = f"connection {connection.conn_id!r} cannot hold the call budget"
        if connection.conn_type != "postgres":
            raise SettingsError(f"{problem}: its type is {connection.conn_type!r}; expected 'postgres'")
        try:
            conninfo = make_conninfo(
                **{"fallback_application_name": "occupation coding", **TIMEOUT_OPTIONS, **extra},
                host=connection.host,
                port=connection.port,
                dbname=connection.schema,
                user=connection.login,
                password=connection.password,
            )
        except (psycopg.ProgrammingError, TypeError):  # the text of the error may contain the password
            raise SettingsError(f"{problem}: not all of its extras {sorted(extra)} are libpq options") from None
        return cls(conninfo, name, connection.conn_id)

    @contextmanager
    def lock(self) -> Iterator[tuple[dict[str, Any], float]]:
        """Lock the row and yield its state, to be changed in place, with the server's time (s since the epoch).

        :raises BudgetError: the database is unavailable
        """
        try:
            with psycopg.connect(self._conninfo) as connection:
                state, now = self._lock_row(connection)
                yield state, now
                update = "UPDATE coding_service_state SET state = %s WHERE name = %s"
                connection.execute(update, (Jsonb(state), self._name))
        except psycopg.Error as error:
            raise BudgetError(
                "no call was made to the coding service, because the call budget is not available in the database of"
                f" connection {self._conn_id!r}: {' '.join(str(error).split())}"
            ) from None

    def _lock_row(self, connection: psycopg.Connection) -> tuple[dict[str, Any], float]:
        *_, table = connection.execute(SET_TIMEOUTS_AND_FIND_TABLE).fetchone() or ()
        if table is None:
            # Another process may create the table at the same moment; the error depends on how far it has come.
            with suppress(DuplicateTable, DuplicateObject, UniqueViolation), connection.transaction():
                connection.execute(CREATE_TABLE)
        connection.execute("INSERT INTO coding_service_state VALUES (%s, '{}') ON CONFLICT DO NOTHING", [self._name])
        [row] = connection.execute(LOCK_ROW, [self._name]).fetchall()
        return row
