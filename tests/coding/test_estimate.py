"""The estimate of what a run would send and how long that would take."""

from dataclasses import replace

import pytest

from include.coding.collect import CollectedPart, store_operations
from include.coding.estimate import Estimate, estimate_run
from include.coding.parts import Part
from include.coding.prepare import Prepared, expect_seconds
from include.coding.results import PartResult, PartSummary
from include.coding.tables import create_tables
from tests.coding.conftest import DAY, MODEL, make_plan, on_all_warehouses

NOTHING_TO_SEND = Prepared("2026-10-06T00:00:00", "x", False, None, None, (), 10, 1, 2, 6, 6)


@pytest.fixture
def store(pipeline):
    """A function that stores complete operations, each given by its number of records and its seconds."""

    def store(*operations):
        with pipeline.warehouse.session() as session:
            create_tables(session, "coding")
            for number, (records, seconds) in enumerate(operations):
                part = Part(number, "osca", MODEL, False, "file:///part", records, 1, "hash")
                result = PartResult(number, f"{records} in {seconds}", "complete", seconds=seconds)
                collected = CollectedPart(part, result, PartSummary(usable=records), metadata=None)
                store_operations(session, make_plan(), [collected])

    return store


def expect(pipeline, records, **changes):
    with pipeline.warehouse.session(read_only=True) as session:
        return expect_seconds(session, make_plan(**changes), records)


@on_all_warehouses
def test_the_expected_duration_is_the_median_of_operations_of_a_similar_size(pipeline, store):
    store((1, 10.0), (1, 12.0), (1, 11.0), (8, 80.0), (9, 90.0), (10, 1000.0), (9, 100.0), (8, 85.0))
    assert expect(pipeline, 9) == 90.0, "the median of five: one that took very long does not matter"
    assert expect(pipeline, 1) in (11.0, 12.0), "three operations have one record, the others are the next in size"


def test_no_duration_is_expected_without_earlier_operations(pipeline, store):
    store((1, None))
    assert expect(pipeline, 1) is None
    store((2, 5.0))
    assert expect(pipeline, 1, topic="anzsco") is None


def test_each_part_has_its_expected_duration(pipeline, store):
    store((2, 30.0))
    pipeline.fill(("new", DAY, "nurse", ""))
    pipeline.prepare(run_id="next")
    assert [part.expected_seconds for part in pipeline.prepared.parts] == [30.0]


def test_an_estimate_counts_texts_bytes_parts_calls_and_time(pipeline):
    pipeline.fill(*((str(number), DAY, f"job {number}", "") for number in range(5)))
    pipeline.prepare(records_per_part=2)
    parts = tuple(replace(part, expected_seconds=600.0) for part in pipeline.prepared.parts)
    estimate = estimate_run(replace(pipeline.prepared, parts=parts), 2, 5, 0.5, max_operations=2)
    assert estimate == Estimate(
        read=5, undated=0, rejected=0, texts=5, known_texts=0, texts_to_send=5, bytes=sum(part.bytes for part in parts), parts=3,
        calls=17, call_seconds=34.0, coding_seconds=1200.0,
    )  # fmt: skip
    assert "**5 to send**" in estimate.as_markdown
    assert "about 17; within the call budget they take about 34 seconds" in estimate.as_markdown
    assert "about 20 minutes, judging by earlier operations" in estimate.as_markdown


def test_an_estimate_names_the_rows_that_no_run_codes():
    skipped = {"unreadable_dates": 2, "unreadable_examples": ("line 7: '99/99/99'", "line 8: 'aa'"), "empty_rows": 3}
    estimate = estimate_run(replace(NOTHING_TO_SEND, **skipped), 2, 5, 1.0, max_operations=None)
    assert (
        "- Records in the whole source with a date that cannot be read: 2 (such as line 7: '99/99/99'; line 8: 'aa')"
        in (estimate.as_markdown)
    )
    assert (
        "- Rows in the whole source without any value in the needed columns, which are no records: 3."
        in estimate.as_markdown
    )
    assert "cannot be read" not in estimate_run(NOTHING_TO_SEND, 2, 5, 1.0, max_operations=None).as_markdown


def test_an_estimate_without_parts_takes_no_time_and_names_an_unknown_duration():
    unknown = estimate_run(NOTHING_TO_SEND, 2, 5, 1.0, max_operations=None)
    assert (unknown.calls, unknown.coding_seconds) == (2, 0.0)
    assert "unknown" in replace(unknown, coding_seconds=None).as_markdown
