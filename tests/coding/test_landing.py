"""Landing: what came back is kept, and a run is published as a whole or not at all."""

import json
import subprocess
import time
from dataclasses import replace
from datetime import date

import duckdb
import pytest

from include.coding.errors import AuditError, IncompleteError
from include.coding.files import path_from_uri
from include.coding.plan import MIN_MEMORY_MB
from include.coding.publish import _format_dates, _merge_into_spans
from include.coding.results import PartResult
from tests.coding.conftest import (
    CHEF,
    DAY,
    LATER_DAY,
    MODEL,
    NEXT_DAY,
    OTHER_MODEL,
    code_line,
    make_key,
)

RECORDS = [
    ("1", DAY, "chef", "cooks"),
    ("2", DAY, "chef ", "cooks"),
    ("3", NEXT_DAY, "baker", ""),
    ("4", NEXT_DAY, "", None),
    ("5", LATER_DAY, "chef", "cooks"),
]
OUTCOMES = [("1", "coded"), ("2", "coded"), ("3", "coded"), ("4", "rejected")]
BAKER = {**CHEF, "codeCategory": "3512", "codeLabel": "Bakers"}


def code_chefs(line):
    """Chefs are coded, all others have a suggestion."""
    if line["occp_text"] == "chef":
        return code_line(line)
    return code_line(line, result=None, suggestions=[BAKER])


@pytest.fixture
def filled(pipeline):
    pipeline.fill(*RECORDS)
    return pipeline


def failed(part, **changes):
    return PartResult(part.part, f"operation-{part.part}", "failed", "the service says: Malformed record", **changes)


def count(pipeline, table):
    return pipeline.query(f"SELECT count(*) FROM coding.{table}")[0][0]


def test_a_record_is_published_with_its_code_and_where_it_came_from(filled):
    filled.run(code=code_chefs)
    columns = (
        "record_id, occurrence, topic, model_id, model_version, outcome, code, label, confidence, level, suggestions,"
        " reason, text_key, operation_id, run_id, CAST(response_date AS VARCHAR)"
    )
    rows = filled.query(f"SELECT {columns} FROM coding.coded_records WHERE record_id <> '2' ORDER BY record_id")
    fixed, operation = ("osca", MODEL, 1.0), "run-1-operation-0"
    suggestions = json.dumps([BAKER], separators=(",", ":"))
    chef, baker = make_key("chef", "cooks"), make_key("baker", "")
    assert rows == [
        ("1", 1, *fixed, "coded", "351311", "Chef", 0.92, 6, None, None, chef, operation, "run-1", DAY),
        ("3", 1, *fixed, "uncoded", None, None, None, None, suggestions, None, baker, operation, "run-1", NEXT_DAY),
        ("4", 1, *fixed, "rejected", None, None, None, None, None, "blank", None, None, "run-1", NEXT_DAY),
    ]


def test_a_landing_tells_its_counts(filled):
    landed = filled.run(code=code_chefs, records_per_part=1)
    assert vars(landed) == {
        **{"read": 4, "coded": 2, "uncoded": 1, "rejected": 1, "texts": 2, "texts_sent": 2, "operations": 2},
        **{"from_date": DAY, "to_date": NEXT_DAY, "published_by_run": None, "days": (DAY, NEXT_DAY)},
    }


def test_equal_texts_get_the_code_of_the_one_that_was_sent(filled):
    filled.run()
    rows = filled.query("SELECT DISTINCT code, operation_id FROM coding.coded_records WHERE text_key IS NOT NULL")
    assert rows == [("351311", "run-1-operation-0")]


def test_a_text_is_kept_with_its_result(filled):
    filled.run(code=code_chefs)
    rows = filled.query(
        "SELECT text_key, topic, model_id, model_version, occp_text, tasks_text, outcome, code, run_id"
        " FROM coding.coded_texts ORDER BY occp_text"
    )
    assert rows == [
        (make_key("baker", ""), "osca", MODEL, 1.0, "baker", "", "uncoded", None, "run-1"),
        (make_key("chef", "cooks"), "osca", MODEL, 1.0, "chef", "cooks", "coded", "351311", "run-1"),
    ]


def test_an_operation_is_kept_with_its_metadata_as_it_came(filled):
    filled.prepare()
    (part,) = filled.prepared.parts
    told = json.dumps({"modelId": MODEL, "x": "é"}, ensure_ascii=False)
    filled.land([filled.code_part(part, metadata=told.encode())])
    columns = (
        "operation_id, run_id, part, topic, model_id, records, bytes, state, error, usable, discarded_lines, metadata"
    )
    rows = filled.query(f"SELECT {columns} FROM coding.coding_operations")
    operation = ("run-1-operation-0", "run-1", 0, "osca", MODEL)
    assert rows == [(*operation, 2, part.bytes, "complete", None, 2, 0, told)]


def test_a_nul_in_a_label_or_an_id_costs_nothing(pipeline, tmp_path):
    path = tmp_path / "a.parquet"
    columns = f"'R' || chr(0) AS record_id, DATE '{DAY}' AS response_date, 'chef' AS occp_text, '' AS tasks_text"
    duckdb.execute(f"COPY (SELECT {columns}) TO '{path}'")
    pipeline.run(source=path.as_uri(), code=lambda line: code_line(line, {**CHEF, "codeLabel": "Ch\0ef"}))
    assert pipeline.query("SELECT record_id, label FROM coding.coded_records") == [("R\ufffd", "Ch\ufffdef")]


