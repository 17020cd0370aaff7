"""The main job in containers: through the REST API, on Celery workers, into PostgreSQL."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import pytest

from tests.compose.conftest import Containers, wait_until

pytestmark = pytest.mark.compose
ALL_RECORDS = "SELECT count(*) FROM survey_responses"
IN_DATES = "response_date BETWEEN '2026-10-03' AND '2026-10-06'"


def test_one_command_codes_the_sample_on_the_workers_and_writes_the_codes_to_postgresql(
    containers: Containers,
) -> None:
    workers = containers.workers()
    output = containers.execute("api-server", "python", "-m", "include.stack", "code", timeout=900)
    assert re.search(r"code\.poll\[\d\] +deferred", output)
    assert re.search(r"run +success", output)
    (run_id,) = re.findall(r"^Run (\S+)$", output, re.MULTILINE)

    hosts = {item["hostname"] for item in containers.api.task_instances(run_id) if item["state"] == "success"}
    assert hosts
    assert hosts <= workers
    outcomes = dict(containers.query("SELECT outcome, count(*) FROM coding.coded_records GROUP BY 1"))
    assert set(outcomes) == {"coded", "uncoded", "rejected"}
    assert sum(map(int, outcomes.values())) == containers.number(ALL_RECORDS) == 20_000
    assert re.search(rf"^coded +{outcomes['coded']}$", output, re.MULTILINE)


def test_only_the_image_of_the_local_service_has_scikit_learn(containers: Containers) -> None:
    for service in ("api-server", "scheduler", "dag-processor", "triggerer", "worker", "coding-service"):
        packages = containers.execute(service, "pip", "list", "--format=freeze", "--disable-pip-version-check")
        names = {line.partition("==")[0] for line in packages.splitlines()}
        assert "apache-airflow" in names
        assert ({"scikit-learn", "scipy", "joblib"} <= names) is (service == "coding-service")


def test_a_killed_worker_loses_no_record_and_costs_no_second_operation(containers: Containers) -> None:
    api = containers.api
    api.unpause()
    sequence = containers.last_sequence()
    conf = {"from_date": "2026-10-03", "to_date": "2026-10-06", "selection": "all", "records_per_part": 400}
    # with ten seconds between calls, a task waits before it calls the service, so that it can be killed in the middle
    set_call_interval(api, seconds=10)
    run_id = api.trigger(conf)

    def find_running_upload() -> dict[str, Any] | None:
        uploads = (item for item in api.task_instances(run_id) if item["task_id"] == "code.upload")
        return next((item for item in uploads if item["state"] == "running" and item["hostname"]), None)

    upload = wait_until(find_running_upload, "a running upload", 600)
    assert upload["hostname"] in containers.workers()
    subprocess.run(
        ["docker", "kill", upload["hostname"]], env=containers.environment, check=True, capture_output=True
    )
    assert upload["hostname"] not in containers.workers()
    set_call_interval(api, seconds=0.1)

    assert api.wait(run_id, 1500) == "success"
    retry = next(item for item in api.task_instances(run_id) if is_same_task(item, upload))
    assert (retry["state"], retry["try_number"]) == ("success", upload["try_number"] + 1)
    assert retry["hostname"] in containers.workers(), "another worker ran it"
    summary = api.xcom(run_id, "land")
    assert summary["operations"] > 1
    assert containers.operations(sequence) == (summary["operations"], summary["operations"])
    records = containers.number(f"SELECT count(*) FROM survey_responses WHERE {IN_DATES}")
    assert containers.number(f"SELECT count(*) FROM coding.coded_records WHERE run_id = '{run_id}'") == records
    assert containers.number(f"SELECT count(*) FROM coding.coded_records WHERE {IN_DATES}") == records


def test_no_configuration_or_environment_of_a_service_contains_a_secret(containers: Containers) -> None:
    output = containers.execute(
        "api-server", "sh", "-c", "cd /opt/secrets && for f in *_password *_key jwt_secret; do cat $f; echo; done"
    )  # fmt: skip
    secrets = set(output.split())
    assert len(secrets) == 9
    visible = containers.compose("--profile", "*", "config")
    for service in containers.compose("ps", "--services").split():
        visible += containers.execute(service, "env")
    assert [secret for secret in secrets if secret in visible] == []


def test_a_second_start_keeps_the_generated_secrets_and_applies_new_settings(containers: Containers) -> None:
    jwt_secret = containers.execute("api-server", "cat", "/opt/secrets/jwt_secret")
    rows = containers.number("SELECT count(*) FROM coding.coded_records")
    containers.compose("down", "--timeout", "5", timeout=300)
    # characters with a special meaning in URLs, in configuration files and in SQL
    passwords = {
        f"{name}_PASSWORD": f"{name} 100% 'a' \"b\" @:/" for name in ("AIRFLOW_DATABASE", "REDIS", "WAREHOUSE")
    }
    containers.environment |= {**passwords, "ADMIN_PASSWORD": "chosen"}
    containers.up()
    assert containers.execute("api-server", "cat", "/opt/secrets/jwt_secret") == jwt_secret
    assert containers.execute("api-server", "cat", "/opt/secrets/admin_password") == "chosen"
    assert containers.number("SELECT count(*) FROM coding.coded_records") == rows
    run_id = containers.api.trigger({"from_date": "2026-10-07", "to_date": "2026-10-07", "selection": "all"})
    assert containers.api.wait(run_id, 600) == "success"


def test_with_the_profile_s3_the_files_of_a_run_are_in_object_storage(containers: Containers) -> None:
    containers.up(COMPOSE_PROFILES="s3", CODING_STAGING="s3://coding-staging/here")
    api = containers.api
    run_id = api.trigger({"from_date": "2026-10-07", "to_date": "2026-10-07", "selection": "all"})
    assert api.wait(run_id, 600) == "success"
    assert api.xcom(run_id, "land")["texts_sent"] > 0

    uri = api.xcom(run_id, "report")
    assert uri.startswith("s3://coding-staging/here/")
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    client = "'s3', endpoint_url='http://s3:5000', region_name='us-east-1', aws_access_key_id='a', aws_secret_access_key='b'"
    program = f"import boto3; print(boto3.client({client}).get_object(Bucket={bucket!r}, Key={key!r})['Body'].read().decode())"
    assert "Records read:" in containers.execute("worker", "python", "-c", program)
    published = f"SELECT count(*) FROM coding.coded_records WHERE run_id = '{run_id}'"
    in_source = "SELECT count(*) FROM survey_responses WHERE response_date = '2026-10-07'"
    assert containers.number(published) == containers.number(in_source) > 0


def set_call_interval(api: Any, seconds: float) -> None:
    """Set the time between calls in Airflow's connection to the service."""
    connection = api.request("GET", "/connections/coding_service_default")
    extra = {**json.loads(connection["extra"]), "requests_per_second": 1 / seconds}
    body = {"connection_id": connection["connection_id"], "conn_type": connection["conn_type"]}
    path, mask = "/connections/coding_service_default", {"update_mask": ["extra"]}
    api.request("PATCH", path, params=mask, json={**body, "extra": json.dumps(extra)})


def is_same_task(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether both are attempts of the same task instance."""
    return all(one[name] == other[name] for name in ("task_id", "map_index"))
