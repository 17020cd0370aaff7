"""A file that a run has published and that has not changed since is recognized without being read."""

import os
from dataclasses import replace
from importlib.metadata import version

import duckdb
import pytest

from include.coding import checksums
from include.coding.checksums import compute_file_checksum
from include.coding.files import path_from_uri
from include.coding.limits import LimitError
from include.coding.source_files import find_file
from tests.coding.conftest import DAY, NEXT_DAY, ROOT, code_line, make_plan, on_all_warehouses
from tests.coding.test_landing import defer_landing

RECOGNIZED = "Run '{}' has published this file, which has not changed since: nothing to do"
BAKER = {"codeCategory": "3512", "codeLabel": "Baker", "codeConfidence": 0.8}


@pytest.fixture
def folder(tmp_path):
    """Where the files of a source are."""
    folder = tmp_path / "answers"
    folder.mkdir()
    return folder


def write_file(path, *texts, day=DAY, order="1", extra=""):
    """Write a record of a day for each text, and rows of SQL."""
    rows = ", ".join(f"('{number}', DATE '{day}', '{text}', '')" for number, text in enumerate(texts))
    columns = "record_id, response_date, occp_text, tasks_text"
    duckdb.execute(f"COPY (SELECT * FROM (VALUES {rows}{extra}) AS t({columns}) ORDER BY {order}) TO '{path}'")
    return path


@pytest.fixture
def source(folder):
    return write_file(folder / "a.parquet", "chef", "baker", "").as_uri()


def is_recognized(pipeline, caplog, published_by="run-1", **changes):
    """Prepare another run, and return whether the file was recognized as the one that a run has published."""
    caplog.clear()
    prepared = pipeline.prepare(**{"run_id": "run-2", **changes})
    assert prepared.unchanged == ("nothing to do" in caplog.text)
    return RECOGNIZED.format(published_by) in caplog.text


@on_all_warehouses
def test_a_file_that_has_not_changed_is_recognized_in_every_later_run(pipeline, source, caplog):
    caplog.set_level("INFO")
    first = pipeline.run(source=source)
    for run_id in ("run-2", "run-3"):
        assert is_recognized(pipeline, caplog, source=source, run_id=run_id)
        assert pipeline.prepared.parts == ()
        summary = pipeline.land()
        expected = {**vars(first), "texts_sent": 0, "operations": 0, "published_by_run": "run-1", "dates": ()}
        assert vars(summary) == expected
    assert pipeline.query("SELECT DISTINCT run_id FROM coding.coded_records") == [("run-1",)]