def test_landing_again_after_the_files_are_removed_leaves_what_is_known_of_the_operation(filled):
    filled.prepare()
    returned = [filled.code_part(part, metadata=b"{}") for part in filled.prepared.parts]
    filled.land(returned)
    operation = "SELECT usable, error, metadata FROM coding.coding_operations"
    before = filled.query(operation)
    filled.staging.clear()
    with pytest.raises(IncompleteError, match="is gone"):
        filled.land(returned)
    assert filled.query(operation) == before == [(2, None, "{}")]


def test_a_run_that_is_cleared_keeps_the_count_of_what_it_had_sent(filled):
    filled.run()
    filled.run()
    assert filled.query("SELECT texts_sent, operations FROM coding.coding_runs") == [(2, 1)]


def test_landing_again_changes_nothing_but_the_times(filled):
    filled.run()
    first = filled.read_outcomes()
    filled.land()
    assert filled.read_outcomes() == first == OUTCOMES
    assert [count(filled, table) for table in ("coded_texts", "coding_operations")] == [2, 1]


def test_a_run_that_sends_nothing_publishes_what_is_known(filled):
    filled.run()
    filled.fill(("9", DAY, "baker", ""))
    landed = filled.run(run_id="run-2")
    assert (landed.coded, landed.texts_sent, landed.operations, landed.published_by_run) == (4, 0, 0, None)
    assert filled.query("SELECT DISTINCT run_id FROM coding.coded_records") == [("run-2",)]
    assert filled.query("SELECT DISTINCT run_id FROM coding.coded_texts") == [("run-1",)]


def test_a_run_over_records_that_stand_published_writes_none_of_them(filled):
    first = filled.run(code=code_chefs)
    before = filled.query("SELECT * FROM coding.coded_records ORDER BY record_id")
    prepared = filled.prepare(run_id="run-2")
    assert (prepared.unchanged, prepared.records_uri, prepared.parts) == (True, None, ())
    landed = filled.land()
    assert vars(landed) == {**vars(first), "texts_sent": 0, "operations": 0, "published_by_run": "run-1", "days": ()}
    assert filled.query("SELECT * FROM coding.coded_records ORDER BY record_id") == before
    runs = "SELECT run_id, published_by_run, records, coded, uncoded, rejected, texts, texts_sent FROM coding.coding_runs"
    assert filled.query(f"{runs} ORDER BY 1") == [
        ("run-1", "run-1", 4, 2, 1, 1, 2, 2),
        ("run-2", "run-1", 4, 2, 1, 1, 2, 0),
    ]


@pytest.mark.parametrize(
    "change",
    [
        "INSERT INTO survey_responses VALUES ('9', '2026-10-05', 'baker', '')",
        "DELETE FROM survey_responses WHERE record_id = '4'",
        "UPDATE survey_responses SET tasks_text = NULL WHERE record_id = '3'",
        "UPDATE survey_responses SET record_id = '8' WHERE record_id = '3'",
        "DELETE FROM coding.coded_records WHERE record_id = '1'",
        "UPDATE coding.coded_records SET run_id = 'somebody' WHERE record_id = '1'",
    ],
)
def test_a_run_is_done_anew_when_its_records_or_what_stands_published_changed(filled, change):
    filled.run()
    filled.query(change)
    assert not filled.prepare(run_id="run-2").unchanged
    filled.land()
    assert filled.query("SELECT DISTINCT run_id FROM coding.coded_records") == [("run-2",)]


@pytest.mark.parametrize("place", ["duckdb", "postgres"], indirect=True)  # the stand-in for Redshift is slow
@pytest.mark.parametrize("other", [{"clean": False}, {"max_characters": 200}, {"to_date": DAY}, {"selection": "all"}])
def test_a_run_is_done_anew_by_other_rules_or_for_other_dates(filled, other):
    filled.run()
    assert not filled.prepare(run_id="run-2", **other).unchanged


def test_records_are_joined_with_their_texts_anew_after_texts_were_coded_again(filled):
    filled.run(to_date=LATER_DAY)
    filled.run(
        run_id="run-2",
        from_date=LATER_DAY,
        selection="all",
        code=lambda line: code_line(line, result=BAKER),
        to_date=LATER_DAY,
    )
    assert not filled.prepare(run_id="run-3", to_date=LATER_DAY).unchanged
    filled.land()
    assert filled.query("SELECT DISTINCT code FROM coding.coded_records WHERE record_id = '1'") == [("3512",)]


@pytest.mark.parametrize("place", ["duckdb", "postgres"], indirect=True)  # it is not about the warehouse
def test_a_stricter_limit_is_held_against_records_that_stand_published_too(filled):
    filled.run(code=code_chefs)
    with pytest.raises(AuditError, match="1 of 3 records are uncoded"):
        filled.run(run_id="run-2", max_uncoded_share=0.1)
    assert filled.query("SELECT DISTINCT run_id FROM coding.coded_records") == [("run-1",)]


def test_what_changed_after_it_was_found_unchanged_is_not_taken_for_published(filled):
    filled.run()
    assert filled.prepare(run_id="run-2").unchanged
    filled.query("DELETE FROM coding.coded_records WHERE record_id = '1'")
    with pytest.raises(IncompleteError, match="has changed since `prepare`, or texts were coded again: clear"):
        filled.land()


def defer_landing(pipeline, **changes):
    """Prepare a run and return what lands it, whatever else is done in between."""
    parts = [pipeline.code_part(part) for part in pipeline.prepare(**changes).parts]
    plan, prepared = pipeline.plan, pipeline.prepared

    def land():
        pipeline.plan, pipeline.prepared = plan, prepared
        return pipeline.land(parts)

    return land


