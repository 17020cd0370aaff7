"""Landing: usable results are always stored, and a run is published as a whole or not at all."""

import json
import shutil
import time
from contextlib import contextmanager
from dataclasses import replace
from datetime import date

import duckdb
import pytest

from include.coding import staged_records
from include.coding.errors import AuditError, IncompleteError, PlanError
from include.coding.files import path_from_uri
from include.coding.landing import LandingSummary
from include.coding.plan import MIN_MEMORY_MB
from include.coding.results import PartResult
from include.coding.run_log import DateCounts, find_unpublished_dates, format_dates, merge_into_spans
from include.warehouse.errors import WarehouseError
from tests.coding.conftest import (
    CHEF,
    DAY,
    LATER_DAY,
    MODEL,
    NEXT_DAY,
    OLDEST_MODEL,
    OTHER_MODEL,
    code_line,
    make_key,
    make_plan,
    on_all_warehouses,
    on_duckdb_and_postgres,
    on_postgres,
    on_redshift,
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
    """Code chefs; every other text gets a suggestion."""
    if line["occp_text"] == "chef":
        return code_line(line)
    return code_line(line, result=None, suggestions=[BAKER])


@pytest.fixture
def survey(pipeline):
    """A pipeline whose source has a few records."""
    pipeline.fill(*RECORDS)
    return pipeline


def lose_part(part, **changes):
    """Return the result of a part whose operation may still be running."""
    return PartResult(
        part.part, f"operation-{part.part}", "deadline", "it did not end before its deadline", **changes
    )


def count(pipeline, table):
    return pipeline.query(f"SELECT count(*) FROM coding.{table}")[0][0]


@on_all_warehouses
def test_a_record_is_published_with_its_code_and_its_origin(survey):
    survey.run(code=code_chefs)
    columns = (
        "record_id, occurrence, topic, model_id, model_version, outcome, code, label, confidence, level, suggestions,"
        " reason, text_key, operation_id, run_id, CAST(response_date AS VARCHAR)"
    )
    rows = survey.query(f"SELECT {columns} FROM coding.coded_records WHERE record_id <> '2' ORDER BY record_id")
    model, operation = ("osca", MODEL, 1.0), "run-1-operation-0"
    suggestions = json.dumps([BAKER], separators=(",", ":"))
    chef, baker = make_key("chef", "cooks"), make_key("baker", "")
    assert rows == [
        ("1", 1, *model, "coded", "351311", "Chef", 0.92, 6, None, None, chef, operation, "run-1", DAY),
        ("3", 1, *model, "uncoded", None, None, None, None, suggestions, None, baker, operation, "run-1", NEXT_DAY),
        ("4", 1, *model, "rejected", None, None, None, None, None, "blank", None, None, "run-1", NEXT_DAY),
    ]


def test_a_landing_returns_its_counts(survey):
    summary = survey.run(code=code_chefs, records_per_part=1)
    assert summary == LandingSummary(
        read=4, coded=2, uncoded=1, rejected=1, texts=2, texts_sent=2, operations=2,
        from_date=DAY, to_date=NEXT_DAY, published_by_run=None,
        dates=(DateCounts(DAY, 2, 2, 0, 0), DateCounts(NEXT_DAY, 2, 0, 1, 1)),
    )  # fmt: skip


def test_records_with_equal_texts_get_the_code_of_the_text_that_was_sent(survey):
    survey.run()
    rows = survey.query("SELECT DISTINCT code, operation_id FROM coding.coded_records WHERE text_key IS NOT NULL")
    assert rows == [("351311", "run-1-operation-0")]


@on_duckdb_and_postgres
def test_a_text_is_stored_with_its_result(survey):
    survey.run(code=code_chefs)
    rows = survey.query(
        "SELECT text_key, topic, model_id, model_version, occp_text, tasks_text, outcome, code, run_id"
        " FROM coding.coded_texts ORDER BY occp_text"
    )
    assert rows == [
        (make_key("baker", ""), "osca", MODEL, 1.0, "baker", "", "uncoded", None, "run-1"),
        (make_key("chef", "cooks"), "osca", MODEL, 1.0, "chef", "cooks", "coded", "351311", "run-1"),
    ]


def test_rows_are_the_same_if_the_results_of_all_answers_do_not_fit_into_memory(pipeline, tmp_path, monkeypatch):
    path = tmp_path / "answers.parquet"
    duckdb.execute(
        f"""
        COPY (
            SELECT CASE WHEN i % 100 <> 5 THEN CAST(i AS VARCHAR) END AS record_id, DATE '{DAY}' + CAST(i % 2 AS INTEGER) AS response_date,
                CASE WHEN i % 10 > 0 THEN 'job ' || i // 2 ELSE '' END AS occp_text, '' AS tasks_text
            FROM range(6000) AS records(i)
        ) TO '{path}' (FORMAT parquet)
        """
    )
    columns = (
        "record_id, occurrence, response_date, outcome, code, label, confidence, level, suggestions, reason, text_key"
    )
    rows, orders = [], []
    for schema, result_bytes in (("one_join", 100_000), ("three_joins", 330_000)):
        monkeypatch.setattr(staged_records, "RESULT_BYTES", result_bytes)
        summary = pipeline.run(source=path.as_uri(), schema=schema, run_id=schema)
        assert (summary.read, summary.rejected) == (6_000, 660)
        rows.append(pipeline.query(f"SELECT {columns} FROM {schema}.coded_records ORDER BY 1, 2, 3"))
        orders.append(pipeline.query(f"SELECT record_id FROM {schema}.coded_records ORDER BY rowid"))
    assert rows[0] == rows[1]
    assert orders[0] != orders[1], "rows are stored in parts"


@pytest.mark.parametrize(
    ("place", "result_bytes", "suggestion_bytes", "joins"),
    [
        ("duckdb", 127_000, 0, 1),
        ("duckdb", 129_000, 0, 2),
        ("duckdb", 500, 128_000, 2),
        ("duckdb", 500_000, 0, 4),
        ("duckdb", 700_000, 0, 1),
        ("postgres", 500_000, 0, 1),
    ],
    indirect=["place"],
)
def test_records_are_joined_in_as_many_parts_as_an_embedded_warehouse_needs_unless_these_are_too_many(
    pipeline, monkeypatch, result_bytes, suggestion_bytes, joins
):
    monkeypatch.setattr(staged_records, "RESULT_BYTES", result_bytes)
    with pipeline.warehouse.session() as session:
        session.execute(
            "CREATE TEMPORARY VIEW answer_results AS SELECT i AS answer, CAST(NULL AS VARCHAR) AS label,"
            f" repeat('x', {suggestion_bytes}) AS suggestions FROM generate_series(1, 3000) AS numbers(i)"
        )
        assert len(staged_records.split_join(session, make_plan())) == joins


@on_all_warehouses
def test_an_operation_is_stored_with_its_metadata_unchanged(survey):
    survey.prepare()
    (part,) = survey.prepared.parts
    metadata = json.dumps({"modelId": MODEL, "x": "é"}, ensure_ascii=False)
    survey.land([survey.code_part(part, metadata=metadata.encode())])
    columns = (
        "operation_id, run_id, part, topic, model_id, records, bytes, state, error, usable, discarded_lines, metadata"
    )
    rows = survey.query(f"SELECT {columns} FROM coding.coding_operations")
    operation = ("run-1-operation-0", "run-1", 0, "osca", MODEL)
    assert rows == [(*operation, 2, part.bytes, "complete", None, 2, 0, metadata)]


@on_all_warehouses
def test_a_nul_in_a_label_or_a_record_id_is_replaced(pipeline, tmp_path):
    path = tmp_path / "a.parquet"
    columns = f"'R' || chr(0) AS record_id, DATE '{DAY}' AS response_date, 'chef' AS occp_text, '' AS tasks_text"
    duckdb.execute(f"COPY (SELECT {columns}) TO '{path}'")
    pipeline.run(source=path.as_uri(), code=lambda line: code_line(line, {**CHEF, "codeLabel": "Ch\0ef"}))
    assert pipeline.query("SELECT record_id, label FROM coding.coded_records") == [("R\ufffd", "Ch\ufffdef")]


@on_duckdb_and_postgres
def test_landing_again_after_the_files_were_removed_does_not_change_the_operation(survey):
    survey.prepare()
    part_results = [survey.code_part(part, metadata=b"{}") for part in survey.prepared.parts]
    survey.land(part_results)
    operation = "SELECT usable, error, metadata FROM coding.coding_operations"
    before = survey.query(operation)
    shutil.rmtree(survey.staging.scratch)
    with pytest.raises(IncompleteError, match="does not exist any more"):
        survey.land(part_results)
    assert survey.query(operation) == before == [(2, None, "{}")]


@on_duckdb_and_postgres
def test_a_cleared_run_keeps_its_number_of_texts_sent(survey):
    survey.run()
    survey.run()
    assert survey.query("SELECT texts_sent, operations FROM coding.coding_runs") == [(2, 1)]


@on_duckdb_and_postgres
def test_a_cleared_run_counts_the_texts_that_its_failed_attempt_sent(pipeline):
    pipeline.fill(*[(str(number), DAY, f"job {number}", "") for number in range(4)])
    first, second = pipeline.prepare(records_per_part=2).parts
    with pytest.raises(IncompleteError):
        pipeline.land([pipeline.code_part(first), lose_part(second)])
    pipeline.prepare(records_per_part=2)
    part_results = [
        replace(pipeline.code_part(part), operation_id="operation of the second attempt")
        for part in pipeline.prepared.parts
    ]
    summary = pipeline.land(part_results)
    assert (summary.texts_sent, summary.operations) == (6, 3)
    assert pipeline.query("SELECT texts_sent, operations FROM coding.coding_runs") == [(6, 3)]


@on_duckdb_and_postgres
def test_landing_again_changes_nothing_except_the_times(survey):
    survey.run()
    first = survey.read_outcomes()
    survey.land()
    assert survey.read_outcomes() == first == OUTCOMES
    assert [count(survey, table) for table in ("coded_texts", "coding_operations")] == [2, 1]


def test_a_run_that_sends_nothing_publishes_with_earlier_results(survey):
    survey.run()
    survey.fill(("9", DAY, "baker", ""))
    summary = survey.run(run_id="run-2")
    assert (summary.coded, summary.texts_sent, summary.operations, summary.published_by_run) == (4, 0, 0, None)
    assert survey.query("SELECT DISTINCT run_id FROM coding.coded_records") == [("run-2",)]
    assert survey.query("SELECT DISTINCT run_id FROM coding.coded_texts") == [("run-1",)]


@on_all_warehouses
def test_a_run_whose_records_are_already_published_writes_no_rows(survey):
    first = survey.run(code=code_chefs)
    before = survey.query("SELECT * FROM coding.coded_records ORDER BY record_id")
    prepared = survey.prepare(run_id="run-2")
    assert (prepared.unchanged, prepared.records_uri, prepared.parts) == (True, None, ())
    summary = survey.land()
    assert vars(summary) == {
        **vars(first),
        "texts_sent": 0,
        "operations": 0,
        "published_by_run": "run-1",
        "dates": (),
    }
    assert survey.query("SELECT * FROM coding.coded_records ORDER BY record_id") == before
    runs = "SELECT run_id, published_by_run, records, coded, uncoded, rejected, texts, texts_sent FROM coding.coding_runs"
    assert survey.query(f"{runs} ORDER BY 1") == [
        ("run-1", "run-1", 4, 2, 1, 1, 2, 2),
        ("run-2", "run-1", 4, 2, 1, 1, 2, 0),
    ]


@on_duckdb_and_postgres
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
def test_a_run_works_again_when_its_records_or_the_published_rows_changed(survey, change):
    survey.run()
    survey.query(change)
    assert not survey.prepare(run_id="run-2").unchanged
    survey.land()
    assert survey.query("SELECT DISTINCT run_id FROM coding.coded_records") == [("run-2",)]


@pytest.mark.parametrize(
    "changes", [{"clean": False}, {"max_characters": 200}, {"to_date": DAY}, {"selection": "all"}]
)
def test_a_run_works_again_with_other_rules_or_for_other_dates(survey, changes):
    survey.run()
    assert not survey.prepare(run_id="run-2", **changes).unchanged


@on_duckdb_and_postgres
def test_records_are_joined_with_their_texts_again_after_texts_were_coded_again(survey):
    survey.run(to_date=LATER_DAY)
    survey.run(
        run_id="run-2",
        from_date=LATER_DAY,
        selection="all",
        code=lambda line: code_line(line, result=BAKER),
        to_date=LATER_DAY,
    )
    assert not survey.prepare(run_id="run-3", to_date=LATER_DAY).unchanged
    survey.land()
    assert survey.query("SELECT DISTINCT code FROM coding.coded_records WHERE record_id = '1'") == [("3512",)]


def test_a_stricter_limit_also_applies_to_records_that_are_already_published(survey):
    survey.run(code=code_chefs)
    with pytest.raises(AuditError, match="1 of 3 records are uncoded"):
        survey.run(run_id="run-2", max_uncoded_share=0.1)
    assert survey.query("SELECT DISTINCT run_id FROM coding.coded_records") == [("run-1",)]


def test_an_unchanged_run_fails_if_the_published_rows_change_before_it_lands(survey):
    survey.run()
    assert survey.prepare(run_id="run-2").unchanged
    survey.query("DELETE FROM coding.coded_records WHERE record_id = '1'")
    with pytest.raises(IncompleteError, match="has changed since `prepare`, or texts were coded again: clear"):
        survey.land()


def defer_landing(pipeline, code=code_line, **changes):
    """Prepare a run, and return a function that lands it later, after other runs."""
    part_results = [pipeline.code_part(part, code) for part in pipeline.prepare(**changes).parts]
    plan, prepared = pipeline.plan, pipeline.prepared

    def land():
        pipeline.plan, pipeline.prepared = plan, prepared
        return pipeline.land(part_results)

    return land


@on_duckdb_and_postgres
@pytest.mark.parametrize(("day", "withdrawn"), [(DAY, "1"), (NEXT_DAY, "4")])
def test_a_run_that_skipped_dates_does_not_count_as_published_for_all_of_its_records(survey, day, withdrawn):
    land_older = defer_landing(survey, run_id="run-older")
    survey.query("CREATE TABLE loading AS SELECT * FROM survey_responses")
    survey.query("DELETE FROM survey_responses WHERE record_id = ?", withdrawn)
    survey.run(run_id="run-newer", from_date=day, to_date=day)
    land_older()
    survey.query("DELETE FROM survey_responses")
    survey.query("INSERT INTO survey_responses SELECT * FROM loading")
    assert not survey.prepare(run_id="run-last").unchanged
    survey.land()
    assert survey.read_outcomes() == OUTCOMES


@on_duckdb_and_postgres
def test_a_run_that_reads_again_does_not_count_as_published_for_its_first_records(survey):
    survey.run()
    survey.run(run_id="run-2")  # finds the rows of run-1
    survey.query("UPDATE survey_responses SET occp_text = 'nurse' WHERE record_id = '3'")
    survey.run()
    survey.query("UPDATE survey_responses SET occp_text = 'baker' WHERE record_id = '3'")
    assert not survey.prepare(run_id="run-3").unchanged


def test_a_run_can_land_again_after_another_run_found_its_records_unchanged(survey):
    land_first = defer_landing(survey)
    land_first()
    survey.run(run_id="run-2")
    assert land_first().published_by_run is None
    assert survey.read_outcomes() == OUTCOMES


@on_duckdb_and_postgres
def test_an_unchanged_run_skips_dates_that_another_run_read_later(survey):
    survey.run()
    land_unchanged = defer_landing(survey, run_id="run-2")
    survey.fill(("9", DAY, "baker", ""))
    survey.run(run_id="run-3")
    summary = land_unchanged()
    assert (summary.read, summary.published_by_run) == (0, None)
    assert survey.query("SELECT DISTINCT run_id FROM coding.coded_records") == [("run-3",)]
    assert survey.prepare(run_id="run-4").unchanged


def test_a_text_in_parts_of_two_attempts_is_stored_once(pipeline):
    jobs = sorted((f"job {n}" for n in range(4)), key=lambda job: make_key(job, ""))
    pipeline.fill(*[(job, DAY, job, "") for job in jobs[1:]])
    first = pipeline.code_part(pipeline.prepare(records_per_part=2).parts[0])
    pipeline.fill((jobs[0], DAY, jobs[0], ""))
    second = pipeline.code_part(pipeline.prepare(records_per_part=2).parts[1])
    with pytest.raises(IncompleteError, match="part 1 .*prepared again"):
        pipeline.land([first, second])
    assert pipeline.query("SELECT occp_text, count(*) FROM coding.coded_texts GROUP BY 1 ORDER BY 2 DESC")[0][1] == 1
    prepared = pipeline.prepare(run_id="run-2")
    assert (prepared.texts, prepared.known_texts) == (4, 3)
    assert pipeline.land().coded == 4


@on_all_warehouses
def test_an_older_run_of_all_texts_does_not_replace_newer_codes(survey):
    land_older = defer_landing(survey, selection="all")
    survey.run(run_id="run-2", selection="all", code=lambda line: code_line(line, result=BAKER))
    land_older()
    assert survey.query("SELECT DISTINCT code FROM coding.coded_texts") == [("3512",)]


def test_the_name_of_the_staging_folder_can_look_like_a_pattern(pipeline, tmp_path):
    for name, job in (("st1", "baker"), ("st[1]", "chef")):
        pipeline.query("DROP TABLE IF EXISTS survey_responses")
        pipeline.fill(("1", DAY, job, ""))
        pipeline.folder = tmp_path / name
        pipeline.run(code=lambda line: code_line(line, {**CHEF, "codeLabel": line["occp_text"]}))
        assert pipeline.query("SELECT label FROM coding.coded_records") == [(job,)]


@on_duckdb_and_postgres
def test_a_run_with_more_texts_and_records_than_fit_in_memory_is_landed_completely(pipeline):
    pipeline.fill()
    texts = "'job ' || i, 'does what ' || i || ' people do'"
    pipeline.query(
        f"INSERT INTO survey_responses SELECT CAST(i AS VARCHAR), DATE '{DAY}', {texts} FROM generate_series(1, 400000) t(i)"
    )
    summary = pipeline.run(memory_mb=MIN_MEMORY_MB, records_per_part=350_000)
    assert (summary.coded, summary.texts, summary.operations) == (400_000, 400_000, 2)
    columns = "count(DISTINCT text_key), min(code), max(code)"  # the statistics of a table cannot answer these
    for name in ("coded_texts", "coded_records"):
        assert pipeline.query(f"SELECT {columns} FROM coding.{name}") == [(400_000, "351311", "351311")]


@on_duckdb_and_postgres
def test_a_source_that_lost_its_records_does_not_remove_published_rows(survey):
    survey.run()
    before = survey.read_outcomes()
    survey.query("DELETE FROM survey_responses")
    with pytest.raises(
        AuditError, match=r"source 'survey_responses' has no records of .* are published: check that the source"
    ):
        survey.run()
    assert survey.read_outcomes() == before


@on_all_warehouses
def test_an_older_run_does_not_replace_dates_that_were_read_later_but_publishes_the_others(survey):
    land_older = defer_landing(survey, run_id="run-older")
    survey.fill(("9", DAY, "baker", "bakes"))
    survey.run(run_id="run-newer", to_date=DAY)
    land_older()
    rows = survey.query("SELECT record_id, run_id FROM coding.coded_records ORDER BY record_id")
    assert rows == [
        ("1", "run-newer"),
        ("2", "run-newer"),
        ("3", "run-older"),
        ("4", "run-older"),
        ("9", "run-newer"),
    ]


def test_results_of_an_input_file_that_was_replaced_are_stored_but_not_published(survey):
    before = [survey.code_part(part) for part in survey.prepare().parts]
    sent = sum(part.records for part in survey.prepared.parts)
    survey.fill(("9", DAY, "baker", "bakes"))
    survey.prepare()
    with pytest.raises(IncompleteError, match="prepared again after it was sent: clear its `create`"):
        survey.land(before)
    assert survey.query("SELECT count(*) FROM coding.coded_texts") == [(sent,)]
    assert survey.read_outcomes() == []


@pytest.mark.parametrize("metadata", [None, json.dumps({"modelId": MODEL}).encode()], ids=["none", "of this model"])
def test_results_of_a_part_for_another_model_are_not_stored(survey, metadata):
    parts = survey.prepare(model_id=OTHER_MODEL).parts
    other_results = [survey.code_part(part, metadata=metadata) for part in parts]
    survey.prepare()
    with pytest.raises(
        IncompleteError,
        match=f"coded by topic 'osca', model '{OTHER_MODEL}', but .* pinned to topic 'osca', model '{MODEL}'",
    ):
        survey.land(other_results)
    assert survey.query("SELECT count(*) FROM coding.coded_texts") == [(0,)]


def test_a_missing_input_file_does_not_lose_the_results_of_other_parts(survey):
    first, second = (survey.code_part(part) for part in survey.prepare(records_per_part=1).parts)
    path_from_uri(first.input_uri).unlink()
    with pytest.raises(IncompleteError, match="part 1 .*its input file .* does not exist any more"):
        survey.land([first, second])
    assert survey.query("SELECT count(*) FROM coding.coded_texts") == [(1,)]


@on_all_warehouses
def test_a_day_without_records_is_landed_without_rows(survey):
    summary = survey.run(from_date="2026-01-01", to_date="2026-01-01")
    assert (summary.read, summary.operations, count(survey, "coded_records")) == (0, 0, 0)


@on_all_warehouses
def test_a_run_replaces_the_rows_of_its_dates_and_of_no_other_date(survey):
    survey.run(to_date=LATER_DAY)
    survey.query(f"DELETE FROM survey_responses WHERE response_date = '{LATER_DAY}' OR record_id IN ('1', '3')")
    survey.run(run_id="run-2")
    rows = survey.query("SELECT record_id, run_id FROM coding.coded_records ORDER BY record_id")
    assert rows == [("2", "run-2"), ("4", "run-2"), ("5", "run-1")]


@on_duckdb_and_postgres
@pytest.mark.parametrize("other", [{"model_id": OTHER_MODEL}, {"topic": "anzsco"}])
def test_rows_of_another_model_or_topic_are_not_replaced(survey, other):
    survey.run()
    survey.run(run_id="run-2", code=lambda line: code_line(line, result=BAKER), **other)
    rows = survey.query("SELECT run_id, code FROM coding.coded_records WHERE record_id = '1' ORDER BY run_id")
    assert rows == [("run-1", "351311"), ("run-2", "3512")]
    assert count(survey, "coded_texts") == 4


@on_all_warehouses
def test_a_schema_with_another_name_has_its_own_tables(survey):
    survey.run(schema="Order")  # a reserved word, with a capital
    assert survey.query('SELECT count(*) FROM "Order".coded_records') == [(4,)]


@on_all_warehouses
def test_selection_all_replaces_the_results_of_the_texts_that_it_sends(survey):
    survey.run(to_date=LATER_DAY)
    survey.fill(("6", "2026-10-20", "nurse", ""))
    survey.run(run_id="run-2", from_date="2026-10-20", to_date="2026-10-20")
    survey.run(run_id="run-3", selection="all", code=lambda line: code_line(line, result=BAKER))
    texts = survey.query("SELECT occp_text, code, run_id FROM coding.coded_texts ORDER BY 1")
    assert texts == [("baker", "3512", "run-3"), ("chef", "3512", "run-3"), ("nurse", "351311", "run-2")]
    assert survey.query("SELECT DISTINCT code FROM coding.coded_records WHERE run_id = 'run-3'") == [
        ("3512",),
        (None,),
    ]


@on_all_warehouses
def test_a_text_that_another_run_stored_first_keeps_its_result(survey):
    land_later = defer_landing(survey, code=lambda line: code_line(line, result=BAKER))
    survey.run(run_id="run-2")
    land_later()
    assert survey.query("SELECT DISTINCT code FROM coding.coded_texts") == [("351311",)]
    assert survey.query("SELECT DISTINCT code FROM coding.coded_records WHERE outcome = 'coded'") == [("351311",)]


@on_duckdb_and_postgres
def test_a_part_that_may_be_running_is_named_and_blocks_publishing_but_not_storing_the_other_results(survey):
    first, second = survey.prepare(records_per_part=1).parts
    with pytest.raises(IncompleteError) as caught:
        survey.land([survey.code_part(first), lose_part(second)])
    assert str(caught.value) == (
        "nothing was published, because 1 parts or operations are incomplete; the results of 1 of 2 texts are kept,"
        " and the next run of these dates sends the rest. part 2 (operation operation-1): it did not end before its"
        " deadline"
    )
    assert [count(survey, table) for table in ("coded_texts", "coded_records")] == [1, 0]
    assert survey.query("SELECT part, state, error, usable FROM coding.coding_operations ORDER BY part") == [
        (0, "complete", None, 1),
        (1, "deadline", "it did not end before its deadline", 0),
    ]


def test_the_next_run_sends_only_the_part_that_is_missing(pipeline):
    pipeline.fill(*[(str(n), DAY, f"job {n}", "") for n in range(10)])
    parts = pipeline.prepare(records_per_part=2).parts
    part_results = [lose_part(part) if part.part == 3 else pipeline.code_part(part) for part in parts]
    with pytest.raises(IncompleteError, match=r"8 of 10 texts are kept.* part 4 \(operation operation-3\)"):
        pipeline.land(part_results)
    assert [part.records for part in pipeline.prepare(run_id="run-2").parts] == [2]
    assert pipeline.land().coded == 10


def test_published_rows_stay_when_a_part_is_missing(survey):
    survey.run()
    before = survey.query("SELECT * FROM coding.coded_records ORDER BY record_id")
    survey.prepare(run_id="run-2", selection="all")
    with pytest.raises(IncompleteError):
        survey.land([lose_part(part) for part in survey.prepared.parts])
    assert survey.query("SELECT * FROM coding.coded_records ORDER BY record_id") == before


def test_a_part_without_an_operation_is_named_and_has_no_row(survey):
    survey.prepare()
    with pytest.raises(IncompleteError, match=r"part 1 \(operation None\): it has no output; see the logs"):
        survey.land([PartResult(0, None, "unknown")])
    assert count(survey, "coding_operations") == 0


def test_the_text_of_a_discarded_line_is_sent_once_more_and_the_line_is_logged(survey, caplog):
    survey.prepare()
    (part,) = survey.prepared.parts
    chef = {"recordId": make_key("chef", "cooks"), "occp_text": "chef", "tasks_text": "cooks"}
    summary = survey.land([survey.code_part(part, lines=code_line(chef) + "oops\n")])
    assert "Part 1: output line 2 was discarded: it is not a JSON object" in caplog.text
    assert survey.sent_again == [["baker"]]
    assert (summary.coded, summary.texts_sent, summary.operations, summary.extra_operations) == (3, 3, 2, 1)
    operations = "SELECT part, records, usable, discarded_lines FROM coding.coding_operations ORDER BY part"
    assert survey.query(operations) == [(0, 2, 1, 1), (1, 1, 1, 0)]


@pytest.mark.parametrize("lines", ["", "garbage\n" * 3, "\x01\x02"])
def test_an_output_without_any_result_publishes_nothing(survey, lines):
    survey.prepare()
    with pytest.raises(IncompleteError, match="the results of 0 of 2 texts are kept.*2 of 2 texts have no usable"):
        survey.land(lines=lines)
    assert [count(survey, table) for table in ("coded_texts", "coded_records")] == [0, 0]


def test_a_missing_output_file_does_not_lose_the_results_of_other_parts(survey):
    first, second = survey.prepare(records_per_part=1).parts
    missing = survey.code_part(second)
    path_from_uri(missing.output_uri).unlink()
    with pytest.raises(IncompleteError, match="part 2 .*its output file .* does not exist any more"):
        survey.land([survey.code_part(first), missing])
    assert count(survey, "coded_texts") == 1


def test_lines_of_texts_that_were_not_sent_do_not_block_publishing(survey):
    survey.prepare()
    stranger = {"recordId": "0" * 32, "occp_text": "x", "tasks_text": ""}
    survey.land(code=lambda line: code_line(line) + code_line(stranger) + code_line(line))
    assert survey.read_outcomes() == OUTCOMES
    assert survey.query("SELECT usable, discarded_lines FROM coding.coding_operations") == [(2, 4)]


@pytest.mark.parametrize("note", [b"", b', "note": "a\0b"'], ids=["plain", "with a NUL"])
def test_results_are_refused_if_the_metadata_names_another_model(survey, note):
    survey.prepare()
    metadata = b'{"modelId": "' + OTHER_MODEL.encode() + b'"' + note + b"}"
    with pytest.raises(
        IncompleteError,
        match=f"coded by topic 'osca', model '{OTHER_MODEL}', but .* pinned to topic 'osca', model '{MODEL}'",
    ):
        survey.land(metadata=metadata)
    assert [count(survey, table) for table in ("coded_texts", "coded_records")] == [0, 0]


@pytest.mark.parametrize(
    ("metadata", "stored"),
    [
        (b"model: 3", "model: 3"),
        (b"", ""),
        (b"{", "{"),
        (b"[1, 2]", "[1, 2]"),
        (b'{"modelId": null}', '{"modelId": null}'),
        (b"[" * 50_000, "[" * 50_000),
    ],
    ids=["text", "empty", "cut", "list", "no model", "deep"],
)
def test_metadata_without_a_model_is_stored_and_does_not_block_publishing(survey, metadata, stored):
    survey.prepare()
    assert survey.land(metadata=metadata).coded == 3
    assert survey.query("SELECT metadata FROM coding.coding_operations") == [(stored,)]


@on_all_warehouses
def test_metadata_that_is_not_text_is_stored_with_replacements(survey):
    survey.prepare()
    assert survey.land(metadata=b"\xff\x00;").coded == 3
    assert survey.query("SELECT metadata FROM coding.coding_operations") == [("\ufffd\ufffd;",)]


@on_redshift  # others hold texts of any length
@pytest.mark.parametrize(("length", "is_stored"), [(65535, True), (65536, False)])
def test_metadata_that_is_too_long_for_a_column_does_not_block_publishing(survey, length, is_stored):
    survey.prepare()
    assert survey.land(metadata=b"x" * length).coded == 3
    assert survey.query("SELECT count(metadata) FROM coding.coding_operations") == [(int(is_stored),)]


def test_a_missing_metadata_file_does_not_block_publishing(survey):
    survey.prepare()
    part_results = [survey.code_part(part, metadata=b"{}") for part in survey.prepared.parts]
    path_from_uri(part_results[0].metadata_uri).unlink()
    assert survey.land(part_results).coded == 3


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (
            {"max_uncoded_share": 0.33},
            r"1 of 3 records are uncoded \(33.3%\), which exceeds max_uncoded_share = 0.33",
        ),
        (
            {"max_uncoded_share": 0.2},
            r"1 of 3 records are uncoded \(33.3%\), which exceeds max_uncoded_share = 0.2",
        ),
    ],
)
def test_a_share_above_its_limit_publishes_nothing_and_stores_the_results(survey, limits, message):
    with pytest.raises(AuditError, match=f"nothing was published: {message}: check the source, or raise the limit"):
        survey.run(code=code_chefs, **limits)
    assert [count(survey, table) for table in ("coded_texts", "coded_records")] == [2, 0]


