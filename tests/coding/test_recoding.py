"""Coding again what has no result: what is sent, what is set aside with a reason, and what is published."""

import duckdb
import pytest

from include.coding import collect, recoding
from include.coding.collect import MAX_ERROR_CHARACTERS, MAX_METADATA_BYTES
from include.coding.errors import AuditError, IncompleteError
from include.coding.isolation import MAX_EXTRA_OPERATIONS
from include.coding.parts import Part
from include.coding.recoding import MAX_SINGLE_TEXTS, Recoding
from include.coding.results import PartResult
from include.warehouse.errors import WarehouseError
from tests.coding.conftest import (
    DAY,
    NEXT_DAY,
    MemoryStore,
    code_line,
    on_all_warehouses,
    on_duckdb_and_postgres,
    read_part,
)

REASONS = "SELECT record_id, outcome, reason FROM coding.coded_records WHERE reason IS NOT NULL ORDER BY 1"


class Service:
    """A substitute for the service, with texts that it cannot code.

    :param bad: texts that fail their operation
    :param mute: texts that are never answered
    :param failures: numbers of the operations that fail whatever their texts are
    """

    def __init__(self, pipeline, bad=(), mute=(), failures=()):
        self.pipeline, self.bad, self.mute, self.failures = pipeline, set(bad), set(mute), set(failures)
        self.inputs = []

    def code(self, part):
        texts = [line["occp_text"] for line in read_part(part)]
        number = len(self.inputs)
        self.inputs.append(texts)
        operation_id = f"{self.pipeline.plan.run_id}-{number}"
        if number in self.failures or self.bad & set(texts):
            return PartResult(part.part, operation_id, "failed", f"Malformed record: {texts[0]}")
        result = self.pipeline.code_part(part, lambda line: "" if line["occp_text"] in self.mute else code_line(line))
        return PartResult(**{**vars(result), "operation_id": operation_id})

    def run(self, **changes):
        parts = self.pipeline.prepare(**changes).parts
        return self.pipeline.land([self.code(part) for part in parts], code_piece=self.code)

    @property
    def texts_sent(self):
        return sum(map(len, self.inputs))


@pytest.fixture
def jobs(pipeline):
    """A pipeline whose source has a hundred records of one day, each with another text."""
    pipeline.fill(*((f"{number:03}", DAY, f"job {number}", "") for number in range(100)))
    return pipeline


@on_duckdb_and_postgres
def test_a_part_that_fails_once_is_published_after_a_second_operation(jobs):
    service = Service(jobs, failures=[0])
    summary = service.run()
    assert (summary.coded, summary.texts_sent, summary.operations, summary.extra_operations) == (100, 200, 2, 1)
    assert [len(texts) for texts in service.inputs] == [100, 100]
    operations = "SELECT part, state, records, usable FROM coding.coding_operations ORDER BY part"
    assert jobs.query(operations) == [(0, "failed", 100, 0), (1, "complete", 100, 100)]
    assert jobs.prepare(run_id="run-2").unchanged


@on_all_warehouses
def test_a_text_that_fails_every_operation_is_rejected_and_all_others_are_coded(jobs):
    service = Service(jobs, bad=["job 41"])
    summary = service.run()
    assert (summary.read, summary.coded, summary.uncoded, summary.rejected) == (100, 99, 0, 1)
    assert jobs.query(REASONS) == [("041", "rejected", "refused_by_service")]
    assert summary.extra_operations < 30
    text = "SELECT outcome, reason, code, operation_id FROM coding.coded_texts WHERE occp_text = 'job 41'"
    ((outcome, reason, code, operation_id),) = jobs.query(text)
    assert (outcome, reason, code) == ("rejected", "refused_by_service", None)
    error = jobs.query("SELECT error, state FROM coding.coding_operations WHERE operation_id = ?", operation_id)
    assert error == [("Malformed record: job 41", "failed")]
    assert jobs.prepare(run_id="run-2").unchanged


def test_a_text_that_was_refused_is_not_sent_again_by_later_runs_unless_all_texts_are(jobs):
    Service(jobs, bad=["job 41"]).run()
    jobs.fill(("new", DAY, "job 41", ""), ("newer", DAY, "carpenter", ""))
    service = Service(jobs, bad=["job 41"])
    summary = service.run(run_id="run-2")
    assert (service.inputs, summary.rejected) == ([["carpenter"]], 2)
    assert Service(jobs).run(run_id="run-3", selection="all").coded == 102
    assert jobs.query(REASONS) == []


