"""Where a run may write an export, and names that attack the deployment: a refusal that tells nothing."""

from datetime import datetime
from pathlib import Path

import pytest

from include.coding.errors import PlanError
from include.coding.export_access import ExportAccess, find_target
from include.coding.plan import resolve_dates
from include.coding.source_access import SourceAccess
from tests.coding.conftest import make_plan


@pytest.fixture
def folders(tmp_path):
    """Folders that runs may write to, may read, and may do neither with."""
    for name in ("out", "in", "private"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "answers.csv").write_text("a\n")
    return tmp_path


@pytest.fixture
def access(folders):
    return ExportAccess((folders / "out",), ("s3://bucket/out",), SourceAccess(folders=(folders / "in",)))


def refuse(export, access):
    """Return the message of a refusal without the name of the file."""
    with pytest.raises(PlanError) as excinfo:
        find_target(str(export), access)
    return str(excinfo.value).replace(repr(str(export)), "")


def test_a_file_is_written_to_an_allowed_folder_only(access, folders):
    for export in (folders / "out" / "a b.csv", (folders / "out" / "a b.csv").as_uri()):
        assert find_target(str(export), access).path == folders / "out" / "a b.csv"
    assert find_target("s3://bucket/out/a.csv", access).path is None


def test_what_is_outside_is_refused_in_the_same_words_whether_it_exists_or_not(access, folders):
    (folders / "out" / "link").symlink_to(folders / "private")
    (folders / "out" / "loop").symlink_to(folders / "out" / "loop")
    messages = {
        refuse(export, access)
        for export in (
            folders / "private" / "answers.csv", folders / "private" / "missing.csv", folders / "in" / "new.csv",
            f"{folders}/out/../private/answers.csv", f"{folders}/out/../out/a.csv", folders / "out" / "link" / "a.csv",
            folders / "out" / "loop" / "a.csv", "/etc/a.csv", "s3://bucket/a.csv", "s3://bucket/out/../a.csv",
            "s3://bucket/outside/a.csv", "s3://other/out/a.csv", "s3://bucket/out/a.csv?versionId=.csv",
            "s3://bucket/out/a.csv#.csv",
        )
    }  # fmt: skip
    (message,) = messages
    assert "is not in a folder to which runs may write (allowed: " in message
    assert "CODING_EXPORT_FOLDERS" in message


def test_without_the_setting_no_export_is_written(folders):
    assert "(allowed: none)" in refuse(folders / "out" / "a.csv", ExportAccess())


def test_a_missing_folder_and_a_folder_are_no_files(access, folders):
    (folders / "out" / "dir.csv").mkdir()
    for name in ("missing/a.csv", "dir.csv"):
        assert "create the folder, or name a file in another one" in refuse(folders / "out" / name, access)


@pytest.mark.parametrize(
    ("exports", "sources"),
    [
        ("{0}/in", "{0}/in"), ("{0}/in/coded", "{0}/in"), ("{0}", "{0}/in"), ("{0}/link", "{0}/in"),
        ("s3://bucket/in", "s3://bucket/in"), ("s3://bucket", "s3://bucket/in"), ("s3://bucket/in/x", "s3://bucket/in"),
    ],
)  # fmt: skip
def test_no_folder_can_be_both_for_exports_and_for_sources(folders, exports, sources):
    (folders / "link").symlink_to(folders / "in")
    access = SourceAccess.from_settings("", sources.format(folders), "coding", (), None)
    with pytest.raises(PlanError, match="an export could replace what other runs read"):
        ExportAccess.from_settings(exports.format(folders), access, (), None)


def test_folders_and_prefixes_beside_each_other_can_be_for_exports_and_for_sources(folders):
    access = SourceAccess.from_settings("", f"{folders}/in,s3://bucket/in", "coding", (), None)
    allowed = ExportAccess.from_settings(f"{folders}/out,s3://bucket/inner", access, (), None)
    assert (allowed.folders, allowed.prefixes) == ((folders / "out",), ("s3://bucket/inner",))


def test_a_link_that_replaces_the_folder_is_refused(access, folders):
    assert find_target(str(folders / "out" / "a.csv"), access).path == folders / "out" / "a.csv"
    (folders / "out" / "inner").mkdir()
    allowed = ExportAccess((folders / "out",), sources=access.sources)
    find_target(str(folders / "out" / "inner" / "a.csv"), allowed)
    (folders / "out" / "inner").rmdir()
    (folders / "out" / "inner").symlink_to(folders / "private")
    assert "is not in a folder" in refuse(folders / "out" / "inner" / "a.csv", allowed)


@pytest.mark.parametrize(
    "entry", ["data", "s3://", "s3://bucket/*", "s3://bucket/staging", str(Path(__file__).parent)]
)
def test_an_entry_of_the_setting_that_cannot_be_used_is_named(entry):
    with pytest.raises(PlanError, match="CODING_EXPORT_FOLDERS names "):
        ExportAccess.from_settings(entry, SourceAccess(), [Path(__file__).parent], "s3://bucket/staging")


@pytest.mark.parametrize(
    "export", ["coded.csv", "file://host/a.csv", "http://x/a.csv", "/data/a.xls", "/data/a", "table"]
)
def test_an_export_is_the_uri_of_a_file_of_a_known_type(export):
    with pytest.raises(PlanError, match=r"expected the URI of a file, .* ends in \.parquet, \.csv, \.xlsx"):
        make_plan(export=export)


def test_the_run_of_a_partition_writes_no_export():
    with pytest.raises(PlanError, match="which the run of each partition would replace"):
        resolve_dates({"export": "/data/a.csv"}, "2026-10-05", datetime(2026, 10, 6))


def test_a_night_writes_no_export():
    assert make_plan(export="/data/A.CSV").export == "/data/A.CSV"
    with pytest.raises(PlanError, match="start a run by hand"):
        make_plan(export="/data/a.csv", changed_only=True)
