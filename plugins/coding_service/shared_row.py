"""A row of a PostgreSQL table that the processes of several machines share, changed under its lock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Self

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.errors import DuplicateTable, UniqueViolation
from psycopg.types.json import Jsonb

from coding_service.errors import BudgetError, SettingsError

TABLE = "CREATE TABLE coding_service_state (name text PRIMARY KEY, state jsonb NOT NULL)"
#: Nobody waits for ever for a host that falls silent, nor for a lock whose holder does: the server lets go of it.
TIMEOUTS = {"connect_timeout": 10, "tcp_user_timeout": 10_000, "keepalives_idle": 5, "keepalives_interval": 5}
BEGIN = """
    SELECT set_config('lock_timeout', '20s', true), set_config('idle_in_transaction_session_timeout', '10s', true),
        to_regclass('coding_service_state')
"""
#: The time is read when the lock is had, by the one clock that all machines share: the server's.
HOLD = """
    WITH held AS MATERIALIZED (SELECT state FROM coding_service_state WHERE name = %s FOR UPDATE)
    SELECT state, extract(epoch FROM clock_timestamp())::float8 FROM held
"""


class SharedRow:
    """State that all who reach the database share. Each use is a short connection of its own.

    :param conninfo: how libpq connects
    :param name: of the row
    :param conn_id: Airflow connection of the database, for messages
    """

    def __init__(self, conninfo: str, name: str, conn_id: str) -> None:
        self._conninfo, self._name, self._conn_id = conninfo, name, conn_id

    @classmethod
    def of(cls, connection: Any, extra: Mapping[str, Any], name: str) -> Self:
        """Return the row in the database of an Airflow connection; its extras are options of libpq.

        :raises SettingsError: the connection is not of type postgres, or an option is none of libpq
        """
        what = f"connection {connection.conn_id!r}, which is to hold the call budget,"
        if connection.conn_type != "postgres":
            raise SettingsError(f"{what} is of type {connection.conn_type!r}; expected 'postgres'")
        try:
            conninfo = make_conninfo(
                **{"fallback_application_name": "occupation coding", **TIMEOUTS, **extra},
                host=connection.host,
                port=connection.port,
                dbname=connection.schema,
                user=connection.login,
                password=connection.password,
            )
        except (psycopg.ProgrammingError, TypeError):  # its text may quote the password
            raise SettingsError(f"{what} has extras that are no options of libpq; it has {sorted(extra)}") from None
        return cls(conninfo, name, connection.conn_id)

    @contextmanager
    def held(self) -> Iterator[tuple[dict[str, Any], float]]:
        """Yield the state to change, and the server's time, while no other process may.

        :raises BudgetError: the database is down or refuses
        """
        try:
            with psycopg.connect(self._conninfo) as connection:
                state, now = self._hold(connection)
                yield state, now
                change = "UPDATE coding_service_state SET state = %s WHERE name = %s"
                connection.execute(change, (Jsonb(state), self._name))
        except psycopg.Error as error:
            said = " ".join(str(error).split())
            raise BudgetError(
                f"no call to the coding service without its budget, which the database of connection"
                f" {self._conn_id!r} holds: {said}"
            ) from None

    def _hold(self, connection: psycopg.Connection) -> tuple[dict[str, Any], float]:
        *_, table = connection.execute(BEGIN).fetchone() or ()
        if table is None:
            with suppress(DuplicateTable, UniqueViolation), connection.transaction():  # another may be as fast
                connection.execute(TABLE)
        connection.execute("INSERT INTO coding_service_state VALUES (%s, '{}') ON CONFLICT DO NOTHING", [self._name])
        [row] = connection.execute(HOLD, [self._name]).fetchall()
        return row
