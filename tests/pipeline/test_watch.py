"""The watch for new models, against a local coding service and a stand-in for Airflow's own API."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pendulum
import pytest
import requests
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from coding_service.errors import SettingsError
from include.local_service.http.server import LocalService
from include.pipeline import watch
from include.pipeline.backfills import BackfillError, start_backfill
from tests.pipeline.conftest import FakeAirflowApi, Store


class ModelWatch:
    """The tasks of one topic, the state store of the asset that they share, and why one was last skipped."""

    def __init__(self) -> None:
        self.store, self.message = Store(), ""

    def look(self, run_id: str) -> dict[str, Any] | None:
        """Return the content of the event, None if the task is skipped."""
        event = SimpleNamespace(extra=None)
        try:
            change = watch.detect_new_model("osca", run_id, self.store, event)
        except AirflowSkipException as skip:
            self.message = str(skip)
            assert event.extra is None
            return None
        assert event.extra == change
        return change

    def recode_history(self) -> Any:
        """Return the id of the new backfill, or several by DAG; None if the task is skipped."""
        try:
            ids = watch.recode_history("osca", self.store)
            return ids if len(ids) > 1 else next(iter(ids.values()))
        except AirflowSkipException as skip:
            self.message = str(skip)
            return None


@pytest.fixture(autouse=True)
def _history(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODING_RECODE_HISTORY_FROM", "2026-01-01")


@pytest.fixture
def model_watch(service: LocalService) -> ModelWatch:
    """A watch that has looked once."""
    model_watch = ModelWatch()
    assert model_watch.look("first") is None
    return model_watch


def release_model(service: LocalService) -> None:
    """Let the next look find a new model."""
    requests.post(f"{service.url}/_local/faults", json={"name": "new_latest_model"}, timeout=10).raise_for_status()


@pytest.mark.parametrize(("setting", "topics"), [("", ["osca"]), ("osca, anzsco,,osca", ["osca", "anzsco"])])
def test_the_topics_to_watch_are_a_setting(setting: str, topics: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODING_WATCH_TOPICS", setting)
    assert watch.list_topics() == topics


def test_the_topic_of_the_nightly_run_is_watched_if_no_setting_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CODING_DEFAULT_TOPIC", "anzsco")
    assert watch.list_topics() == ["anzsco"]
    monkeypatch.setenv("CODING_WATCH_TOPICS", "osca")
    assert watch.list_topics() == ["osca"]


def test_the_event_of_a_new_model_names_the_one_before_it_and_only_the_run_that_noticed_it_emits_it(
    model_watch: ModelWatch, service: LocalService
) -> None:
    assert model_watch.look("same") is None
    release_model(service)
    change = model_watch.look("second")
    models = service.service.catalogue.models(service.service.catalogue.topic("osca"))
    _, second, third = (model.model_id for model in models)
    assert change == {
        "topic": "osca", "model_before": second, "model_after": third, "version_before": 2, "version_after": 3,
        "noticed_by": "second",
    }  # fmt: skip
    assert model_watch.look("second") == change, "a retry after the event was lost"
    assert model_watch.look("third") is None


def test_a_look_is_one_call(model_watch: ModelWatch, service: LocalService) -> None:
    before = len(service.service.store.entries(0))
    model_watch.look("again")
    (entry,) = service.service.store.entries(0)[before:]
    assert (entry.method, entry.path) == ("GET", "/v1/topics/osca/models/latest")


def test_the_backfill_of_a_new_model_goes_from_newest_to_oldest_and_codes_again_what_was_coded(
    model_watch: ModelWatch, service: LocalService, airflow_api: FakeAirflowApi
) -> None:
    release_model(service)
    change = model_watch.look("second")
    assert change is not None
    assert model_watch.recode_history() == 7
    (backfill,) = airflow_api.backfills
    yesterday = pendulum.yesterday("Australia/Sydney").to_date_string()
    assert backfill == {
        "id": 7, "completed_at": None, "is_paused": False, "dag_id": "recode_occupations", "from_date": "2026-01-01T00:00:00Z",
        "to_date": f"{yesterday}T23:59:00Z", "run_backwards": True, "reprocess_behavior": "completed", "max_active_runs": 2,
        "dag_run_conf": {"model": change["model_after"], "topic": "osca"},
    }  # fmt: skip


def test_a_model_gets_one_backfill_even_if_the_attempt_that_started_it_was_killed(
    model_watch: ModelWatch, service: LocalService, airflow_api: FakeAirflowApi
) -> None:
    release_model(service)
    change = model_watch.look("second")
    assert model_watch.recode_history() == 7
    assert model_watch.recode_history() is None, "its id is in the store"
    model_watch.store.set("osca", change)
    assert model_watch.recode_history() == 7, "Airflow has it"
    assert len(airflow_api.backfills) == 1


def test_a_backfill_is_started_by_a_later_run_if_another_one_was_running(
    model_watch: ModelWatch, service: LocalService, airflow_api: FakeAirflowApi
) -> None:
    release_model(service)
    model_watch.look("second")
    airflow_api.conflicts.add("recode_occupations")
    assert model_watch.recode_history() is None
    assert "because another backfill of recode_occupations is running; the next run tries" in model_watch.message
    airflow_api.conflicts.clear()
    assert model_watch.look("third") is None
    assert model_watch.recode_history() == 7


def test_no_backfill_is_started_while_the_dag_is_paused_and_one_run_fails_because_of_it(
    model_watch: ModelWatch, service: LocalService, airflow_api: FakeAirflowApi
) -> None:
    release_model(service)
    model_watch.look("second")
    airflow_api.paused.add("recode_occupations")
    message = (
        "no backfill was started, because recode_occupations is paused. Unpause it: the next run of watch_models"
    )
    with pytest.raises(AirflowFailException, match=message):
        model_watch.recode_history()
    assert model_watch.recode_history() is None, "the day after"
    assert message in model_watch.message
    assert airflow_api.backfills == []
    airflow_api.paused.clear()
    assert model_watch.recode_history() == 7


def test_a_backfill_that_waits_for_a_paused_dag_fails_one_run(
    model_watch: ModelWatch, service: LocalService, airflow_api: FakeAirflowApi
) -> None:
    release_model(service)
    model_watch.look("second")
    assert model_watch.recode_history() == 7
    airflow_api.paused.add("recode_occupations")
    with pytest.raises(AirflowFailException, match="backfill 7 waits, because recode_occupations is paused"):
        model_watch.recode_history()
    assert model_watch.recode_history() is None
    airflow_api.end_backfill()
    assert model_watch.recode_history() is None
    assert "backfill 7 of recode_occupations with model " in model_watch.message
    assert model_watch.message.endswith(" has ended")


@pytest.mark.parametrize(("is_cancelled", "end"), [(True, "was cancelled"), (False, "has ended")])
def test_a_backfill_that_ended_without_some_days_fails_one_run_which_says_how_to_continue(
    model_watch: ModelWatch, service: LocalService, airflow_api: FakeAirflowApi, is_cancelled: bool, end: str
) -> None:
    release_model(service)
    change = model_watch.look("second")
    assert change is not None
    assert model_watch.recode_history() == 7
    airflow_api.failed_runs.append({"dag_id": "recode_occupations", "conf": None})  # of another backfill
    airflow_api.end_backfill(failed_runs=12, is_cancelled=is_cancelled)
    with pytest.raises(AirflowFailException, match=f"backfill 7 {end}, and 12 of its runs have failed") as raised:
        model_watch.recode_history()
    assert json.dumps({"model": change["model_after"], "topic": "osca"}) in str(raised.value)
    assert model_watch.recode_history() is None, "it is reported once"

    conf = airflow_api.backfills[0]["dag_run_conf"]
    assert start_backfill("recode_occupations", conf, "2026-01-01", "2026-10-05", max_active_runs=2) == 8
    assert model_watch.recode_history() == 8, "that of a person who continues"
    airflow_api.end_backfill(failed_runs=1, is_cancelled=is_cancelled)
    with pytest.raises(AirflowFailException, match=f"backfill 8 {end}"):
        model_watch.recode_history()


def test_a_backfill_that_airflow_has_deleted_is_not_started_again(
    model_watch: ModelWatch, service: LocalService, airflow_api: FakeAirflowApi
) -> None:
    release_model(service)
    model_watch.look("second")
    assert model_watch.recode_history() == 7
    airflow_api.backfills.clear()
    assert model_watch.recode_history() is None
    assert model_watch.message == "backfill 7 of recode_occupations was started, and Airflow has deleted it since"


def test_only_the_first_look_at_a_topic_says_that_it_is_the_first(service: LocalService) -> None:
    model_watch = ModelWatch()
    assert model_watch.look("first") is None
    assert "is watched for the first time" in model_watch.message
    assert model_watch.look("first") is None
    assert "is watched for the first time" in model_watch.message, "a retry"
    assert model_watch.look("second") is None
    assert "the latest model of topic 'osca' is still " in model_watch.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CODING_RECODE_HISTORY_FROM", "01/10/2026"), ("CODING_RECODE_RUNS", "two"), ("CODING_RECODE_RUNS", "0"),
        ("CODING_RECODE_RUNS", "-1"),
    ],
)  # fmt: skip
def test_a_setting_of_the_backfill_that_makes_no_sense_is_named(
    model_watch: ModelWatch,
    service: LocalService,
    airflow_api: FakeAirflowApi,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
) -> None:
    release_model(service)
    model_watch.look("second")
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"{name} is '{value}'; expected a "):
        model_watch.recode_history()
    assert airflow_api.backfills == []


def test_a_first_day_in_the_future_starts_no_backfill(
    model_watch: ModelWatch, service: LocalService, airflow_api: FakeAirflowApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    release_model(service)
    model_watch.look("second")
    monkeypatch.setenv("CODING_RECODE_HISTORY_FROM", "2999-01-01")
    assert model_watch.recode_history() is None
    assert "2999-01-01, is not past" in model_watch.message


def test_a_topic_whose_model_was_never_read_gets_no_backfill(airflow_api: FakeAirflowApi) -> None:
    assert ModelWatch().recode_history() is None
    assert airflow_api.backfills == []


def test_the_first_model_of_a_topic_gets_no_backfill(model_watch: ModelWatch, airflow_api: FakeAirflowApi) -> None:
    assert model_watch.recode_history() is None
    assert airflow_api.backfills == []


def test_no_backfill_is_started_unless_it_is_switched_on(
    model_watch: ModelWatch, service: LocalService, airflow_api: FakeAirflowApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CODING_RECODE_HISTORY_FROM")
    release_model(service)
    model_watch.look("second")
    assert model_watch.recode_history() is None
    assert airflow_api.backfills == []


@pytest.mark.parametrize("topic", ["anzsco", "../models", "", ["osca"], {"osca": 1}, None], ids=repr)
def test_a_topic_that_the_deployment_does_not_watch_is_refused(topic: Any) -> None:
    store = Store()
    for act in (
        lambda: watch.detect_new_model(topic, "run-1", store, SimpleNamespace(extra=None)),
        lambda: watch.recode_history(topic, store),
    ):
        with pytest.raises(SettingsError, match="not one that CODING_WATCH_TOPICS lists. Clear the task 'topics'"):
            act()
    assert store == {}


# ---- several DAGs --------------------------------------------------------------------------------------------------


def test_each_scheduled_dag_of_the_topic_gets_a_backfill_and_no_other_dag(
    model_watch: ModelWatch, service: LocalService, airflow_api: FakeAirflowApi
) -> None:
    release_model(service)
    model_watch.look("second")
    airflow_api.topics |= {"recode_labour_force": "anzsco", "recode_graduates": "osca"}
    airflow_api.unscheduled["example"] = "osca"
    assert model_watch.recode_history() == {"recode_occupations": 7, "recode_graduates": 8}
    assert [backfill["dag_id"] for backfill in airflow_api.backfills] == ["recode_graduates", "recode_occupations"]
    assert model_watch.recode_history() is None
    assert "backfill 7 of recode_occupations with model" in model_watch.message
    assert "backfill 8 of recode_graduates with model" in model_watch.message


def test_a_topic_of_no_other_dag_is_coded_by_the_main_one(
    model_watch: ModelWatch, service: LocalService, airflow_api: FakeAirflowApi
) -> None:
    release_model(service)
    model_watch.look("second")
    airflow_api.topics = {"recode_occupations": "anzsco", "recode_labour_force": "anzsco"}
    assert model_watch.recode_history() == 7
    assert airflow_api.backfills[0]["dag_id"] == "recode_occupations"
    assert airflow_api.backfills[0]["dag_run_conf"]["topic"] == "osca"


def test_a_paused_dag_fails_one_run_and_does_not_keep_the_others_from_starting(
    model_watch: ModelWatch, service: LocalService, airflow_api: FakeAirflowApi
) -> None:
    release_model(service)
    model_watch.look("second")
    airflow_api.topics["recode_graduates"] = "osca"
    airflow_api.paused.add("recode_occupations")
    with pytest.raises(AirflowFailException, match="because recode_occupations is paused") as raised:
        model_watch.recode_history()
    assert "recode_graduates" not in str(raised.value)
    assert [backfill["dag_id"] for backfill in airflow_api.backfills] == ["recode_graduates"]
    assert model_watch.recode_history() is None, "the day after"
    airflow_api.paused.clear()
    assert model_watch.recode_history() == 8
    airflow_api.paused.add("recode_graduates")
    with pytest.raises(AirflowFailException, match="backfill 7 waits, because recode_graduates is paused"):
        model_watch.recode_history()


def test_an_error_with_one_dag_is_retried_and_costs_no_alert_about_another(
    model_watch: ModelWatch, service: LocalService, airflow_api: FakeAirflowApi
) -> None:
    release_model(service)
    model_watch.look("second")
    airflow_api.topics |= {"recode_graduates": "osca", "recode_third": "osca"}
    airflow_api.broken.add("recode_occupations")
    airflow_api.paused.add("recode_graduates")
    with pytest.raises(BackfillError, match="HTTP 500"):
        model_watch.recode_history()
    assert [backfill["dag_id"] for backfill in airflow_api.backfills] == ["recode_third"]
    airflow_api.broken.clear()
    with pytest.raises(AirflowFailException, match="because recode_graduates is paused"):
        model_watch.recode_history()


def test_a_backfill_that_an_earlier_version_recorded_is_not_started_again(
    model_watch: ModelWatch, service: LocalService, airflow_api: FakeAirflowApi
) -> None:
    release_model(service)
    change = model_watch.look("second")
    assert change is not None
    model_watch.store.set("osca", {**change, "backfill": 3})
    assert model_watch.recode_history() is None
    assert model_watch.message == "backfill 3 of recode_occupations was started, and Airflow has deleted it since"
    assert airflow_api.backfills == []
