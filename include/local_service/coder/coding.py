"""The outcome of coding a text, the same from every coder."""

from __future__ import annotations

import msgspec


class Candidate(msgspec.Struct, frozen=True):
    """A code that may fit a text.

    :param code: digits; their number is the level.
    :param label: the category's name in the classification.
    :param confidence: estimated probability (0 to 1) that the code is right.
    """

    code: str
    label: str
    confidence: float


class Coding(msgspec.Struct, frozen=True):
    """The outcome for one text: either a result, or suggestions.

    :param result: the most detailed code that reaches the threshold; None if not even one digit does.
    :param suggestions: one to three likely occupations, best first; empty if there is a result.
    """

    result: Candidate | None
    suggestions: tuple[Candidate, ...] = ()