@pytest.mark.parametrize(("day", "withdrawn"), [(DAY, "1"), (NEXT_DAY, "4")])
def test_a_run_that_left_dates_to_a_later_reading_does_not_stand_for_all_it_read(filled, day, withdrawn):
    land_older = defer_landing(filled, run_id="run-older")
    filled.query("CREATE TABLE loading AS SELECT * FROM survey_responses")
    filled.query("DELETE FROM survey_responses WHERE record_id = ?", withdrawn)
    filled.run(run_id="run-newer", from_date=day, to_date=day)
    land_older()
    filled.query("DELETE FROM survey_responses")
    filled.query("INSERT INTO survey_responses SELECT * FROM loading")
    assert not filled.prepare(run_id="run-last").unchanged
    filled.land()
    assert filled.read_outcomes() == OUTCOMES


def test_a_run_that_reads_anew_does_not_stand_for_what_it_read_before(filled):
    filled.run()
    filled.run(run_id="run-2")  # finds the rows of run-1
    filled.query("UPDATE survey_responses SET occp_text = 'nurse' WHERE record_id = '3'")
    filled.run()
    filled.query("UPDATE survey_responses SET occp_text = 'baker' WHERE record_id = '3'")
    assert not filled.prepare(run_id="run-3").unchanged


def test_a_run_that_was_found_unchanged_since_may_be_landed_again(filled):
    land_first = defer_landing(filled)
    land_first()
    filled.run(run_id="run-2")
    assert land_first().published_by_run is None
    assert filled.read_outcomes() == OUTCOMES


def test_an_unchanged_run_leaves_its_dates_to_a_later_reading(filled):
    filled.run()
    land_unchanged = defer_landing(filled, run_id="run-2")
    filled.fill(("9", DAY, "baker", ""))
    filled.run(run_id="run-3")
    landed = land_unchanged()
    assert (landed.read, landed.published_by_run) == (0, None)
    assert filled.query("SELECT DISTINCT run_id FROM coding.coded_records") == [("run-3",)]
    assert filled.prepare(run_id="run-4").unchanged


def test_a_text_in_parts_of_two_tries_is_kept_once(pipeline):
    jobs = sorted((f"job {n}" for n in range(4)), key=lambda job: make_key(job, ""))
    pipeline.fill(*[(job, DAY, job, "") for job in jobs[1:]])
    of_first_try = pipeline.code_part(pipeline.prepare(records_per_part=2).parts[0])
    pipeline.fill((jobs[0], DAY, jobs[0], ""))
    of_second_try = pipeline.code_part(pipeline.prepare(records_per_part=2).parts[1])
    with pytest.raises(IncompleteError, match="part 0 .*prepared anew"):
        pipeline.land([of_first_try, of_second_try])
    assert pipeline.query("SELECT occp_text, count(*) FROM coding.coded_texts GROUP BY 1 ORDER BY 2 DESC")[0][1] == 1
    prepared = pipeline.prepare(run_id="run-2")
    assert (prepared.texts, prepared.known_texts) == (4, 3)
    assert pipeline.land().coded == 4


def test_an_older_run_of_all_texts_does_not_bring_its_codes_back(filled):
    land_older = defer_landing(filled, selection="all")
    filled.run(run_id="run-2", selection="all", code=lambda line: code_line(line, result=BAKER))
    land_older()
    assert filled.query("SELECT DISTINCT code FROM coding.coded_texts") == [("3512",)]


@pytest.mark.parametrize("place", ["duckdb", "postgres"], indirect=True)  # it is not about the warehouse
def test_staging_may_lie_in_a_folder_with_a_name_like_a_pattern(pipeline, tmp_path):
    for name, job in (("st1", "baker"), ("st[1]", "chef")):
        pipeline.query("DROP TABLE IF EXISTS survey_responses")
        pipeline.fill(("1", DAY, job, ""))
        pipeline.folder = tmp_path / name
        pipeline.run(code=lambda line: code_line(line, {**CHEF, "codeLabel": line["occp_text"]}))
        assert pipeline.query("SELECT label FROM coding.coded_records") == [(job,)]


@pytest.mark.parametrize("place", ["duckdb", "postgres"], indirect=True)  # the stand-in for Redshift is slow
def test_a_run_of_more_texts_and_records_than_fit_the_memory_is_landed_whole(pipeline):
    pipeline.fill()
    texts = "'job ' || i, 'does what ' || i || ' people do'"
    pipeline.query(
        f"INSERT INTO survey_responses SELECT CAST(i AS VARCHAR), DATE '{DAY}', {texts} FROM generate_series(1, 400000) t(i)"
    )
    landed = pipeline.run(memory_mb=MIN_MEMORY_MB, records_per_part=350_000)
    assert (landed.coded, landed.texts, landed.operations) == (400_000, 400_000, 2)
    real = "count(DISTINCT text_key), min(code), max(code)"  # no count that statistics could answer
    for name in ("coded_texts", "coded_records"):
        assert pipeline.query(f"SELECT {real} FROM coding.{name}") == [(400_000, "351311", "351311")]


def test_a_source_that_has_lost_its_records_does_not_empty_what_is_published(filled):
    filled.run()
    published = filled.read_outcomes()
    filled.query("DELETE FROM survey_responses")
    with pytest.raises(
        AuditError, match=r"source 'survey_responses' has no records of .* are published: is the source"
    ):
        filled.run()
    assert filled.read_outcomes() == published


def test_an_older_reading_does_not_replace_a_newer_one_but_publishes_its_other_dates(filled):
    parts = [filled.code_part(part) for part in filled.prepare(run_id="run-older").parts]
    plan, prepared = filled.plan, filled.prepared
    filled.fill(("9", DAY, "baker", "bakes"))
    filled.run(run_id="run-newer", to_date=DAY)
    filled.plan, filled.prepared = plan, prepared
    filled.land(parts)
    rows = filled.query("SELECT record_id, run_id FROM coding.coded_records ORDER BY record_id")
    assert rows == [
        ("1", "run-newer"),
        ("2", "run-newer"),
        ("3", "run-older"),
        ("4", "run-older"),
        ("9", "run-newer"),
    ]


