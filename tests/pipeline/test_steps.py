"""The bodies of the tasks: what they decide, and what they say when the deployment is not set up for a run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import duckdb
import pytest
from airflow.sdk.exceptions import AirflowSkipException

from coding_service.errors import AuthorizationError, InputFileError, ServiceUnavailableError, SettingsError
from include.coding.abandoned import FILE_PREFIX, write_owner
from include.coding.errors import DataError, PlanError, SourceError
from include.coding.files import path_from_uri
from include.coding.landing import LandingSummary
from include.coding.plan import Plan
from include.coding.prepare import Prepared
from include.coding.run_log import DateCounts, DateOverLimit, PublishedRun, record_run
from include.coding.tables import create_tables
from include.local_service.http.server import LocalService
from include.pipeline import handoffs, settings, steps
from include.pipeline.airflow_dags import recode_dag
from include.pipeline.form import PARAMS
from include.pipeline.run_metadata import PoolSize, RunMetadata
from include.pipeline.settings import open_staging, run_folder
from include.stack.processes import coding_connection, free_port
from include.warehouse.errors import WarehouseSettingsError
from tests.pipeline.conftest import TaskInstance
from tests.support.warehouses import open_warehouse

MODELS = ("11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222")
METADATA = RunMetadata(None, PoolSize(4, True))
PREPARED = Prepared("2026-10-07T01:02:03", "checksum", True, None, None, (), 9, 1, 2, 6, 1)


# ---- plan --------------------------------------------------------------------------------------------------------


def make_run(run_type: str = "manual", **fields: Any) -> SimpleNamespace:
    run_after = datetime(2026, 11, 23, 14, tzinfo=UTC)
    return SimpleNamespace(
        **{
            "dag_id": "recode_occupations",
            "run_id": "run-1",
            "partition_key": None,
            "run_after": run_after,
            "run_type": run_type,
            "conf": {},
            **fields,
        }
    )


def read_form(**changes: Any) -> dict[str, Any]:
    import recode_occupations

    return {**recode_occupations.dag.params.validate(), **changes}


def read_param_names() -> list[str]:
    import recode_occupations

    return list(recode_occupations.PARAMS)


@pytest.fixture
def plan_with(
    service: LocalService, warehouse: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., dict[str, Any]]:
    """Make a plan with changes to a connection that works, and an empty warehouse."""

    def make(extra: Mapping[str, Any] = MappingProxyType({}), **changes: Any) -> dict[str, Any]:
        connection = {**coding_connection(service.url), **changes}
        connection["extra"] = {**connection["extra"], "state_dir": str(tmp_path), **extra}
        monkeypatch.setenv("AIRFLOW_CONN_CODING_SERVICE_DEFAULT", json.dumps(connection))
        monkeypatch.setenv("CODING_STAGING", tmp_path.as_uri())
        return steps.make_plan(read_form(), make_run(), read_param_names())

    return make


def test_a_working_connection_gives_a_plan_for_the_day_before_in_sydney(
    plan_with: Callable[..., dict[str, Any]], service: LocalService, tmp_path: Path
) -> None:
    plan = Plan.from_dict(plan_with())
    assert (plan.from_date, plan.to_date) == ("2026-11-23", "2026-11-23")  # it is the 24th in Sydney
    assert (plan.run_id, plan.topic, plan.schema, plan.changed_only) == ("run-1", "osca", "coding", False)
    models = service.service.catalogue.models(service.service.catalogue.topic("osca"))
    assert (plan.model_id, plan.model_version) == (models[-1].model_id, models[-1].version)


def test_a_trial_has_tables_of_its_own(plan_with: Callable[..., dict[str, Any]]) -> None:
    plan_with()
    assert steps.make_plan(read_form(max_records=10), make_run(), read_param_names())["schema"] == "coding_trial"


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [
        ("max_record", r"'max_record' \(did you mean 'max_records'\?\)\."),
        ("dryrun", r"'dryrun' \(did you mean 'dry_run'\?\)\."),
        ("DRY-RUN", r"'DRY-RUN' \(did you mean 'dry_run'\?\)\."),
        ("max_characters", r"'max_characters'"),
        ("memory_mb", r"'memory_mb'"),
        ("schema", r"'schema'"),
        ("staging", r"'staging'"),
        ("run_id", r"'run_id'"),
        ("changed_only", r"'changed_only'"),
        ("zzz", r"'zzz'\. .*the DAG has \['approve_above', 'clean', "),
    ],
)
def test_a_key_that_the_form_does_not_have_is_refused_before_any_call(
    plan_with: Callable[..., dict[str, Any]], service: LocalService, key: str, suggestion: str
) -> None:
    plan_with()
    before = len(service.service.store.entries(0))
    with pytest.raises(PlanError, match=f"has unknown keys: {suggestion}"):
        steps.make_plan(read_form(**{key: 30}), make_run(conf={key: 30}), read_param_names())
    with pytest.raises(PlanError, match=f"has unknown keys: {suggestion}"):
        steps.make_plan(
            read_form(), make_run(conf={key: 30}), read_param_names()
        )  # Airflow does not merge the conf into the params
    assert len(service.service.store.entries(0)) == before


def test_a_plan_takes_from_the_form_only_what_the_form_has() -> None:
    assert set(steps.PLAN_PARAMS) <= set(read_param_names())
    own_fields = {field.name for field in fields(Plan)} - set(steps.PLAN_PARAMS)
    assert own_fields & set(read_param_names()) == {"from_date", "to_date"}, "resolve_dates checks them"


def test_keys_that_airflow_adds_are_no_params(plan_with: Callable[..., dict[str, Any]]) -> None:
    plan_with()
    added = {"_airflow": METADATA.to_dict(), "openlineage": {}, "airflow/task_span_detail_level": 2}
    assert steps.make_plan(read_form(**added), make_run(conf=added), read_param_names())["topic"] == "osca"


def test_a_configuration_that_airflow_ignores_is_refused(plan_with: Callable[..., dict[str, Any]]) -> None:
    plan_with()
    run = make_run(conf={"max_records": 30, "topic": "osca"})
    with pytest.raises(PlanError, match=r"Airflow ignores the keys \['max_records'\].*DAG_RUN_CONF_OVERRIDES_PARAMS"):
        steps.make_plan(read_form(), run, read_param_names())
    assert steps.make_plan(read_form(max_records=30), run, read_param_names())["max_records"] == 30


def test_wrong_credentials_are_named_as_such(plan_with: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(AuthorizationError, match=r"refused with HTTP 40[01].*check login \(client id\) and password"):
        plan_with(password="wrong")


def test_a_service_that_is_down_is_named_with_its_address(plan_with: Callable[..., dict[str, Any]]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(
        ServiceUnavailableError,
        match=rf"failed without an answer.*check that the service is running.*{url}/oauth2/token",
    ):
        plan_with(host=url, extra={"auth_host": url})


def test_a_missing_service_connection_is_named_with_what_to_do() -> None:
    run = make_run("scheduled", partition_key="2026-10-01", conf=None)
    with pytest.raises(SettingsError, match=r"no Airflow connection 'coding_service_default'.*Admin > Connections"):
        steps.make_plan(read_form(), run, read_param_names())


def test_a_connection_over_plain_http_to_another_machine_is_refused(plan_with: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(SettingsError, match=r"'http://coder.example.org'.*use https"):
        plan_with(host="http://coder.example.org", port=None)


def test_a_missing_warehouse_connection_is_named_with_what_to_do(
    plan_with: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_with()
    monkeypatch.delenv("AIRFLOW_CONN_WAREHOUSE_DEFAULT", raising=False)
    with pytest.raises(WarehouseSettingsError, match=r"no Airflow connection 'warehouse_default'.*type duckdb"):
        steps.prepare_parts(TaskInstance({"plan": plan}), make_run())


@pytest.mark.parametrize(
    "staging", ["gs://bucket/staging", "/data/staging", "file://data/staging", "file:///data/#1"]
)
def test_a_staging_area_that_is_neither_local_nor_in_s3_is_refused(
    plan_with: Callable[..., dict[str, Any]], staging: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_VAR_CODING_STAGING", staging)
    with pytest.raises(InputFileError, match=f"'{staging}': use file:///... or s3://.*set CODING_STAGING"):
        plan_with()


def test_a_missing_pool_is_named_with_what_to_do() -> None:
    with pytest.raises(PlanError, match=r"no pool 'coding_service'.*`airflow pools set coding_service 4"):
        steps.check_airflow(RunMetadata(None, None), "manual")


def test_a_backfill_is_refused_if_the_scheduler_has_not_loaded_the_plugin() -> None:
    with pytest.raises(
        PlanError, match=r"^the scheduler has not loaded plugins/occupation_coding_plugin\.py: check its log"
    ):
        steps.check_airflow(None, "backfill")
    assert (Path(__file__).resolve().parents[2] / "plugins" / "occupation_coding_plugin.py").is_file()


@pytest.mark.parametrize("run_type", ["manual", "scheduled"])
def test_other_runs_work_without_a_scheduler_as_in_airflow_dags_test(run_type: str) -> None:
    steps.check_airflow(None, run_type)


@pytest.fixture
def warehouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A warehouse with the project's tables, and the connection to it."""
    path = tmp_path / "warehouse.duckdb"
    with open_warehouse(path).session() as session:
        create_tables(session, "coding")
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE_DEFAULT", json.dumps({"conn_type": "duckdb", "host": str(path)}))
    return path


