"""Every night and backwards through history: the scheduler's own runs, and backfills while it goes on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import duckdb
import pendulum
import pytest

from include.stack.processes import PROJECT
from tests.end_to_end.conftest import Harness, LaneStack, until

pytestmark = pytest.mark.airflow

MAIN = "recode_occupations"
FIRST, LAST = "2026-10-01", "2026-10-30"
#: Copies of the DAG that catch up over the nights around a change of clocks: name, first midnight, last midnight.
CATCH_UP = {
    "october": ("2026-10-04", "2026-10-05"),  # 4 October has 23 hours
    "april": ("2026-04-05", "2026-04-06"),  # 5 April has 25
}


def last_night() -> str:
    """The day that the nightly run is for, in Sydney."""
    return pendulum.now("Australia/Sydney").subtract(days=1).to_date_string()


def catching_up(text: str, name: str, first: str, last: str) -> str:
    """The text of the DAG's file with another name, and runs for all nights between two."""
    changes = {
        f'"{MAIN}"': f'"{name}"',
        '"osca", type="string"': '"anzsco", type="string"',
        "pendulum.datetime(2026, 1, 1, tz=TIMEZONE)": f"pendulum.parse('{first}', tz=TIMEZONE)",
        "catchup=False": f"catchup=True, end_date=pendulum.parse('{last}', tz=TIMEZONE)",
    }
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


class History(LaneStack):
    """The stack with copies of the DAG that catch up, and answers of the day before."""

    def __init__(self, folder: Path) -> None:
        dags = folder / "dags"
        shutil.copytree(PROJECT / "dags", dags, ignore=shutil.ignore_patterns("__pycache__"))
        for name, nights in CATCH_UP.items():
            (dags / f"{name}.py").write_text(catching_up((dags / f"{MAIN}.py").read_text(), name, *nights))
        progression = ("--progression", "by_time", "--seconds", "8")
        super().__init__(folder, {"AIRFLOW__CORE__DAGS_FOLDER": str(dags)}, ("--coder", "stub", *progression))

    def _load_sample(self) -> None:
        super()._load_sample()
        with duckdb.connect(str(self.warehouse)) as connection:
            connection.execute(
                "INSERT INTO survey_responses BY NAME SELECT 'N' || i AS record_id, CAST(? AS DATE) AS response_date,"
                " 'night job ' || i AS occp_text, '' AS tasks_text FROM range(20) AS numbers(i)",
                [last_night()],
            )


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    stack = History(tmp_path_factory.mktemp("history"))
    stack.start()
    try:
        yield Harness(stack)
    finally:
        stack.stop()


def start_backfill(harness: Harness, first: str, last: str, **options: Any) -> int:
    """Start a backfill and return its number."""
    body = {"dag_id": MAIN, "from_date": f"{first}T00:00:00Z", "to_date": f"{last}T00:00:00Z", **options}
    return int(harness.api.request("POST", "/backfills", json=body)["id"])


def is_over(harness: Harness, number: int) -> bool:
    return harness.api.request("GET", f"/backfills/{number}")["completed_at"] is not None


def end_of_backfill(harness: Harness, number: int) -> list[dict[str, Any]]:
    """Wait for a backfill to end, and return its runs."""
    until(lambda: is_over(harness, number), f"backfill {number} ends", 900)
    return runs_of(harness, backfill_of=number)


def backfill(harness: Harness, first: str, last: str, **options: Any) -> list[dict[str, Any]]:
    """Run a backfill to its end and return its runs."""
    return end_of_backfill(harness, start_backfill(harness, first, last, **options))


def runs_of(harness: Harness, dag_id: str = MAIN, backfill_of: int | None = None) -> list[dict[str, Any]]:
    """Runs of a DAG, or of one backfill, the oldest first."""
    path = f"/dags/{dag_id}/dagRuns"
    found = harness.api.request("GET", path, params={"limit": 100, "order_by": "id"})["dag_runs"]
    if backfill_of is None:
        return list(found)
    facts = [((run["conf"] or {}).get("_airflow") or {}, run) for run in found]
    return [run for fact, run in facts if str(fact.get("backfill")).startswith(f"{backfill_of} of ")]


def calls(harness: Harness, since: int) -> list[str]:
    """What was asked of the coding service: method and path of each call."""
    return [f"{entry['method']} {entry['path']}" for entry in harness.journal(since) if "/v1/" in entry["path"]]


def created(harness: Harness, since: int) -> int:
    """Operations that were opened."""
    return sum(call.startswith("POST") and "batch-code" in call for call in calls(harness, since))