@pytest.mark.parametrize("place", ["duckdb", "postgres"], indirect=True)  # it is not about the warehouse
def test_results_for_another_input_file_than_was_prepared_last_are_kept_but_not_published(filled):
    before = [filled.code_part(part) for part in filled.prepare().parts]
    sent = sum(part.records for part in filled.prepared.parts)
    filled.fill(("9", DAY, "baker", "bakes"))
    filled.prepare()
    with pytest.raises(IncompleteError, match="prepared anew after it was sent: clear its `create`"):
        filled.land(before)
    assert filled.query("SELECT count(*) FROM coding.coded_texts") == [(sent,)]
    assert filled.read_outcomes() == []


@pytest.mark.parametrize("place", ["duckdb", "postgres"], indirect=True)  # it is not about the warehouse
def test_results_of_a_part_of_another_model_are_not_kept(filled):
    of_other = [filled.code_part(part) for part in filled.prepare(model_id=OTHER_MODEL).parts]
    filled.prepare()
    with pytest.raises(
        IncompleteError, match=f"'osca/{OTHER_MODEL}' coded it, the run is pinned to 'osca', '{MODEL}'"
    ):
        filled.land(of_other)
    assert filled.query("SELECT count(*) FROM coding.coded_texts") == [(0,)]


@pytest.mark.parametrize("place", ["duckdb", "postgres"], indirect=True)  # it is not about the warehouse
def test_an_input_file_that_is_gone_loses_no_other_part(filled):
    first, second = (filled.code_part(part) for part in filled.prepare(records_per_part=1).parts)
    path_from_uri(first.sent).unlink()
    with pytest.raises(IncompleteError, match="part 0 .*its input file .* is gone"):
        filled.land([first, second])
    assert filled.query("SELECT count(*) FROM coding.coded_texts") == [(1,)]


def test_an_empty_day_is_landed_without_a_record(filled):
    landed = filled.run(from_date="2026-01-01", to_date="2026-01-01")
    assert (landed.read, landed.operations, count(filled, "coded_records")) == (0, 0, 0)


def test_the_dates_are_replaced_and_no_other_date(filled):
    filled.run(to_date=LATER_DAY)
    filled.query(f"DELETE FROM survey_responses WHERE response_date = '{LATER_DAY}' OR record_id IN ('1', '3')")
    filled.run(run_id="run-2")
    rows = filled.query("SELECT record_id, run_id FROM coding.coded_records ORDER BY record_id")
    assert rows == [("2", "run-2"), ("4", "run-2"), ("5", "run-1")]


@pytest.mark.parametrize("other", [{"model_id": OTHER_MODEL}, {"topic": "anzsco"}])
def test_published_by_run_another_model_or_topic_stay(filled, other):
    filled.run()
    filled.run(run_id="run-2", code=lambda line: code_line(line, result=BAKER), **other)
    rows = filled.query("SELECT run_id, code FROM coding.coded_records WHERE record_id = '1' ORDER BY run_id")
    assert rows == [("run-1", "351311"), ("run-2", "3512")]
    assert count(filled, "coded_texts") == 4


def test_a_schema_of_another_name_has_tables_of_its_own(filled):
    filled.run(schema='the "coding" schema')
    assert filled.query('SELECT count(*) FROM "the ""coding"" schema".coded_records') == [(4,)]


def test_all_replaces_the_results_of_the_texts_it_sends(filled):
    filled.run(to_date=LATER_DAY)
    filled.fill(("6", "2026-10-20", "nurse", ""))
    filled.run(run_id="run-2", from_date="2026-10-20", to_date="2026-10-20")
    filled.run(run_id="run-3", selection="all", code=lambda line: code_line(line, result=BAKER))
    texts = filled.query("SELECT occp_text, code, run_id FROM coding.coded_texts ORDER BY 1")
    assert texts == [("baker", "3512", "run-3"), ("chef", "3512", "run-3"), ("nurse", "351311", "run-2")]
    assert filled.query("SELECT DISTINCT code FROM coding.coded_records WHERE run_id = 'run-3'") == [
        ("3512",),
        (None,),
    ]


def test_a_text_that_another_run_kept_first_keeps_its_result(filled):
    filled.prepare()
    late = [filled.code_part(part, code=lambda line: code_line(line, result=BAKER)) for part in filled.prepared.parts]
    prepared, plan = filled.prepared, filled.plan
    filled.run(run_id="run-2")
    filled.prepared, filled.plan = prepared, plan
    filled.land(late)
    assert filled.query("SELECT DISTINCT code FROM coding.coded_texts") == [("351311",)]
    assert filled.query("SELECT DISTINCT code FROM coding.coded_records WHERE outcome = 'coded'") == [("351311",)]


def test_a_part_that_failed_publishes_nothing_and_is_named_and_the_rest_is_kept(filled):
    first, second = filled.prepare(records_per_part=1).parts
    with pytest.raises(IncompleteError) as caught:
        filled.land([filled.code_part(first), failed(second)])
    assert str(caught.value) == (
        "nothing was published, 1 of 2 parts did not come back whole; the results of 1 of 2 texts are kept, and the"
        " next run of these dates sends the rest. part 1 (operation operation-1): the service says: Malformed record"
    )
    assert [count(filled, table) for table in ("coded_texts", "coded_records")] == [1, 0]
    assert filled.query("SELECT part, state, error, usable FROM coding.coding_operations ORDER BY part") == [
        (0, "complete", None, 1),
        (1, "failed", "the service says: Malformed record", 0),
    ]


