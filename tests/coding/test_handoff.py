"""Which values the types of hand-offs accept, at the ends of their ranges."""

import re
from dataclasses import dataclass

import pytest
from pydantic import TypeAdapter, ValidationError

from include.coding import handoff
from include.coding.errors import PlanError

RANGES = [
    (handoff.Count, 0, 10**15, 1),
    (handoff.WholeNumber, -(10**15), 10**15, 1),
    (handoff.PartNumber, 0, 1_000_000, 1),
    (handoff.Seconds, 0.0, 1e11, 0.001),
    (handoff.Number, -1e15, 1e15, 1.0),
]
LONGEST = [
    (handoff.Word, 40),
    (handoff.SchemaName, 63),
    (handoff.PlainId, 100),
    (handoff.Sha256, 64),
]


@pytest.mark.parametrize(("kind", "least", "most", "step"), RANGES)
def test_a_number_is_accepted_within_its_range_only(kind, least, most, step):
    adapter = TypeAdapter(kind)
    assert [adapter.validate_python(value) for value in (least, most)] == [least, most]
    for value in (least - step, most + step):
        with pytest.raises(ValidationError):
            adapter.validate_python(value)


@pytest.mark.parametrize("kind", [handoff.Seconds, handoff.Number])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_is_finite(kind, value):
    with pytest.raises(ValidationError):
        TypeAdapter(kind).validate_python(value)


@pytest.mark.parametrize(("kind", "characters"), LONGEST)
def test_a_text_is_accepted_up_to_its_longest(kind, characters):
    adapter = TypeAdapter(kind)
    assert adapter.validate_python("a" * characters) == "a" * characters
    for text in ("a" * (characters + 1), "", "a b", "a\n"):
        with pytest.raises(ValidationError):
            adapter.validate_python(text)


@dataclass(frozen=True)
class Counts(handoff.Handoff):
    """Seven counts."""

    a: handoff.Count
    b: handoff.Count
    c: handoff.Count
    d: handoff.Count
    e: handoff.Count
    f: handoff.Count
    g: handoff.Count


@pytest.mark.parametrize(("bad", "listed", "more"), [("a", 1, ""), ("abcde", 5, ""), ("abcdefg", 5, "; and 2 more")])
def test_a_refusal_lists_five_problems_and_counts_the_others(bad, listed, more):
    values = {name: -1 if name in bad else 1 for name in "abcdefg"}
    with pytest.raises(PlanError) as excinfo:
        Counts.from_dict(values, task="plan")
    message = str(excinfo.value)
    problems = re.fullmatch(r"Counts is invalid: (.*)\. Clear the task 'plan' to compute it again", message)[1]
    assert re.findall("([a-g]): ", problems) == list(bad[:listed])
    assert re.findall("; and [0-9]+ more", problems) == [more] * bool(more)


def test_a_refusal_of_the_form_says_to_correct_the_param():
    with pytest.raises(PlanError, match=r"^Counts is invalid: a: .*\. Correct the param$"):
        Counts.from_dict({**dict.fromkeys("bcdefg", 1), "a": -1})