def test_a_file_with_one_other_letter_is_read_although_its_size_and_time_are_the_same(pipeline, folder, caplog):
    caplog.set_level("INFO")
    path = folder / "a.csv"
    lines = f"record_id,response_date,occp_text,tasks_text\n1,{DAY},baker,\n"
    path.write_text(lines)
    status = path.stat()
    pipeline.run(source=path.as_uri())
    path.write_text(lines.replace("baker", "maker"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert not is_recognized(pipeline, caplog, source=path.as_uri())
    pipeline.land()
    assert pipeline.query("SELECT occp_text FROM coding.coded_texts ORDER BY 1") == [("baker",), ("maker",)]


def test_the_same_records_in_another_file_are_found_by_reading_and_recognized_from_then_on(
    pipeline, folder, source, caplog
):
    caplog.set_level("INFO")
    pipeline.run(source=source)
    write_file(folder / "a.parquet", "chef", "baker", "", order="occp_text")
    assert not is_recognized(pipeline, caplog, source=source)
    assert pipeline.prepared.unchanged
    pipeline.land()
    assert is_recognized(pipeline, caplog, source=source, run_id="run-3")


@pytest.mark.parametrize(
    "changes",
    [
        {"clean": False},
        {"max_characters": 200},
        {"timezone": "Australia/Sydney"},
        {"columns": {"tasks_text": None}},
        {"read_options": {"timezone": "Australia/Perth"}},
        {"excluded_dates": [NEXT_DAY]},
        {"max_records": 2},
    ],
)
def test_a_file_is_read_again_with_another_plan(pipeline, source, caplog, changes):
    caplog.set_level("INFO")
    pipeline.run(source=source)
    assert not is_recognized(pipeline, caplog, source=source, **changes)


@pytest.mark.parametrize("name", ["RULES", "READER_VERSIONS"])
def test_a_file_is_read_again_after_an_update_of_what_reads_or_validates_it(
    pipeline, source, caplog, monkeypatch, name
):
    caplog.set_level("INFO")
    pipeline.run(source=source)
    monkeypatch.setattr(checksums, name, "another version")
    assert not is_recognized(pipeline, caplog, source=source)


def test_the_code_that_reads_files_and_its_libraries_have_a_version():
    libraries = ["duckdb", "pyarrow", "python-calamine"]
    *versions, code = checksums.READER_VERSIONS.split()[-4:]
    assert versions == [version(name) for name in libraries]
    assert code == checksums.hash_modules(ROOT / "include" / "coding")


def test_the_hash_of_code_changes_with_each_of_its_modules_and_ignores_files_of_an_editor(tmp_path):
    (tmp_path / "a.py").write_text("one = 1\n")
    (tmp_path / "b.py").write_text("two = 2\n")
    first = checksums.hash_modules(tmp_path)
    (tmp_path / ".#a.py").symlink_to("user@machine")
    assert checksums.hash_modules(tmp_path) == first
    (tmp_path / "b.py").write_text("two = 3\n")
    assert checksums.hash_modules(tmp_path) != first


def test_a_file_is_read_again_if_all_of_its_texts_are_to_be_coded_again(pipeline, source, caplog):
    caplog.set_level("INFO")
    pipeline.run(source=source)
    assert not is_recognized(pipeline, caplog, source=source, selection="all")
    pipeline.land()
    assert is_recognized(pipeline, caplog, source=source, run_id="run-3", published_by="run-2")


def test_a_file_is_read_again_for_an_export(pipeline, source, folder, caplog):
    caplog.set_level("INFO")
    pipeline.run(source=source)
    assert not is_recognized(pipeline, caplog, source=source, export=(folder / "coded.csv").as_uri())


@pytest.mark.parametrize(
    "row",
    [
        ", ('9', NULL, 'nurse', '')",
        ", ('9', DATE '0001-01-01', 'nurse', '')",
        ", (NULL, NULL, NULL, NULL)",
    ],
)
def test_a_file_with_rows_that_no_run_codes_is_read_again_so_that_each_report_counts_them(
    pipeline, folder, caplog, row
):
    caplog.set_level("INFO")
    source = write_file(folder / "a.parquet", "chef", "baker", "", extra=row).as_uri()
    pipeline.run(source=source)
    assert not is_recognized(pipeline, caplog, source=source)
    prepared = pipeline.prepared
    assert prepared.unchanged
    assert prepared.undated + prepared.unreadable_dates + prepared.empty_rows == 1


def test_a_file_whose_rows_are_numbered_is_read_again_so_that_each_run_says_so(pipeline, source, caplog):
    caplog.set_level("INFO")
    pipeline.run(source=source, columns={"record_id": None})
    assert not is_recognized(pipeline, caplog, source=source, columns={"record_id": None})
    assert (pipeline.prepared.unchanged, len(pipeline.prepared.notes)) == (True, 1)


def test_a_run_by_hand_after_a_night_without_records_says_which_dates_the_file_has(pipeline, source, caplog):
    caplog.set_level("INFO")
    dates = {"from_date": NEXT_DAY, "to_date": NEXT_DAY}
    pipeline.run(source=source, **dates, changed_only=True)
    assert not is_recognized(pipeline, caplog, source=source, **dates)
    assert "it has 1 dates" in pipeline.prepared.notes[0]


def test_a_run_that_published_a_part_of_its_records_has_not_published_the_file(pipeline, folder, source, caplog):
    caplog.set_level("INFO")
    write_file(folder / "b.parquet", "nurse", day=NEXT_DAY)
    land_older = defer_landing(pipeline, source=folder.as_uri(), run_id="run-older")
    pipeline.run(source=folder.as_uri(), run_id="run-newer", from_date=NEXT_DAY)
    land_older()
    checksums_of_older = "SELECT checksum, file_checksum FROM coding.coding_runs WHERE run_id = 'run-older'"
    assert pipeline.query(checksums_of_older) == [(None, None)]
    assert not is_recognized(pipeline, caplog, source=folder.as_uri())
    assert not pipeline.prepared.unchanged


def test_a_table_and_a_very_large_file_have_no_checksum(pipeline, source, monkeypatch):
    pipeline.fill(("1", DAY, "chef", ""))
    assert pipeline.prepare().file_checksum is None
    path = path_from_uri(source)
    write_file(path.with_name("b.parquet"), "nurse")
    monkeypatch.setattr(checksums, "MAX_HASHED_BYTES", path.stat().st_size)
    assert pipeline.prepare(source=source).file_checksum
    assert pipeline.prepare(source=path.parent.as_uri()).file_checksum is None


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM coding.coded_records WHERE record_id = '1'",
        "UPDATE coding.coded_records SET run_id = 'somebody' WHERE record_id = '1'",
        "UPDATE coding.coding_runs SET checksum = NULL",
    ],
)
def test_a_file_is_read_again_when_the_published_rows_changed(pipeline, source, caplog, change):
    caplog.set_level("INFO")
    pipeline.run(source=source)
    pipeline.query(change)
    assert not is_recognized(pipeline, caplog, source=source)
    assert not pipeline.prepared.unchanged


def test_a_file_is_read_again_after_its_texts_were_coded_again(pipeline, folder, source, caplog):
    caplog.set_level("INFO")
    pipeline.run(source=source)
    other = write_file(folder / "b.parquet", "chef", day=NEXT_DAY).as_uri()
    pipeline.run(
        run_id="run-all", source=other, selection="all", from_date=NEXT_DAY,
        code=lambda line: code_line(line, result=BAKER),
    )  # fmt: skip
    assert not is_recognized(pipeline, caplog, source=source)


def test_a_folder_is_read_again_when_it_has_another_file(pipeline, folder, source, caplog):
    caplog.set_level("INFO")
    pipeline.run(source=folder.as_uri())
    assert is_recognized(pipeline, caplog, source=folder.as_uri())
    write_file(folder / "b.parquet", "nurse")
    assert not is_recognized(pipeline, caplog, source=folder.as_uri())
    assert not pipeline.prepared.unchanged


def test_a_stricter_limit_also_applies_to_a_file_that_is_recognized(pipeline, source, caplog):
    caplog.set_level("INFO")
    pipeline.run(source=source, code=lambda line: code_line(line, result=None), max_uncoded_share=1)
    with pytest.raises(LimitError, match="nothing was sent: 2 of 2 records are uncoded"):
        pipeline.prepare(run_id="run-2", source=source, max_uncoded_share=0.1)
    assert RECOGNIZED.format("run-1") in caplog.text


def test_a_file_that_changes_while_its_checksum_is_computed_has_none(pipeline, folder, source):
    plan = make_plan(source=source)
    file = find_file(source, pipeline.access)
    assert compute_file_checksum(file, plan) == compute_file_checksum(file, plan)
    assert compute_file_checksum(replace(file, content=((0, 0, 0, 0),)), plan) is None
    (folder / "a.parquet").unlink()
    assert compute_file_checksum(file, plan) is None
