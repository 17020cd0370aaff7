"""The main job in containers: through the REST API, on Celery workers, into PostgreSQL."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import pytest

from tests.compose.conftest import Containers, until

pytestmark = pytest.mark.compose
IN_ALL = "SELECT count(*) FROM survey_responses"
IN_DATES = "response_date BETWEEN '2026-10-03' AND '2026-10-06'"


def test_one_command_codes_the_sample_on_the_workers_and_the_codes_are_in_postgresql(containers: Containers) -> None:
    workers = containers.workers()
    said = containers.execute("api-server", "python", "-m", "include.stack", "code", seconds=900)
    assert re.search(r"code\.poll\[\d\] +deferred", said)
    assert re.search(r"run +success", said)
    (run_id,) = re.findall(r"^Run (\S+)$", said, re.MULTILINE)

    ran = {item["hostname"] for item in containers.api.task_instances(run_id) if item["state"] == "success"}
    assert ran
    assert ran <= workers
    outcomes = dict(containers.query("SELECT outcome, count(*) FROM coding.coded_records GROUP BY 1"))
    assert set(outcomes) == {"coded", "uncoded", "rejected"}
    assert sum(map(int, outcomes.values())) == containers.number(IN_ALL) == 20_000
    assert re.search(rf"^coded +{outcomes['coded']}$", said, re.MULTILINE)


def test_a_killed_worker_loses_no_record_and_costs_no_second_operation(containers: Containers) -> None:
    api = containers.api
    api.unpause()
    mark = containers.mark()
    conf = {"from_date": "2026-10-03", "to_date": "2026-10-06", "selection": "all", "records_per_part": 400}
    # ten seconds between calls: a task that calls the service waits for its turn, so one is caught in the middle
    ask_every(api, seconds=10)
    run_id = api.trigger(conf)

    def running() -> dict[str, Any] | None:
        found = (item for item in api.task_instances(run_id) if item["task_id"] == "code.upload")
        return next((item for item in found if item["state"] == "running" and item["hostname"]), None)

    caught = until(running, "an upload that runs", 600)
    assert caught["hostname"] in containers.workers()
    subprocess.run(
        ["docker", "kill", caught["hostname"]], env=containers.environment, check=True, capture_output=True
    )
    assert caught["hostname"] not in containers.workers()
    ask_every(api, seconds=0.1)

    assert api.wait(run_id, 1500) == "success"
    again = next(item for item in api.task_instances(run_id) if same(item, caught))
    assert (again["state"], again["try_number"]) == ("success", caught["try_number"] + 1)
    assert again["hostname"] in containers.workers(), "another worker did it"
    landed = api.xcom(run_id, "land")
    assert landed["operations"] > 1
    assert containers.operations(mark) == (landed["operations"], landed["operations"])
    read = containers.number(f"SELECT count(*) FROM survey_responses WHERE {IN_DATES}")
    assert containers.number(f"SELECT count(*) FROM coding.coded_records WHERE run_id = '{run_id}'") == read
    assert containers.number(f"SELECT count(*) FROM coding.coded_records WHERE {IN_DATES}") == read


def test_no_secret_shows_in_the_configuration_or_the_environment_of_a_service(containers: Containers) -> None:
    made = containers.execute(
        "api-server", "sh", "-c", "cd /opt/secrets && for f in *_password *_key jwt_secret; do cat $f; echo; done"
    )  # fmt: skip
    secrets = set(made.split())
    assert len(secrets) == 9
    shown = containers.compose("--profile", "*", "config")
    for service in containers.compose("ps", "--services").split():
        shown += containers.execute(service, "env")
    assert [secret for secret in secrets if secret in shown] == []


def test_a_second_start_keeps_what_was_made_and_takes_what_the_environment_sets_since(containers: Containers) -> None:
    kept = containers.execute("api-server", "cat", "/opt/secrets/jwt_secret")
    rows = containers.number("SELECT count(*) FROM coding.coded_records")
    containers.compose("down", "--timeout", "5", seconds=300)
    # what needs care in a URL, in a configuration file and in SQL
    awkward = {
        f"{name}_PASSWORD": f"{name} 100% 'a' \"b\" @:/" for name in ("AIRFLOW_DATABASE", "REDIS", "WAREHOUSE")
    }
    containers.environment |= {**awkward, "ADMIN_PASSWORD": "chosen"}
    containers.up()
    assert containers.execute("api-server", "cat", "/opt/secrets/jwt_secret") == kept
    assert containers.execute("api-server", "cat", "/opt/secrets/admin_password") == "chosen"
    assert containers.number("SELECT count(*) FROM coding.coded_records") == rows
    run_id = containers.api.trigger({"from_date": "2026-10-07", "to_date": "2026-10-07", "selection": "all"})
    assert containers.api.wait(run_id, 600) == "success"


def test_with_the_profile_s3_the_files_of_a_run_lie_in_object_storage(containers: Containers) -> None:
    containers.up(COMPOSE_PROFILES="s3", CODING_STAGING="s3://coding-staging/here")
    api = containers.api
    run_id = api.trigger({"from_date": "2026-10-07", "to_date": "2026-10-07", "selection": "all"})
    assert api.wait(run_id, 600) == "success"
    assert api.xcom(run_id, "land")["texts_sent"] > 0

    uri = api.xcom(run_id, "report")
    assert uri.startswith("s3://coding-staging/here/")
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    client = "'s3', endpoint_url='http://s3:5000', region_name='us-east-1', aws_access_key_id='a', aws_secret_access_key='b'"
    read = f"import boto3; print(boto3.client({client}).get_object(Bucket={bucket!r}, Key={key!r})['Body'].read().decode())"
    assert "Records read:" in containers.execute("worker", "python", "-c", read)
    landed = f"SELECT count(*) FROM coding.coded_records WHERE run_id = '{run_id}'"
    in_source = "SELECT count(*) FROM survey_responses WHERE response_date = '2026-10-07'"
    assert containers.number(landed) == containers.number(in_source) > 0


def ask_every(api: Any, seconds: float) -> None:
    """Set the call budget of Airflow's connection to the service."""
    connection = api.request("GET", "/connections/coding_service_default")
    extra = {**json.loads(connection["extra"]), "requests_per_second": 1 / seconds}
    body = {"connection_id": connection["connection_id"], "conn_type": connection["conn_type"]}
    path, mask = "/connections/coding_service_default", {"update_mask": ["extra"]}
    api.request("PATCH", path, params=mask, json={**body, "extra": json.dumps(extra)})


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether both are tries of one task of a run."""
    return all(one[name] == other[name] for name in ("task_id", "map_index"))
