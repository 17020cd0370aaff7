"""From records to parts: nothing is lost or sent twice, and the bytes are the same every time."""

import hashlib
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import duckdb
import pyarrow.parquet as pq
import pytest

from include.coding.errors import PlanError, SourceError
from include.coding.parts import MAX_PARTS
from tests.coding.conftest import (
    DAY,
    LATER_DAY,
    NEXT_DAY,
    OTHER_MODEL,
    ROOT,
    code_line,
    make_key,
    make_plan,
    on_all_warehouses,
    on_duckdb_and_postgres,
    open_test_source,
    path_from_uri,
    read_part,
)

ANSWERS = [
    ("1", DAY, "chef", "cooks"),
    ("2", DAY, "Chef ", "cooks"),
    ("3", DAY, " chef", "cooks "),
    ("4", NEXT_DAY, "chef", "cooks"),
    ("5", NEXT_DAY, "baker", ""),
    ("6", NEXT_DAY, "", None),
    ("7", NEXT_DAY, "护士", "cares"),
    ("8", NEXT_DAY, "a" * 200, "b" * 101),
    (None, NEXT_DAY, "nurse", "cares"),
    ("9", LATER_DAY, "too late", ""),
    ("10", None, "undated", ""),
]
TEXTS = [("Chef", "cooks"), ("baker", ""), ("chef", "cooks")]


def read_records(prepared):
    """Return the staged records, with the keys of their texts."""
    keys = {row["answer"]: row["text_key"] for row in read_parquet(prepared.answers_uri)}
    return [{**row, "text_key": keys.get(row["answer"])} for row in read_parquet(prepared.records_uri)]


def read_parquet(uri):
    return pq.read_table(path_from_uri(uri)).to_pylist()


def read_texts(prepared):
    return [(line["occp_text"], line["tasks_text"]) for part in prepared.parts for line in read_part(part)]


@on_all_warehouses
def test_the_counts_add_up(pipeline):
    pipeline.fill(*ANSWERS)
    prepared = pipeline.prepare()
    counts = prepared.to_dict()
    assert len(counts.pop("parts")) == 1
    assert counts.pop("records_uri").startswith("file:///")
    assert counts.pop("answers_uri").startswith("file:///")
    assert counts.pop("read_at") > "2026"
    assert len(counts.pop("checksum")) == 64
    reasons = counts.pop("rejected_by_reason")
    assert reasons == {"blank": 1, "no_record_id": 1, "not_printable_ascii": 1, "too_long": 1}
    assert (counts.pop("dates_over_limit"), counts.pop("warnings"), counts.pop("notes")) == ({}, [], [])
    skipped = {"undated": 1, "unreadable_dates": 0, "unreadable_examples": [], "empty_rows": 0}
    expected = {"unchanged": False, "read": 9, "rejected": 4, "texts": 3, "known_texts": 0}
    assert counts == {**expected, **skipped, "awaited": 0, "awaited_uri": None, "file_checksum": None}


NUMBERED = (
    "The record ids are the numbers of the rows below the names of the columns, because `columns` says that there is no"
    " record id: they stay the same only as long as the file does not change."
)


