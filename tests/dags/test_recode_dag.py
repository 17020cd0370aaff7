"""`recode_dag`: further DAGs in three lines, and defaults of the main one from the environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pendulum
import pytest
from airflow.sdk import Asset, PartitionedAssetTimetable

from coding_service.errors import SettingsError
from include.pipeline import names, settings
from include.pipeline.airflow_dags import recode_dag
from include.pipeline.form import DEFAULT_PARAMS, PARAMS, SINGLE_RUN_PARAMS, name_default, read_default_params

ROOT = Path(__file__).resolve().parents[2]

#: Parses a folder as Airflow does, and prints what its DAGs have, and its import errors by file name.
PARSE_FOLDER = """
import json, sys
from pathlib import Path
from airflow.dag_processing.dagbag import DagBag
dag_bag = DagBag(sys.argv[1])
print(json.dumps({
    "dags": {dag_id: {
        "defaults": dag.params.dump(), "file": Path(dag.fileloc).name,
        "outlets": [outlet.name for outlet in dag.get_task("announce").outlets],
        "pool": dag.get_task("code.create").pool,
        "alerts": [dag.on_failure_callback.__name__, *[deadline.name for deadline in dag.deadline]],
        "deferrable": [dag.get_task(name).deferrable for name in ("code.poll", "collect")],
    } for dag_id, dag in dag_bag.dags.items()},
    "errors": {Path(path).name: error for path, error in dag_bag.import_errors.items()},
}))
"""


def parse(folder: Path, **environment: str) -> Any:
    """Return what Airflow finds in a folder, in a process of its own with further environment variables."""
    process = subprocess.run(
        [sys.executable, "-c", PARSE_FOLDER, str(folder)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}", **environment},
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return json.loads(process.stdout.splitlines()[-1])


@pytest.fixture(autouse=True)
def _no_schemas_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "SCHEMA_SUFFIXES", {})


@pytest.fixture
def dags(tmp_path: Path) -> Path:
    """A folder with the file of the main DAG, and with one of two further DAGs, three lines long."""
    (tmp_path / "recode_occupations.py").write_text((ROOT / "dags" / "recode_occupations.py").read_text())
    (tmp_path / "surveys.py").write_text(
        "from include.pipeline.airflow_dags import recode_dag\n"
        'recode_dag("recode_labour_force", source="lfs", topic="anzsco", schedule="30 1 * * *")\n'
        'recode_dag("recode_graduates", source="graduates", schema="graduates", deferrable=False)\n'
    )
    return tmp_path


def test_two_more_surveys_are_a_file_of_three_lines(dags: Path) -> None:
    contents = parse(dags)
    assert contents["errors"] == {}
    plain = {name: param.value for name, param in PARAMS.items()}
    labour_force, graduates = contents["dags"]["recode_labour_force"], contents["dags"]["recode_graduates"]
    assert labour_force["defaults"] == {**plain, "source": "lfs", "topic": "anzsco"}
    assert graduates["defaults"] == {**plain, "source": "graduates"}
    assert contents["dags"]["recode_occupations"]["defaults"] == plain, (
        "a further DAG does not change the form of others"
    )
    assert {dag_id: dag["file"] for dag_id, dag in contents["dags"].items()} == {
        "recode_occupations": "recode_occupations.py",
        "recode_labour_force": "surveys.py",
        "recode_graduates": "surveys.py",
    }
    assert {dag_id: dag["outlets"] for dag_id, dag in contents["dags"].items()} == {
        "recode_occupations": ["coded_records"],
        "recode_labour_force": ["coded_records_recode_labour_force"],
        "recode_graduates": ["coded_records_recode_graduates"],
    }
    for dag in contents["dags"].values():
        assert dag["pool"] == "coding_service"
        assert dag["alerts"] == ["alert_on_failure", "codes landed in time"]
    assert labour_force["deferrable"] == [True, True]
    assert graduates["deferrable"] == [False, False]


DEFAULTS = {
    "CODING_DEFAULT_SOURCE": "survey.responses",
    "CODING_DEFAULT_TOPIC": "anzsco",
    "CODING_DEFAULT_COLUMNS": '{"occp_text": "job_title"}',
    "CODING_DEFAULT_LOOK_BACK_DAYS": " 30 ",
    "CODING_DEFAULT_MAX_UNCODED_SHARE": "0.25",
    "CODING_DEFAULT_APPROVE_ABOVE": "100000",
    "CODING_DEFAULT_CLEAN": "false",
    "CODING_DEFAULT_MAX_REJECTED_SHARE": "",
}


def test_the_environment_sets_the_defaults_of_the_main_dag_and_of_no_other(dags: Path) -> None:
    contents = parse(dags, **DEFAULTS)
    assert contents["errors"] == {}
    plain = {name: param.value for name, param in PARAMS.items()}
    assert contents["dags"]["recode_occupations"]["defaults"] == {
        **plain, "source": "survey.responses", "topic": "anzsco", "columns": {"occp_text": "job_title"},
        "look_back_days": 30, "max_uncoded_share": 0.25, "approve_above": 100_000, "clean": False,
    }  # fmt: skip
    assert contents["dags"]["recode_graduates"]["defaults"] == {**plain, "source": "graduates"}


def test_a_broken_default_is_an_import_error_that_names_its_variable_and_no_other_file_has_one(dags: Path) -> None:
    contents = parse(dags, CODING_DEFAULT_LOOK_BACK_DAYS="a week")
    assert list(contents["errors"]) == ["recode_occupations.py"]
    sentence = (
        "the environment variable CODING_DEFAULT_LOOK_BACK_DAYS is 'a week'; expected a whole number from 0 to 366"
    )
    assert sentence in contents["errors"]["recode_occupations.py"]
    assert sorted(contents["dags"]) == ["recode_graduates", "recode_labour_force"]


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("LOOK_BACK_DAYS", "367", "LOOK_BACK_DAYS is 367; expected a whole number from 0 to 366"),
        ("LOOK_BACK_DAYS", "7.5", "LOOK_BACK_DAYS is 7.5; expected a whole number"),
        ("MAX_UNCODED_SHARE", "1.5", "MAX_UNCODED_SHARE is 1.5; expected a number from 0 to 1"),
        ("MAX_UNCODED_SHARE", "NaN", "MAX_UNCODED_SHARE is nan"),
        ("MAX_UNCODED_SHARE", "half", "MAX_UNCODED_SHARE is 'half'; expected a number from 0 to 1"),
        ("APPROVE_ABOVE", "-1", "APPROVE_ABOVE is -1; expected null or a whole number from 0"),
        ("CLEAN", "no", "CLEAN is 'no'; expected true or false"),
        ("COLUMNS", "occp_text=job_title", "COLUMNS is 'occp_text=job_title'; expected a JSON object"),
        ("COLUMNS", '["job_title"]', r"COLUMNS is \['job_title'\]; expected a JSON object"),
        ("COLUMNS", '{"ocp_text": "job"}', r"`columns` names 'ocp_text' \(did you mean 'occp_text'\?\)"),
        ("TOPIC", "osca/../x", r"TOPIC is 'osca/\.\./x'\. Plan is invalid: topic: "),
        ("SELECTION", "some", r"SELECTION is 'some'; expected one of \['uncoded', 'all'\]"),
        ("SORCE", "survey", r"unknown variables: 'CODING_DEFAULT_SORCE' \(did you mean 'CODING_DEFAULT_SOURCE'\?\)"),
        ("DRY_RUN", "true", r"\['CODING_DEFAULT_DRY_RUN'\], but these say what a single run is for"),
        ("FROM_DATE", "2026-01-01", r"\['CODING_DEFAULT_FROM_DATE'\], but these say what a single run is for"),
    ],
)
def test_a_default_that_no_run_could_have_is_refused_with_what_is_expected(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    monkeypatch.setenv(f"CODING_DEFAULT_{variable}", value)
    with pytest.raises(SettingsError, match=message):
        read_default_params()


def test_an_empty_variable_is_no_default_even_if_there_is_no_such_param(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODING_DEFAULT_SOURCE", "")
    monkeypatch.setenv("CODING_DEFAULT_OF_ANOTHER_VERSION", " ")
    assert read_default_params() == {}


def test_every_param_of_the_nightly_run_has_a_variable_and_those_of_a_single_run_have_none() -> None:
    assert {*DEFAULT_PARAMS, *SINGLE_RUN_PARAMS} == set(PARAMS)
    assert {name_default(name) for name in DEFAULT_PARAMS} >= set(DEFAULTS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sorce": "lfs"}, r"recode_dag\('x'\) has unknown arguments: 'sorce' \(did you mean 'source'\?\)"),
        ({"dry_run": True}, r"recode_dag\('x'\) sets \['dry_run'\], but these say what a single run is for"),
        ({"look_back_days": "7"}, r"recode_dag\('x'\): `look_back_days` is '7'; expected a whole number from 0 to 366"),
        ({"columns": {"a": "b"}}, r"recode_dag\('x'\): `columns` is {'a': 'b'}\. `columns` names 'a'"),
        ({"schema": "my-schema"}, r"recode_dag\('x'\): `schema` is 'my-schema'; expected letters, digits"),
        ({"schema": "graduates_trial"}, r"`schema` is 'graduates_trial'; expected .* do not end with 'trial'"),
        ({"schema": "TRIAL"}, "do not end with 'trial'"),
        ({"schedule": "0 2 * * *"}, r"`schedule` is '0 2 \* \* \*'; .*but not from 2 to 3 o'clock"),
        ({"schedule": "@hourly"}, r"`schedule` is '@hourly'; expected a time of each day, such as '30 1 \* \* \*'"),
        ({"schedule": "0 0 * * 1"}, r"`schedule` is '0 0 \* \* 1'; expected a time of each day"),
        ({"schedule": ["coded_records"]}, "expected a time of each day"),
    ],
)  # fmt: skip
def test_an_argument_that_cannot_work_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        recode_dag("x", **arguments)
    assert settings.SCHEMA_SUFFIXES == {}


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # of Airflow's reader of .airflowignore
@pytest.mark.parametrize("schedule", [f"{minute} {hour} * * *" for hour in (0, 1, 3, 23) for minute in (0, 59)])
@pytest.mark.parametrize("month", [4, 10])
def test_each_night_around_a_clock_change_is_for_the_day_before_at_any_time_that_is_accepted(
    schedule: str, month: int
) -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    dag = recode_dag("x", schedule=schedule)
    timetable: Any = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag)).timetable
    moment = timetable._align_to_next(pendulum.datetime(2026, month, 1, tz=names.TIMEZONE))
    for _ in range(10):
        local, (_, key) = moment.in_timezone(names.TIMEZONE), timetable._get_partition_info(moment)
        assert key == local.subtract(days=1).to_date_string()
        moment = timetable._get_next(moment)


def test_a_dag_can_start_when_its_source_is_loaded() -> None:
    timetable = PartitionedAssetTimetable(assets=Asset("labour_force_responses"))
    assert recode_dag("x", schedule=timetable).timetable is timetable


# ---- tables of a DAG's own -----------------------------------------------------------------------------------------


def test_the_argument_schema_gives_a_dag_tables_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    recode_dag("recode_graduates", schema="graduates")
    recode_dag("recode_labour_force")
    monkeypatch.setenv("CODING_SCHEMA", "codes")
    assert settings.read_dag_schema("recode_graduates") == "codes_graduates"
    assert settings.read_dag_schema("recode_graduates", is_trial=True) == "codes_graduates_trial"
    assert (
        settings.read_dag_schema("recode_labour_force") == settings.read_dag_schema("recode_occupations") == "codes"
    )


def test_an_argument_that_is_removed_is_forgotten() -> None:
    recode_dag("recode_graduates", schema="graduates")
    recode_dag("recode_graduates")
    assert settings.read_dag_schema("recode_graduates") == "coding"
