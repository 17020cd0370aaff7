"""The secrets and connections of the one-shot steps of docker-compose.yaml; tests/compose runs the steps."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from include.stack.containers import make_connections
from include.stack.secret_files import GENERATORS, SecretFiles


@pytest.fixture
def secrets(tmp_path: Path) -> SecretFiles:
    files = SecretFiles(tmp_path)
    files.make({}, backend_group_id=os.getgid())
    return files


def test_secrets_are_generated_once_and_environment_variables_override_them(secrets: SecretFiles) -> None:
    first = {name: secrets.read(name) for name in GENERATORS}
    assert len(set(first.values())) == len(GENERATORS)
    secrets.make({"WAREHOUSE_PASSWORD": "pass/word", "REDIS_PASSWORD": ""}, backend_group_id=os.getgid())
    assert {name: secrets.read(name) for name in GENERATORS} == {**first, "warehouse_password": "pass/word"}
    assert secrets.database_url("warehouse") == "postgresql://warehouse:pass%2Fword@postgres:5432/warehouse"


def test_a_changed_password_reaches_every_file_that_contains_it(secrets: SecretFiles) -> None:
    secrets.make({"REDIS_PASSWORD": 'a "b"', "ADMIN_PASSWORD": "admin's"}, backend_group_id=os.getgid())
    assert secrets.read("broker_url") == "redis://:a%20%22b%22@redis:6379/0"
    assert secrets.read("redis.conf").splitlines()[0] == 'requirepass "a \\"b\\""'
    assert json.loads(secrets.read("passwords.json")) == {"admin": "admin's"}


def test_only_the_owner_can_read_a_secret_but_the_group_of_the_backends_can_read_theirs(
    secrets: SecretFiles,
) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in secrets.folder.iterdir()}
    assert {name for name, mode in modes.items() if mode == 0o440} == {
        "postgres_password", "redis_password", "redis.conf"
    }  # fmt: skip
    assert set(modes.values()) == {0o440, 0o600}


def test_no_secret_ends_with_a_newline_which_airflow_would_read_as_part_of_it(secrets: SecretFiles) -> None:
    for name in (*GENERATORS, "broker_url", "sql_alchemy_conn"):
        assert secrets.read(name) == secrets.read(name).strip()


def test_without_a_host_the_connection_is_to_the_local_service_and_allows_http(secrets: SecretFiles) -> None:
    connections = make_connections({"CODING_STAGING": "file:///opt/airflow/staging"}, secrets)
    assert set(connections) == {"coding_service_default", "warehouse_default"}
    assert connections["coding_service_default"]["host"] == "http://coding-service:8070"
    assert connections["coding_service_default"]["extra"]["allow_http"] is True


def test_the_connection_to_the_real_service_has_its_own_credentials_and_does_not_allow_http(
    secrets: SecretFiles,
) -> None:
    environment = {
        "CODING_SERVICE_HOST": "https://api.example.org",
        "CODING_SERVICE_AUTH_HOST": "https://auth.example.org",
        "CODING_SERVICE_LOGIN": "me",
        "CODING_SERVICE_PASSWORD": "mine",
    }
    assert make_connections(environment, secrets)["coding_service_default"] == {
        "conn_type": "coding_service",
        "host": "https://api.example.org",
        "login": "me",
        "password": "mine",
        "extra": {"auth_host": "https://auth.example.org"},
    }


def test_staging_on_object_storage_has_a_connection_with_the_configured_endpoint_and_keys(
    secrets: SecretFiles,
) -> None:
    s3 = {"CODING_STAGING": "s3://bucket/prefix"}
    local = make_connections({**s3, "STAGING_ENDPOINT": "http://s3:5000"}, secrets)["staging_default"]
    assert local["extra"] == {"endpoint_url": "http://s3:5000", "region_name": "us-east-1"}
    assert (local["login"], local["password"]) == ("admin", secrets.read("staging_secret_key"))
    aws = make_connections({**s3, "STAGING_ACCESS_KEY": "key", "STAGING_SECRET_KEY": "secret"}, secrets)
    assert aws["staging_default"] == {"conn_type": "aws", "login": "key", "password": "secret", "extra": {}}
    role = make_connections(s3, secrets)["staging_default"]
    assert (role["login"], role["password"]) == (None, None), "the default credentials of the machine apply"
