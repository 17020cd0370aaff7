"""Which values the types of hand-offs accept, at the ends of their ranges."""

import pytest
from pydantic import TypeAdapter, ValidationError

from include.coding import handoff

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
