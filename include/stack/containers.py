"""`python -m include.stack.containers secrets|init|sample|bucket`: the one-shot steps of docker-compose.yaml.

Each may be done any number of times: what stands is kept, what the environment sets is set.
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

from include.stack.processes import POOL, POOL_SLOTS, USER, coding_connection, write_private
from include.stack.sample import write_sample
from include.stack.secret_files import DATABASES, SecretFiles

LOCAL_SERVICE = "http://coding-service:8070"
TABLE = "survey_responses"
REGION = "us-east-1"


def make_secrets() -> None:
    """Write every secret to a file of its own."""
    SecretFiles().make(os.environ)


def initialise() -> None:
    """Make databases and users, migrate Airflow's tables, and make its pool and its connections."""
    secrets = SecretFiles()
    with psycopg.connect(secrets.server_url(), autocommit=True) as server:
        for name, password in DATABASES.items():
            _ensure_database(server, name, secrets.read(password))
    _airflow("db", "migrate")
    slots = os.environ.get("CODING_POOL_SLOTS") or str(POOL_SLOTS)
    _airflow("pools", "set", POOL, slots, "Operations at once", "--include-deferred")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "connections.json")
        write_private(path, json.dumps(connections(os.environ, secrets)))
        _airflow("connections", "import", "--overwrite", str(path))


def load_sample() -> None:
    """Put the sample into the warehouse, unless a table of that name is there."""
    url = SecretFiles().database_url("warehouse")
    with psycopg.connect(url) as warehouse:
        if warehouse.execute("SELECT to_regclass(%s)", [TABLE]).fetchone() != (None,):
            return
    with tempfile.TemporaryDirectory() as folder, dbapi.connect(url) as connection:
        path = Path(folder, "sample.parquet")
        write_sample(path)
        with connection.cursor() as cursor:
            cursor.adbc_ingest(TABLE, pq.read_table(path), mode="create")
        connection.commit()


def make_bucket() -> None:
    """Make the bucket of the staging folder at the local object storage."""
    staging = urlsplit(os.environ.get("CODING_STAGING") or "")
    if staging.scheme != "s3":
        sys.exit("with the profile s3, set CODING_STAGING to the s3:// URI of a folder, such as s3://coding-staging")
    client = Session().create_client(
        "s3", region_name=REGION, endpoint_url=os.environ["STAGING_ENDPOINT"], aws_access_key_id=USER,
        aws_secret_access_key=SecretFiles().read("staging_secret_key"),
    )  # fmt: skip
    try:
        client.create_bucket(Bucket=staging.netloc)
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
            raise


def connections(environment: Mapping[str, str], secrets: SecretFiles) -> dict[str, dict[str, Any]]:
    """Airflow's connections, as the environment wants them: where it names no host, the local coding service."""
    warehouse = {
        "conn_type": "postgres",
        "host": "postgres",
        "port": 5432,
        "schema": "warehouse",
        "login": "warehouse",
        "password": secrets.read(DATABASES["warehouse"]),
    }
    found = {"coding_service_default": _coding_service(environment), "warehouse_default": warehouse}
    if environment.get("CODING_STAGING", "").startswith("s3://"):
        found["staging_default"] = _staging(environment, secrets)
    return found


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


def _coding_service(environment: Mapping[str, str]) -> dict[str, Any]:
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


def _staging(environment: Mapping[str, str], secrets: SecretFiles) -> dict[str, Any]:
    """Keys and endpoint as given; the local object storage takes any key."""
    endpoint, key = environment.get("STAGING_ENDPOINT"), environment.get("STAGING_ACCESS_KEY")
    local = bool(endpoint) and not key
    return {
        "conn_type": "aws",
        "login": USER if local else key,
        "password": secrets.read("staging_secret_key") if local else environment.get("STAGING_SECRET_KEY"),
        "extra": {"endpoint_url": endpoint, "region_name": REGION} if endpoint else {},
    }


STEPS: dict[str, Callable[[], None]] = {
    "secrets": make_secrets,
    "init": initialise,
    "sample": load_sample,
    "bucket": make_bucket,
}

if __name__ == "__main__":
    STEPS[sys.argv[1]]()
