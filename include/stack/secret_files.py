"""The secrets of the containers: one file each, in a volume that they share."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import quote

from cryptography.fernet import Fernet

from include.stack.processes import USER, write_private

FOLDER = Path("/opt/secrets")
#: The group of PostgreSQL and Redis, which run as users of their own (`group_add` in docker-compose.yaml).
BACKENDS = 50001
#: Database, which is its user as well -> the secret with its password.
DATABASES = {"airflow": "airflow_database_password", "warehouse": "warehouse_password"}


def _password() -> str:
    return secrets.token_urlsafe(24)


def _signing_key() -> str:
    return secrets.token_urlsafe(64)


#: What is made where the environment has no variable of this name (in capitals).
MADE: dict[str, Callable[[], str]] = {
    "admin_password": _password,
    "airflow_database_password": _password,
    "warehouse_password": _password,
    "postgres_password": _password,
    "redis_password": _password,
    "staging_secret_key": _password,
    "api_secret_key": _signing_key,
    "jwt_secret": _signing_key,
    "fernet_key": lambda: Fernet.generate_key().decode(),
}


class SecretFiles:
    """The files of one folder."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self.folder = folder

    def make(self, environment: Mapping[str, str], backends: int = BACKENDS) -> None:
        """Write every secret: what the environment says, else what stands, else what is made now.

        :param backends: group that may read what PostgreSQL and Redis need; all else is for the owner alone
        """
        for name, make in MADE.items():
            self._keep(name, environment.get(name.upper()) or self._known(name) or make())
        redis = self.read("redis_password")
        self._keep("redis.conf", f"requirepass {json.dumps(redis)}\nappendonly yes\n")
        for name in ("postgres_password", "redis_password", "redis.conf"):
            os.chown(self.folder / name, -1, backends)
            (self.folder / name).chmod(0o440)
        self._keep("broker_url", f"redis://:{quote(redis, safe='')}@redis:6379/0")
        self._keep("sql_alchemy_conn", self.database_url("airflow", "postgresql+psycopg2"))
        self._keep("passwords.json", json.dumps({USER: self.read("admin_password")}))

    def read(self, name: str) -> str:
        """The secret of this name."""
        return (self.folder / name).read_text()

    def server_url(self) -> str:
        """URL of the PostgreSQL server, as its superuser."""
        return f"postgresql://postgres:{quote(self.read('postgres_password'), safe='')}@postgres:5432/postgres"

    def database_url(self, name: str, scheme: str = "postgresql") -> str:
        """URL of one of the :data:`DATABASES`, as its own user."""
        return f"{scheme}://{name}:{quote(self.read(DATABASES[name]), safe='')}@postgres:5432/{name}"

    def _known(self, name: str) -> str | None:
        return self.read(name) if (self.folder / name).exists() else None

    def _keep(self, name: str, value: str) -> None:
        # without a final newline, which Airflow would take for a part of the secret
        if self._known(name) != value:
            write_private(self.folder / name, value)