def test_what_the_service_says_about_a_text_is_in_no_state_summary_or_log(jobs, caplog, monkeypatch):
    stores = []
    monkeypatch.setattr("tests.coding.conftest.MemoryStore", lambda: stores.append(MemoryStore()) or stores[-1])
    service = Service(jobs, bad=["job 41"], mute=["job 7"])
    summary = service.run()
    assert stores[0].values
    assert "job 41" not in f"{caplog.text} {stores[0].values} {summary}"
    assert "Malformed" not in f"{caplog.text} {stores[0].values} {summary}"


def test_what_the_service_says_is_stored_up_to_a_length(jobs):
    jobs.prepare()
    failed = PartResult(0, "op-0", "failed", "x\0" + "y" * MAX_ERROR_CHARACTERS)
    jobs.land([failed])
    ((error,),) = jobs.query("SELECT error FROM coding.coding_operations WHERE operation_id = 'op-0'")
    assert error == "x\ufffd" + "y" * (MAX_ERROR_CHARACTERS - 2)


@on_all_warehouses
def test_a_text_that_is_never_answered_is_published_without_a_code_and_not_sent_again(jobs):
    service = Service(jobs, mute=["job 41"])
    summary = service.run(records_per_part=40)
    assert (summary.coded, summary.uncoded, summary.operations, summary.extra_operations) == (99, 1, 4, 1)
    assert service.inputs[3] == ["job 41"]
    assert jobs.query(REASONS) == [("041", "uncoded", "no_result")]
    assert jobs.query("SELECT outcome, reason FROM coding.coded_texts WHERE occp_text = 'job 41'") == [
        ("uncoded", "no_result")
    ]
    assert jobs.prepare(run_id="run-2").unchanged
    jobs.fill(("new", DAY, "carpenter", ""))
    again = Service(jobs)
    again.run(run_id="run-3")
    assert again.inputs == [["carpenter"]]


def test_a_text_that_is_answered_at_the_second_time_is_coded(jobs):
    service = Service(jobs, mute=["job 41"])
    parts = jobs.prepare().parts
    results = [service.code(part) for part in parts]
    service.mute = set()
    summary = jobs.land(results, code_piece=service.code)
    assert (summary.coded, summary.extra_operations) == (100, 1)


@on_duckdb_and_postgres
@pytest.mark.parametrize("selection", ["uncoded", "all"])
def test_a_result_replaces_that_a_text_was_set_aside(jobs, selection):
    # Two runs send the same text at the same time, and only the second gets a result.
    first = Service(jobs, mute=["job 41"])
    late = Service(jobs)
    jobs.prepare(run_id="late", selection=selection)
    late_results = [late.code(part) for part in jobs.prepared.parts]
    late_run = jobs.plan, jobs.prepared
    first.run()
    jobs.plan, jobs.prepared = late_run
    assert jobs.land(late_results).published_by_run is None
    assert jobs.query("SELECT reason FROM coding.coded_texts WHERE occp_text = 'job 41'") == [(None,)]
    assert jobs.query("SELECT count(*) FROM coding.coding_runs WHERE run_id = 'run-1' AND checksum IS NULL") == [(1,)]


def test_many_texts_without_an_answer_are_a_broken_output_and_stay_unset(jobs):
    mute = [f"job {number}" for number in range(50)]
    with pytest.raises(IncompleteError, match=r"50 of 100 texts have no usable line .* \(max_rejected_share\)"):
        Service(jobs, mute=mute).run(max_rejected_share=0.2)
    assert jobs.query("SELECT count(*), count(reason) FROM coding.coded_texts") == [(50, 0)]
    assert jobs.read_outcomes() == []
    assert sum(part.records for part in jobs.prepare(run_id="run-2").parts) == 50


def test_a_few_texts_without_an_answer_are_set_aside_whatever_their_share(pipeline):
    pipeline.fill(*((str(number), DAY, f"job {number}", "") for number in range(MAX_SINGLE_TEXTS + 1)))
    service = Service(pipeline, mute=[f"job {number}" for number in range(MAX_SINGLE_TEXTS)])
    summary = service.run(max_rejected_share=0.0, max_uncoded_share=1.0)
    assert (summary.coded, summary.uncoded) == (1, MAX_SINGLE_TEXTS)


