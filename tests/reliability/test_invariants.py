"""The function that checks the invariants notices each way to break one."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.reliability.invariants import Evidence, find_violations
from tests.reliability.load import Load, Sample
from tests.reliability.page import write_page
from tests.reliability.results import Result

GOOD = Evidence(
    record_ids=["R1", "R2"],
    published=[("R1", "coded"), ("R2", "uncoded")],
    counts=[(2, 1, 1, 0)],
    keys=[("a", "osca", "m"), ("b", "osca", "m")],
    inputs=[["a", "b"]],
    places=[("a log", b"Sent 2 texts.")],
    secrets=frozenset({b"s3cret"}),
    remains=[],
)
SAMPLE = Sample(operations=200, memory_bytes=10**8, descriptors=40)
LOAD = Load(
    states=Counter(success=20),
    published=800,
    sends=(800, 800),
    samples=[SAMPLE],
    hold=[SAMPLE] * 3,
    calls=Counter({"GET /v1/topics": 20}),
    peak_calls=50,
    creations=[1.0, 2.0],
    retries=0,
)


def test_a_good_case_breaks_no_invariant() -> None:
    assert find_violations(GOOD) == []


@pytest.mark.parametrize(
    ("change", "violation"),
    [
        ({"published": [("R1", "coded")]}, "1 records lost, such as 'R2'"),
        (
            {"published": [*GOOD.published, ("R3", "coded")]},
            "1 published records are not in the source, such as 'R3'",
        ),
        ({"counts": [(3, 1, 1, 0)]}, "3 records read, but 1 coded + 1 uncoded + 0 rejected"),
        ({"published": [*GOOD.published, ("R1", "coded")]}, "1 keys stand more than once in coded_records"),
        ({"keys": [*GOOD.keys, GOOD.keys[0]]}, "1 keys stand more than once in coded_texts"),
        ({"inputs": [["a", "b"], ["b"]]}, "1 texts were sent more than 1 times, at most 2 times"),
        ({"places": [("a log", b"Authorization: s3cret")]}, "a secret stands in a log"),
        ({"places": [("xcom.value", b"MARKED tasks")]}, "a text stands in xcom.value"),
        ({"remains": ["part-1.jsonl"]}, "left over: part-1.jsonl"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_each_broken_invariant_is_noticed(change: dict[str, Any], violation: str) -> None:
    assert find_violations(replace(GOOD, **change)) == [violation]


def test_a_text_may_be_sent_again_after_the_service_failed_its_operation() -> None:
    assert find_violations(replace(GOOD, inputs=[["a"], ["a"]]), max_sends=2) == []


def test_the_page_counts_the_cases_and_shows_what_broke(tmp_path: Path) -> None:
    results = [
        Result("reset: upload", ("success",), 1, 1),
        Result("slow: x + dns", ("failed",), 1, 2, ["1 records lost"]),
    ]
    write_page(tmp_path / "page.md", 7, LOAD, [], results)
    page = (tmp_path / "page.md").read_text()
    assert "| single faults | 1 |" in page
    assert "| pairs of faults | 1 | 1 | 1 | 1 |" in page
    assert "| slow: x + dns | 1 | 2 | failed | 1 records lost |" in page
    assert "| memory | 100 MB | 100 MB |" in page


@pytest.mark.parametrize(
    ("change", "violation"),
    [
        ({}, []),
        ({"published": 799}, ["799 of 800 records were published"]),
        ({"sends": (804, 800)}, ["804 texts were sent, 800 of them distinct"]),
        ({"hold": [SAMPLE, SAMPLE, replace(SAMPLE, descriptors=99)]}, ["descriptors of the triggerer grow"]),
        ({"hold": [SAMPLE, SAMPLE, replace(SAMPLE, memory_bytes=2 * 10**8)]}, ["memory of the triggerer grows"]),
        ({"samples": [replace(SAMPLE, operations=199)]}, ["not all operations were in progress at once"]),
        ({"states": Counter(success=19, failed=1)}, ["runs ended as {'success': 19, 'failed': 1}"]),
    ],
    ids=lambda value: next(iter(value), "nothing") if isinstance(value, dict) else None,
)
def test_each_broken_expectation_of_the_load_is_noticed(change: dict[str, Any], violation: list[str]) -> None:
    assert replace(LOAD, **change).violations == violation
