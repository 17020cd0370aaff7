"""A coder that understands nothing: the code is chosen by a hash of the text. For load tests and tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import msgspec

from include.local_service.catalogue import SHIPPED_VERSIONS

LOWEST_CONFIDENCE = 0.2
LEVELS = (6, 6, 6, 6, 6, 6, 4, 4, 3, 2, 1)
CHANGED = 10
"""Of so many texts, one has another code in an earlier edition."""


class StubCandidate(msgspec.Struct, frozen=True):
    """A made-up code."""

    code: str
    label: str
    confidence: float


class StubCoding(msgspec.Struct, frozen=True):
    """The outcome for one text."""

    result: StubCandidate | None
    suggestions: tuple[StubCandidate, ...]


@dataclass(frozen=True)
class StubCoder:
    """Equal texts always get equal codes, on every machine.

    :param threshold: confidence (0 to 1) from which a code is a result instead of a suggestion.
    :param edition: an earlier one gives some texts another code.
    """

    threshold: float = 0.5
    edition: int = SHIPPED_VERSIONS

    def with_threshold(self, threshold: float) -> StubCoder:
        """Return the same coder with another threshold."""
        return StubCoder(threshold, self.edition)

    def code(self, pairs: Sequence[tuple[str, str]]) -> list[StubCoding]:
        """Code pairs of occupation text and tasks text, in order."""
        earlier, threshold = self.edition < SHIPPED_VERSIONS, self.threshold
        return [_code_one(f"{occp.strip()}\n{tasks.strip()}", threshold, earlier) for occp, tasks in pairs]


def _code_one(text: str, threshold: float, earlier: bool) -> StubCoding:
    seed = crc32(text.lower().encode())
    if earlier and not seed % CHANGED:
        seed += 1
    code = str(100_000 + seed % 800_000)[: LEVELS[seed % 11]]
    confidence = round(LOWEST_CONFIDENCE + (seed >> 8) % 1000 * (0.8 / 999), 4)
    best = StubCandidate(code, "Stub occupation " + code, confidence)
    return StubCoding(best, ()) if confidence >= threshold else StubCoding(None, (best, *_others(seed, confidence)))


def _others(seed: int, confidence: float) -> list[StubCandidate]:
    codes = [str(100_000 + (seed + step * 7919) % 800_000) for step in range(1, 1 + seed % 3)]
    return [StubCandidate(code, "Stub occupation " + code, confidence / 2) for code in codes]