def test_a_backfill_of_thirty_days_has_one_model_sends_texts_once_and_leaves_the_night_alone(
    history: Harness,
) -> None:
    mark = history.mark()
    number = start_backfill(history, FIRST, LAST, run_backwards=True, max_active_runs=6)

    def has_planned() -> bool:
        begun = [run for run in runs_of(history, backfill_of=number) if run["state"] != "queued"]
        return any(history.api.tasks(run["dag_run_id"]).get("plan") == "success" for run in begun)

    until(has_planned, "a run of the backfill has its model")
    history.knob("faults", name="new_latest_model")  # the next that asks for the latest model finds a newer one
    newest, state = history.code(from_date="2020-01-01", dry_run=True)
    assert (state, is_over(history, number)) == ("success", False)

    done = end_of_backfill(history, number)
    assert [run["state"] for run in done] == ["success"] * 30
    keys = [run["partition_key"] for run in done]
    assert keys == sorted(keys, reverse=True), "the newest first"
    (night,) = (run for run in runs_of(history) if run["run_type"] == "scheduled")
    assert (night["partition_key"], night["state"]) == (last_night(), "success")
    assert night["end_date"] > min(run["start_date"] for run in done), "the night ran while the backfill did"

    models = {history.api.xcom(run["dag_run_id"], "plan")["model_id"] for run in done}
    assert len(models) == 1
    assert history.api.xcom(newest, "plan")["model_id"] not in models, "the service has had a newer model since"

    counted = "SELECT CAST(response_date AS VARCHAR), count(*) FROM {} WHERE response_date BETWEEN ? AND ? GROUP BY 1"
    assert dict(history.query(counted.format("coding.coded_records"), FIRST, LAST)) == dict(
        history.query(counted.format("survey_responses"), FIRST, LAST)
    )
    assert history.query("SELECT count(*) FROM coding.coded_records WHERE response_date = ?", last_night()) == [(20,)]
    backfilled = "FROM coding.coding_operations WHERE run_id LIKE 'backfill%'"
    ((sent, operations),) = history.query(f"SELECT sum(records), count(*) {backfilled}")
    ((distinct,),) = history.query("SELECT count(*) FROM coding.coded_texts WHERE run_id LIKE 'backfill%'")
    assert operations == 30
    assert distinct <= sent <= distinct + shared_while_under_way(history, done)
    asked = calls(history, mark)
    latest = sum(call.endswith("/models/latest") for call in asked)
    assert 2 <= latest <= 3 + 6, "the watch, the night, the dry run, and those runs of the backfill that were first"
    print(f"{len(asked)} calls, {sent} texts sent for {distinct} distinct ones in {operations} operations")


def shared_while_under_way(harness: Harness, runs: list[dict[str, Any]]) -> int:
    """Texts that two runs have in common of which one prepared before the other had landed: both may send them."""
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


def test_a_second_backfill_sends_nothing(history: Harness) -> None:
    (model,) = {model for (model,) in history.query("SELECT model_id FROM coding.pinned_models")}
    mark = history.mark()
    again = {"reprocess_behavior": "completed", "dag_run_conf": {"model": model}, "max_active_runs": 1}
    done = backfill(history, "2026-10-05", "2026-10-08", **again)
    assert [run["state"] for run in done] == ["success"] * 4
    assert (created(history, mark), history.uploads(mark)) == (0, [])
    assert len(calls(history, mark)) == 2, "its first run asked whether there is such a model"
    assert {history.api.xcom(run["dag_run_id"], "land")["texts_sent"] for run in done} == {0}


def test_reprocessing_what_failed_sends_only_what_did_not_come_back(history: Harness) -> None:
    days = ("2026-10-10", "2026-10-11")
    history.knob("faults", name="operation_fails", count=1)
    done = backfill(history, *days, reprocess_behavior="completed", max_active_runs=1)
    assert sorted(run["state"] for run in done) == ["failed", "success"]
    (failed,) = (run["partition_key"] for run in done if run["state"] == "failed")

    mark = history.mark()
    (run,) = backfill(history, *days, reprocess_behavior="failed")
    assert (run["partition_key"], run["state"], created(history, mark)) == (failed, "success", 1)
    landed = history.api.xcom(run["dag_run_id"], "land")
    assert 0 < landed["texts_sent"] < landed["texts"], "the other day has brought some of them"


def test_nights_at_a_change_of_clocks_are_for_one_day_each(history: Harness) -> None:
    for dag_id in CATCH_UP:
        history.api.request("PATCH", f"/dags/{dag_id}", json={"is_paused": False})

    def are_over() -> bool:
        found = [run for dag_id in CATCH_UP for run in runs_of(history, dag_id)]
        return len(found) == 4 and all(run["state"] in ("success", "failed") for run in found)

    until(are_over, "two nights of each", 300)
    told = {
        dag_id: [(run["partition_key"], run["run_after"][:16], run["state"]) for run in runs_of(history, dag_id)]
        for dag_id in CATCH_UP
    }
    assert told == {
        "october": [("2026-10-03", "2026-10-03T14:00", "success"), ("2026-10-04", "2026-10-04T13:00", "success")],
        "april": [("2026-04-04", "2026-04-04T13:00", "success"), ("2026-04-05", "2026-04-05T14:00", "success")],
    }
    counted = "SELECT CAST(response_date AS VARCHAR), count(*) FROM {} AND response_date BETWEEN ? AND ? GROUP BY 1"
    rows = history.query(counted.format("coding.coded_records WHERE topic = 'anzsco'"), FIRST, "2026-10-04")
    assert dict(rows) == dict(history.query(counted.format("survey_responses WHERE true"), FIRST, "2026-10-04"))


def test_all_these_runs_took_one_token(history: Harness) -> None:
    assert sum(entry["path"] == "/oauth2/token" for entry in history.journal()) == 1
