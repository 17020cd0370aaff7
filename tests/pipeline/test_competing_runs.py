"""Two runs of the same dates at the same time, against the local service: each text is sent once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from airflow.sdk.crypto import get_fernet
from airflow.sdk.exceptions import AirflowSkipException
from cryptography.fernet import Fernet

from coding_service import CodingServiceHook
from coding_service.models import InputPart
from coding_service.part_operation import PartOperation
from include.coding.errors import DataError
from include.coding.plan import Plan
from include.local_service.http.server import LocalService
from include.pipeline import steps
from include.pipeline.settings import open_warehouse
from include.stack.processes import coding_connection
from tests.pipeline.conftest import Store, TaskInstance

FIRST_DAY, SECOND_DAY = "2026-10-05", "2026-10-06"
#: Texts of each of the two dates.
TEXTS = 50


class Runs:
    """Runs of `recode_occupations` without Airflow's processes; all that have planned and not ended are in progress."""

    def __init__(self, service: LocalService) -> None:
        self.url, self.ended = service.url, set[str]()
        with open_warehouse().session() as session, session.transaction():
            session.execute(
                "CREATE TABLE survey_responses"
                " (record_id VARCHAR, response_date DATE, occp_text VARCHAR, tasks_text VARCHAR)"
            )
            for day in (FIRST_DAY, SECOND_DAY):
                for number in range(TEXTS):
                    values = [str(number), f"job {day} number {number}"]
                    session.execute(f"INSERT INTO survey_responses VALUES (?, DATE '{day}', ?, '')", values)

    def is_in_progress(self, run_id: str) -> bool:
        return run_id not in self.ended

    def plan(self, run_id: str, from_date: str = FIRST_DAY, to_date: str = SECOND_DAY, **params: Any) -> TaskInstance:
        """Do what `plan` does, and return an instance of a later task."""
        import recode_occupations

        form = {
            **recode_occupations.dag.params.validate(), "from_date": from_date, "to_date": to_date, **params
        }  # fmt: skip
        plan = steps.make_plan(form, make_run(run_id), list(recode_occupations.PARAMS), self.is_in_progress)
        return TaskInstance({"plan": plan}, run_id)

    def prepare(self, ti: TaskInstance) -> list[dict[str, Any]]:
        return steps.prepare_parts(ti, make_run("any"), self.is_in_progress)

    def send(self, ti: TaskInstance) -> None:
        """Do what `prepare` and `code` do, until the service has the texts."""
        for part in self.prepare(ti):
            operation = PartOperation(CodingServiceHook(), InputPart.from_dict(part), Store())
            operation.upload(*operation.open())

    @property
    def received_texts(self) -> int:
        """Number of texts that the service has received, once it has read all of them."""
        deadline = time.monotonic() + 60
        while None in (records := [operation["records"] for operation in self._list_operations()]):
            assert time.monotonic() < deadline, "the service does not read its input"
        return sum(records)

    def _list_operations(self) -> list[dict[str, Any]]:
        return list(requests.get(f"{self.url}/_local/operations", timeout=10).json()["operations"])


def make_run(run_id: str) -> SimpleNamespace:
    run_after = datetime(2026, 11, 23, 14, tzinfo=UTC)
    return SimpleNamespace(
        dag_id="recode_occupations",
        run_id=run_id,
        partition_key=None,
        run_after=run_after,
        run_type="manual",
        conf={},
    )


@pytest.fixture(params=["duckdb", "postgres"])
def runs(
    request: pytest.FixtureRequest,
    lend_place: Callable[[str], str | Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Runs]:
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", Fernet.generate_key().decode())
    get_fernet.cache_clear()
    monkeypatch.setenv("CODING_STAGING", (tmp_path / "staging").as_uri())
    place = lend_place(request.param)
    warehouse: dict[str, Any] = {"conn_type": "duckdb", "host": str(place)}
    if request.param == "postgres":
        fields = dict(field.split("=", 1) for field in str(place).split())
        names = {"host": fields["host"], "schema": fields["dbname"], "login": fields["user"]}
        warehouse = {"conn_type": "postgres", **names}
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE_DEFAULT", json.dumps(warehouse))
    with LocalService(tmp_path / "service", coder="stub", progression="immediate") as service:
        connection = coding_connection(service.url)
        connection["extra"] |= {"requests_per_second": 10_000, "state_dir": str(tmp_path / "state")}
        monkeypatch.setenv("AIRFLOW_CONN_CODING_SERVICE_DEFAULT", json.dumps(connection))
        yield Runs(service)
    get_fernet.cache_clear()


def test_two_runs_of_the_same_dates_send_each_text_once_and_the_second_is_skipped(runs: Runs) -> None:
    first, second = runs.plan("first"), runs.plan("second")
    runs.send(first)
    with pytest.raises(AirflowSkipException, match=f"The dates {FIRST_DAY} to {SECOND_DAY} are left to run 'first'"):
        runs.prepare(second)
    with pytest.raises(AirflowSkipException, match="are left to run 'first'"):
        steps.land_results(second, make_run("second"))
    assert runs.received_texts == 2 * TEXTS
    report = Path(steps.report_run(second).removeprefix("file://"))
    assert "skipped, nothing was sent" in report.with_suffix(".md").read_text(encoding="utf-8")
    assert "are left to run 'first'" in report.with_suffix(".md").read_text(encoding="utf-8")
    steps.clean_up(second)
    assert sorted(path.name for path in report.parent.iterdir()) == ["report.html", "report.json", "report.md"]


def test_the_second_run_codes_the_dates_that_the_first_does_not(runs: Runs, caplog: pytest.LogCaptureFixture) -> None:
    runs.send(runs.plan("first", to_date=FIRST_DAY))
    runs.send(runs.plan("second"))
    assert runs.received_texts == 2 * TEXTS
    assert f"The dates {FIRST_DAY} are left to run 'first'" in caplog.text


def test_a_run_whose_dates_another_has_taken_over_since_sends_nothing(runs: Runs) -> None:
    first = runs.plan("first")
    runs.ended.add("first")  # it failed
    runs.send(runs.plan("second"))
    with pytest.raises(DataError, match="^other runs have taken over dates: clear 'plan' with down"):
        runs.prepare(first)
    assert runs.received_texts == 2 * TEXTS


def test_a_person_who_insists_sends_the_texts_a_second_time(runs: Runs) -> None:
    runs.send(runs.plan("first"))
    second = runs.plan("second", force_new=True)
    runs.send(second)
    assert runs.received_texts == 4 * TEXTS
    assert "because force_new is set" in Plan.from_dict(second.xcom_pull("plan")).competing_runs[0]
