"""`python -m include.stack.containers secrets|init|sample|bucket`: the one-shot steps of docker-compose.yaml.

Each may be done any number of times: what stands is kept, what the environment sets is set.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from adbc_driver_postgresql import dbapi
from cryptography.fernet import Fernet
from psycopg import sql

from include.sample import write_sample
from include.stack.processes import POOL, POOL_SLOTS, USER, coding_connection, write_private

SECRETS = Path("/opt/secrets")
#: The group of those who are not Airflow: PostgreSQL and Redis run as users of their own.
BACKENDS = 50001
#: Database (and its user) -> the secret with its password. Airflow's metadata, and the warehouse.
DATABASES = {"airflow": "airflow_database_password", "warehouse": "warehouse_password"}
LOCAL_SERVICE = "http://coding-service:8070"
TABLE = "survey_responses"


def make_secrets() -> None:
    """Write every secret to a file of its own: the one that the environment gives, else one that is made once."""
    for name in ("admin_password", "airflow_database_password", "warehouse_password", "api_secret_key", "jwt_secret",
                 "fernet_key", "postgres_password", "redis_password", "staging_secret_key"):  # fmt: skip
        made = Fernet.generate_key().decode if name == "fernet_key" else secrets.token_urlsafe
        _keep(name, os.environ.get(name.upper()) or _known(name) or made())
    redis = _read("redis_password")
    _keep("redis.conf", f"requirepass {json.dumps(redis)}\nappendonly yes\n")
    for name in ("postgres_password", "redis_password", "redis.conf"):
        os.chown(SECRETS / name, -1, BACKENDS)
        (SECRETS / name).chmod(0o440)
    _keep("broker_url", f"redis://:{quote(redis, safe='')}@redis:6379/0")
    _keep("sql_alchemy_conn", _database_url("airflow", "postgresql+psycopg2"))
    _keep("passwords.json", json.dumps({USER: _read("admin_password")}))


def initialise() -> None:
    """Make databases and users, migrate Airflow's tables, and make its pool and its connections."""
    with psycopg.connect(_server_url(), autocommit=True) as server:
        for name, password in DATABASES.items():
            _ensure_database(server, name, _read(password))
    _airflow("db", "migrate")
    slots = os.environ.get("CODING_POOL_SLOTS") or str(POOL_SLOTS)
    _airflow("pools", "set", POOL, slots, "Operations at once", "--include-deferred")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "connections.json")
        write_private(path, json.dumps(connections()))
        _airflow("connections", "import", "--overwrite", str(path))


def connections() -> dict[str, dict[str, Any]]:
    """Airflow's connections, as the environment wants them: without a host, the local coding service."""
    found = {"coding_service_default": _coding_service(), "warehouse_default": _warehouse()}
    if os.environ.get("CODING_STAGING", "").startswith("s3://"):
        found["staging_default"] = _staging()
    return found


def load_sample() -> None:
    """Put the sample into the warehouse, unless a table of that name is there."""
    with psycopg.connect(_database_url("warehouse")) as warehouse:
        known = warehouse.execute("SELECT to_regclass(%s)", [TABLE]).fetchone()
    if known != (None,):
        return
    with tempfile.TemporaryDirectory() as folder, dbapi.connect(_database_url("warehouse")) as connection:
        path = Path(folder, "sample.parquet")
        write_sample(path)
        with connection.cursor() as cursor:
            cursor.adbc_ingest(TABLE, _without_nul(pq.read_table(path)), mode="create")
        connection.commit()


def _without_nul(table: pa.Table) -> pa.Table:
    """The same texts without U+0000, of which the sample has some and PostgreSQL holds none."""
    for place, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            column = pc.replace_substring(table.column(place), pattern="\x00", replacement="")
            table = table.set_column(place, field.name, column)
    return table


def make_bucket() -> None:
    """Make the bucket of the staging folder at the local object storage."""
    from botocore.exceptions import ClientError
    from botocore.session import Session

    staging = urlsplit(os.environ.get("CODING_STAGING") or "")
    if staging.scheme != "s3":
        sys.exit("with the profile s3, set CODING_STAGING to the s3:// URI of a folder, such as s3://coding-staging")
    client = Session().create_client(
        "s3", region_name="us-east-1", endpoint_url=os.environ["STAGING_ENDPOINT"],
        aws_access_key_id=USER, aws_secret_access_key=_read("staging_secret_key"),
    )  # fmt: skip
    try:
        client.create_bucket(Bucket=staging.netloc)
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
            raise


# ---------------------------------------------------------------- secrets


def _known(name: str) -> str | None:
    path = SECRETS / name
    return path.read_text() if path.exists() else None


def _read(name: str) -> str:
    return (SECRETS / name).read_text()


def _keep(name: str, value: str) -> None:
    """Write a secret without a final newline, which Airflow would take for a part of it; readable by its owner."""
    if _known(name) != value:
        write_private(SECRETS / name, value)


# ---------------------------------------------------------------- databases


def _server_url() -> str:
    return f"postgresql://postgres:{quote(_read('postgres_password'), safe='')}@postgres:5432/postgres"


def _database_url(name: str, scheme: str = "postgresql") -> str:
    return f"{scheme}://{name}:{quote(_read(DATABASES[name]), safe='')}@postgres:5432/{name}"


def _ensure_database(server: psycopg.Connection, name: str, password: str) -> None:
    identifier = sql.Identifier(name)
    if not server.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [name]).fetchone():
        server.execute(sql.SQL("CREATE ROLE {} LOGIN").format(identifier))
    server.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(identifier, sql.Literal(password)))
    if not server.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
        server.execute(sql.SQL("CREATE DATABASE {0} OWNER {0}").format(identifier))
        server.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(identifier))


# ---------------------------------------------------------------- Airflow


def _airflow(*arguments: str) -> None:
    subprocess.run(["airflow", *arguments], check=True)


def _coding_service() -> dict[str, Any]:
    environment = os.environ
    if not (host := environment.get("CODING_SERVICE_HOST")):
        local = coding_connection(LOCAL_SERVICE)
        # http is for the local service alone: what it carries does not leave this machine
        return {**local, "extra": {**local["extra"], "allow_http": True}}
    return {
        "conn_type": "coding_service",
        "host": host,
        "login": environment.get("CODING_SERVICE_LOGIN"),
        "password": environment.get("CODING_SERVICE_PASSWORD"),
        "extra": {"auth_host": environment.get("CODING_SERVICE_AUTH_HOST")},
    }


def _warehouse() -> dict[str, Any]:
    return {
        "conn_type": "postgres",
        "host": "postgres",
        "port": 5432,
        "schema": "warehouse",
        "login": "warehouse",
        "password": _read("warehouse_password"),
    }


def _staging() -> dict[str, Any]:
    """Keys and endpoint as given; the local object storage takes any key."""
    environment = os.environ
    endpoint, key = environment.get("STAGING_ENDPOINT"), environment.get("STAGING_ACCESS_KEY")
    extra = {"endpoint_url": endpoint, "region_name": "us-east-1"} if endpoint else {}
    local = bool(endpoint) and not key
    return {
        "conn_type": "aws",
        "login": USER if local else key,
        "password": _read("staging_secret_key") if local else environment.get("STAGING_SECRET_KEY"),
        "extra": extra,
    }


STEPS: dict[str, Callable[[], None]] = {
    "secrets": make_secrets,
    "init": initialise,
    "sample": load_sample,
    "bucket": make_bucket,
}

if __name__ == "__main__":
    STEPS[sys.argv[1]]()
