"""The page of a run, which is also a tab of the run in Airflow: what it did, its operations, and why it failed."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any

import pytest
from sqlalchemy import text

from include.coding.estimate import Estimate
from include.coding.parts import Part
from include.page.app import OTHER_DAG
from include.page.run import EstimateFacts, PartFacts, WaitFacts
from include.page.runbook import read_errors
from include.pipeline.handoffs import WaitOutcome
from tests.page.conftest import MODEL, NOW, Metadata, TestClient, add_task, add_xcom, make_landing, make_plan
from tests.page.test_pages import HOSTILE, read_text

Client = Callable[..., TestClient]
DAG = "recode_occupations"
STARTED = NOW - timedelta(hours=3)
#: States of the steps of a part: create, upload, poll, download.
STEPS = ("code.create", "code.upload", "code.poll", "code.download")
DONE = ("success",) * 4


def make_id(number: int) -> str:
    """Return the id of an operation."""
    return f"00000000-0000-4000-8000-{number:012}"


class RunFacts:
    """What the tasks of a run have left."""

    def __init__(self, metadata: Metadata, run_id: str) -> None:
        self.metadata, self.run_id = metadata, run_id

    def add_xcom(self, task_id: str, value: Any, key: str = "return_value", map_index: int = -1) -> None:
        with self.metadata.make_session.begin() as session:
            number = session.execute(
                text("SELECT id FROM dag_run WHERE run_id = :run"), {"run": self.run_id}
            ).scalar_one()
            add_xcom(session, number, DAG, self.run_id, task_id, value, key=key, map_index=map_index)

    def add_task(
        self, task_id: str, state: str, map_index: int = -1, minute: int = 0, ended: datetime | None = None
    ) -> None:
        started = STARTED + timedelta(minutes=minute)
        with self.metadata.make_session.begin() as session:
            add_task(session, map_index, DAG, self.run_id, task_id, state, started, ended)

    def add_failure(
        self, task_id: str, sentence: str, error_class: str | None, map_index: int = -1, minute: int = 0
    ) -> None:
        self.add_task(task_id, "failed", map_index, minute, STARTED + timedelta(minutes=minute + 1))
        self.add_xcom(task_id, sentence, "failure", map_index)
        if error_class:
            self.add_xcom(task_id, error_class, "failure_class", map_index)

    def add_parts(self, *states: tuple[str, ...]) -> None:
        """Add a part with 500 texts, and the states of its steps, for each of `states`."""
        parts = [{"part": number, "records": 500, "expected_seconds": 90.0} for number in range(len(states))]
        self.add_xcom("prepare", parts)
        for number, steps in enumerate(states):
            for minute, (task_id, state) in enumerate(zip(STEPS, steps, strict=False)):
                ended = None if state in ("running", "deferred") else STARTED + timedelta(minutes=minute + 1)
                self.add_task(task_id, state, number, minute, ended)
            for task_id in STEPS[: min(len(steps), 2)]:
                self.add_xcom(task_id, make_id(number), map_index=number)

    def add_outcome(self, number: int, **fields: Any) -> None:
        outcome = {"operation_id": make_id(number), "state": "complete", "message": "complete", **fields}
        self.add_xcom("code.poll", outcome, "operation", number)


@pytest.fixture
def add_run(metadata: Metadata) -> Callable[..., RunFacts]:
    def add(run_id: str = "night", **values: Any) -> RunFacts:
        metadata.add_run(run_id, run_after=STARTED, **values)
        return RunFacts(metadata, run_id)

    return add


def show(client: Client, run_id: str = "night", **query: str) -> str:
    answer = client("viewer").get("/run", params={"run": run_id, **query})
    assert answer.status_code == 200, answer.text
    return answer.text


def find_operations(html: str) -> list[list[str]]:
    """Return the cells of the table of operations."""
    rows = re.findall(
        r'<tr(?: id="operation-[^"]*")?>\s*(<td>.*?)</tr>', html.partition("<h2>Operations")[2], re.DOTALL
    )
    return [[unescape(re.sub(r"<[^>]*>", "", cell)) for cell in re.findall(r"<td.*?</td>", row)] for row in rows]


# ---- what a run did ----------------------------------------------------------------------------------------------


def test_a_run_says_what_it_coded_of_which_dates_with_which_model_and_who_started_it(
    client: Client, add_run: Callable[..., RunFacts]
) -> None:
    facts = add_run(plan=make_plan(), land=make_landing("2026-11-01"), user="ada", kind="manual")
    estimate = {"read": 2037, "texts": 1500, "texts_to_send": 400, "parts": 1, "calls": 7, "coding_seconds": 60.4}
    facts.add_xcom("prepare", estimate, "estimate")
    html = show(client)
    words = read_text(html)
    assert words.startswith("Coded 2,009 of 2,037 records, 11 uncoded, 17 rejected.")
    assert f"osca, model 3, {MODEL}" in words
    assert "Source survey.responses Mode publishes Started" in words
    assert "by ada, took 12 min 5 s" in words
    assert "Response dates 2026-11-01 Topic" in words
    assert "Records 2,037 2,037" in words
    assert "Texts sent 400 400" in words
    assert "Seconds of the longest operation 60" in words
    assert f'href="report?dag={DAG}&amp;run=night"' in html


@pytest.mark.parametrize(
    ("plan", "mode"),
    [(make_plan(dry_run=True), "dry run"), (make_plan(max_records=50), "trial")],
    ids=["dry", "trial"],
)
def test_a_run_that_publishes_nothing_says_so(
    client: Client, add_run: Callable[..., RunFacts], plan: dict[str, Any], mode: str
) -> None:
    add_run(plan=plan)
    assert f"Mode {mode} Started" in read_text(show(client))


def test_a_dry_run_says_how_much_would_be_sent(client: Client, add_run: Callable[..., RunFacts]) -> None:
    facts = add_run(plan=make_plan(dry_run=True))
    estimate = {"read": 2037, "texts": 1500, "texts_to_send": 1400, "parts": 1, "calls": 7}
    facts.add_xcom("prepare", estimate, "estimate")
    assert read_text(show(client)).startswith("Dry run: 1,400 texts to send. Nothing was sent.")


@pytest.mark.parametrize(
    ("task", "sentence"),
    [(("code.poll", "deferred"), "Under way."), (("approve", "awaiting_input"), "Waits for a person.")],
)
def test_a_run_under_way_says_so_and_offers_no_report(
    client: Client, add_run: Callable[..., RunFacts], task: tuple[str, str], sentence: str
) -> None:
    add_run(state="running", plan=make_plan()).add_task(*task)
    words = read_text(show(client))
    assert words.startswith(sentence)
    assert "no report yet" in words


def test_a_run_that_was_cleared_does_not_pass_for_one_that_has_landed(
    client: Client, add_run: Callable[..., RunFacts]
) -> None:
    facts = add_run(state="running", plan=make_plan(), land=make_landing("2026-11-01"))
    facts.add_task("prepare", "running")
    assert read_text(show(client)).startswith("Under way again")
    facts.add_task("land", "success")
    assert read_text(show(client)).startswith("Coded 2,009")


# ---- operations --------------------------------------------------------------------------------------------------


def test_an_operation_has_its_part_id_state_times_and_seconds_beside_the_expected_ones(
    client: Client, add_run: Callable[..., RunFacts]
) -> None:
    facts = add_run(plan=make_plan())
    facts.add_parts(DONE, DONE)
    for number in range(2):
        facts.add_outcome(number, seconds=75.0 + number, ended_at=datetime(2026, 11, 2, 3, 4, tzinfo=UTC).timestamp())
    html = show(client)
    first, second = find_operations(html)
    assert first[:5] == ["1 of 2", "500", make_id(0), "downloaded", "complete"]
    assert first[6:] == ["02 Nov 2026 14:04", "1 min 15 s", "1 min 30 s"]
    assert second[7] == "1 min 16 s"
    assert f'<code class="copy">{make_id(0)}</code>' in html
    assert f'id="operation-{make_id(1)}"' in html
    assert f"/dags/{DAG}/runs/night/tasks/code.download/mapped/1" in html


@pytest.mark.parametrize(
    ("steps", "state"),
    [
        ((), "not begun"),
        (("running",), "create: running"),
        (("success", "success", "deferred"), "waits for the service"),
        (("success", "success", "failed", "upstream_failed"), "poll: failed"),
        (("success", "success", "success", "up_for_retry"), "download: up for retry"),
    ],
)
def test_an_operation_says_which_step_it_has_come_to_or_which_failed(
    client: Client, add_run: Callable[..., RunFacts], steps: tuple[str, ...], state: str
) -> None:
    add_run(state="running", plan=make_plan()).add_parts(steps)
    assert find_operations(show(client))[0][3] == state


def test_an_operation_in_progress_says_how_long_the_service_has_had_its_texts(
    client: Client, add_run: Callable[..., RunFacts]
) -> None:
    add_run(state="running", plan=make_plan()).add_parts(("success", "success", "deferred"))
    (row,) = find_operations(show(client))
    assert row[2] == make_id(0)
    assert row[7].startswith("2 h 5")  # uploaded two minutes after the start, three hours ago


def test_the_operation_of_upload_counts_if_create_opened_another_one(
    client: Client, add_run: Callable[..., RunFacts]
) -> None:
    facts = add_run(state="running", plan=make_plan())
    facts.add_parts(("success",))
    facts.add_xcom("code.upload", make_id(9), map_index=0)
    assert find_operations(show(client))[0][2] == make_id(9)


def test_all_parts_of_the_largest_run_have_an_anchor(client: Client, add_run: Callable[..., RunFacts]) -> None:
    facts = add_run(state="running", plan=make_plan())
    facts.add_xcom("prepare", [{"part": number, "records": 5} for number in range(1024)])
    facts.add_xcom("code.create", make_id(1023), map_index=1023)
    html = show(client)
    assert f'id="operation-{make_id(1023)}"' in html
    assert len(find_operations(html)) == 1024


@pytest.mark.parametrize(
    ("facts", "handoff"), [(PartFacts, Part), (WaitFacts, WaitOutcome), (EstimateFacts, Estimate)]
)
def test_the_page_reads_what_tasks_write(facts: type[Any], handoff: type[Any]) -> None:
    assert {field.name for field in fields(facts)} <= {field.name for field in fields(handoff)}


# ---- a run that failed -------------------------------------------------------------------------------------------


def test_a_failed_run_has_the_row_of_the_runbook_and_the_task_to_clear(
    client: Client, add_run: Callable[..., RunFacts]
) -> None:
    facts = add_run(state="failed", plan=make_plan())
    facts.add_failure("prepare", "source 'x' has no column 'job'", "SourceError")
    html = show(client)
    words = unescape(read_text(html))
    assert words.startswith("Failed in prepare. Nothing of this run is published.")
    assert "prepare failed source 'x' has no column 'job' SourceError the source is missing" in words
    assert str(read_errors()["SourceError"].meaning) in html
    assert f'href="help?dag={DAG}#SourceError"' in html
    assert "clear prepare with downstream tasks" in words
    assert f"/dags/{DAG}/runs/night/tasks/prepare" in html


def test_the_task_to_clear_is_the_first_that_failed(client: Client, add_run: Callable[..., RunFacts]) -> None:
    facts = add_run(state="failed", plan=make_plan())
    facts.add_failure("land", "1 part is incomplete", "IncompleteError", minute=30)
    facts.add_failure("code.poll", "it did not end", "OperationFailedError", 2, minute=10)
    words = read_text(show(client))
    assert words.count("with downstream tasks, unless its error names another task") == 1
    assert "clear code.poll (part 3) with downstream tasks" in words
    assert words.index("it did not end") < words.index("1 part is incomplete")


def test_a_part_that_failed_in_a_run_that_landed_needs_nothing(
    client: Client, add_run: Callable[..., RunFacts]
) -> None:
    facts = add_run(plan=make_plan(), land=make_landing("2026-11-01"))
    facts.add_failure("code.poll", "the operation failed", "OperationFailedError", 0)
    words = read_text(show(client))
    assert "nothing has to be cleared" in words
    assert "When the cause is removed" not in words


def test_a_task_that_left_no_error_is_named(client: Client, add_run: Callable[..., RunFacts]) -> None:
    add_run(state="failed", plan=make_plan()).add_task("land", "failed")
    words = read_text(show(client))
    assert "land failed It left no error: its worker was stopped, or somebody marked it." in words


def test_an_error_that_the_runbook_does_not_know_has_no_row(client: Client, add_run: Callable[..., RunFacts]) -> None:
    add_run(state="failed").add_failure("plan", "KeyError, which only the log of the task explains", HOSTILE)
    words = read_text(show(client))
    assert "KeyError, which only the log of the task explains" in words
    assert "What to do" not in words


# ---- who sees it, and runs of others -----------------------------------------------------------------------------


@pytest.mark.parametrize("dag_id", ["payroll", "no-such-dag"])
def test_the_tab_of_a_run_of_another_dag_says_so_and_nothing_of_that_dag(
    client: Client, metadata: Metadata, dag_id: str
) -> None:
    metadata.add_dag("payroll", tag="finance")
    metadata.add_run("secret-run", dag_id="payroll")
    answer = client("viewer").get("/run", params={"dag": dag_id, "run": "secret-run", "tab": "1"})
    assert answer.status_code == 200
    assert read_text(answer.text) == OTHER_DAG
    assert "payroll" not in answer.text
    assert client("viewer").get("/run", params={"dag": dag_id, "run": "secret-run"}).status_code == 403


def test_the_tab_of_a_comparison_leads_to_its_report(client: Client, metadata: Metadata) -> None:
    metadata.add_dag("compare_models", tag="coding")
    metadata.add_run("a&b", dag_id="compare_models")
    html = client("viewer").get("/run", params={"dag": "compare_models", "run": "a&b", "tab": "1"}).text
    assert read_text(html) == "This run compares models. Its report"
    assert 'href="report?dag=compare_models&amp;run=a%26b"' in html


@pytest.mark.parametrize("page", ["/", "/dates", "/runs", "/run"])
def test_the_dag_of_comparisons_has_no_pages_of_runs(client: Client, metadata: Metadata, page: str) -> None:
    metadata.add_dag("compare_models", tag="coding")
    metadata.add_run("a", dag_id="compare_models")
    assert client("viewer").get(page, params={"dag": "compare_models", "run": "a"}).status_code == 403


def test_nobody_sees_the_tab_without_logging_in(client: Client, add_run: Callable[..., RunFacts]) -> None:
    add_run()
    for dag_id in (DAG, "payroll"):
        assert client().get("/run", params={"dag": dag_id, "run": "night", "tab": "1"}).status_code == 401


@pytest.mark.parametrize(
    "query", ["run=other", "run=", "", "run=night&dag=recode_labour_force", "run=%00", "run='--"]
)
def test_a_run_that_does_not_exist_is_a_page_with_a_sentence(
    client: Client, metadata: Metadata, add_run: Callable[..., RunFacts], query: str
) -> None:
    metadata.add_dag("recode_labour_force")
    add_run()
    answer = client("viewer").get(f"/run?{query}")
    assert answer.status_code == 404
    assert read_text(answer.text) == "This DAG has no such run."


def test_the_plugin_gives_airflow_the_address_of_the_tab_with_both_ids() -> None:
    from occupation_coding_plugin import OccupationCodingPlugin

    (view,) = [view for view in OccupationCodingPlugin.external_views if view["destination"] == "dag_run"]
    # Airflow's UI replaces exactly these, and encodes the ids.
    assert view["href"] == "occupation-coding/run?dag={DAG_ID}&run={RUN_ID}&tab=1"
    routes = [view["url_route"] for view in OccupationCodingPlugin.external_views]
    assert len(set(routes)) == len(routes)


# ---- hostile values ----------------------------------------------------------------------------------------------


def test_hostile_values_are_text(client: Client, add_run: Callable[..., RunFacts]) -> None:
    facts = add_run(
        HOSTILE, state="failed", plan=make_plan(source=HOSTILE), note=HOSTILE, user=HOSTILE, conf={"topic": HOSTILE}
    )
    facts.add_failure(HOSTILE, HOSTILE, HOSTILE)
    facts.add_task(HOSTILE, HOSTILE, 3)
    facts.add_parts((HOSTILE, "success"))
    facts.add_outcome(0, state=HOSTILE, message=HOSTILE)
    html = show(client, HOSTILE)
    for part in ("<script", "<img", "'\">"):
        assert part not in html
    assert "&lt;script&gt;" in html


@pytest.mark.parametrize("value", ["text", [1], {"part": 0}, [{"part": -1, "records": 5}], 7, [[[]]], {"a": HOSTILE}])
def test_an_xcom_that_is_not_what_a_task_reports_is_no_error(
    client: Client, add_run: Callable[..., RunFacts], value: Any
) -> None:
    facts = add_run(state="failed", plan=value, land=value)
    facts.add_xcom("prepare", value)
    for key in ("estimate", "failure", "failure_class", "failure_report"):
        facts.add_xcom("prepare", value, key)
    facts.add_task("prepare", "failed")
    show(client)


def test_an_operation_id_that_is_none_is_not_shown(client: Client, add_run: Callable[..., RunFacts]) -> None:
    facts = add_run(state="running", plan=make_plan())
    facts.add_xcom("prepare", [{"part": 0, "records": 5}])
    facts.add_xcom("code.create", HOSTILE, map_index=0)
    facts.add_outcome(0, operation_id="../x")
    assert find_operations(show(client))[0][2] == ""


def test_no_text_of_a_person_is_shown(client: Client, add_run: Callable[..., RunFacts]) -> None:
    facts = add_run(plan=make_plan(), conf={"columns": {"occp_text": "teh secret job"}})
    for task_id, key in (("prepare", "prepared"), ("collect", "return_value"), ("report", "return_value")):
        facts.add_xcom(task_id, {"unreadable_examples": ["teh secret job"], "message": "teh secret job"}, key)
    facts.add_parts(DONE)
    facts.add_outcome(0, message="teh secret job")
    assert "secret job" not in show(client)


def test_the_number_of_queries_does_not_grow_with_the_parts(
    client: Client, metadata: Metadata, add_run: Callable[..., RunFacts]
) -> None:
    browser, counts = client("viewer"), []
    for number, parts in enumerate((1, 20)):
        facts = add_run(f"run-{number}", state="failed", plan=make_plan())
        facts.add_parts(*[("success", "failed")] * parts)
        browser.get(f"/run?run=run-{number}")
        metadata.statements.clear()
        assert browser.get(f"/run?run=run-{number}").status_code == 200
        counts.append(len(metadata.statements))
    assert counts[0] == counts[1] <= 8