def test_a_run_with_one_text_asks_about_another_one_before_it_sets_its_text_aside(jobs):
    Service(jobs).run()
    jobs.fill(("new", NEXT_DAY, "astronaut", ""))
    dates = {"from_date": NEXT_DAY, "to_date": NEXT_DAY, "max_uncoded_share": 1.0, "max_rejected_share": 1.0}
    mute = Service(jobs, mute=["astronaut"])
    assert mute.run(run_id="run-2", **dates).uncoded == 1
    assert (mute.inputs[:2], len(mute.inputs[2])) == ([["astronaut"]] * 2, 1)
    assert mute.inputs[2] != ["astronaut"]
    jobs.query("DELETE FROM coding.coded_texts WHERE occp_text = 'astronaut'")
    bad = Service(jobs, bad=["astronaut"])
    assert bad.run(run_id="run-3", selection="all", **dates).rejected == 1
    assert (bad.inputs[:2], len(bad.inputs[2])) == ([["astronaut"]] * 2, 1)
    assert jobs.query("SELECT count(*), count(DISTINCT run_id) FROM coding.coded_texts") == [(101, 2)]


def test_a_service_that_fails_everything_sets_nothing_aside_and_says_so(jobs):
    jobs.fill(("old", NEXT_DAY, "astronaut", ""))
    Service(jobs).run(from_date=NEXT_DAY, to_date=NEXT_DAY)
    service = Service(jobs, failures=range(1000))
    with pytest.raises(AuditError, match="100 of 100 records are uncoded"):
        service.run(run_id="run-2", to_date=DAY)
    assert len(service.inputs) <= 12
    assert jobs.query("SELECT occp_text FROM coding.coded_texts") == [("astronaut",)]


@on_duckdb_and_postgres
def test_texts_beyond_the_bound_are_published_as_uncoded_and_the_next_runs_send_only_them(jobs):
    bad = [f"job {number}" for number in range(0, 100, 6)]
    service = Service(jobs, bad=bad)
    with pytest.raises(IncompleteError) as caught:
        service.run(max_uncoded_share=1.0, max_rejected_share=1.0)
    message = str(caught.value)
    ((unresolved,),) = jobs.query("SELECT 100 - count(*) FROM coding.coded_texts")
    assert 0 < unresolved < 100
    assert (
        f"100 records of {DAY} to {NEXT_DAY} are published, but {unresolved} of them as uncoded (no_result)"
        in message
    )
    assert (
        f"{unresolved} texts have no result yet: the {MAX_EXTRA_OPERATIONS} extra operations of a run do not"
        in message
    )
    assert "job" not in message.replace("no_result", "")
    assert jobs.query("SELECT count(*) FROM coding.coded_records WHERE reason = 'no_result'") == [(unresolved,)]
    assert jobs.query("SELECT count(*) FROM coding.coded_texts WHERE operation_id = ''") == [(0,)]
    assert jobs.query("SELECT checksum FROM coding.coding_runs") == [(None,)]

    for number in range(2, 6):
        following = Service(jobs, bad=bad)
        try:
            summary = following.run(run_id=f"run-{number}", max_uncoded_share=1.0, max_rejected_share=1.0)
        except IncompleteError:
            assert len(following.inputs[0]) == unresolved
            ((now,),) = jobs.query("SELECT 100 - count(*) FROM coding.coded_texts")
            assert now < unresolved
            unresolved = now
        else:
            break
    assert (summary.coded, summary.rejected) == (100 - len(bad), len(bad))
    assert jobs.query("SELECT count(*) FROM coding.coded_records WHERE reason = 'refused_by_service'") == [
        (len(bad),)
    ]


def test_texts_beyond_the_bound_are_not_published_above_the_limits(jobs):
    service = Service(jobs, bad=[f"job {number}" for number in range(0, 100, 6)])
    with pytest.raises(AuditError, match="records are uncoded"):
        service.run(max_uncoded_share=0.01, max_rejected_share=1.0)
    assert jobs.read_outcomes() == []


def test_refused_records_count_for_the_limit_of_rejected_ones(jobs):
    with pytest.raises(AuditError, match=r"1 of 100 records are rejected \(1.0%\)"):
        Service(jobs, bad=["job 41"]).run(max_rejected_share=0.005)
    assert jobs.read_outcomes() == []