def test_a_share_at_its_limit_is_published(survey):
    summary = survey.run(code=code_chefs, max_uncoded_share=1 / 3, max_rejected_share=0.25)
    assert (summary.uncoded, summary.rejected) == (1, 1)


@on_duckdb_and_postgres
@pytest.mark.parametrize("counts", [{"read": 5}, {"read": 3}, {"rejected": 0}])
def test_counts_that_do_not_add_up_publish_nothing(survey, counts):
    survey.prepare()
    with pytest.raises(AuditError, match=r"nothing was published: \d records were read .* start another run"):
        survey.land(prepared=counts)
    assert count(survey, "coded_records") == 0


@on_all_warehouses
def test_a_known_text_that_was_lost_since_publishes_nothing(survey):
    survey.run()
    before = survey.read_outcomes()
    survey.fill(("9", DAY, "chef", "cooks"))
    survey.prepare(run_id="run-2")
    survey.query("DELETE FROM coding.coded_texts WHERE occp_text = 'baker'")
    with pytest.raises(AuditError, match="1 have a text without a result"):
        survey.land()
    assert survey.read_outcomes() == before


def test_a_text_that_is_stored_twice_does_not_hide_a_lost_one(survey):
    survey.run()
    survey.prepare(run_id="run-2", from_date=NEXT_DAY, to_date=LATER_DAY)
    # PostgreSQL has a unique index that prevents this
    survey.query("INSERT INTO coding.coded_texts SELECT * FROM coding.coded_texts WHERE occp_text = 'chef'")
    survey.query("DELETE FROM coding.coded_texts WHERE occp_text = 'baker'")
    with pytest.raises(AuditError, match="1 have a text without a result"):
        survey.land(prepared={"read": 3})