@pytest.mark.parametrize("place", ["duckdb", "postgres"], indirect=True)  # it is not about the warehouse
def test_of_five_parts_of_which_one_failed_the_next_run_sends_that_part_only(pipeline):
    pipeline.fill(*[(str(n), DAY, f"job {n}", "") for n in range(10)])
    parts = pipeline.prepare(records_per_part=2).parts
    returned = [failed(part) if part.part == 3 else pipeline.code_part(part) for part in parts]
    with pytest.raises(IncompleteError, match=r"8 of 10 texts are kept.* part 3 \(operation operation-3\)"):
        pipeline.land(returned)
    again = pipeline.prepare(run_id="run-2")
    assert [part.records for part in again.parts] == [2]
    assert pipeline.land().coded == 10


def test_what_was_published_before_stays_when_a_part_fails(filled):
    filled.run()
    before = filled.query("SELECT * FROM coding.coded_records ORDER BY record_id")
    filled.prepare(run_id="run-2", selection="all")
    with pytest.raises(IncompleteError):
        filled.land([failed(part) for part in filled.prepared.parts])
    assert filled.query("SELECT * FROM coding.coded_records ORDER BY record_id") == before


@pytest.mark.parametrize("place", ["duckdb", "postgres"], indirect=True)  # it is not about the warehouse
def test_a_part_without_an_operation_is_named_and_has_no_row(filled):
    filled.prepare()
    with pytest.raises(IncompleteError, match=r"part 0 \(operation None\): it did not come back; see the logs"):
        filled.land([PartResult(0, None, "unknown")])
    assert count(filled, "coding_operations") == 0


@pytest.mark.parametrize("place", ["duckdb", "postgres"], indirect=True)  # it is not about the warehouse
def test_an_output_that_is_too_short_publishes_nothing_and_names_lines_that_were_set_aside(filled):
    filled.prepare()
    (part,) = filled.prepared.parts
    chef = {"recordId": make_key("chef", "cooks"), "occp_text": "chef", "tasks_text": "cooks"}
    with pytest.raises(IncompleteError) as caught:
        filled.land([filled.code_part(part, lines=code_line(chef) + "oops\n")])
    assert "1 of 2 texts have no usable result; line 2 was discarded: it is not a JSON object" in str(caught.value)
    assert [count(filled, table) for table in ("coded_texts", "coded_records")] == [1, 0]
    assert filled.query("SELECT usable, discarded_lines FROM coding.coding_operations") == [(1, 1)]


@pytest.mark.parametrize("place", ["duckdb", "postgres"], indirect=True)  # the stand-in for Redshift is slow
@pytest.mark.parametrize("lines", ["", "garbage\n" * 3, "\x01\x02"])
def test_an_output_without_a_result_publishes_nothing(filled, lines):
    filled.prepare()
    with pytest.raises(IncompleteError, match="the results of 0 of 2 texts are kept.*2 of 2 texts have no usable"):
        filled.land([filled.code_part(part, lines=lines) for part in filled.prepared.parts])
    assert count(filled, "coded_records") == 0


@pytest.mark.parametrize("place", ["duckdb", "postgres"], indirect=True)  # it is not about the warehouse
def test_an_output_that_is_gone_loses_no_other_part(filled):
    first, second = filled.prepare(records_per_part=1).parts
    gone = filled.code_part(second)
    path_from_uri(gone.output).unlink()
    with pytest.raises(IncompleteError, match="part 1 .*its output file .* is gone"):
        filled.land([filled.code_part(first), gone])
    assert count(filled, "coded_texts") == 1


@pytest.mark.parametrize("place", ["duckdb", "postgres"], indirect=True)  # it is not about the warehouse
def test_lines_that_nobody_asked_for_do_not_keep_a_run_from_being_published(filled):
    filled.prepare()
    stranger = {"recordId": "0" * 32, "occp_text": "x", "tasks_text": ""}
    filled.land(code=lambda line: code_line(line) + code_line(stranger) + code_line(line))
    assert filled.read_outcomes() == OUTCOMES
    assert filled.query("SELECT usable, discarded_lines FROM coding.coding_operations") == [(2, 4)]


@pytest.mark.parametrize("place", ["duckdb", "postgres"], indirect=True)  # it is not about the warehouse
def test_results_of_another_model_are_refused(filled):
    filled.prepare()
    metadata = json.dumps({"modelId": OTHER_MODEL}).encode()
    with pytest.raises(
        IncompleteError, match=f"'osca/{OTHER_MODEL}' coded it, the run is pinned to 'osca', '{MODEL}'"
    ):
        filled.land(metadata=metadata)
    assert [count(filled, table) for table in ("coded_texts", "coded_records")] == [0, 0]


@pytest.mark.parametrize("place", ["duckdb", "postgres"], indirect=True)  # the stand-in for Redshift is slow
@pytest.mark.parametrize(
    ("metadata", "kept"),
    [
        (b"model: 3", "model: 3"),
        (b"", ""),
        (b"{", "{"),
        (b"[1, 2]", "[1, 2]"),
        (b'{"modelId": null}', '{"modelId": null}'),
        (b"\xff\x00;", "\ufffd\ufffd;"),
        (b"[" * 50_000, "[" * 50_000),
    ],
    ids=["text", "empty", "cut", "list", "no model", "bytes", "deep"],
)
def test_metadata_that_says_nothing_is_kept_and_does_no_harm(filled, metadata, kept):
    filled.prepare()
    assert filled.land(metadata=metadata).coded == 3
    assert filled.query("SELECT metadata FROM coding.coding_operations") == [(kept,)]