@on_duckdb_and_postgres
def test_a_look_back_publishes_a_date_again_when_a_text_that_was_left_has_its_result(jobs):
    night = {"changed_only": True, "max_uncoded_share": 1.0, "max_rejected_share": 1.0, "to_date": DAY}
    bad = [f"job {number}" for number in range(0, 100, 6)]
    with pytest.raises(IncompleteError):
        Service(jobs, bad=bad).run(**night)
    summary = Service(jobs).run(run_id="night-2", **night)
    assert (summary.days, summary.uncoded) == ((DAY,), 0)
    assert Service(jobs).run(run_id="night-3", **night).days == ()


def test_an_operation_that_may_still_have_the_bytes_gets_no_successor(jobs):
    jobs.prepare(records_per_part=50)
    parts = jobs.prepared.parts
    for state, message in (("deadline", "it did not end"), ("refused", "unknown"), ("unknown", None)):
        results = [jobs.code_part(parts[0]), PartResult(1, "op-1", state, message)]
        with pytest.raises(IncompleteError, match=r"part 2 \(operation op-1\): "):
            jobs.land(results, code_piece=pytest.fail)


def test_a_lost_piece_is_waited_for_again_and_its_results_are_published(jobs):
    jobs.prepare()
    failed, store = [PartResult(0, "op-0", "failed", "out of memory")], MemoryStore()

    def make_recoding():
        return Recoding(jobs.plan, jobs.prepared, failed, jobs.warehouse, jobs.staging, store, lambda _: None)

    recoding = make_recoding()
    (piece,) = recoding.next_pieces()
    recoding.update(piece, operation_id="op-1", state="deadline", problem="it did not end before its deadline")
    assert recoding.next_pieces() == []
    assert (recoding.finish().incomplete, recoding.finish().unresolved) == (1, 0)

    recoding = make_recoding()
    recoding.resume_waiting(deadline=123.0)
    (piece,) = recoding.next_pieces()
    assert (piece.operation_id, piece.state, piece.deadline) == ("op-1", None, 123.0)
    part = jobs.prepared.parts[0]
    output = jobs.code_part(part)
    recoding.update(piece, state="complete", output_uri=output.output_uri)
    assert recoding.next_pieces() == []
    assert (recoding.finish().incomplete, recoding.finish().usable) == (0, 100)
    assert jobs.query("SELECT state, usable FROM coding.coding_operations WHERE operation_id = 'op-1'") == [
        ("complete", 100)
    ]


def test_the_state_of_an_earlier_execution_is_not_used_for_other_operations(jobs):
    jobs.prepare()
    store = MemoryStore()

    def start(operation_id):
        failed = [PartResult(0, operation_id, "failed", "out of memory")]
        return Recoding(jobs.plan, jobs.prepared, failed, jobs.warehouse, jobs.staging, store, lambda _: None)

    (piece,) = start("op-0").next_pieces()
    start("op-0").update(piece, operation_id="op-1", state="failed")
    assert [piece.round for piece in start("op-0").next_pieces()] == [2] * 9
    (piece,) = start("op-5").next_pieces()
    assert (piece.kind, piece.records, piece.operation_id) == ("again", 100, None)


def test_a_part_that_is_cleared_does_not_make_the_texts_of_the_others_be_sent_again(jobs):
    parts = jobs.prepare(records_per_part=50).parts
    service, store = Service(jobs, bad=["job 41"]), MemoryStore()
    failed = next(part for part in parts if "job 41" in [line["occp_text"] for line in read_part(part)])
    other = parts[1 - failed.part]

    def collect(result):
        results = sorted([PartResult(failed.part, "op-0", "failed"), result], key=lambda result: result.part)
        recoding = Recoding(jobs.plan, jobs.prepared, results, jobs.warehouse, jobs.staging, store, lambda _: None)
        while pieces := recoding.next_pieces():
            for piece in pieces:
                result = service.code(Part.from_dict({**other.to_dict(), **describe_input(piece)}))
                changes = {name: getattr(result, name) for name in ("operation_id", "state", "output_uri")}
                recoding.update(piece, **changes)
        return recoding.finish()

    first = collect(PartResult(other.part, "op-1", "deadline", "it did not end"))
    assert (first.refused, first.incomplete, first.usable) == (1, 1, 49)
    sent = service.texts_sent
    second = collect(PartResult(**{**vars(jobs.code_part(other)), "operation_id": "op-1"}))
    assert (second.refused, second.incomplete, second.usable, service.texts_sent) == (1, 0, 99, sent)
    third = collect(PartResult(other.part, "op-2", "failed"))
    assert (third.usable, service.texts_sent) == (99, sent + 50)


def describe_input(piece):
    return {name: getattr(piece, name) for name in ("part", "input_uri", "records", "bytes", "sha256")}


