"""The settings of the deployment, and the folders that they lead to."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coding_service.errors import InputFileError
from include.coding.engine import copy_to_file, open_engine
from include.coding.errors import PlanError
from include.coding.files import path_from_uri
from include.pipeline.settings import (
    PROJECT,
    open_staging,
    qualified_table,
    read_approval_limit,
    read_run_key,
    read_schema,
    read_setting,
    read_source_access,
    run_folder,
    staging_base,
)


def test_an_airflow_variable_comes_before_the_environment_and_the_default_comes_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert read_setting("CODING_SCHEMA", "coding") == "coding"
    monkeypatch.setenv("CODING_SCHEMA", "of_the_environment")
    assert read_setting("CODING_SCHEMA", "coding") == "of_the_environment"
    monkeypatch.setenv("AIRFLOW_VAR_CODING_SCHEMA", "of_airflow")
    assert read_setting("CODING_SCHEMA", "coding") == "of_airflow"
    assert qualified_table("current_codes") == '"of_airflow".current_codes'


def test_run_ids_that_look_alike_have_folders_of_their_own() -> None:
    assert run_folder("a:1") != run_folder("a+1")
    assert run_folder("a:1") == run_folder("a:1")


def test_the_folder_of_a_run_with_a_long_id_has_a_name_that_fits() -> None:
    assert len(run_folder("r" * 250).rpartition("/")[2]) < 100


def test_a_local_staging_area_needs_no_scratch_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODING_STAGING", tmp_path.as_uri())
    with open_staging("run-1") as staging:
        assert (staging.uri, staging.scratch.as_uri(), staging.fs) == (run_folder("run-1"), run_folder("run-1"), None)


def test_the_folder_of_a_run_is_below_the_staging_area_whatever_its_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODING_STAGING", tmp_path.as_uri())
    for run_id in ("../../etc", "/etc", "..", "", "a/../../b", "file:///etc", "x\0"):
        folder = run_folder(run_id)
        assert folder.rpartition("/")[0] == f"{tmp_path.as_uri()}/occupation-coding-runs"


def test_what_a_task_writes_to_a_local_staging_area_is_for_its_owner_only_whatever_the_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODING_STAGING", (tmp_path / "base").as_uri())
    folder = path_from_uri(run_folder("run-1"))
    previous = os.umask(0)
    try:
        with open_staging("run-1") as staging, open_engine(staging.scratch, "prepare", 100) as engine:
            engine.execute("CREATE TABLE texts AS SELECT 'chef' AS occp_text; CHECKPOINT")
            copy_to_file(engine, "SELECT * FROM texts", folder / "part.jsonl", "FORMAT json")
            (folder / "report.md").write_text("# Report")
            modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "base").rglob("*")}
            assert modes.keys() >= {folder.name, "prepare.duckdb", "part.jsonl", "report.md"}
            assert {name: oct(mode) for name, mode in modes.items() if mode & 0o077} == {}
        assert os.umask(0) == 0, "the umask of the process is as before"
    finally:
        os.umask(previous)


@pytest.mark.parametrize(
    "uri", ["gs://bucket/staging", "/data/staging", "file://data/staging", "file:///data/#1", "file:///data/?a"]
)
def test_a_staging_area_that_is_neither_local_nor_in_s3_is_refused(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_VAR_CODING_STAGING", uri)
    with pytest.raises(InputFileError) as raised:
        staging_base()
    assert f"{uri!r}: use file:///... or s3://bucket/..., and set CODING_STAGING to it" in str(raised.value)


@pytest.mark.parametrize(("setting", "limit"), [("", None), ("0", 0), ("5000", 5000)])
def test_the_number_of_texts_that_needs_approval_is_a_setting(
    setting: str, limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODING_APPROVE_ABOVE", setting)
    assert read_approval_limit() == limit


@pytest.mark.parametrize("setting", ["many", "-1", "1.5"])
def test_a_number_of_texts_that_is_not_a_whole_number_is_refused(
    setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODING_APPROVE_ABOVE", setting)
    with pytest.raises(PlanError, match=f"CODING_APPROVE_ABOVE is '{setting}'; expected a whole number of texts"):
        read_approval_limit()


def test_what_runs_may_read_is_a_setting_and_no_file_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (read_source_access().tables, read_source_access().folders) == ((), ())
    monkeypatch.setenv("CODING_SOURCE_FOLDERS", str(tmp_path))
    monkeypatch.setenv("CODING_SOURCE_TABLES", "public.*")
    monkeypatch.setenv("CODING_SCHEMA", "codes")
    access = read_source_access()
    assert (access.tables, access.folders, access.project_schema) == (("public.*",), (tmp_path,), "codes")


def test_objects_are_read_below_allowed_prefixes_with_a_connection_that_exists(
    s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = s3.create_bucket()
    s3.client.put_object(Bucket=bucket, Key="a.csv", Body=b"x")
    monkeypatch.setenv("CODING_SOURCE_FOLDERS", f"s3://{bucket}/")
    monkeypatch.setenv("AIRFLOW_CONN_SURVEY_BUCKET", s3.connection())
    access = read_source_access()
    assert (access.folders, access.prefixes) == ((), (f"s3://{bucket}",))
    assert access.open_storage is not None
    assert access.open_storage(f"s3://{bucket}/a.csv", "survey_bucket").info(f"s3://{bucket}/a.csv")["size"] == 1
    with pytest.raises(PlanError, match="`connection` in `read_options` is 'nope', which does not exist"):
        access.open_storage(f"s3://{bucket}/a.csv", "nope")


@pytest.mark.parametrize("name", ["project", "run", "airflow", "staging", "parent of staging"])
def test_the_projects_own_folders_cannot_be_allowed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CODING_STAGING", (tmp_path / "files" / "staging").as_uri())
    folder = {
        "project": PROJECT, "run": PROJECT / ".run", "airflow": tmp_path / "home",
        "staging": tmp_path / "files" / "staging", "parent of staging": tmp_path / "files",
    }[name]  # fmt: skip
    monkeypatch.setenv("CODING_SOURCE_FOLDERS", f"{tmp_path / 'data'},{folder}")
    with pytest.raises(PlanError, match=f"CODING_SOURCE_FOLDERS names '{folder}', which is or contains"):
        read_source_access()


def test_the_folders_of_two_runs_with_the_same_id_differ_if_their_dags_do() -> None:
    runs = [SimpleNamespace(dag_id=dag_id, run_id="night") for dag_id in ("recode_occupations", "recode_graduates")]
    assert [read_run_key(run) for run in runs] == ["night", "recode_graduates/night"]
    assert len({run_folder(read_run_key(run)) for run in runs}) == 2


@pytest.mark.parametrize("suffix", ["", "a.b", "x" * 51, 'x"; DROP TABLE y; --', "trial", "a_Trial"])
def test_the_end_of_the_name_of_a_schema_is_plain_and_not_that_of_trials(suffix: str) -> None:
    with pytest.raises(PlanError, match="expected letters, digits and underscores"):
        read_schema(suffix)


def test_a_schema_with_a_name_that_is_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_schema("labour_force", is_trial=True) == "coding_labour_force_trial"
    monkeypatch.setenv("CODING_SCHEMA", "c" * 40)
    with pytest.raises(PlanError, match="is too long: shorten the argument `schema` of recode_dag"):
        read_schema("l" * 20)