@on_all_warehouses
def test_the_newest_model_is_the_current_one(survey):
    versions = [("run-1", MODEL, 2.0, CHEF), ("run-2", OTHER_MODEL, 10.0, BAKER), ("run-3", OLDEST_MODEL, 1.0, CHEF)]
    for run_id, model_id, version, result in versions:
        survey.run(
            run_id=run_id,
            model_id=model_id,
            model_version=version,
            code=lambda line, result=result: code_line(line, result=result),
        )
    assert survey.query("SELECT DISTINCT model_id FROM coding.current_codes") == [(OTHER_MODEL,)]
    assert survey.query("SELECT record_id, code FROM coding.current_codes ORDER BY 1") == [
        *[(record_id, "3512") for record_id in "123"],
        ("4", None),
    ]


def read_current_records(pipeline):
    """Return the record id, date and model version of each current code."""
    columns = "record_id, CAST(response_date AS VARCHAR), model_version"
    return pipeline.query(f"SELECT {columns} FROM coding.current_codes ORDER BY 1, 2, 3")


@on_all_warehouses
def test_a_record_that_was_withdrawn_or_moved_before_the_newest_model_coded_its_date_is_not_current(pipeline):
    pipeline.fill(
        ("R1", DAY, "chef", ""), ("R2", DAY, "baker", ""), ("R3", DAY, "nurse", ""), ("R4", NEXT_DAY, "chef", "")
    )
    pipeline.run()
    pipeline.query("DELETE FROM survey_responses WHERE record_id = 'R2'")
    pipeline.query(
        "UPDATE survey_responses SET response_date = ? WHERE record_id = 'R3'", date.fromisoformat(NEXT_DAY)
    )
    pipeline.run(run_id="run-2", model_id=OTHER_MODEL, model_version=2.0)
    assert read_current_records(pipeline) == [("R1", DAY, 2.0), ("R3", NEXT_DAY, 2.0), ("R4", NEXT_DAY, 2.0)]


