"""The scheduled run of every night, and backfills of history at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import duckdb
import pendulum
import pytest

from include.pipeline.names import RECODE_DAG_ID, TIMEZONE
from include.stack.airflow_api import FINAL_STATES
from tests.end_to_end.conftest import FastStack, Harness, copy_dags, run_stack, wait_until

pytestmark = pytest.mark.airflow

FIRST_DAY, LAST_DAY = "2026-10-01", "2026-10-07"
DAY_COUNT, MAX_ACTIVE_RUNS = 7, 3
#: Further DAGs that catch up on the nights around a clock change: DAG id, first midnight, last midnight.
CATCH_UP = {
    "october": ("2026-10-04", "2026-10-05"),  # 4 October has 23 hours
    "april": ("2026-04-05", "2026-04-06"),  # 5 April has 25 hours
}


def yesterday() -> str:
    """Return the day that the nightly run is for, in Sydney."""
    return pendulum.yesterday(TIMEZONE).to_date_string()


def make_catch_up_dag(dag_id: str, first: str, last: str) -> str:
    """Return the text of the file of a DAG like the main one, with tables of its own, and with runs for all nights from
    `first` to `last`."""
    return f"""
import pendulum
from include.pipeline.airflow_dags import recode_dag
from include.pipeline.names import TIMEZONE
dag = recode_dag("{dag_id}", topic="anzsco", schema="{dag_id}", schedule="0 0 * * *")
dag.catchup = True
for node in (dag, *dag.tasks):  # Airflow begins with the earliest date of a task
    node.start_date, node.end_date = (pendulum.parse(day, tz=TIMEZONE) for day in ("{first}", "{last}"))
