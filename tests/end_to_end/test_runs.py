"""The main job on real Airflow processes: scheduler, dag processor, triggerer and API server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from include.stack.processes import PROJECT
from tests.end_to_end.conftest import Harness, until

pytestmark = pytest.mark.airflow
MAKE_RESPONSES = PROJECT.parent / "shared" / "tools" / "make_responses.py"


@pytest.fixture(scope="module")
def responses(tmp_path_factory: pytest.TempPathFactory) -> str:
    """200,000 survey responses over 30 days, as the URI of a Parquet file."""
    if not MAKE_RESPONSES.exists():
        pytest.skip(f"there is no {MAKE_RESPONSES.name} beside the project")
    path = tmp_path_factory.mktemp("responses") / "responses.parquet"
    command = [sys.executable, str(MAKE_RESPONSES), str(path), "--rows", "200000", "--days", "30"]
    subprocess.run(command, check=True, capture_output=True)
    return path.as_uri()


def test_every_record_read_ends_in_one_outcome_and_the_second_run_sends_nothing(
    harness: Harness, responses: str
) -> None:
    conf = {"source": responses, "from_date": "2026-10-05", "to_date": "2026-10-06", "records_per_part": 1500}
    path = responses.removeprefix("file://")
    in_dates = "response_date BETWEEN DATE '2026-10-05' AND DATE '2026-10-06'"
    ((read, pairs),) = harness.query(
        f"SELECT count(*), count(DISTINCT (occp_text, tasks_text)) FROM '{path}' WHERE {in_dates}"
    )

    mark = harness.mark()
    run_id, state = harness.code(**conf)
    assert state == "success"
    landed = harness.api.xcom(run_id, "land")
    outcomes = dict(
        harness.query("SELECT outcome, count(*) FROM coding.coded_records WHERE run_id = ? GROUP BY ALL", run_id)
    )
    assert sum(outcomes.values()) == read == landed["read"]
    assert set(outcomes) == {"coded", "uncoded", "rejected"}
    assert harness.query(
        "SELECT count(*) FROM (SELECT record_id, occurrence, response_date FROM coding.coded_records"
        " WHERE run_id = ? GROUP BY ALL HAVING count(*) > 1)", run_id
    ) == [(0,)]  # fmt: skip
    assert landed["texts_sent"] == landed["texts"] <= pairs < read
    assert len(harness.uploads(mark)) == landed["operations"] > 1

    mark = harness.mark()
    second, state = harness.code(**conf)
    assert state == "success"
    assert harness.api.xcom(second, "land")["texts_sent"] == 0
    assert harness.uploads(mark) == []
    assert not [
        entry for entry in harness.journal(mark) if entry["method"] == "POST" and "batch-code" in entry["path"]
    ]
    assert harness.api.xcom(second, "land")["rows_of"] == run_id
    assert harness.query("SELECT count(*) FROM coding.coded_records WHERE run_id = ?", run_id) == [(read,)]


def test_a_part_that_fails_publishes_nothing_and_the_next_run_sends_its_texts_only(
    harness: Harness, texts_file: Path
) -> None:
    conf = {"source": texts_file.as_uri(), "from_date": "2026-09-01", "records_per_part": 10}
    harness.knob("faults", name="operation_fails", skip=2, count=1, error="inference job ran out of luck")
    run_id, state = harness.code(**conf)
    assert state == "failed"
    tasks = harness.api.tasks(run_id)
    assert [tasks[f"code.poll[{part}]"] for part in range(5)].count("failed") == 1
    (failed,) = (part for part in range(5) if tasks[f"code.poll[{part}]"] == "failed")

    (row,) = harness.query("SELECT operation_id, part, error FROM coding.coding_operations WHERE state = 'failed'")
    assert row[1] == failed
    log = harness.log(run_id)
    assert f"part {failed} (operation {row[0]}): the service failed it: inference job ran out of luck" in log
    assert "the results of 40 of 50 texts are kept" in log
    assert harness.query("SELECT count(*) FROM coding.coded_records WHERE response_date = DATE '2026-09-01'") == [
        (0,)
    ]

    mark = harness.mark()
    second, state = harness.code(**conf)
    assert state == "success"
    assert harness.api.xcom(second, "land")["texts_sent"] == 10
    assert len(harness.uploads(mark)) == 1
    assert harness.query("SELECT count(*) FROM coding.coded_records WHERE response_date = DATE '2026-09-01'") == [
        (50,)
    ]


def test_a_step_further_down_goes_first_so_what_is_created_is_uploaded_before_the_next_is_created(
    harness: Harness, texts_file: Path
) -> None:
    run_id, state = harness.code(
        source=texts_file.as_uri(), from_date="2026-09-01", selection="all", records_per_part=10
    )
    assert state == "success"
    instances = harness.api.task_instances(run_id)
    weights = {item["task_id"]: item["priority_weight"] for item in instances}
    steps = [weights[f"code.{step}"] for step in ("create", "upload", "poll", "download")]
    assert steps == sorted(set(steps))

    moments = [(item["start_date"], item["task_id"]) for item in instances if item["map_index"] >= 0]
    begun = most = 0
    for _, task_id in sorted(moments):
        begun += {"code.create": 1, "code.upload": -1}.get(task_id, 0)
        most = max(most, begun)
    assert most <= 2, "one may be created while the upload of the one before begins, no more"


def test_bad_input_fails_with_a_clear_word_and_changes_nothing(harness: Harness, texts_file: Path) -> None:
    broken = texts_file.with_name("broken.parquet")
    broken.write_text("this is not Parquet")
    cases = {
        "the service has no topic 'oska'; it has ['anzsco', 'osca']": {"topic": "oska"},
        "topic 'osca' has no model '123'; it has [": {"model": "123"},
        "from_date '2026-10-09' is after to_date '2026-10-08': swap them": {
            "from_date": "2026-10-09",
            "to_date": "2026-10-08",
        },
        "lacks the columns ['job']; it has ['record_id', 'response_date', 'occp_text', 'tasks_text']": {
            "columns": {"occp_text": "job"}
        },
        f"source {broken.as_uri()!r} cannot be read": {"source": broken.as_uri()},
        "source 'answers' is no table or view of warehouse": {"source": "answers"},
    }
    count = "SELECT count(*), (SELECT count(*) FROM coding.coded_texts), max(coded_at) FROM coding.coded_records"
    before = harness.query(count)
    runs = {message: harness.api.trigger(conf) for message, conf in cases.items()}
    for message, run_id in runs.items():
        assert harness.api.wait(run_id) == "failed"
        assert message in harness.log(run_id).replace('\\"', '"')
    assert harness.query(count) == before


def test_a_day_without_records_is_a_success_that_says_so(harness: Harness) -> None:
    run_id, state = harness.code(from_date="2020-01-01")
    assert state == "success"
    assert "no records of these dates: nothing to send" in harness.log(run_id)


def test_a_killed_triggerer_costs_no_second_operation(harness: Harness, texts_file: Path) -> None:
    harness.knob("progression", progression="by_polls", polls=6)
    mark = harness.mark()
    run_id = harness.api.trigger(
        {"source": texts_file.as_uri(), "from_date": "2026-09-01", "selection": "all", "records_per_part": 25}
    )
    until(lambda: list(harness.api.tasks(run_id).values()).count("deferred") == 2, "both polls deferred")
    harness.stack.process("triggerer").kill()
    harness.stack.restart("triggerer")
    assert harness.api.wait(run_id) == "success"
    created = [
        entry for entry in harness.journal(mark) if entry["method"] == "POST" and "batch-code" in entry["path"]
    ]
    assert (len(created), len(harness.uploads(mark))) == (2, 2)
    harness.knob("progression", progression="by_polls", polls=2)
