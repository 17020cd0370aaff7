"""Three DAGs of `recode_dag` in one night on real processes: two surveys, two classifications, one call budget."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pendulum
import pytest

from include.coding.run_keys import make_run_key
from include.pipeline.names import RECODE_DAG_ID, TIMEZONE
from tests.end_to_end.conftest import SERVICE_OPTIONS, FastStack, Harness, copy_dags, run_stack, wait_until
from tests.support.file_notifier import read_alerts

pytestmark = pytest.mark.airflow

LABOUR_FORCE, GRADUATES = "recode_labour_force", "recode_graduates"
SURVEYS = f"""
from include.pipeline.airflow_dags import recode_dag
recode_dag("{LABOUR_FORCE}", source="labour_force", topic="anzsco", schedule="0 0 * * *")
recode_dag("{GRADUATES}", source="graduates", topic="osca", schema="graduates", schedule="0 0 * * *")
"""
#: Records of yesterday in the source of each DAG. Their ids and texts are the same as far as they go.
RECORDS = {"survey_responses": 10, "labour_force": 20, "graduates": 30}


class SurveysStack(FastStack):
    """A stack with two further DAGs, and with records of yesterday for all three."""

    def __init__(self, folder: Path) -> None:
        dags = copy_dags(folder / "dags")
        (dags / "surveys.py").write_text(SURVEYS)
        kwargs = {"path": str(folder / "alerts.jsonl"), "subject": "{{ subject }}", "message": "{{ message }}"}
        channel = {"notifier": "tests.support.file_notifier.FileNotifier", "kwargs": kwargs}
        settings = {"AIRFLOW__CORE__DAGS_FOLDER": str(dags), "CODING_ALERTS": json.dumps(channel)}
        super().__init__(folder / "stack", settings, SERVICE_OPTIONS)

    def _load_sample(self) -> None:
        super()._load_sample()
        with duckdb.connect(str(self.warehouse)) as connection:
            for source, count in RECORDS.items():
                connection.execute(f"CREATE TABLE IF NOT EXISTS {source} AS FROM survey_responses LIMIT 0")
                connection.execute(
                    f"INSERT INTO {source} BY NAME SELECT 'N' || i AS record_id, CAST(? AS DATE) AS response_date,"
                    " 'night job ' || i AS occp_text, '' AS tasks_text FROM range(CAST(? AS BIGINT)) AS numbers(i)",
                    [yesterday(), count],
                )


def yesterday() -> str:
    return pendulum.yesterday(TIMEZONE).to_date_string()


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    with run_stack(SurveysStack(tmp_path_factory.mktemp("surveys"))) as stack:
        yield Harness(stack)


def test_two_surveys_and_two_classifications_are_coded_in_one_night_on_one_budget(night: Harness) -> None:
    for dag_id in (LABOUR_FORCE, GRADUATES):
        night.unpause(dag_id)
    dag_ids = (RECODE_DAG_ID, LABOUR_FORCE, GRADUATES)
    wait_until(
        lambda: all(night.runs(dag_id, run_type="scheduled") for dag_id in dag_ids), "a night of each DAG", 300
    )
    keys = {}
    for dag_id in dag_ids:
        run = night.runs(dag_id, run_type="scheduled")[0]
        assert night.wait(run["dag_run_id"], dag_id, 900) == "success", dag_id
        assert run["partition_key"] == yesterday()
        keys[dag_id] = make_run_key(dag_id, run["dag_run_id"])
    assert keys[LABOUR_FORCE].startswith(f"{LABOUR_FORCE}/scheduled__")

    count = "SELECT run_id, topic, count(*), count(code) FROM {}.coded_records WHERE response_date = ? GROUP BY ALL"
    rows = [
        *night.query(count.format("coding"), yesterday()),
        *night.query(count.format("coding_graduates"), yesterday()),
    ]
    assert {(key, topic, records) for key, topic, records, _ in rows} == {
        (keys[RECODE_DAG_ID], "osca", 10),
        (keys[LABOUR_FORCE], "anzsco", 20),
        (keys[GRADUATES], "osca", 30),
    }
    for schema, dag_ids_of_schema in (("coding", [RECODE_DAG_ID, LABOUR_FORCE]), ("coding_graduates", [GRADUATES])):
        runs = {key for (key,) in night.query(f"SELECT run_id FROM {schema}.coding_runs")}
        assert runs == {keys[dag_id] for dag_id in dag_ids_of_schema}
        assert night.query(f"SELECT count(*) FROM {schema}.date_claims") == [(0,)]

    # one event for each DAG, of its own asset
    for dag_id, asset in ((LABOUR_FORCE, f"coded_records_{LABOUR_FORCE}"), (GRADUATES, f"coded_records_{GRADUATES}")):
        events = night.api.request("GET", "/assets/events", params={"name_pattern": asset})["asset_events"]
        assert [(event["source_dag_id"], event["partition_key"]) for event in events] == [(dag_id, yesterday())]
        assert events[0]["extra"]["run_id"] == keys[dag_id]

    # one token and one budget, so that no call came too early for the service
    entries = night.journal()
    assert [entry["path"] for entry in entries].count("/oauth2/token") == 1
    calls = night.calls(0)
    (budget,) = (night.stack.folder / "airflow" / "coding_service").rglob("*.calls")
    assert {call["status"] for call in calls}.isdisjoint({429})
    assert len({call["path"].split("/topics/")[1].split("/")[0] for call in calls if "/topics/" in call["path"]}) == 2
    assert len(night.creations(0)) == 3
    counts = json.loads(budget.read_text())["calls"]
    assert sum(counts.values()) >= len(calls), "the one budget has counted the calls of all DAGs"

    # the files of each run were in a folder of its own
    folders = list((night.stack.folder / "staging" / "occupation-coding-runs").iterdir())
    assert [len(list(folder.iterdir())) for folder in folders] == [3] * 3, "their reports"


def test_a_run_that_would_replace_the_rows_of_another_dag_is_refused_with_an_alert_of_its_own_dag(
    night: Harness,
) -> None:
    rows = "SELECT * FROM coding.coded_records WHERE topic = 'osca' ORDER BY ALL"
    before, position = night.query(rows), night.last_request()
    body = {"logical_date": None, "conf": {"topic": "osca", "from_date": yesterday()}}
    run_id = str(night.api.request("POST", f"/dags/{LABOUR_FORCE}/dagRuns", json=body)["dag_run_id"])
    assert night.wait(run_id, LABOUR_FORCE) == "failed"
    assert (night.query(rows), night.creations(position)) == (before, [])
    alert_file = night.stack.folder.parent / "alerts.jsonl"

    def alerts() -> list[dict[str, str]]:
        return [alert for alert in read_alerts(alert_file) if f"Run {run_id} " in alert["message"]]

    wait_until(lambda: bool(alerts()), "an alert")
    assert [alert["subject"] for alert in alerts()] == [f"{LABOUR_FORCE} failed for {yesterday()}"]