@on_all_warehouses
def test_a_repeated_id_that_the_source_has_removed_is_not_current(pipeline):
    pipeline.fill(("R1", DAY, "chef", ""), ("R1", DAY, "chef", ""))
    pipeline.run()
    pipeline.query("DROP TABLE survey_responses")
    pipeline.fill(("R1", DAY, "chef", ""))
    pipeline.run(run_id="run-2", model_id=OTHER_MODEL, model_version=2.0)
    assert read_current_records(pipeline) == [("R1", DAY, 2.0)]


@on_all_warehouses
def test_a_model_without_a_version_is_older_than_others_and_among_such_models_the_last_one_to_code_is_newest(survey):
    survey.run(model_version=None, to_date=DAY)
    survey.run(run_id="run-2", model_id=OTHER_MODEL, model_version=None, to_date=NEXT_DAY)
    models = "SELECT DISTINCT CAST(response_date AS VARCHAR), model_id FROM coding.current_codes ORDER BY 1"
    assert survey.query(models) == [(DAY, OTHER_MODEL), (NEXT_DAY, OTHER_MODEL)]
    survey.run(run_id="run-3", model_version=1.0, from_date=NEXT_DAY)
    assert survey.query(models) == [(DAY, OTHER_MODEL), (NEXT_DAY, MODEL)]