def test_rows_without_record_ids_are_numbered_whatever_the_dates_and_the_run_says_so(pipeline, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(f"response_date,occp_text\n{LATER_DAY},late\n{DAY},chef\n{NEXT_DAY},baker\n{DAY},cook\n")
    columns = {"record_id": None, "tasks_text": None}
    prepared = pipeline.prepare(source=path.as_uri(), columns=columns)
    assert sorted(row["record_id"] for row in read_records(prepared)) == ["2", "3", "4"]
    assert sorted(read_texts(prepared)) == [("baker", ""), ("chef", ""), ("cook", "")]
    assert prepared.notes == (NUMBERED,)
    one_day = pipeline.prepare(source=path.as_uri(), columns=columns, run_id="run-2", to_date=DAY)
    assert sorted(row["record_id"] for row in read_records(one_day)) == ["2", "4"]


@pytest.mark.parametrize(
    ("days", "dates"),
    [
        ([LATER_DAY, LATER_DAY, "2026-12-01"], f"it has 2 dates, from {LATER_DAY} to 2026-12-01"),
        (["", " "], "it has no record with a date"),
    ],
)
def test_a_run_by_hand_that_finds_no_record_says_which_dates_the_source_has(pipeline, tmp_path, days, dates):
    source = write_answers(tmp_path / "a.csv", days)
    sentence = f"The source has no record from {DAY} to {NEXT_DAY}: {dates}. Set `from_date` and `to_date` to dates that it has."
    assert pipeline.prepare(source=source).notes == (sentence,)
    assert pipeline.prepare(source=source, changed_only=True).notes == ()


def write_answers(path, days):
    lines = [f"{number},{day},secret {number},\n" for number, day in enumerate(days)]
    path.write_text("record_id,response_date,occp_text,tasks_text\n" + "".join(lines) + ",,,\n", encoding="utf-8")
    return path.as_uri()


def test_rows_that_no_run_codes_are_counted_and_logged_by_every_run(pipeline, tmp_path, caplog):
    source = write_answers(tmp_path / "a.csv", [DAY] * 9 + ["05/10/26", ""])
    for run_id in ("run-1", "run-2"):
        prepared = pipeline.prepare(source=source, run_id=run_id)
        assert (prepared.read, prepared.undated, prepared.unreadable_dates, prepared.empty_rows) == (9, 1, 1, 1)
        assert prepared.unreadable_examples == ("line 11: '99/99/99'",)
        assert "a date that cannot be read: 1 (such as line 11: '99/99/99')" in caplog.text
        assert (
            "Rows in the whole source without any value in the needed columns, which are no records: 1" in caplog.text
        )
        assert "secret" not in caplog.text
        caplog.clear()
        pipeline.land()


def test_published_records_stay_if_a_file_is_delivered_again_with_years_of_two_digits(pipeline, tmp_path):
    source = write_answers(tmp_path / "a.csv", [DAY] * 10)
    pipeline.run(source=source)
    published = pipeline.read_outcomes()
    write_answers(tmp_path / "a.csv", [DAY] + ["05/10/26"] * 9)
    with pytest.raises(SourceError, match="9 of 10 values in 'response_date' .90.0%. are not dates"):
        pipeline.prepare(source=source, run_id="run-2")
    assert len(published) == 10
    assert pipeline.read_outcomes() == published


@on_duckdb_and_postgres
def test_every_record_of_the_dates_is_staged_with_its_key_or_its_reason(pipeline):
    pipeline.fill(*ANSWERS)
    records = {row["record_id"]: (row["text_key"], row["reason"]) for row in read_records(pipeline.prepare())}
    chef = (make_key("chef", "cooks"), None)
    assert records == {
        **{
            "1": chef,
            "2": (make_key("Chef", "cooks"), None),
            "3": chef,
            "4": chef,
            "5": (make_key("baker", ""), None),
        },
        **{
            "6": (None, "blank"),
            "7": (None, "not_printable_ascii"),
            "8": (None, "too_long"),
            "": (None, "no_record_id"),
        },
    }


def test_each_distinct_text_is_sent_once(pipeline):
    pipeline.fill(*ANSWERS)
    assert sorted(read_texts(pipeline.prepare())) == TEXTS


def test_a_line_has_the_key_and_both_texts_and_no_id_of_the_source(pipeline):
    pipeline.fill(*ANSWERS)
    for line in read_part(pipeline.prepare().parts[0]):
        assert list(line) == ["recordId", "occp_text", "tasks_text"]
        assert line["recordId"] == make_key(line["occp_text"], line["tasks_text"])


def test_a_part_is_printable_ascii_with_a_final_newline_and_has_a_hash(pipeline):
    pipeline.fill(("1", DAY, '5" \\ “café”\t', "a\nb\x07"))
    (part,) = pipeline.prepare().parts
    data = path_from_uri(part.input_uri).read_bytes()
    line = b'"occp_text":"5\\" \\\\ \\"cafe\\"","tasks_text":"a b"}\n'
    assert data.endswith(line)
    assert (part.records, part.bytes, part.sha256) == (1, len(data), hashlib.sha256(data).hexdigest())


def test_without_cleaning_texts_are_validated_and_sent_unchanged(pipeline):
    pipeline.fill(("1", DAY, " chef  x", None), ("2", DAY, "café", ""), ("3", DAY, "a\tb", ""))
    prepared = pipeline.prepare(clean=False, max_rejected_share=1)
    assert read_texts(prepared) == [(" chef  x", "")]
    assert prepared.rejected == 2


def test_texts_are_split_into_parts_of_the_given_size(pipeline):
    pipeline.fill(*[(str(n), DAY, f"job {n}", "") for n in range(7)])
    parts = pipeline.prepare(records_per_part=3).parts
    assert [(part.part, part.records, len(read_part(part))) for part in parts] == [(0, 3, 3), (1, 3, 3), (2, 1, 1)]
    keys = [line["recordId"] for part in parts for line in read_part(part)]
    assert keys == sorted({make_key(f"job {n}", "") for n in range(7)})


def test_a_text_of_many_megabytes_is_rejected_within_the_engines_memory(pipeline, tmp_path):
    path = tmp_path / "huge.parquet"
    duckdb.execute(
        f"COPY (SELECT i || '' AS record_id, DATE '{DAY}' AS response_date, 'chef' AS occp_text,"
        f" CASE WHEN i = 1 THEN repeat('cooks ', 8000000) ELSE '' END AS tasks_text FROM range(3) t(i)) TO '{path}'"
    )
    prepared = pipeline.prepare(source=path.as_uri())
    assert (prepared.read, prepared.texts) == (3, 1)
    assert {row["record_id"]: row["reason"] for row in read_records(prepared)} == {
        "0": None,
        "1": "too_long",
        "2": None,
    }


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_file_that_is_replaced_while_it_is_read_is_refused_even_with_as_many_records(pipeline, tmp_path, kind):
    path = tmp_path / f"a.{kind}"

    def write(job):
        columns = f"'1' AS record_id, DATE '{DAY}' AS response_date, '{job}' AS occp_text, '' AS tasks_text"
        duckdb.execute(f"COPY (SELECT {columns}) TO '{path}' (FORMAT {kind})")

    write("chef")
    plan = make_plan(source=path.as_uri())
    with (
        pytest.raises(SourceError, match=f"a.{kind}' changed while it was read"),
        open_test_source(tmp_path / "run", plan, pipeline.warehouse),
    ):
        write("cook")


def test_a_part_names_its_topic_and_model(pipeline):
    pipeline.fill(*ANSWERS)
    (part,) = pipeline.prepare(topic="anzsco", force_new=True).parts
    assert (part.topic, part.model_id, part.force_new) == ("anzsco", pipeline.plan.model_id, True)


@pytest.mark.parametrize("seed", range(3))
def test_the_same_records_in_another_order_give_the_same_parts(pipeline, seed):
    rows = [(str(n % 40), DAY, f"job {n % 30}", None if n % 7 else "x") for n in range(60)]
    pipeline.fill(*rows, table="straight")
    pipeline.fill(*random.Random(seed).sample(rows, len(rows)), table="shuffled")
    prepared = {
        name: pipeline.prepare(source=name, run_id=name, records_per_part=7) for name in ("straight", "shuffled")
    }
    hashes = [[part.sha256 for part in prepared[name].parts] for name in prepared]
    assert hashes[0] == hashes[1]
    records = [sorted(map(str, read_records(prepared[name]))) for name in prepared]
    assert records[0] == records[1]


def test_records_with_the_same_id_on_a_day_are_numbered(pipeline):
    pipeline.fill(("1", DAY, "chef", ""), ("1", DAY, "baker", ""), ("1", DAY, "", ""), ("1", NEXT_DAY, "chef", ""))
    occurrences = {
        (str(r["response_date"]), r["text_key"]): r["occurrence"] for r in read_records(pipeline.prepare())
    }
    first, second = sorted([make_key("chef", ""), make_key("baker", "")])
    assert occurrences == {
        **{(DAY, first): 1, (DAY, second): 2, (DAY, None): 3},
        (NEXT_DAY, make_key("chef", "")): 1,
    }


def test_a_duplicate_record_is_two_records_and_one_text(pipeline):
    pipeline.fill(("1", DAY, "chef", ""), ("1", DAY, "chef", ""))
    prepared = pipeline.prepare()
    assert sorted(row["occurrence"] for row in read_records(prepared)) == [1, 2]
    assert (prepared.read, prepared.texts) == (2, 1)


@on_all_warehouses
def test_texts_that_the_model_has_coded_are_not_sent_again(pipeline):
    pipeline.fill(*ANSWERS)
    pipeline.run()
    pipeline.fill(("20", NEXT_DAY, "nurse", "cares"))
    prepared = pipeline.prepare(run_id="run-2")
    assert read_texts(prepared) == [("nurse", "cares")]
    assert (prepared.texts, prepared.known_texts) == (4, 3)


@pytest.mark.parametrize("changes", [{"model_id": OTHER_MODEL}, {"topic": "anzsco"}, {"selection": "all"}])
def test_another_model_another_topic_or_selection_all_sends_every_text(pipeline, changes):
    pipeline.fill(*ANSWERS)
    pipeline.run()
    prepared = pipeline.prepare(run_id="run-2", **changes)
    assert sorted(read_texts(prepared)) == TEXTS
    assert prepared.known_texts == 0


def test_an_uncoded_text_is_not_sent_again(pipeline):
    pipeline.fill(("1", DAY, "asdf", ""))
    pipeline.run(code=lambda line: code_line(line, result=None), max_uncoded_share=1)
    assert pipeline.prepare(run_id="run-2", max_uncoded_share=1).parts == ()


@on_duckdb_and_postgres
@pytest.mark.parametrize("rows", [[], ANSWERS], ids=["an empty table", "none of these dates"])
def test_a_day_without_records_gives_no_parts(pipeline, rows):
    pipeline.fill(*rows)
    prepared = pipeline.prepare(from_date="2026-01-01", to_date="2026-01-01")
    assert (prepared.parts, prepared.read, prepared.texts) == ((), 0, 0)
    assert read_records(prepared) == []


def test_files_of_a_killed_attempt_are_overwritten(pipeline):
    pipeline.fill(*ANSWERS)
    folder = pipeline.folder / "run-1"
    (folder / "prepare.spill").mkdir(parents=True)
    names = [
        "prepare.duckdb",
        "prepare.duckdb.wal",
        "prepare.spill/x.tmp",
        "part-0000.jsonl",
        "part-0000.jsonl.partial",
    ]
    kept = {"records.parquet", "answers.parquet"}
    for name in [*names, *kept, *(f"{file}.partial" for file in kept)]:
        (folder / name).write_bytes(b"half of something")
    assert sorted(read_texts(pipeline.prepare())) == TEXTS
    (part,) = pipeline.prepared.parts
    assert {path.name for path in folder.iterdir()} == {path_from_uri(part.input_uri).name, *kept}


def test_more_parts_than_airflow_can_map_are_refused_with_a_remedy(pipeline):
    pipeline.fill()
    pipeline.query(
        f"INSERT INTO survey_responses SELECT CAST(i AS VARCHAR), DATE '{DAY}', 'job ' || i, ''"
        f" FROM generate_series(0, {MAX_PARTS * 2}) t(i)"
    )
    message = (
        r"2,049 texts make 1,025 parts of 2, but Airflow can map at most 1,024: raise records_per_part to 3 or more"
    )
    with pytest.raises(PlanError, match=message):
        pipeline.prepare(records_per_part=2)
    assert len(pipeline.prepare(records_per_part=3).parts) == 683


@on_duckdb_and_postgres
def test_a_source_that_cannot_be_read_leaves_no_part(pipeline):
    with pytest.raises(SourceError, match="'nowhere' is neither a table or view"):
        pipeline.prepare(source="nowhere")
    assert list((pipeline.folder / "run-1").iterdir()) == []
    assert pipeline.query("SELECT count(*) FROM coding.coded_records") == [(0,)]


@pytest.fixture(scope="module")
def responses(tmp_path_factory):
    tool = ROOT.parent / "shared" / "tools" / "make_responses.py"
    if not tool.is_file():
        pytest.skip(f"the tool that generates responses does not exist: {tool}")
    path = tmp_path_factory.mktemp("responses") / "responses.parquet"
    subprocess.run(
        [sys.executable, str(tool), str(path), "--rows", "200000", "--days", "30"], check=True, timeout=120
    )
    return path


@on_duckdb_and_postgres
def test_each_realistic_response_gets_one_outcome_and_each_text_is_sent_once(pipeline, responses):
    prepared = pipeline.prepare(source=responses.as_uri(), records_per_part=1000)
    condition = f"FROM '{responses}' WHERE response_date BETWEEN '{DAY}' AND '{NEXT_DAY}'"
    (expected,) = duckdb.execute(f"SELECT count(*) {condition}").fetchall()
    counts = Counter(read_texts(prepared))
    assert (prepared.read,) == expected
    assert set(counts.values()) == {1}
    assert counts.total() == prepared.texts < prepared.read - prepared.rejected

    summary = pipeline.land()
    assert summary.read == summary.coded + summary.rejected == prepared.read
    ids = pipeline.query("SELECT record_id FROM coding.coded_records ORDER BY 1")
    assert ids == duckdb.execute(f"SELECT record_id {condition} ORDER BY 1").fetchall()
    assert pipeline.prepare(source=responses.as_uri(), run_id="run-2").parts == ()
    assert pipeline.land() == replace(summary, texts_sent=0, operations=0, published_by_run="run-1", dates=())
