"""`python -m include.stack.containers secrets|init|sample|bucket`: the one-shot steps of docker-compose.yaml.

Each can be repeated: what exists is kept, unless an environment variable sets it to another value.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pyarrow.parquet as pq
from adbc_driver_postgresql import dbapi
from botocore.exceptions import ClientError
from botocore.session import Session
from psycopg import sql

from include.coding.files import OWNER_ONLY_UMASK, write_atomically
from include.pipeline.names import CODING_SERVICE_CONN_ID, POOL, POOL_SLOTS, STAGING_CONN_ID, WAREHOUSE_CONN_ID
from include.stack.processes import USER, coding_connection
from include.stack.sample import write_sample
from include.stack.secret_files import DATABASES, SecretFiles

LOCAL_SERVICE_URL = "http://coding-service:8070"
SAMPLE_TABLE = "survey_responses"
LOCAL_REGION = "us-east-1"


def initialise() -> None:
    """Create the databases and users, migrate Airflow's tables, and create its pool and connections."""
    secrets = SecretFiles()
    with psycopg.connect(secrets.server_url(), autocommit=True) as server:
        for name, password in DATABASES.items():
            _ensure_database(server, name, secrets.read(password))
    _airflow("db", "migrate")
    slots = os.environ.get("CODING_POOL_SLOTS") or str(POOL_SLOTS)
    _airflow("pools", "set", POOL, slots, "Concurrent operations", "--include-deferred")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "connections.json")
        write_atomically(path, json.dumps(make_connections(os.environ, secrets)))
        _airflow("connections", "import", "--overwrite", str(path))


def load_sample() -> None:
    """Load the sample into the warehouse, unless its table exists."""
    url = SecretFiles().database_url("warehouse")
    with psycopg.connect(url) as warehouse:
        if warehouse.execute("SELECT to_regclass(%s)", [SAMPLE_TABLE]).fetchone() != (None,):
            return
    with tempfile.TemporaryDirectory() as folder, dbapi.connect(url) as connection:
        path = Path(folder, "sample.parquet")
        write_sample(path)
        with connection.cursor() as cursor:
            cursor.adbc_ingest(SAMPLE_TABLE, pq.read_table(path), mode="create")
        connection.commit()


def make_bucket() -> None:
    """Create the bucket of the staging folder in the local object storage."""
    staging = urlsplit(os.environ.get("CODING_STAGING") or "")
    if staging.scheme != "s3":
        sys.exit("the profile s3 needs an s3:// URI in CODING_STAGING. Set it, for example to s3://coding-staging")
    client = Session().create_client(
        "s3", region_name=LOCAL_REGION, endpoint_url=os.environ["STAGING_ENDPOINT"], aws_access_key_id=USER,
        aws_secret_access_key=SecretFiles().read("staging_secret_key"),
    )  # fmt: skip
    try:
        client.create_bucket(Bucket=staging.netloc)
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
            raise


def make_connections(environment: Mapping[str, str], secrets: SecretFiles) -> dict[str, dict[str, Any]]:
    """Return Airflow's connections. Without CODING_SERVICE_HOST they use the local coding service."""
    warehouse = {
        "conn_type": "postgres",
        "host": "postgres",
        "port": 5432,
        "schema": "warehouse",
        "login": "warehouse",
        "password": secrets.read(DATABASES["warehouse"]),
    }
    connections = {CODING_SERVICE_CONN_ID: _make_service_connection(environment), WAREHOUSE_CONN_ID: warehouse}
    if environment.get("CODING_STAGING", "").startswith("s3://"):
        connections[STAGING_CONN_ID] = _make_staging_connection(environment, secrets)
    return connections


def _ensure_database(server: psycopg.Connection, name: str, password: str) -> None:
    identifier = sql.Identifier(name)
    if not server.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [name]).fetchone():
        server.execute(sql.SQL("CREATE ROLE {} LOGIN").format(identifier))
    server.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(identifier, sql.Literal(password)))
    if not server.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
        server.execute(sql.SQL("CREATE DATABASE {0} OWNER {0}").format(identifier))
    server.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(identifier))


def _airflow(*arguments: str) -> None:
    subprocess.run(["airflow", *arguments], check=True)


def _make_service_connection(environment: Mapping[str, str]) -> dict[str, Any]:
    if not (host := environment.get("CODING_SERVICE_HOST")):
        local = coding_connection(LOCAL_SERVICE_URL)
        # unencrypted HTTP is allowed for the local service only, because its traffic stays on this machine
        return {**local, "extra": {**local["extra"], "allow_http": True}}
    return {
        "conn_type": "coding_service",
        "host": host,
        "login": environment.get("CODING_SERVICE_LOGIN"),
        "password": environment.get("CODING_SERVICE_PASSWORD"),
        "extra": {"auth_host": environment.get("CODING_SERVICE_AUTH_HOST")},
    }


def _make_staging_connection(environment: Mapping[str, str], secrets: SecretFiles) -> dict[str, Any]:
    """Return the connection to S3, with the endpoint and keys that are set. Local object storage accepts any key."""
    endpoint, key = environment.get("STAGING_ENDPOINT"), environment.get("STAGING_ACCESS_KEY")
    is_local = bool(endpoint) and not key
    return {
        "conn_type": "aws",
        "login": USER if is_local else key,
        "password": secrets.read("staging_secret_key") if is_local else environment.get("STAGING_SECRET_KEY"),
        "extra": {"endpoint_url": endpoint, "region_name": LOCAL_REGION} if endpoint else {},
    }


STEPS: dict[str, Callable[[], None]] = {
    "secrets": lambda: SecretFiles().make(os.environ),
    "init": initialise,
    "sample": load_sample,
    "bucket": make_bucket,
}

if __name__ == "__main__":
    os.umask(OWNER_ONLY_UMASK)
    STEPS[sys.argv[1]]()
