"""The settings of the deployment, and the folders that they lead to."""

from __future__ import annotations

from pathlib import Path

import pytest

from coding_service.errors import InputFileError
from include.coding.errors import PlanError
from include.pipeline.settings import (
    open_staging,
    qualified_table,
    read_approval_limit,
    read_setting,
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