def plan_run(run_type: str, metadata: RunMetadata | None = None, **changes: Any) -> Plan:
    """Make the plan of a run of 7 October 2026 or, if it is manual, of the day before it is due."""
    conf = {} if metadata is None else {"_airflow": metadata.to_dict()}
    run = make_run(run_type, partition_key=None if run_type == "manual" else "2026-10-07", conf=conf)
    return Plan.from_dict(steps.make_plan(read_form(**changes), run, read_param_names()))


def test_a_file_that_runs_may_not_read_is_refused_by_plan_before_any_call_and_by_prepare_if_the_plan_was_edited(
    plan_with: Callable[..., dict[str, Any]],
    warehouse: Path,
    service: LocalService,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path_factory.mktemp("source") / "data"
    secret = folder.with_name("secret.csv")
    secret.write_text("record_id,response_date,occp_text,tasks_text\n1,2026-10-05,secret,\n")
    plan, before = plan_with(), len(service.service.store.entries(0))
    for folders in ("", str(folder)):
        monkeypatch.setenv("CODING_SOURCE_FOLDERS", folders)
        for source in (secret.as_uri(), str(secret), f"{folder}/../secret.csv"):
            with pytest.raises(SourceError, match="is not in a folder from which runs may read files"):
                plan_run("manual", source=source)
            edited = {**plan, "source": source}
            with pytest.raises(SourceError, match="is not in a folder from which runs may read files"):
                steps.prepare_parts(TaskInstance({"plan": edited}), make_run())
    assert len(service.service.store.entries(0)) == before
    assert plan_run("manual", source=(folder / "answers.csv").as_uri()).source.endswith("/data/answers.csv")


def test_an_export_elsewhere_is_refused_by_plan_before_any_call_and_by_export_if_the_plan_was_edited(
    make_plan: Callable[..., Plan],
    plan_with: Callable[..., dict[str, Any]],
    service: LocalService,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path_factory.mktemp("exports")
    plan_with()
    before = len(service.service.store.entries(0))
    monkeypatch.setenv("CODING_EXPORT_FOLDERS", str(folder / "allowed"))
    with pytest.raises(PlanError, match="is not in a folder to which runs may write"):
        plan_run("manual", export=f"{folder}/coded.csv")
    assert len(service.service.store.entries(0)) == before
    edited = {**make_plan().to_dict(), "export": f"{folder}/coded.csv"}
    summary = LandingSummary(9, 5, 2, 2, 6, 0, 0, "2026-10-05", "2026-10-06", "run-0")
    xcoms = {"plan": edited, ("prepare", "prepared"): PREPARED.to_dict(), "land": summary.to_dict()}
    with pytest.raises(PlanError, match="is not in a folder to which runs may write"):
        steps.export_records(TaskInstance(xcoms))
    assert list(folder.iterdir()) == []
    (folder / "allowed").mkdir()
    assert plan_run("manual", export=f"{folder}/allowed/coded.csv").export == f"{folder}/allowed/coded.csv"
    assert plan_run("manual", export="").export is None


def test_a_run_without_an_export_skips_it(make_plan: Callable[..., Plan]) -> None:
    with pytest.raises(AirflowSkipException, match="the run has no `export`"):
        steps.export_records(TaskInstance({"plan": make_plan().to_dict()}))


POOL_SIZE = PoolSize(4, True)


def test_a_night_looks_back_while_earlier_ones_are_unfinished_and_excludes_their_dates(
    plan_with: Callable[..., dict[str, Any]], warehouse: Path
) -> None:
    plan_with()
    plan = plan_run("scheduled", RunMetadata(None, POOL_SIZE, unfinished=("2026-10-06", "2026-09-01")))
    assert (plan.from_date, plan.to_date, plan.changed_only) == ("2026-09-30", "2026-10-07", True)
    assert plan.excluded_dates == ("2026-10-06",)


def test_a_night_reads_back_to_dates_that_are_not_published_and_names_those_that_are_too_old(
    plan_with: Callable[..., dict[str, Any]], warehouse: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with duckdb.connect(str(warehouse)) as connection:
        connection.execute(
            "INSERT INTO coding.dates_over_limit VALUES"
            " ('osca', DATE '2026-09-12', TIMESTAMP '2026-09-13 01:00:00', 'night', '9 of 9 records are rejected'),"
            " ('anzsco', DATE '2026-08-01', TIMESTAMP '2026-09-13 01:00:00', 'night', 'another topic')"
        )
    plan_with()
    plan = plan_run("scheduled", RunMetadata(None, POOL_SIZE, failed=("2026-09-10", "2025-01-01")))
    assert (plan.from_date, plan.excluded_dates, plan.unreachable_dates) == ("2026-09-10", (), ("2025-01-01",))
    assert "2026-09-12 (since 2026-09-13): 9 of 9 records are rejected" in caplog.text
    assert "too old for the look-back; start a manual run of: 2025-01-01" in caplog.text
    assert plan_run("scheduled").from_date == "2026-09-12", "without a scheduler it knows what the warehouse knows"


@pytest.mark.parametrize("run_type", ["manual", "backfill", "scheduled"])
def test_other_runs_and_nights_without_a_look_back_read_their_own_dates_only(
    plan_with: Callable[..., dict[str, Any]], warehouse: Path, run_type: str
) -> None:
    plan_with()
    metadata = RunMetadata("3 of 2026-10-07" if run_type == "backfill" else None, POOL_SIZE, failed=("2026-09-10",))
    plan = plan_run(run_type, metadata, look_back_days=0 if run_type == "scheduled" else 7)
    assert plan.from_date == plan.to_date
    assert (plan.changed_only, plan.excluded_dates, plan.unreachable_dates) == (False, (), ())


# ---- land, report, announce, clean_up ----------------------------------------------------------------------------


def test_a_dry_run_skips_landing(make_plan: Callable[..., Plan]) -> None:
    xcoms = {"plan": make_plan(dry_run=True).to_dict(), ("prepare", "prepared"): PREPARED.to_dict()}
    with pytest.raises(AirflowSkipException, match="a dry run sends nothing"):
        steps.land_results(TaskInstance(xcoms), make_run())


def test_landing_is_refused_if_nothing_was_sent(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan()
    part = {
        "part": 0, "topic": "osca", "model_id": MODELS[0], "force_new": False,
        "input_uri": f"{run_folder('run-1')}/part-0000-{'a' * 12}.jsonl", "records": 3, "bytes": 120,
        "sha256": "a" * 64,
    }  # fmt: skip
    xcoms = {"plan": plan.to_dict(), ("prepare", "prepared"): {**PREPARED.to_dict(), "parts": [part]}}
    with pytest.raises(DataError, match="nothing was sent, so there is nothing to land: see the log"):
        steps.land_results(TaskInstance(xcoms), make_run())


@pytest.mark.parametrize("task_id", ["plan", "prepare"])
def test_landing_is_refused_if_an_earlier_task_did_not_succeed(task_id: str, make_plan: Callable[..., Plan]) -> None:
    xcoms = {"plan": make_plan().to_dict()} if task_id == "prepare" else {}
    with pytest.raises(
        DataError, match=f"task '{task_id}' is missing: clear '{task_id}' with downstream tasks, because"
    ):
        steps.land_results(TaskInstance(xcoms), make_run())


class OutletEvent:
    """The event that a task emits for an asset."""

    def __init__(self) -> None:
        self.partitions: list[str] = []
        self.extra: dict[str, Any] = {}

    def add_partitions(self, keys: list[str]) -> None:
        self.partitions += keys


def announce(plan: Plan, days: tuple[str, ...], partition_key: str | None) -> OutletEvent:
    dates = tuple(DateCounts(day, 4, 3, 1, 0) for day in days)
    over_limit = (DateOverLimit("2026-10-01", "2026-10-02", "9 of 9 records are rejected"),)
    summary = LandingSummary(9, 5, 2, 2, 6, 5, 2, "2026-10-05", "2026-10-06", None, dates, over_limit)
    event = OutletEvent()
    ti = TaskInstance({"plan": plan.to_dict(), "land": summary.to_dict()})
    steps.announce_dates(ti, make_run(partition_key=partition_key), {"coded_records": event}, "coded_records")
    return event


def test_each_published_date_is_a_partition_of_the_asset_and_so_is_that_of_the_run(
    make_plan: Callable[..., Plan],
) -> None:
    assert announce(make_plan(), ("2026-10-04", "2026-10-05"), None).partitions == ["2026-10-04", "2026-10-05"]
    assert announce(make_plan(), ("2026-10-05",), "2026-10-05").partitions == ["2026-10-05"]
    assert announce(make_plan(), (), "2026-10-05").partitions == ["2026-10-05"]


def test_the_event_of_the_asset_has_the_counts_the_model_and_the_run(make_plan: Callable[..., Plan]) -> None:
    assert announce(make_plan(), ("2026-10-05",), None).extra == {
        "read": 9, "coded": 5, "uncoded": 2, "rejected": 2, "texts": 6, "texts_sent": 5, "operations": 2,
        "from_date": "2026-10-05", "to_date": "2026-10-06", "topic": "osca", "model_id": MODELS[0],
        "model_version": 2.0, "run_id": "run-1", "schema": "coding",
        "dates": {"2026-10-05": {"read": 4, "coded": 3, "uncoded": 1, "rejected": 0}},
        "dates_over_limit": {"2026-10-01": "since 2026-10-02: 9 of 9 records are rejected"}, "unread_dates": [],
    }  # fmt: skip


def test_the_event_of_a_run_of_many_dates_has_no_counts_of_dates(make_plan: Callable[..., Plan]) -> None:
    days = tuple(f"2026-{month:02}-{day:02}" for month in range(1, 6) for day in range(1, 22))
    assert len(announce(make_plan(), days[:100], None).extra["dates"]) == 100
    assert announce(make_plan(), days[:101], None).extra["dates"] == {}


def test_no_event_is_emitted_for_a_trial_or_if_nothing_was_published(make_plan: Callable[..., Plan]) -> None:
    with pytest.raises(AirflowSkipException, match="nothing was published"):
        announce(make_plan(max_records=10, schema="coding_trial"), ("2026-10-05",), None)
    with pytest.raises(AirflowSkipException, match="nothing was published"):
        announce(make_plan(), (), None)


def clean_up(plan: Plan, warehouse: Path | None = None) -> list[str]:
    """Clean up a run, and return the names of the files that remain.

    :param warehouse: where it is recorded as published; None: nowhere
    """
    folder = path_from_uri(run_folder(plan.run_id))
    folder.mkdir(parents=True)
    for name in ("output.jsonl", "report.md"):
        (folder / name).touch()
    if warehouse:
        with open_warehouse(warehouse).session() as session:
            record_run(session, plan, PREPARED.read_at, "checksum", None, PublishedRun(plan.run_id, 9, 5, 2, 2, 6))
    steps.clean_up(TaskInstance({"plan": plan.to_dict(), ("prepare", "prepared"): PREPARED.to_dict()}))
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("setting", "is_kept"), [("", False), ("false", False), ("TRUE", True), ("1", True)])
def test_the_files_of_a_published_run_are_removed_unless_a_setting_keeps_them(
    setting: str,
    is_kept: bool,
    make_plan: Callable[..., Plan],
    warehouse: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CODING_KEEP_STAGING", setting)
    files = clean_up(make_plan(), warehouse)
    assert files == (["output.jsonl", "report.md"] if is_kept else ["report.md"])


def test_the_files_of_a_run_that_opened_an_operation_are_kept_even_if_its_plan_says_that_it_sends_nothing(
    make_plan: Callable[..., Plan], warehouse: Path
) -> None:
    folder = path_from_uri(run_folder("run-1"))
    folder.mkdir(parents=True)
    (folder / f"{FILE_PREFIX}1.json").touch()
    plan = make_plan(dry_run=True)
    with open_warehouse(warehouse).session() as session:
        create_tables(session, plan.schema)
    with pytest.raises(DataError, match="^nothing is recorded as published: clear 'land' with downstream tasks"):
        steps.clean_up(TaskInstance({"plan": plan.to_dict(), ("prepare", "prepared"): PREPARED.to_dict()}))
    assert (folder / f"{FILE_PREFIX}1.json").exists()


def test_the_files_of_a_dry_run_are_removed(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    assert clean_up(make_plan(dry_run=True)) == ["report.md"]


@pytest.mark.parametrize("read_at", [None, "2026-10-06T01:02:03"], ids=["never", "before it was cleared"])
def test_the_files_of_a_run_that_is_not_published_are_kept_and_its_task_says_why(
    read_at: str | None, make_plan: Callable[..., Plan], warehouse: Path, tmp_path: Path
) -> None:
    plan, run = make_plan(), PublishedRun("run-1", 9, 5, 2, 2, 6)
    if read_at:
        with open_warehouse(warehouse).session() as session:
            record_run(session, plan, read_at, "checksum", None, run)
    with pytest.raises(DataError, match=r"clear 'land' with downstream tasks\. The files of run 'run-1' are kept"):
        clean_up(plan)
    assert (path_from_uri(run_folder(plan.run_id)) / "output.jsonl").exists()


# ---- compare_models, sweep_staging -------------------------------------------------------------------------------


def test_the_report_of_a_comparison_is_not_removed_by_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import compare_models

    path = tmp_path / "warehouse.duckdb"
    with open_warehouse(path).session() as session:
        create_tables(session, "coding")
    with duckdb.connect(path) as warehouse:
        for version, model in enumerate(MODELS):
            warehouse.execute(
                "INSERT INTO coding.coded_records VALUES ('1', 1, DATE '2026-10-05', 'osca', ?, ?, 'coded', ?, 'Chef',"
                " 0.9, 6, NULL, NULL, 'key', 'op', 'run', TIMESTAMP '2026-11-01 00:00:00')",
                [model, version, f"35131{version}"],
            )
    monkeypatch.setenv("CODING_STAGING", (tmp_path / "staging").as_uri())
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE_DEFAULT", json.dumps({"conn_type": "duckdb", "host": str(path)}))
    uri = steps.compare_models(
        compare_models.dag.params.validate(), make_run(run_id="manual__1"), compare_models.PARAMS
    )
    folder = Path(uri.removeprefix("file://")).parent
    for file in folder.iterdir():
        os.utime(file, (0, 0))
    assert steps.sweep_staging() == []
    assert folder.parent == tmp_path / "staging" / "occupation-coding-comparisons"
    assert sorted(file.name for file in folder.iterdir()) == [
        "picture.svg", "report.html", "report.json", "report.md",
    ]  # fmt: skip
    assert "moved to another one: 1 (100.0%)" in (folder / "report.md").read_text(encoding="utf-8")


def test_a_comparison_refuses_a_key_that_its_form_does_not_have() -> None:
    import compare_models

    params = {**compare_models.dag.params.validate(), "sample": 10, "openlineage": {}}
    with pytest.raises(PlanError, match=r"unknown keys: 'sample' \(did you mean 'samples'\?\)"):
        steps.compare_models(params, make_run(conf={"sample": 10}), compare_models.PARAMS)


def test_a_comparison_reads_the_tables_of_the_dag_that_its_form_names(
    warehouse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import compare_models

    monkeypatch.setenv("CODING_STAGING", (tmp_path / "staging").as_uri())
    params = {**compare_models.dag.params.validate(), "schema": "graduates"}
    with pytest.raises(PlanError, match='"coding_graduates".coded_records does not exist'):
        steps.compare_models(params, make_run(), compare_models.PARAMS)
    with pytest.raises(PlanError, match="`schema` is 'a.b'; expected letters"):
        steps.compare_models({**params, "schema": "a.b"}, make_run(), compare_models.PARAMS)


# ---- further DAGs --------------------------------------------------------------------------------------------------


@pytest.fixture
def graduates(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A further DAG with tables of its own."""
    monkeypatch.setattr(settings, "SCHEMA_SUFFIXES", {})
    return recode_dag("recode_graduates", schema="graduates", source="graduate_responses")


def test_the_plan_of_a_further_dag_has_its_source_its_schema_and_its_own_key(
    plan_with: Callable[..., dict[str, Any]], graduates: Any
) -> None:
    plan_with()
    run = make_run(dag_id="recode_graduates")
    plan = Plan.from_dict(steps.make_plan(graduates.params.validate(), run, list(PARAMS)))
    assert (plan.run_id, plan.schema, plan.source) == (
        "recode_graduates/run-1",
        "coding_graduates",
        "graduate_responses",
    )
    trial = steps.make_plan({**graduates.params.validate(), "max_records": 10}, run, list(PARAMS))
    assert trial["schema"] == "coding_graduates_trial"
    ti = TaskInstance({"plan": plan.to_dict()}, dag_id="recode_graduates")
    assert handoffs.pull_plan(ti) == plan
    with pytest.raises(PlanError, match="Plan is invalid: run_id: it is not 'run-1'"):
        handoffs.pull_plan(TaskInstance({"plan": plan.to_dict()}))
    edited = {**plan.to_dict(), "schema": "coding"}
    with pytest.raises(PlanError, match="Plan is invalid: schema: it is not 'coding_graduates'"):
        handoffs.pull_plan(TaskInstance({"plan": edited}, dag_id="recode_graduates"))


@pytest.mark.usefixtures("graduates")
def test_two_dags_without_tables_of_their_own_cannot_code_the_same_topic(
    plan_with: Callable[..., dict[str, Any]],
) -> None:
    plan_with()
    with pytest.raises(PlanError, match="topic 'osca' of schema 'coding' is coded by the DAG 'recode_occupations'"):
        steps.make_plan(read_form(), make_run(dag_id="recode_labour_force"), read_param_names())
    assert steps.make_plan(read_form(), make_run(dag_id="recode_graduates"), read_param_names())


@pytest.mark.usefixtures("graduates")
def test_the_event_of_a_further_dag_says_where_its_codes_are(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan(run_id="recode_graduates/run-1", schema="coding_graduates")
    summary = LandingSummary(9, 5, 2, 2, 6, 5, 2, "2026-10-05", "2026-10-06", None)
    ti = TaskInstance({"plan": plan.to_dict(), "land": summary.to_dict()}, dag_id="recode_graduates")
    event = OutletEvent()
    steps.announce_dates(ti, make_run(partition_key="2026-10-05"), {"asset": event}, "asset")
    assert (event.extra["run_id"], event.extra["schema"]) == ("recode_graduates/run-1", "coding_graduates")


def test_the_sweep_records_abandoned_operations_in_the_tables_of_their_dag(
    make_plan: Callable[..., Plan], warehouse: Path, tmp_path: Path
) -> None:
    operation_ids = [f"{number}1111111-1111-4111-8111-111111111111" for number in range(3)]
    plans = [
        make_plan(),  # its folder does not say whose it is, as those of earlier versions
        make_plan(run_id="recode_graduates/run-1", schema="coding_graduates"),
        make_plan(run_id="trial", schema="coding_trial"),
    ]
    for plan, operation_id in zip(plans, operation_ids, strict=True):
        with open_staging(plan.run_id) as staging:
            if plan is not plans[0]:
                write_owner(plan, staging)
            staging.scratch.mkdir(parents=True, exist_ok=True)
            content = {
                "operation_id": operation_id, "run_id": "run-1", "part": 0, "topic": "osca", "model_id": MODELS[0],
                "records": 3, "is_sent": True,
            }  # fmt: skip
            (staging.scratch / f"{FILE_PREFIX}{operation_id}.json").write_text(json.dumps(content))
            for path in staging.scratch.iterdir():
                os.utime(path, (0, 0))
    assert len(steps.sweep_staging()) == 3
    with open_warehouse(warehouse).session() as session:
        rows = [
            session.execute(f"SELECT operation_id, run_id, state FROM {plan.schema}.coding_operations")
            for plan in plans
        ]
    run_keys = ["run-1", "recode_graduates/run-1", "trial"]
    assert rows == [
        [(operation_id, key, "abandoned")] for operation_id, key in zip(operation_ids, run_keys, strict=True)
    ]


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"run_id": "x", "schema": "a.b"}'])
def test_a_folder_that_does_not_say_whose_it_is_is_swept_all_the_same(
    make_plan: Callable[..., Plan], warehouse: Path, content: str
) -> None:
    make_plan()
    with open_staging("run-1") as staging:
        staging.scratch.mkdir(parents=True)
        (staging.scratch / "run.json").write_text(content)
        os.utime(staging.scratch / "run.json", (0, 0))
    assert len(steps.sweep_staging()) == 1