@on_duckdb_and_postgres
def test_dates_that_only_an_older_model_coded_have_current_codes(survey):
    survey.run()
    survey.run(run_id="run-2", model_id=OTHER_MODEL, model_version=2.0, from_date=NEXT_DAY)
    rows = survey.query("SELECT record_id, model_version FROM coding.current_codes ORDER BY 1")
    assert rows == [("1", 1.0), ("2", 1.0), ("3", 2.0), ("4", 2.0)]


def test_each_topic_has_its_own_current_codes(survey):
    survey.run()
    survey.run(run_id="run-2", topic="anzsco")
    assert survey.query("SELECT topic, count(*) FROM coding.current_codes GROUP BY 1 ORDER BY 1") == [
        ("anzsco", 4),
        ("osca", 4),
    ]


def test_a_repeated_record_id_has_one_row_for_each_record(pipeline):
    pipeline.fill(("1", DAY, "chef", ""), ("1", DAY, "chef", ""), ("1", DAY, "baker", ""))
    pipeline.run()
    assert pipeline.query("SELECT occurrence FROM coding.current_codes ORDER BY 1") == [(1,), (2,), (3,)]


def finish(process):
    """Wait for a landing, and return its exit code and what it wrote to standard error."""
    process.join(60)
    return process.exitcode, process.error_file.read_text()