@pytest.mark.parametrize("place", ["redshift"], indirect=True)  # others hold texts of any length
@pytest.mark.parametrize(("length", "is_kept"), [(65535, True), (65536, False)])
def test_metadata_that_is_too_long_for_a_column_does_no_harm(filled, length, is_kept):
    filled.prepare()
    assert filled.land(metadata=b"x" * length).coded == 3
    assert filled.query("SELECT count(metadata) FROM coding.coding_operations") == [(int(is_kept),)]


@pytest.mark.parametrize("place", ["duckdb", "postgres"], indirect=True)  # it is not about the warehouse
def test_metadata_that_is_gone_does_no_harm(filled):
    filled.prepare()
    returned = [filled.code_part(part, metadata=b"{}") for part in filled.prepared.parts]
    path_from_uri(returned[0].metadata).unlink()
    assert filled.land(returned).coded == 3


@pytest.mark.parametrize("place", ["duckdb", "postgres"], indirect=True)  # it is not about the warehouse
@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_uncoded_share": 0.33}, r"1 of 3 records are uncoded \(33.3%\), above max_uncoded_share = 0.33"),
        ({"max_rejected_share": 0.24}, r"1 of 4 records are rejected \(25.0%\), above max_rejected_share = 0.24"),
    ],
)
def test_a_share_above_its_limit_publishes_nothing_and_keeps_the_results(filled, limits, message):
    with pytest.raises(AuditError, match=f"nothing was published: {message}: look at the source, or raise the limit"):
        filled.run(code=code_chefs, **limits)
    assert [count(filled, table) for table in ("coded_texts", "coded_records")] == [2, 0]


@pytest.mark.parametrize("place", ["duckdb", "postgres"], indirect=True)  # it is not about the warehouse
def test_a_share_at_its_limit_is_published(filled):
    landed = filled.run(code=code_chefs, max_uncoded_share=1 / 3, max_rejected_share=0.25)
    assert (landed.uncoded, landed.rejected) == (1, 1)


@pytest.mark.parametrize("wrong", [{"read": 5}, {"read": 3}, {"rejected": 0}])
def test_counts_that_do_not_add_up_publish_nothing(filled, wrong):
    filled.prepare()
    with pytest.raises(AuditError, match=r"nothing was published: \d records were read .* run again"):
        filled.land(prepared=wrong)
    assert count(filled, "coded_records") == 0


def test_a_text_that_was_known_and_is_lost_publishes_nothing(filled):
    filled.run()
    before = filled.read_outcomes()
    filled.fill(("9", DAY, "chef", "cooks"))
    filled.prepare(run_id="run-2")
    filled.query("DELETE FROM coding.coded_texts WHERE occp_text = 'baker'")
    with pytest.raises(AuditError, match="1 have a text without a result"):
        filled.land()
    assert filled.read_outcomes() == before


@pytest.mark.parametrize("place", ["duckdb"], indirect=True)  # PostgreSQL has a unique index against it
def test_a_text_that_stands_twice_does_not_hide_one_that_is_lost(filled):
    filled.run()
    filled.prepare(run_id="run-2", from_date=NEXT_DAY, to_date=LATER_DAY)
    filled.query("INSERT INTO coding.coded_texts SELECT * FROM coding.coded_texts WHERE occp_text = 'chef'")
    filled.query("DELETE FROM coding.coded_texts WHERE occp_text = 'baker'")
    with pytest.raises(AuditError, match="1 have a text without a result"):
        filled.land(prepared={"read": 3})


def test_the_newest_model_is_the_current_one(filled):
    versions = [("run-1", MODEL, 2.0, CHEF), ("run-2", OTHER_MODEL, 10.0, BAKER), ("run-3", "old", 1.0, CHEF)]
    for run_id, model_id, version, result in versions:
        filled.run(
            run_id=run_id,
            model_id=model_id,
            model_version=version,
            code=lambda line, result=result: code_line(line, result=result),
        )
    assert filled.query("SELECT DISTINCT model_id FROM coding.current_codes") == [(OTHER_MODEL,)]
    assert filled.query("SELECT record_id, code FROM coding.current_codes ORDER BY 1") == [
        *[(record_id, "3512") for record_id in "123"],
        ("4", None),
    ]


def test_a_record_that_only_an_older_model_coded_is_current_too(filled):
    filled.run()
    filled.run(run_id="run-2", model_id=OTHER_MODEL, model_version=2.0, from_date=NEXT_DAY)
    rows = filled.query("SELECT record_id, model_version FROM coding.current_codes ORDER BY 1")
    assert rows == [("1", 1.0), ("2", 1.0), ("3", 2.0), ("4", 2.0)]


def test_each_topic_has_its_current_codes(filled):
    filled.run()
    filled.run(run_id="run-2", topic="anzsco")
    assert filled.query("SELECT topic, count(*) FROM coding.current_codes GROUP BY 1 ORDER BY 1") == [
        ("anzsco", 4),
        ("osca", 4),
    ]


def test_a_record_id_that_stands_twice_is_two_rows(pipeline):
    pipeline.fill(("1", DAY, "chef", ""), ("1", DAY, "chef", ""), ("1", DAY, "baker", ""))
    pipeline.run()
    assert pipeline.query("SELECT occurrence FROM coding.current_codes ORDER BY 1") == [(1,), (2,), (3,)]


def end(process):
    """Wait for a landing; return how it ended."""
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def test_two_landings_at_once_both_succeed(filled):
    prepared = []
    for run_id, day in (("run-1", DAY), ("run-2", NEXT_DAY)):
        filled.prepare(run_id=run_id, from_date=day, to_date=day)
        prepared.append((filled.plan, filled.prepared))
    with filled.warehouse.session() as session, session.transaction(lock="coding.coding_runs"):  # both have to wait
        landings = []
        for filled.plan, filled.prepared in prepared:
            landings.append(filled.start_landing())
        assert [process.stdout.readline() for process in landings] == ["ready\n", "ready\n"]
    assert [end(process) for process in landings] == [(0, ""), (0, "")]
    assert filled.read_outcomes() == OUTCOMES
    assert filled.query("SELECT run_id, count(*) FROM coding.coded_records GROUP BY 1 ORDER BY 1") == [
        ("run-1", 2),
        ("run-2", 2),
    ]