def test_the_files_of_a_split_are_all_lines_of_their_parent(jobs):
    service = Service(jobs, failures=[0, 1])
    service.run()
    first, again, *pieces = service.inputs
    assert first == again
    assert [text for piece in pieces[:9] for text in piece] == first


def test_a_code_of_a_control_is_not_stored_again(jobs):
    Service(jobs).run()
    jobs.fill(("new", NEXT_DAY, "astronaut", ""))
    before = jobs.query("SELECT * FROM coding.coded_texts ORDER BY text_key")
    service = Service(jobs, bad=["astronaut"])
    service.run(run_id="run-2", from_date=NEXT_DAY, to_date=NEXT_DAY, max_rejected_share=1.0)
    after = jobs.query("SELECT * FROM coding.coded_texts WHERE occp_text <> 'astronaut' ORDER BY text_key")
    assert after == before


COUNT_BY_OPERATION = "SELECT operation_id, count(*) FROM coding.coded_texts GROUP BY 1 ORDER BY 1"


def fail_for_part(function, failing_part, find_part, error):
    """Return a function that raises an error for one part, after it has done its work, as a late step does."""

    def call(*arguments):
        result = function(*arguments)
        if find_part(arguments) == failing_part:
            raise error
        return result

    return call


@on_duckdb_and_postgres
def test_a_part_that_does_not_fit_into_memory_costs_no_other_part(jobs, monkeypatch):
    error = duckdb.OutOfMemoryException("could not allocate")
    read = fail_for_part(collect.read_results, 1, lambda arguments: arguments[1], error)
    monkeypatch.setattr(collect, "read_results", read)
    with pytest.raises(
        IncompleteError, match="part 2 .*cannot be read .OutOfMemoryException.: raise CODING_MEMORY_MB"
    ):
        Service(jobs).run(records_per_part=25)
    counts = [("run-1-0", 25), ("run-1-2", 25), ("run-1-3", 25)]
    assert jobs.query(COUNT_BY_OPERATION) == counts
    monkeypatch.undo()
    service = Service(jobs)
    summary = service.run(run_id="run-2", records_per_part=25)
    assert (summary.coded, service.texts_sent) == (100, 25)  # only the texts of this part are paid for again


@on_duckdb_and_postgres
def test_parts_are_kept_although_the_warehouse_fails_for_one_of_them(jobs, monkeypatch):
    store = fail_for_part(
        recoding.store_results, 1, lambda arguments: int(arguments[2][-1]), WarehouseError("out of memory")
    )
    monkeypatch.setattr(recoding, "store_results", store)
    with pytest.raises(WarehouseError, match="out of memory"):
        Service(jobs).run(records_per_part=25)
    assert [count for _, count in jobs.query(COUNT_BY_OPERATION)] == [25, 25, 25]
    assert jobs.query("SELECT part FROM coding.coding_operations ORDER BY 1") == [(0,), (2,), (3,)]


@pytest.mark.parametrize("size", [1_900_000, 60_000_000])
def test_a_poisoned_line_costs_only_its_own_text(jobs, caplog, size):
    def code(line):
        return code_line(line, more="x" * size if line["occp_text"] == "job 7" else "")

    jobs.prepare(memory_mb=384)
    summary = jobs.land(code=code)
    assert (summary.coded, summary.uncoded, summary.texts_sent, summary.extra_operations) == (99, 1, 101, 1)
    assert jobs.query(REASONS) == [("007", "uncoded", "no_result")]
    assert any("was discarded: it is above 65536 bytes" in message for message in caplog.messages)


@pytest.mark.parametrize("size", [MAX_METADATA_BYTES + 1, 200_000_000])
def test_metadata_above_the_limit_are_not_read_and_cost_no_result(jobs, caplog, size):
    jobs.prepare()
    assert jobs.land(metadata=b"x" * size).coded == 100
    assert jobs.query("SELECT metadata FROM coding.coding_operations") == [(None,)]
    assert any(f"is above {MAX_METADATA_BYTES} bytes, so it is not read" in message for message in caplog.messages)


def test_a_long_name_of_another_model_is_shortened_in_the_message(jobs):
    jobs.prepare()
    with pytest.raises(IncompleteError) as excinfo:
        jobs.land(metadata=b'{"modelId": "' + b"<b>" * 100_000 + b'"}')
    assert "it was coded by topic 'osca', model '<b>" in str(excinfo.value)
    assert len(str(excinfo.value)) < 2_000