@on_all_warehouses
def test_two_landings_at_the_same_time_both_succeed(survey):
    prepared = []
    for run_id, day in (("run-1", DAY), ("run-2", NEXT_DAY)):
        survey.prepare(run_id=run_id, from_date=day, to_date=day)
        prepared.append((survey.plan, survey.prepared))
    with survey.warehouse.session() as session, session.transaction(lock="coding.coding_runs"):  # both have to wait
        landings = []
        for survey.plan, survey.prepared in prepared:
            landings.append(survey.start_landing())
    assert [finish(process) for process in landings] == [(0, ""), (0, "")]
    assert survey.read_outcomes() == OUTCOMES
    assert survey.query("SELECT run_id, count(*) FROM coding.coded_records GROUP BY 1 ORDER BY 1") == [
        ("run-1", 2),
        ("run-2", 2),
    ]


class LockProbe:
    """A warehouse whose sessions try, while rows are staged, whether another session could take the writers' lock."""

    def __init__(self, warehouse):
        self._warehouse, self.name, self.is_free = warehouse, warehouse.name, {}

    @contextmanager
    def session(self, *, read_only=False):
        with self._warehouse.session(read_only=read_only) as session:
            self._watch(session)
            yield session

    def _watch(self, session):
        stage = session.staged

        @contextmanager
        def staged(name, rows, **options):
            with stage(name, rows, **options):
                self.is_free[name] = self._try_lock()
                yield

        session.staged = staged

    def _try_lock(self):
        try:
            with self._warehouse.session() as session, session.transaction():
                session.execute("LOCK TABLE coding.coding_runs IN EXCLUSIVE MODE NOWAIT")
        except WarehouseError:
            return False
        return True


@on_postgres
def test_no_run_waits_for_the_lock_of_another_one_that_copies_its_rows(survey):
    survey.prepare()
    survey.warehouse = probe = LockProbe(survey.warehouse)
    survey.land(code=lambda line: code_line(line) if line["occp_text"] == "chef" else "")  # the other is set aside
    assert probe.is_free == dict.fromkeys(["texts_aside", "new_results", "staged_answers", "staged_records"], True)
    with survey.warehouse.session() as session, session.transaction(lock="coding.coding_runs"):
        assert not probe._try_lock(), "the probe notices a lock"


def kill_after(process, seconds):
    """Kill the landing this many seconds after its start, unless it has ended by then."""
    process.join(seconds)
    process.kill()
    process.join()