def kill_after(process, seconds):
    """Kill the landing so long after it began, if it has not ended by then."""
    assert process.stdout.readline() == "ready\n"
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
    process.communicate()


@pytest.mark.parametrize("place", ["duckdb", "postgres"], indirect=True)  # the stand-in for Redshift is slow
def test_a_landing_that_is_killed_leaves_the_tables_as_before_or_complete(pipeline):
    pipeline.fill()
    pipeline.query(
        f"INSERT INTO survey_responses SELECT CAST(i AS VARCHAR), DATE '{DAY}', 'job ' || i % 20000, ''"
        " FROM generate_series(1, 40000) t(i)"
    )
    pipeline.run(code=lambda line: code_line(line, result=BAKER))
    pipeline.prepare(run_id="run-2", selection="all")
    begun = time.monotonic()
    pipeline.land()
    whole = time.monotonic() - begun
    pipeline.run(run_id="run-1", selection="all", code=lambda line: code_line(line, result=BAKER))
    before, after = [("run-1", "3512", 40_000)], [("run-2", "351311", 40_000)]

    pipeline.prepare(run_id="run-2", selection="all")
    for moment in (0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
        kill_after(pipeline.start_landing(), moment * whole)
        records = pipeline.query("SELECT run_id, code, count(*) FROM coding.coded_records GROUP BY 1, 2")
        texts = pipeline.query("SELECT code, count(*) FROM coding.coded_texts GROUP BY 1")
        assert records in (before, after)
        assert texts in ([("3512", 20_000)], [("351311", 20_000)])
    assert end(pipeline.start_landing())[0] == 0
    assert pipeline.query("SELECT run_id, code, count(*) FROM coding.coded_records GROUP BY 1, 2") == after
    assert list((pipeline.folder / "run-2").glob("land.*")) == []


def test_dates_are_stored_as_dates_and_times_as_utc(filled):
    filled.run()
    ((day, coded_at),) = filled.query(
        "SELECT response_date, coded_at FROM coding.coded_records WHERE record_id = '1'"
    )
    ((now,),) = filled.query("SELECT CAST(now() AT TIME ZONE 'UTC' AS TIMESTAMP)")
    assert day == date.fromisoformat(DAY)
    assert 0 <= (now - coded_at).total_seconds() < 60


def test_a_plan_that_gives_no_version_is_landed(filled):
    filled.run(model_version=None)
    assert filled.query("SELECT DISTINCT model_version FROM coding.current_codes") == [(None,)]


NIGHT = {"run_id": "night", "from_date": DAY, "to_date": NEXT_DAY, "changed_only": True}


def written_by(pipeline):
    """Records that each run's rows are of, by run id."""
    rows = pipeline.query("SELECT run_id, record_id FROM coding.coded_records ORDER BY 1, 2")
    return {run_id: [row[1] for row in rows if row[0] == run_id] for run_id, _ in rows}


def test_a_look_back_publishes_dates_with_late_records_and_leaves_the_others_as_they_are(filled):
    filled.run(to_date=DAY)
    filled.fill(("9", DAY, "chef", "cooks"))
    landed = filled.run(**NIGHT)
    assert written_by(filled) == {"night": ["1", "2", "3", "4", "9"]}
    assert (landed.days, landed.read, landed.texts_sent) == ((DAY, NEXT_DAY), 5, 1)

    again = filled.run(**{**NIGHT, "run_id": "again", "to_date": LATER_DAY})
    assert written_by(filled) == {"again": ["5"], "night": ["1", "2", "3", "4", "9"]}
    assert (again.days, again.read, again.texts_sent) == ((LATER_DAY,), 1, 0)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE survey_responses SET occp_text = 'baker' WHERE record_id = '1'",
        "UPDATE survey_responses SET occp_text = '' WHERE record_id = '1'",
        "UPDATE survey_responses SET record_id = '7' WHERE record_id = '1'",
        "DELETE FROM survey_responses WHERE record_id = '1'",
    ],
    ids=["another text", "no text", "another id", "withdrawn"],
)
def test_a_look_back_sees_records_that_were_changed_or_withdrawn(filled, change):
    filled.run()
    filled.query(change)
    landed = filled.run(**NIGHT)
    assert landed.days == (DAY,)
    assert landed.coded + landed.rejected == landed.read == len(written_by(filled)["night"])


def test_a_look_back_sees_that_a_text_was_coded_again(filled):
    filled.run(to_date=LATER_DAY)
    filled.query("UPDATE coding.coded_texts SET operation_id = 'other' WHERE occp_text = 'chef'")
    assert filled.run(**NIGHT).days == (DAY,)


def test_a_look_back_without_anything_new_writes_nothing_and_says_so(filled):
    filled.run(to_date=LATER_DAY)
    before = filled.query("SELECT * FROM coding.coded_records ORDER BY record_id")
    landed = filled.run(**NIGHT)
    assert (landed.days, landed.read, landed.texts_sent, landed.operations) == ((), 0, 0, 0)
    assert filled.query("SELECT * FROM coding.coded_records ORDER BY record_id") == before


