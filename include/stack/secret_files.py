"""The secrets of the containers: one file for each secret, in a shared volume."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from urllib.parse import quote

from cryptography.fernet import Fernet

from include.coding.files import write_atomically
from include.stack.processes import USER

FOLDER = Path("/opt/secrets")
#: The group id of PostgreSQL and Redis, whose users differ from Airflow's (`group_add` in docker-compose.yaml).
BACKEND_GROUP_ID = 50001
#: Each database (its user has the same name) and the name of the secret with its password.
DATABASES = {"airflow": "airflow_database_password", "warehouse": "warehouse_password"}

_generate_password = partial(secrets.token_urlsafe, 24)
_generate_signing_key = partial(secrets.token_urlsafe, 64)
#: How a secret is generated, unless the environment variable with its name in capitals sets it.
GENERATORS: dict[str, Callable[[], str]] = {
    "admin_password": _generate_password,
    "airflow_database_password": _generate_password,
    "warehouse_password": _generate_password,
    "postgres_password": _generate_password,
    "redis_password": _generate_password,
    "staging_secret_key": _generate_password,
    "api_secret_key": _generate_signing_key,
    "jwt_secret": _generate_signing_key,
    "fernet_key": lambda: Fernet.generate_key().decode(),
}


class SecretFiles:
    """The secret files of a folder."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self.folder = folder

    def make(self, environment: Mapping[str, str], backend_group_id: int = BACKEND_GROUP_ID) -> None:
        """Write every secret: the value from the environment, else the existing value, else a new one.

        :param backend_group_id: group that can read what PostgreSQL and Redis need; only the owner can read the rest
        """
        for name, generate in GENERATORS.items():
            self._write(name, environment.get(name.upper()) or self._read_existing(name) or generate())
        redis = self.read("redis_password")
        self._write("redis.conf", f"requirepass {json.dumps(redis)}\nappendonly yes\n")
        for name in ("postgres_password", "redis_password", "redis.conf"):
            os.chown(self.folder / name, -1, backend_group_id)
            (self.folder / name).chmod(0o440)
        self._write("broker_url", f"redis://:{quote(redis, safe='')}@redis:6379/0")
        self._write("sql_alchemy_conn", self.database_url("airflow", "postgresql+psycopg2"))
        self._write("passwords.json", json.dumps({USER: self.read("admin_password")}))

    def read(self, name: str) -> str:
        """Return a secret by its name."""
        return (self.folder / name).read_text()

    def server_url(self) -> str:
        """Return the URL of the PostgreSQL server for its superuser."""
        return f"postgresql://postgres:{quote(self.read('postgres_password'), safe='')}@postgres:5432/postgres"

    def database_url(self, name: str, scheme: str = "postgresql") -> str:
        """Return the URL of one of the :data:`DATABASES` for its own user."""
        return f"{scheme}://{name}:{quote(self.read(DATABASES[name]), safe='')}@postgres:5432/{name}"

    def _read_existing(self, name: str) -> str | None:
        return self.read(name) if (self.folder / name).exists() else None

    def _write(self, name: str, value: str) -> None:
        # no final newline: Airflow would read it as part of the secret
        if self._read_existing(name) != value:
            write_atomically(self.folder / name, value)