@on_duckdb_and_postgres
def test_a_killed_landing_leaves_the_tables_unchanged_or_complete(pipeline):
    pipeline.fill()
    pipeline.query(
        f"INSERT INTO survey_responses SELECT CAST(i AS VARCHAR), DATE '{DAY}', 'job ' || i % 20000, ''"
        " FROM generate_series(1, 40000) t(i)"
    )
    pipeline.run(code=lambda line: code_line(line, result=BAKER))
    pipeline.prepare(run_id="run-2", selection="all")
    start = time.monotonic()
    pipeline.land()
    duration = time.monotonic() - start
    pipeline.run(run_id="run-1", selection="all", code=lambda line: code_line(line, result=BAKER))
    before, after = [("run-1", "3512", 40_000)], [("run-2", "351311", 40_000)]

    pipeline.prepare(run_id="run-2", selection="all")
    for moment in (0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
        kill_after(pipeline.start_landing(), moment * duration)
        records = pipeline.query("SELECT run_id, code, count(*) FROM coding.coded_records GROUP BY 1, 2")
        texts = pipeline.query("SELECT code, count(*) FROM coding.coded_texts GROUP BY 1")
        assert records in (before, after)
        assert texts in ([("3512", 20_000)], [("351311", 20_000)])
    assert finish(pipeline.start_landing()) == (0, "")
    assert pipeline.query("SELECT run_id, code, count(*) FROM coding.coded_records GROUP BY 1, 2") == after
    assert list((pipeline.folder / "run-2").glob("land.*")) == []


@on_all_warehouses
def test_dates_are_stored_as_dates_and_times_in_utc(survey):
    survey.run()
    ((day, coded_at),) = survey.query(
        "SELECT response_date, coded_at FROM coding.coded_records WHERE record_id = '1'"
    )
    ((now,),) = survey.query("SELECT CAST(now() AT TIME ZONE 'UTC' AS TIMESTAMP)")
    assert day == date.fromisoformat(DAY)
    assert 0 <= (now - coded_at).total_seconds() < 60


@on_all_warehouses
def test_a_plan_without_a_model_version_is_landed(survey):
    survey.run(model_version=None)
    assert survey.query("SELECT DISTINCT model_version FROM coding.current_codes") == [(None,)]


NIGHT = {"run_id": "night", "from_date": DAY, "to_date": NEXT_DAY, "changed_only": True}


def read_records_by_run(pipeline):
    """Return the record ids of the rows that each run wrote."""
    rows = pipeline.query("SELECT run_id, record_id FROM coding.coded_records ORDER BY 1, 2")
    return {run_id: [row[1] for row in rows if row[0] == run_id] for run_id, _ in rows}


@on_all_warehouses
def test_a_look_back_publishes_dates_with_late_records_and_skips_unchanged_ones(survey):
    survey.run(to_date=DAY)
    survey.fill(("9", DAY, "chef", "cooks"))
    summary = survey.run(**NIGHT)
    assert read_records_by_run(survey) == {"night": ["1", "2", "3", "4", "9"]}
    assert (summary.days, summary.read, summary.texts_sent) == ((DAY, NEXT_DAY), 5, 1)

    again = survey.run(**{**NIGHT, "run_id": "again", "to_date": LATER_DAY})
    assert read_records_by_run(survey) == {"again": ["5"], "night": ["1", "2", "3", "4", "9"]}
    assert (again.days, again.read, again.texts_sent) == ((LATER_DAY,), 1, 0)


@on_duckdb_and_postgres
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
def test_a_look_back_notices_records_that_were_changed_or_withdrawn(survey, change):
    survey.run()
    survey.query(change)
    summary = survey.run(**NIGHT)
    assert summary.days == (DAY,)
    assert summary.coded + summary.rejected == summary.read == len(read_records_by_run(survey)["night"])


@on_duckdb_and_postgres
def test_a_look_back_notices_that_a_text_was_coded_again(survey):
    survey.run(to_date=LATER_DAY)
    survey.query("UPDATE coding.coded_texts SET operation_id = 'other' WHERE occp_text = 'chef'")
    assert survey.run(**NIGHT).days == (DAY,)


@on_all_warehouses
def test_a_look_back_without_changes_writes_nothing_and_counts_nothing(survey):
    survey.run(to_date=LATER_DAY)
    before = survey.query("SELECT * FROM coding.coded_records ORDER BY record_id")
    summary = survey.run(**NIGHT)
    assert (summary.days, summary.read, summary.texts_sent, summary.operations) == ((), 0, 0, 0)
    assert survey.query("SELECT * FROM coding.coded_records ORDER BY record_id") == before


@on_duckdb_and_postgres
def test_published_dates_that_the_source_no_longer_has_stay_and_are_logged(survey, caplog):
    survey.run()
    survey.query("DELETE FROM survey_responses WHERE response_date = ?", date.fromisoformat(DAY))
    summary = survey.run(run_id="run-2", selection="all")
    assert (summary.days, summary.read) == ((NEXT_DAY,), 2)
    assert read_records_by_run(survey) == {"run-1": ["1", "2"], "run-2": ["3", "4"]}
    assert f"source 'survey_responses' has no record of them: {DAY}. To remove their rows" in caplog.text


@on_duckdb_and_postgres
def test_a_source_without_dates_never_replaces_the_records_of_another_source(survey):
    survey.run()
    survey.query(
        "CREATE TABLE wave AS SELECT record_id, occp_text, tasks_text FROM survey_responses WHERE record_id = '1'"
    )

    def run_wave(day, run_id):
        return survey.run(run_id=run_id, source="wave", response_date=day, from_date=day, to_date=day)

    with pytest.raises(
        AuditError, match=f"{NEXT_DAY} is published from \\['survey_responses'\\], .* another `response_date`"
    ):
        run_wave(NEXT_DAY, "wave")
    assert survey.read_outcomes() == OUTCOMES
    summary = run_wave(LATER_DAY, "wave")
    assert (summary.days, summary.coded) == ((LATER_DAY,), 1)
    survey.query("INSERT INTO wave VALUES ('2', 'clerk', '')")
    assert run_wave(LATER_DAY, "wave-2").coded == 2


def test_a_source_without_dates_can_use_a_date_without_published_rows(survey):
    survey.run(to_date="2026-10-20")
    survey.query(
        "CREATE TABLE wave AS SELECT record_id, occp_text, tasks_text FROM survey_responses WHERE record_id = '1'"
    )
    dates = {"response_date": "2026-10-15", "from_date": "2026-10-15", "to_date": "2026-10-15"}
    assert survey.run(run_id="wave", source="wave", **dates).days == ("2026-10-15",)


@on_duckdb_and_postgres
def test_a_look_back_that_lands_twice_returns_the_same_summary_twice(survey):
    survey.run(to_date=DAY)
    survey.fill(("9", DAY, "chef", "cooks"))
    survey.prepare(**NIGHT)
    assert survey.land() == survey.land()
    assert read_records_by_run(survey) == {"night": ["1", "2", "3", "4", "9"]}
    assert survey.query("SELECT records, coded FROM coding.coding_runs WHERE run_id = 'night'") == [(5, 4)]


@on_duckdb_and_postgres
def test_a_later_run_without_records_of_a_date_does_not_block_others_from_publishing_it(survey):
    land_early = defer_landing(survey, run_id="early", to_date=DAY)
    survey.fill(("x", NEXT_DAY, "clerk", ""), table="part")
    survey.run(run_id="part", source="part", to_date=LATER_DAY)
    summary = land_early()
    assert (summary.days, summary.read) == ((DAY,), 2)
    assert read_records_by_run(survey) == {"early": ["1", "2"], "part": ["x"]}


@on_duckdb_and_postgres
def test_a_look_back_skips_an_earlier_date_that_exceeds_a_limit(survey, caplog):
    survey.run(to_date=DAY)
    survey.fill(*((f"bad-{number}", DAY, "", "") for number in range(9)), ("4b", NEXT_DAY, "nurse", ""))
    summary = survey.run(**NIGHT)
    assert summary.days == (NEXT_DAY,)
    assert f"Skipped {DAY}: 9 of 11 records are rejected (81.8%)" in caplog.text
    assert read_records_by_run(survey)["run-1"] == ["1", "2"]


def test_a_look_back_fails_if_its_last_date_exceeds_a_limit(survey):
    survey.fill(*((f"good-{number}", DAY, "chef", "cooks") for number in range(20)))
    survey.fill(*((f"bad-{number}", NEXT_DAY, "", "") for number in range(9)))
    with pytest.raises(AuditError, match="10 of 11 records are rejected"):
        survey.run(**NIGHT)
    assert read_records_by_run(survey) == {}


@on_duckdb_and_postgres
def test_a_look_back_over_an_empty_source_succeeds_and_changes_nothing(survey):
    survey.run()
    survey.query("DELETE FROM survey_responses")
    summary = survey.run(**NIGHT)
    assert (summary.days, summary.read) == ((), 0)
    assert survey.read_outcomes() == OUTCOMES


@on_all_warehouses
def test_a_night_that_waits_loses_no_late_record_and_replaces_nothing_newer(survey):
    survey.run(to_date=DAY)
    land_first = defer_landing(survey, **NIGHT)  # it waits for an approval
    survey.fill(("9", DAY, "chef", "cooks"), ("10", NEXT_DAY, "baker", ""))
    second = {**NIGHT, "run_id": "second", "to_date": LATER_DAY, "excluded_dates": [NEXT_DAY]}
    summary = survey.run(**second)
    assert summary.days == (DAY, LATER_DAY)
    assert read_records_by_run(survey) == {"second": ["1", "2", "5", "9"]}
    assert land_first().days == (NEXT_DAY,)
    assert read_records_by_run(survey) == {"night": ["3", "4"], "second": ["1", "2", "5", "9"]}
    summary = survey.run(**{**NIGHT, "run_id": "third", "to_date": LATER_DAY})
    assert summary.days == (NEXT_DAY,)
    assert read_records_by_run(survey) == {"second": ["1", "2", "5", "9"], "third": ["10", "3", "4"]}


@on_duckdb_and_postgres
def test_a_date_that_a_run_excluded_is_neither_vanished_nor_read_later_nor_published_by_it(survey, caplog):
    survey.run()
    land_first = defer_landing(survey, run_id="first", from_date=NEXT_DAY)
    survey.fill(("9", DAY, "chef", "cooks"))
    survey.run(**{**NIGHT, "run_id": "second", "to_date": LATER_DAY, "excluded_dates": [NEXT_DAY]})
    assert "has no record of them" not in caplog.text
    assert survey.query("SELECT excluded_dates FROM coding.coding_runs WHERE run_id = 'second'") == [(NEXT_DAY,)]
    assert land_first().published_by_run is None
    assert "another run read them later" not in caplog.text
    with survey.warehouse.session() as session:
        assert find_unpublished_dates(session, survey.plan, [DAY, NEXT_DAY, "2026-10-07", "2026-11-01"]) == [
            "2026-11-01"
        ]


def test_a_night_that_failed_is_unpublished_until_another_run_has_read_or_published_its_date(survey):
    days = [DAY, NEXT_DAY, "2026-10-07"]
    survey.run(to_date=DAY, run_id="manual")
    survey.run(
        **{**NIGHT, "run_id": "second", "from_date": NEXT_DAY, "to_date": LATER_DAY, "excluded_dates": [NEXT_DAY]}
    )
    with survey.warehouse.session() as session:
        assert find_unpublished_dates(session, survey.plan, days) == [NEXT_DAY]
    survey.run(run_id="manual-2", from_date=NEXT_DAY)
    with survey.warehouse.session() as session:
        assert find_unpublished_dates(session, survey.plan, days) == []


@on_postgres
def test_a_look_back_over_many_records_publishes_only_new_dates(survey):
    count = 40_000
    survey.query(
        "INSERT INTO survey_responses SELECT 'r' || i, DATE '2026-10-01' + (i % 4), 'chef', 'cooks'"
        f" FROM generate_series(1, {count}) AS numbers(i)"
    )
    survey.run(from_date="2026-10-01", to_date="2026-10-03")
    summary = survey.run(**{**NIGHT, "from_date": "2026-10-01", "to_date": LATER_DAY})
    assert summary.days == ("2026-10-04", DAY, NEXT_DAY, LATER_DAY)
    assert summary.read == 10_000 + 5


def test_separate_dates_are_listed_as_spans_up_to_a_limit():
    days = [date.fromisoformat(f"2026-{month:02}-{day:02}") for month in range(1, 13) for day in (1, 2, 15)]
    assert merge_into_spans(days)[:2] == [(days[0], days[1]), (days[2], days[2])]
    assert len(merge_into_spans(days)) == 24
    assert format_dates(days).startswith("2026-01-01 to 2026-01-02, 2026-01-15, 2026-02-01 to")
    assert format_dates(days).endswith(" and 14 more")


def test_the_duration_of_an_operation_is_stored(survey):
    survey.prepare()
    survey.land([replace(survey.code_part(part), seconds=41.5) for part in survey.prepared.parts])
    assert survey.query("SELECT seconds FROM coding.coding_operations") == [(41.5,)]


# ---- runs of other DAGs --------------------------------------------------------------------------------------------


def test_the_scheduled_runs_of_two_dags_with_the_same_id_are_two_runs(survey):
    survey.run(run_id="night")
    counts = survey.query("SELECT texts_sent, operations FROM coding.coding_runs")
    survey.run(run_id="recode_labour_force/night", topic="anzsco")
    rows = survey.query("SELECT run_id, topic, texts_sent, operations FROM coding.coding_runs ORDER BY 1")
    assert rows == [("night", "osca", *counts[0]), ("recode_labour_force/night", "anzsco", *counts[0])]
    topics = survey.query("SELECT DISTINCT run_id, topic FROM coding.coded_records ORDER BY 1")
    assert topics == [("night", "osca"), ("recode_labour_force/night", "anzsco")]


def test_a_run_whose_plan_was_edited_cannot_replace_the_rows_of_another_dag(survey):
    survey.run(run_id="night")
    rows = survey.query("SELECT * FROM coding.coded_records ORDER BY 1, 2")
    with pytest.raises(PlanError, match="topic 'osca' of schema 'coding' is coded by the DAG 'recode_occupations'"):
        survey.run(run_id="recode_labour_force/night", selection="all")
    assert survey.query("SELECT * FROM coding.coded_records ORDER BY 1, 2") == rows