def test_published_dates_that_the_source_no_longer_has_stay_and_are_named(filled, caplog):
    filled.run()
    filled.query("DELETE FROM survey_responses WHERE response_date = ?", date.fromisoformat(DAY))
    landed = filled.run(run_id="run-2", selection="all")
    assert (landed.days, landed.read) == ((NEXT_DAY,), 2)
    assert written_by(filled) == {"run-1": ["1", "2"], "run-2": ["3", "4"]}
    assert f"source 'survey_responses' has no record of them: {DAY}. If they should go" in caplog.text


def test_a_source_without_dates_never_replaces_the_records_of_another_source(filled):
    filled.run()
    filled.query(
        "CREATE TABLE wave AS SELECT record_id, occp_text, tasks_text FROM survey_responses WHERE record_id = '1'"
    )

    def code(day, run_id):
        return filled.run(run_id=run_id, source="wave", response_date=day, from_date=day, to_date=day)

    with pytest.raises(AuditError, match=f"{NEXT_DAY} is published from \\['survey_responses'\\], .* another `resp"):
        code(NEXT_DAY, "wave")
    assert filled.read_outcomes() == OUTCOMES
    landed = code(LATER_DAY, "wave")
    assert (landed.days, landed.coded) == ((LATER_DAY,), 1)
    filled.query("INSERT INTO wave VALUES ('2', 'clerk', '')")
    assert code(LATER_DAY, "wave-2").coded == 2


def test_a_date_of_which_nothing_is_published_is_free_for_a_source_without_dates(filled):
    filled.run(to_date="2026-10-20")
    filled.query(
        "CREATE TABLE wave AS SELECT record_id, occp_text, tasks_text FROM survey_responses WHERE record_id = '1'"
    )
    free = {"response_date": "2026-10-15", "from_date": "2026-10-15", "to_date": "2026-10-15"}
    assert filled.run(run_id="wave", source="wave", **free).days == ("2026-10-15",)


def test_a_look_back_that_lands_twice_says_the_same_twice(filled):
    filled.run(to_date=DAY)
    filled.fill(("9", DAY, "chef", "cooks"))
    filled.prepare(**NIGHT)
    first = filled.land()
    assert vars(filled.land()) == {**vars(first), "operations": first.operations, "texts_sent": first.texts_sent}
    assert written_by(filled) == {"night": ["1", "2", "3", "4", "9"]}
    assert filled.query("SELECT records, coded FROM coding.coding_runs WHERE run_id = 'night'") == [(5, 4)]


def test_a_later_reading_that_had_no_record_of_a_date_does_not_keep_others_from_publishing_it(filled):
    filled.prepare(run_id="early", to_date=DAY)
    early = (filled.plan, filled.prepared)
    filled.fill(("x", NEXT_DAY, "clerk", ""), table="part")
    filled.run(run_id="part", source="part", to_date=LATER_DAY)
    filled.plan, filled.prepared = early
    landed = filled.land()
    assert (landed.days, landed.read) == ((DAY,), 2)
    assert written_by(filled) == {"early": ["1", "2"], "part": ["x"]}


def test_a_bad_date_of_a_look_back_is_left_and_does_not_hold_up_the_night(filled, caplog):
    filled.run(to_date=DAY)
    filled.fill(*((f"bad-{number}", DAY, "", "") for number in range(9)), ("4b", NEXT_DAY, "nurse", ""))
    landed = filled.run(**NIGHT)
    assert landed.days == (NEXT_DAY,)
    assert f"Left as it is: {DAY}. nothing was published: 9 of 11 records are rejected (81.8%)" in caplog.text
    assert written_by(filled)["run-1"] == ["1", "2"]


def test_a_bad_night_is_not_published_however_good_the_days_before_it_are(filled):
    filled.fill(*((f"good-{number}", DAY, "chef", "cooks") for number in range(20)))
    filled.fill(*((f"bad-{number}", NEXT_DAY, "", "") for number in range(9)))
    with pytest.raises(AuditError, match="10 of 11 records are rejected"):
        filled.run(**NIGHT)
    assert written_by(filled) == {}


def test_a_night_of_a_source_that_was_emptied_is_a_success_and_leaves_what_is_published(filled):
    filled.run()
    filled.query("DELETE FROM survey_responses")
    landed = filled.run(**NIGHT)
    assert (landed.days, landed.read) == ((), 0)
    assert filled.read_outcomes() == OUTCOMES


@pytest.mark.parametrize("place", ["postgres"], indirect=True)
def test_a_look_back_over_many_records_lands_while_a_person_would_wait(filled):
    count = 40_000
    filled.query(
        "INSERT INTO survey_responses SELECT 'r' || i, DATE '2026-10-01' + (i % 4), 'chef', 'cooks'"
        f" FROM generate_series(1, {count}) AS numbers(i)"
    )
    filled.run(from_date="2026-10-01", to_date="2026-10-03")
    landed = filled.run(**{**NIGHT, "from_date": "2026-10-01", "to_date": LATER_DAY})
    assert landed.days == ("2026-10-04", DAY, NEXT_DAY, LATER_DAY)
    assert landed.read == 10_000 + 5


def test_days_far_apart_are_told_as_spans_and_not_all_of_them():
    days = [date.fromisoformat(f"2026-{month:02}-{day:02}") for month in range(1, 13) for day in (1, 2, 15)]
    assert _merge_into_spans(days)[:2] == [(days[0], days[1]), (days[2], days[2])]
    assert len(_merge_into_spans(days)) == 24
    assert _format_dates(days).startswith("2026-01-01 to 2026-01-02, 2026-01-15, 2026-02-01 to")
    assert _format_dates(days).endswith(" and 14 more")


def test_an_operation_keeps_how_long_it_took(filled):
    filled.prepare()
    filled.land([replace(filled.code_part(part), seconds=41.5) for part in filled.prepared.parts])
    assert filled.query("SELECT seconds FROM coding.coding_operations") == [(41.5,)]