"""


class HistoryStack(FastStack):
    """A stack with further DAGs that catch up, and with records of the day before."""

    _poll_interval_s = 6.0  # seven runs at once slow the scheduler down

    def __init__(self, folder: Path) -> None:
        dags = copy_dags(folder / "dags")
        for dag_id, nights in CATCH_UP.items():
            (dags / f"{dag_id}.py").write_text(make_catch_up_dag(dag_id, *nights))
        options = ("--coder", "stub", "--progression", "by_time", "--seconds", "4")
        super().__init__(folder, {"AIRFLOW__CORE__DAGS_FOLDER": str(dags)}, options)

    def _load_sample(self) -> None:
        super()._load_sample()
        with duckdb.connect(str(self.warehouse)) as connection:
            connection.execute(
                "INSERT INTO survey_responses BY NAME SELECT 'N' || i AS record_id, CAST(? AS DATE) AS response_date,"
                " 'night job ' || i AS occp_text, '' AS tasks_text FROM range(20) AS numbers(i)",
                [yesterday()],
            )


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    with run_stack(HistoryStack(tmp_path_factory.mktemp("history"))) as stack:
        yield Harness(stack)


def start_backfill(harness: Harness, first: str, last: str, **options: Any) -> int:
    """Start a backfill and return its id."""
    dates = {"from_date": f"{first}T00:00:00Z", "to_date": f"{last}T00:00:00Z"}
    return int(harness.api.request("POST", "/backfills", json={"dag_id": RECODE_DAG_ID, **dates, **options})["id"])


def has_ended(harness: Harness, backfill_id: int) -> bool:
    return harness.api.request("GET", f"/backfills/{backfill_id}")["completed_at"] is not None


def wait_for_backfill(harness: Harness, backfill_id: int) -> list[dict[str, Any]]:
    """Wait until a backfill ends, and return its runs."""
    wait_until(lambda: has_ended(harness, backfill_id), f"backfill {backfill_id} ends", 600)
    return list_runs(harness, backfill_id)


def backfill(harness: Harness, first: str, last: str, **options: Any) -> list[dict[str, Any]]:
    """Run a backfill and return its runs."""
    return wait_for_backfill(harness, start_backfill(harness, first, last, **options))


def list_runs(harness: Harness, backfill_id: int) -> list[dict[str, Any]]:
    """Return the runs of a backfill that have started, oldest first."""
    runs = [(((run["conf"] or {}).get("_airflow") or {}).get("backfill"), run) for run in harness.runs()]
    return [run for backfill, run in runs if str(backfill).startswith(f"{backfill_id} of ")]


def test_a_backfill_uses_one_model_sends_texts_once_and_does_not_delay_the_scheduled_run(history: Harness) -> None:
    position = history.last_request()
    backfill_id = start_backfill(history, FIRST_DAY, LAST_DAY, run_backwards=True, max_active_runs=MAX_ACTIVE_RUNS)

    def has_plan() -> bool:
        runs = [run for run in list_runs(history, backfill_id) if run["state"] != "queued"]
        return any(history.api.tasks(run["dag_run_id"]).get("plan") == "success" for run in runs)

    wait_until(has_plan, "a run of the backfill has a plan")
    history.control_service("faults", name="new_latest_model")  # from the next request for the latest model on
    dry_run_id, state = history.run(from_date="2020-01-01", dry_run=True)
    assert (state, has_ended(history, backfill_id)) == ("success", False)

    runs = wait_for_backfill(history, backfill_id)
    assert [run["state"] for run in runs] == ["success"] * DAY_COUNT
    keys = [run["partition_key"] for run in runs]
    assert keys == sorted(keys, reverse=True), "newest first"
    (nightly,) = history.runs(run_type="scheduled")
    assert (nightly["partition_key"], nightly["state"]) == (yesterday(), "success")
    assert nightly["end_date"] > min(run["start_date"] for run in runs), "it ran at the same time as the backfill"

    models = {history.api.xcom(run["dag_run_id"], "plan")["model_id"] for run in runs}
    assert len(models) == 1
    assert history.api.xcom(dry_run_id, "plan")["model_id"] not in models, "the service has a newer model since"

    count = "SELECT CAST(response_date AS VARCHAR), count(*) FROM {} WHERE response_date BETWEEN ? AND ? GROUP BY 1"
    assert dict(history.query(count.format("coding.coded_records"), FIRST_DAY, LAST_DAY)) == dict(
        history.query(count.format("survey_responses"), FIRST_DAY, LAST_DAY)
    )
    assert history.query("SELECT count(*) FROM coding.coded_records WHERE response_date = ?", yesterday()) == [(20,)]
    ((sent, operations),) = history.query(
        "SELECT sum(records), count(*) FROM coding.coding_operations WHERE run_id LIKE 'backfill%'"
    )
    ((distinct,),) = history.query("SELECT count(*) FROM coding.coded_texts WHERE run_id LIKE 'backfill%'")
    assert operations == DAY_COUNT
    assert distinct <= sent <= distinct + count_texts_in_concurrent_runs(history, runs)
    latest = [call for call in history.calls(position) if call["path"].endswith("/models/latest")]
    assert 2 <= len(latest) <= 3 + MAX_ACTIVE_RUNS, "watch, nightly run, dry run, and the first runs of the backfill"


def count_texts_in_concurrent_runs(harness: Harness, runs: list[dict[str, Any]]) -> int:
    """Return how many texts two runs have in common of which neither landed before the other prepared.

    Both can send these texts.
    """
    texts: dict[str, set[str]] = {run["dag_run_id"]: set() for run in runs}
    for run_id, key in harness.query("SELECT DISTINCT run_id, text_key FROM coding.coded_records"):
        texts.get(run_id, set()).add(key)
    spans = {}
    for run_id in texts:
        times = {item["task_id"]: item for item in harness.api.task_instances(run_id)}
        spans[run_id] = (times["prepare"]["start_date"], times["land"]["end_date"])
    return sum(
        len(texts[one] & texts[other])
        for one, other in combinations(texts, 2)
        if spans[one][0] < spans[other][1] and spans[other][0] < spans[one][1]
    )


def test_a_second_backfill_with_the_same_model_sends_nothing(history: Harness) -> None:
    ((model,),) = history.query("SELECT DISTINCT model_id FROM coding.pinned_models")
    position = history.last_request()
    options = {"reprocess_behavior": "completed", "dag_run_conf": {"model": model}, "max_active_runs": 1}
    runs = backfill(history, "2026-10-05", "2026-10-06", **options)
    assert [run["state"] for run in runs] == ["success"] * 2
    assert (history.creations(position), history.uploads(position)) == ([], [])
    assert len(history.calls(position)) == 2, "its first run checked that the model exists"
    assert {history.api.xcom(run["dag_run_id"], "land")["texts_sent"] for run in runs} == {0}


def test_reprocessing_a_failed_run_sends_only_texts_without_a_result(history: Harness) -> None:
    days = ("2026-10-03", "2026-10-04")
    # The part, the part again, its nine pieces, and a text that the model has coded before: the service is out of order.
    history.control_service("faults", name="operation_fails", count=12)
    runs = backfill(history, *days, reprocess_behavior="completed", max_active_runs=1)
    assert sorted(run["state"] for run in runs) == ["failed", "success"]
    (failed_day,) = (run["partition_key"] for run in runs if run["state"] == "failed")

    position = history.last_request()
    (run,) = backfill(history, *days, reprocess_behavior="failed")
    assert (run["partition_key"], run["state"], len(history.creations(position))) == (failed_day, "success", 1)
    summary = history.api.xcom(run["dag_run_id"], "land")
    assert 0 < summary["texts_sent"] < summary["texts"], "the run of the other day has coded some of them"


def test_each_night_around_a_clock_change_is_for_one_day(history: Harness) -> None:
    for dag_id in CATCH_UP:
        history.unpause(dag_id)

    def have_ended() -> bool:
        runs = [run for dag_id in CATCH_UP for run in history.runs(dag_id)]
        return len(runs) == 4 and all(run["state"] in FINAL_STATES for run in runs)

    wait_until(have_ended, "two nights of each DAG", 300)
    runs = {
        dag_id: [(run["partition_key"], run["run_after"][:16], run["state"]) for run in history.runs(dag_id)]
        for dag_id in CATCH_UP
    }
    assert runs == {
        "october": [("2026-10-03", "2026-10-03T14:00", "success"), ("2026-10-04", "2026-10-04T13:00", "success")],
        "april": [("2026-04-04", "2026-04-04T13:00", "success"), ("2026-04-05", "2026-04-05T14:00", "success")],
    }
    count = "SELECT CAST(response_date AS VARCHAR), count(*) FROM {} AND response_date BETWEEN ? AND ? GROUP BY 1"
    rows = history.query(count.format("coding_october.coded_records WHERE topic = 'anzsco'"), FIRST_DAY, "2026-10-04")
    assert dict(rows) == dict(history.query(count.format("survey_responses WHERE true"), FIRST_DAY, "2026-10-04"))


def test_all_runs_together_use_one_token(history: Harness) -> None:
    assert [entry["path"] for entry in history.journal()].count("/oauth2/token") == 1
