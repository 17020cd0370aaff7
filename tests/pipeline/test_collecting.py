"""The task `collect` against the local coding service, over HTTP: what it sends, and that nothing is sent twice."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from airflow.sdk import timezone
from airflow.sdk.bases.operator import ExecutorSafeguard
from airflow.sdk.crypto import get_fernet
from airflow.sdk.exceptions import AirflowRescheduleException, AirflowSkipException, TaskDeferred
from cryptography.fernet import Fernet

from coding_service import CodingServiceHook
from coding_service.models import InputPart, OperationStatus
from coding_service.part_operation import PartOperation
from include.coding.errors import IncompleteError, PlanError
from include.coding.files import path_from_uri
from include.coding.landing import LandingSummary, land
from include.coding.plan import Plan
from include.coding.prepare import Prepared, prepare
from include.coding.recoding import CollectSummary
from include.coding.staging import Staging
from include.local_service.http.server import LocalService
from include.pipeline.collecting import CollectResultsOperator
from include.pipeline.settings import open_warehouse, run_folder
from include.stack.processes import coding_connection
from tests.pipeline.conftest import TaskInstance

DAY = "2026-10-05"


class Store:
    """A task state store, which can lose the worker with every value that it stores.

    :param crashes: whether the worker dies the first time before a value is stored, and the second time after it
    """

    def __init__(self, crashes: bool = False) -> None:
        self.values: dict[str, str] = {}
        self._crashes, self._calls = crashes, 0

    def get(self, key: str) -> Any:
        return json.loads(self.values[key]) if key in self.values else None

    def set(self, key: str, value: Any) -> None:
        # An operation that was opened but not stored is lost, because the service cannot list operations.
        is_before = self._crashes and self._calls % 2 == 0 and not key.startswith("operation-")
        self._calls += 1
        if is_before:
            raise WorkerLostError
        self.values[key] = json.dumps(value)
        if self._crashes:
            self._calls += self._calls % 2
            raise WorkerLostError


class WorkerLostError(Exception):
    """The worker is gone."""


class Night:
    """A run of `recode_occupations` without Airflow's processes.

    :param texts: job titles of the source, one for each record
    """

    def __init__(self, service: LocalService, texts: list[str], day: str = DAY) -> None:
        self.url = service.url
        self.warehouse = open_warehouse()
        self.hook = CodingServiceHook()
        with self.warehouse.session() as session, session.transaction():
            session.execute(
                "CREATE TABLE IF NOT EXISTS survey_responses"
                " (record_id VARCHAR, response_date DATE, occp_text VARCHAR, tasks_text VARCHAR)"
            )
            for number, text in enumerate(texts):
                values = [f"{number:04}", text]
                session.execute(f"INSERT INTO survey_responses VALUES (?, DATE '{day}', ?, '')", values)
        self.day = day

    # ---- the service -----------------------------------------------------------------------------------------------

    def fault(self, name: str, **options: Any) -> None:
        response = requests.post(f"{self.url}/_local/faults", json={"name": name, **options}, timeout=10)
        assert response.ok, response.text

    def progress(self, progression: str, **options: Any) -> None:
        body = {"progression": progression, **options}
        assert requests.post(f"{self.url}/_local/progression", json=body, timeout=10).ok

    def clear_faults(self) -> None:
        requests.delete(f"{self.url}/_local/faults", timeout=10)

    def requests(self, method: str, contains: str = "") -> list[dict[str, Any]]:
        entries = requests.get(f"{self.url}/_local/journal", timeout=10).json()["entries"]
        return [entry for entry in entries if entry["method"] == method and contains in entry["path"]]

    @property
    def uploads(self) -> list[str]:
        """The operations that received an input file, once for each that was sent."""
        return [entry["operation_id"] for entry in self.requests("PUT") if entry["status"] == 200]

    @property
    def creations(self) -> int:
        return len(self.requests("POST", "batch-code"))

    # ---- the tasks before `collect` --------------------------------------------------------------------------------

    def start(self, run_id: str = "run-1", **changes: Any) -> None:
        """Prepare a run, and do what `code` does."""
        self.prepare(run_id, **changes)
        self.code()

    def prepare(
        self, run_id: str = "run-1", is_in_progress: Callable[[str], bool] = lambda run_id: True, **changes: Any
    ) -> None:
        fields = {
            "run_id": run_id, "topic": "osca", "model_id": self.hook.latest_model("osca").model_id,
            "model_version": 1.0, "from_date": self.day, "to_date": self.day, "source": "survey_responses",
            **changes,
        }  # fmt: skip
        self.plan = Plan.from_dict(fields)
        self.run_id, self.staging = run_id, Staging.in_folder(path_from_uri(run_folder(run_id)))
        self.prepared = prepare(self.plan, self.warehouse, self.staging, is_in_progress=is_in_progress)
        self.xcoms: dict[Any, Any] = {
            "plan": self.plan.to_dict(), ("prepare", "prepared"): self.prepared.to_dict(),
        }  # fmt: skip

    def code(self) -> None:
        """Do what `code` does with the parts of the prepared run."""
        for part in self.prepared.parts:
            operation = PartOperation(
                self.hook,
                InputPart.from_dict(part.to_dict()),
                Store(),
                labels={"run_id": self.run_id, "part": part.part},
            )
            operation_id = operation.upload(*operation.open())
            state = self._wait_for(operation_id)
            end = {
                "operation_id": operation_id,
                "state": state.value,
                "message": "as the service says",
                "seconds": 1.0,
            }
            self.xcoms |= {
                f"code.upload[{part.part}]": operation_id, (f"code.poll[{part.part}]", "operation"): end,
            }  # fmt: skip
            if state.is_successful:
                self.xcoms[f"code.download[{part.part}]"] = operation.download(operation_id).to_dict()

    def _wait_for(self, operation_id: str) -> OperationStatus:
        while not (status := self.hook.operation("osca", operation_id).status).is_terminal:
            pass
        return status

    # ---- `collect` and `land` --------------------------------------------------------------------------------------

    def collect(self, store: Store | None = None, **options: Any) -> CollectSummary:
        """Run `collect` as Airflow does: deferred between rounds, and once more after the loss of the worker."""
        operator = CollectResultsOperator(task_id="collect", poll_interval=0.01, **options)
        store = store or Store()
        mark = {f"{type(operator).__name__}__sentinel": ExecutorSafeguard.sentinel_value}
        context = {"ti": TaskInstance(self.xcoms, self.run_id), "task_state_store": store}
        run: Callable[[], Any] = lambda: operator.execute(context, **mark)  # noqa: E731
        self.attempts = 0
        while True:
            self.attempts += 1
            assert self.attempts < 1000
            try:
                return CollectSummary.from_dict(json.loads(json.dumps(run())))
            except WorkerLostError:
                run = lambda: operator.execute(context, **mark)  # noqa: E731
            except AirflowRescheduleException as request:
                time.sleep(max(0.0, (request.reschedule_date - timezone.utcnow()).total_seconds()))
                run = lambda: operator.execute(context, **mark)  # noqa: E731
            except TaskDeferred as deferral:
                event = asyncio.run(_first_event(deferral.trigger))
                run = lambda event=event: operator.resume(context, event)  # noqa: E731

    def land(self, summary: CollectSummary) -> LandingSummary:
        return land(self.plan, self.prepared, summary, self.warehouse, self.staging)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with self.warehouse.session(read_only=True) as session:
            return session.execute(sql)


async def _first_event(trigger: Any) -> Mapping[str, Any]:
    restarted = type(trigger)(**json.loads(json.dumps(trigger.serialize()[1])))  # the triggerer restarts
    return (await anext(restarted.run())).payload


@pytest.fixture
def make_night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Night]]:
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", Fernet.generate_key().decode())
    get_fernet.cache_clear()
    monkeypatch.setenv("CODING_STAGING", (tmp_path / "staging").as_uri())
    warehouse = {"conn_type": "duckdb", "host": str(tmp_path / "warehouse.duckdb")}
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE_DEFAULT", json.dumps(warehouse))
    with LocalService(tmp_path / "service", coder="stub", progression="immediate") as service:
        connection = coding_connection(service.url)
        connection["extra"] |= {"requests_per_second": 10_000, "state_dir": str(tmp_path / "state")}
        monkeypatch.setenv("AIRFLOW_CONN_CODING_SERVICE_DEFAULT", json.dumps(connection))
        yield lambda texts, day=DAY: Night(service, texts, day)
    get_fernet.cache_clear()


def name_jobs(count: int) -> list[str]:
    return [f"job number {number:04}" for number in range(count)]


@pytest.mark.parametrize("deferrable", [True, False])
def test_an_operation_that_fails_once_costs_one_more_operation_and_the_night_is_published(
    make_night: Callable[[list[str]], Night], deferrable: bool
) -> None:
    night = make_night(name_jobs(100))
    night.fault("operation_fails", count=1)
    night.start()
    summary = night.collect(deferrable=deferrable)
    assert (summary.operations, summary.extra_operations, summary.usable, summary.problems) == (2, 1, 100, ())
    assert (night.creations, len(night.uploads)) == (2, 2)
    assert night.land(summary).read == 100


def test_one_bad_line_among_thousands_is_set_aside_with_the_words_of_the_service(
    make_night: Callable[[list[str]], Night], caplog: pytest.LogCaptureFixture
) -> None:
    night = make_night(name_jobs(3000))
    night.fault("operation_fails", count=1000, part_contains="number 1234", error="bad: job number 1234")
    night.start()
    store = Store()
    summary = night.collect(store)
    assert (summary.refused, summary.unresolved, summary.incomplete, summary.usable) == (1, 0, 0, 2999)
    assert summary.extra_operations == night.creations - 1 < 45
    assert len(night.uploads) == len(set(night.uploads)) == night.creations
    assert night.land(summary).rejected == 1
    rows = night.query("SELECT record_id, outcome, reason, operation_id FROM coding.coded_records WHERE reason <> ''")
    assert [row[:3] for row in rows] == [("1234", "rejected", "refused_by_service")]
    error = f"SELECT error FROM coding.coding_operations WHERE operation_id = '{rows[0][3]}'"
    assert night.query(error) == [("bad: job number 1234",)]
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith("local_service")]
    assert len(ours) > 100
    assert "number 1234" not in f"{ours} {store.values} {summary}"


def test_a_text_that_is_never_answered_is_published_without_a_code_and_the_next_run_sends_nothing(
    make_night: Callable[[list[str]], Night],
) -> None:
    night = make_night(name_jobs(100))
    night.fault("missing_line", count=1000, part_contains="number 0041")
    night.start()
    summary = night.collect()
    assert (summary.no_result, summary.operations, night.creations) == (1, 2, 2)
    summary_of_run = night.land(summary)
    reasons = "SELECT record_id, outcome, reason FROM coding.coded_records WHERE reason <> ''"
    assert night.query(reasons) == [("0041", "uncoded", "no_result")]
    assert (summary_of_run.texts_sent, summary_of_run.operations) == (101, 2)
    night.start("run-2")
    assert (night.prepared.unchanged, night.creations) == (True, 2)


def test_a_service_that_fails_everything_is_sent_little_and_the_next_run_codes_all(
    make_night: Callable[[list[str]], Night],
) -> None:
    night = make_night(name_jobs(200))
    night.fault("operation_fails", count=1000)
    night.start()
    summary = night.collect()
    assert (summary.refused, summary.no_result, summary.unresolved) == (0, 0, 200)
    assert "200 texts have no result yet: their operations failed" in summary.problems[0]
    assert night.creations <= 61
    night.plan = Plan.from_dict({**night.plan.to_dict(), "max_uncoded_share": 1.0})
    with pytest.raises(IncompleteError, match="200 of 200 texts have no result yet"):
        night.land(summary)
    night.clear_faults()
    night.start("run-2")
    assert night.land(night.collect()).read == 200


def test_a_crash_before_and_after_every_step_opens_no_operation_twice_and_loses_no_result(
    make_night: Callable[[list[str]], Night],
) -> None:
    night = make_night(name_jobs(12))
    night.fault("operation_fails", count=1000, part_contains="number 0007")
    night.fault("missing_line", count=1000, part_contains="number 0003")
    night.start()
    expected = night.collect()
    operations, creations = len(night.uploads), night.creations
    assert (expected.refused, expected.no_result, expected.usable) == (1, 1, 10)

    with night.warehouse.session() as session:
        for table in ("coded_texts", "coding_operations"):
            session.execute(f"DELETE FROM coding.{table}")
    summary = night.collect(Store(crashes=True))
    assert night.attempts > 50
    assert summary == expected
    assert len(set(night.uploads)) == len(night.uploads) == 2 * operations - 1
    assert night.creations == 2 * creations - 1
    assert night.query("SELECT count(*), count(DISTINCT text_key) FROM coding.coded_texts") == [(12, 12)]


def test_an_operation_that_fails_while_the_worker_is_gone_is_not_opened_again(
    make_night: Callable[[list[str]], Night],
) -> None:
    night = make_night(name_jobs(10))
    night.fault("operation_fails", count=2)
    night.start()

    class Dying(Store):
        """Loses the worker between the upload of the first piece and the note of it."""

        has_died = False

        def set(self, key: str, value: Any) -> None:
            if key == "recoding" and not self.has_died and night.creations == 2:
                self.has_died = True
                raise WorkerLostError
            super().set(key, value)

    summary = night.collect(Dying())
    # The whole part failed twice; its nine pieces were sent once each.
    assert (summary.usable, summary.extra_operations, night.creations) == (10, 10, 11)


def test_collecting_again_sends_nothing_and_returns_the_same(make_night: Callable[[list[str]], Night]) -> None:
    night = make_night(name_jobs(20))
    night.fault("operation_fails", count=1000, part_contains="number 0007")
    night.start()
    store = Store()
    summary, creations = night.collect(store), night.creations
    assert (night.collect(store), night.creations) == (summary, creations)


def test_a_wait_that_ended_by_its_deadline_is_continued_when_the_task_is_cleared(
    make_night: Callable[[list[str]], Night],
) -> None:
    night = make_night(name_jobs(20))
    night.fault("operation_fails", count=1)
    night.start()
    night.progress("by_time", seconds=3600)
    store = Store()
    summary = night.collect(store, timeout=timedelta(seconds=0.2))
    assert (summary.incomplete, summary.usable, night.creations) == (1, 0, 2)
    assert "did not end before its deadline" in summary.problems[0]
    with pytest.raises(IncompleteError, match="nothing was published"):
        night.land(summary)
    night.progress("immediate")
    assert (night.collect(store).usable, night.creations, len(night.uploads)) == (20, 2, 2)


def test_several_runs_of_the_same_dates_send_a_text_that_has_a_result_only_once(
    make_night: Callable[[list[str]], Night],
) -> None:
    night = make_night(name_jobs(500))
    bad = [f"number 0{number}" for number in (111, 222, 333)]
    for text in bad:
        night.fault("operation_fails", count=1000, part_contains=text)
    summary_of_run, sent = None, 0
    for run in range(1, 4):
        night.start(f"run-{run}")
        sent += sum(part.records for part in night.prepared.parts)
        summary = night.collect()
        if not (summary.unresolved or summary.incomplete):
            summary_of_run = night.land(summary)
            break
    assert summary_of_run is not None
    assert (summary_of_run.coded + summary_of_run.uncoded, summary_of_run.rejected) == (497, 3)
    assert sent < 1.5 * 500
    received = sum(records for (records,) in night.query("SELECT records FROM coding.coding_operations"))
    assert received < 3.5 * 500
    night.start("run-last")
    assert night.prepared.parts == ()


def test_nothing_is_collected_if_nothing_was_sent() -> None:
    operator = CollectResultsOperator(task_id="collect")
    mark = {"CollectResultsOperator__sentinel": ExecutorSafeguard.sentinel_value}
    part = {
        "part": 0, "topic": "osca", "model_id": "11111111-1111-4111-8111-111111111111", "force_new": False,
        "input_uri": f"{run_folder('run-1')}/part-0000-{'a' * 12}.jsonl", "records": 3, "bytes": 120,
        "sha256": "a" * 64,
    }  # fmt: skip
    prepared = Prepared("2026-10-07T01:02:03", "checksum", False, None, None, (), 9, 1, 2, 6, 1).to_dict()
    for xcoms in ({("prepare", "prepared"): {**prepared, "parts": parts}} for parts in ([], [part])):
        context = SimpleNamespace(ti=TaskInstance(xcoms))
        with pytest.raises(AirflowSkipException, match="nothing was sent"):
            operator.execute(vars(context), **mark)


NEXT_DAY = "2026-10-06"
SENT = "SELECT run_id, sum(records) FROM coding.coding_operations GROUP BY run_id ORDER BY run_id"
CLAIMS = "SELECT run_id, count(*) FROM coding.text_claims GROUP BY run_id ORDER BY run_id"
#: Twenty texts, of which the last ten are in the records of the next day too.
JOBS = [f"job number {number:04}" for number in range(20)]
#: Ten texts of the next day alone, some of which the service codes.
OWN_JOBS = [f"own job {number:04}" for number in range(10)]


@pytest.fixture
def make_nights(
    make_night: Callable[..., Night], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Night, Night]]:
    """Two runs of two days; the first one has claimed its texts, ten of which the other one needs too."""
    monkeypatch.setattr("include.coding.recoding.MIN_CLAIMS_WAIT_S", 0.0)

    def make(
        *, is_in_progress: bool = True, own_texts: Sequence[str] = ("job of the next day",)
    ) -> tuple[Night, Night]:
        """:param is_in_progress: whether the first one is in progress when the second one collects
        :param own_texts: texts that only the second one needs
        """
        monkeypatch.setattr("include.pipeline.run_metadata.is_in_progress", lambda run_id: is_in_progress)
        first, second = make_night(JOBS), make_night([*JOBS[10:], *own_texts], NEXT_DAY)
        first.prepare("run-1")
        return first, second

    return make


def test_texts_that_another_run_has_claimed_are_sent_once_and_published_in_both_runs(
    make_nights: Callable[..., tuple[Night, Night]],
) -> None:
    first, second = make_nights()
    second.prepare("run-2")
    assert (second.prepared.texts, second.prepared.awaited) == (11, 10)
    first.code()
    second.code()
    first.collect()  # not landed yet, so the claims are still there
    summary = second.collect()
    assert (summary.texts_sent, summary.extra_operations) == (1, 0)
    assert second.land(summary).read == 11
    assert second.query(SENT) == [("run-1", 20), ("run-2", 1)]


@pytest.mark.parametrize("is_in_progress", [True, False])
def test_claimed_texts_that_the_other_run_does_not_deliver_are_sent(
    make_nights: Callable[..., tuple[Night, Night]], is_in_progress: bool
) -> None:
    first, second = make_nights(is_in_progress=is_in_progress)
    second.start("run-2")
    store = Store()
    summary = second.collect(store, deferrable=False)
    # A run in progress has as much time as the operation took, which is a second; one that has ended has none.
    assert (second.attempts > 1) is is_in_progress
    assert (summary.texts_sent, summary.usable, summary.extra_operations) == (11, 11, 1)
    assert (second.collect(store), second.creations) == (summary, 2)
    assert second.land(summary).read == 11
    first.code()
    assert first.land(first.collect()).read == 20


def test_claimed_texts_that_fail_at_first_are_coded_as_those_of_a_part_are(
    make_nights: Callable[..., tuple[Night, Night]],
) -> None:
    _, second = make_nights(is_in_progress=False)
    second.start("run-2")
    second.fault("operation_fails", count=1)
    summary = second.collect(Store(crashes=True))
    assert (summary.texts_sent, summary.usable, summary.problems) == (11, 11, ())
    assert len(second.uploads) == len(set(second.uploads)) == second.creations == 3
    assert second.land(summary).read == 11


def test_claimed_texts_of_a_run_whose_part_is_coded_again_are_not_sent_twice(
    make_nights: Callable[..., tuple[Night, Night]],
) -> None:
    _, second = make_nights(is_in_progress=False)
    second.start("run-2")
    store = Store()
    second.collect(store)
    second.code()  # somebody has cleared `create` with downstream tasks
    summary = second.collect(store)
    assert (summary.texts_sent, summary.usable, second.creations) == (11, 11, 3)
    assert second.land(summary).read == 11


def test_claimed_texts_are_not_sent_to_a_service_that_fails_everything_and_the_next_run_sends_them(
    make_nights: Callable[..., tuple[Night, Night]],
) -> None:
    _, second = make_nights(is_in_progress=False)
    second.fault("operation_fails", count=1000)
    second.start("run-2", max_uncoded_share=1.0)
    summary = second.collect()
    assert (summary.unresolved, summary.texts_sent, second.creations) == (11, 11, 2)
    with pytest.raises(IncompleteError, match="11 of 11 texts have no result yet"):
        second.land(summary)
    second.clear_faults()
    second.start("run-3", is_in_progress=lambda run_id: False)
    assert second.land(second.collect()).read == 11


def fail_in_outage(night: Night) -> Store:
    """Code the part of a run, and let the service fail all ten texts that the other run has not delivered."""
    night.start("run-2")
    night.fault("operation_fails", count=1000)
    store = Store()
    assert (night.collect(store).unresolved, night.creations) == (10, 13), "sent twice, in nine pieces, and a control"
    night.clear_faults()
    return store


def test_claimed_texts_that_failed_in_an_outage_are_sent_after_the_run_was_cleared(
    make_nights: Callable[..., tuple[Night, Night]],
) -> None:
    _, second = make_nights(is_in_progress=False, own_texts=OWN_JOBS)
    store = fail_in_outage(second)
    second.code()  # somebody has cleared `create` with downstream tasks
    summary = second.collect(store)
    assert (summary.texts_sent, summary.usable, summary.unresolved, summary.problems) == (20, 20, 0, ())
    assert second.land(summary).read == 20


def test_claimed_texts_that_failed_are_not_sent_again_if_the_parts_of_the_cleared_run_have_them(
    make_nights: Callable[..., tuple[Night, Night]],
) -> None:
    _, second = make_nights(is_in_progress=False, own_texts=OWN_JOBS)
    store = fail_in_outage(second)
    second.start("run-2", is_in_progress=lambda run_id: False)  # somebody has cleared `prepare` with downstream tasks
    summary = second.collect(store)
    assert (summary.unresolved, summary.problems, second.creations) == (0, (), 14)
    assert second.land(summary).read == 20


def test_a_run_whose_own_text_is_refused_waits_for_those_of_the_other_run(
    make_nights: Callable[..., tuple[Night, Night]], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = make_nights()
    monkeypatch.setattr("include.coding.recoding.MIN_CLAIMS_WAIT_S", 60.0)
    second.fault("operation_fails", count=1000, part_contains="job of the next day")
    second.start("run-2", max_rejected_share=1.0)
    first.code()

    def deliver(run_id: str) -> bool:
        """Let the other run store its results when it is looked for."""
        first.collect()
        return True

    monkeypatch.setattr("include.pipeline.run_metadata.is_in_progress", deliver)
    summary = second.collect()
    assert (summary.refused, summary.unresolved, summary.problems) == (1, 0, ())
    landed = second.land(summary)
    assert (landed.read, landed.rejected) == (11, 1)
    assert dict(second.query(SENT))["run-1"] == 20


def test_a_run_waits_only_for_runs_that_still_have_to_deliver(
    make_nights: Callable[..., tuple[Night, Night]],
    make_night: Callable[..., Night],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, _ = make_nights()
    third = make_night(["late job"], "2026-10-08")
    third.prepare("run-3")
    late = make_night([*JOBS[10:], "late job", "one more job"], "2026-10-09")
    late.start("run-4")
    assert late.prepared.awaited == 11
    first.code()
    first.collect()  # delivered, and still in progress
    monkeypatch.setattr("include.pipeline.run_metadata.is_in_progress", lambda run_id: run_id == "run-1")
    summary = late.collect(deferrable=False)
    assert (late.attempts, summary.texts_sent, summary.extra_operations) == (1, 2, 1)


def test_texts_of_a_run_that_has_ended_are_claimed_by_the_run_that_sends_them(
    make_nights: Callable[..., tuple[Night, Night]],
) -> None:
    _, second = make_nights(is_in_progress=False)
    second.start("run-2")
    assert second.query(CLAIMS) == [("run-1", 20), ("run-2", 1)]
    second.collect()
    assert second.query(CLAIMS) == [("run-2", 11)]


def test_claimed_texts_are_sent_in_operations_of_the_size_of_parts(
    make_nights: Callable[..., tuple[Night, Night]],
) -> None:
    _, second = make_nights(is_in_progress=False)
    second.start("run-2", records_per_part=4)
    summary = second.collect()
    assert (summary.texts_sent, summary.usable, summary.extra_operations) == (11, 11, 3)
    sizes = second.query("SELECT records FROM coding.coding_operations WHERE run_id = 'run-2' ORDER BY part")
    assert sizes == [(1,), (4,), (4,), (2,)]
    assert second.land(summary).read == 11


def test_a_run_that_has_sent_texts_prepares_the_same_parts_again(
    make_nights: Callable[..., tuple[Night, Night]],
) -> None:
    first, second = make_nights()
    first.code()
    parts = first.prepared.parts
    second.prepare("run-2", is_in_progress=lambda run_id: False)  # the first run has failed after that
    assert second.query(CLAIMS) == [("run-2", 11)]
    first.prepare("run-1")
    assert (first.prepared.parts, first.prepared.awaited) == (parts, 0)


def test_no_more_texts_are_sent_than_were_counted_even_if_somebody_edits_the_xcom(
    make_nights: Callable[..., tuple[Night, Night]],
) -> None:
    _, second = make_nights(is_in_progress=False)
    second.start("run-2")
    second.xcoms[("prepare", "prepared")]["awaited"] = 3
    with pytest.raises(PlanError, match="10 texts would be sent .* but `prepare` has counted 3"):
        second.collect()


def test_texts_that_an_ended_run_had_claimed_are_sent_and_its_claims_are_removed(
    make_nights: Callable[..., tuple[Night, Night]],
) -> None:
    _, second = make_nights()
    second.prepare("run-2", is_in_progress=lambda run_id: False)
    assert second.prepared.awaited == 0
    assert second.query("SELECT DISTINCT run_id FROM coding.text_claims") == [("run-2",)]
    second.code()
    second.land(second.collect())
    assert second.query("SELECT count(*) FROM coding.text_claims") == [(0,)]


def test_a_run_whose_texts_are_all_claimed_sends_them_instead_of_waiting(
    make_nights: Callable[..., tuple[Night, Night]], make_night: Callable[..., Night]
) -> None:
    make_nights()
    third = make_night(JOBS[:5], "2026-10-07")
    third.prepare("run-3")
    assert (third.prepared.awaited, sum(part.records for part in third.prepared.parts)) == (0, 5)


def test_a_result_that_arrives_while_texts_are_claimed_is_used(
    make_nights: Callable[..., tuple[Night, Night]],
) -> None:
    first, second = make_nights()

    def deliver(run_id: str) -> bool:
        """Let the other run store its results between the look-up of results and the claim."""
        first.code()
        first.collect()
        return True

    second.prepare("run-2", is_in_progress=deliver)
    assert (second.prepared.known_texts, second.prepared.awaited) == (10, 0)
    assert [part.records for part in second.prepared.parts] == [1]


@pytest.mark.parametrize("changes", [{"dry_run": True}, {"force_new": True}, {"selection": "all"}])
def test_runs_that_send_everything_or_nothing_claim_no_texts(
    make_nights: Callable[..., tuple[Night, Night]], changes: dict[str, Any]
) -> None:
    _, second = make_nights()
    second.prepare("run-2", **changes)
    assert second.prepared.awaited == 0
    assert second.query("SELECT DISTINCT run_id FROM coding.text_claims") == [("run-1",)]
