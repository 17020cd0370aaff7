"""A coder for tests and load tests: a hash of the text determines the code, not its meaning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

from include.local_service.coder.classifications import EDITIONS
from include.local_service.coder.coding import Candidate, Coding

_MIN_CONFIDENCE = 0.2
_CODE_LENGTHS = (6, 6, 6, 6, 6, 6, 4, 4, 3, 2, 1)  # the distribution of code lengths
_CHANGED_EVERY = 10  # one text in ten has a different code in an earlier edition


@dataclass(frozen=True)
class StubCoder:
    """A coder that gives equal texts equal codes, on every machine.

    :param threshold: minimum confidence (0 to 1) of a result; below it there are only suggestions.
    :param edition: an edition before the last one gives some texts a different code.
    """

    threshold: float = 0.5
    edition: int = EDITIONS

    def with_threshold(self, threshold: float) -> StubCoder:
        """Return the same coder with another threshold."""
        return StubCoder(threshold, self.edition)

    def code(self, pairs: Sequence[tuple[str, str]]) -> list[Coding]:
        """Return one coding for each pair of occupation text and tasks text, in the same order."""
        is_early, threshold = self.edition < EDITIONS, self.threshold
        return [_code_text(f"{occp.strip()}\n{tasks.strip()}", threshold, is_early) for occp, tasks in pairs]


def _code_text(text: str, threshold: float, is_early: bool) -> Coding:
    seed = crc32(text.lower().encode())
    if is_early and not seed % _CHANGED_EVERY:
        seed += 1
    code = str(100_000 + seed % 800_000)[: _CODE_LENGTHS[seed % 11]]
    confidence = round(_MIN_CONFIDENCE + (seed >> 8) % 1000 * (0.8 / 999), 4)
    best = Candidate(code, "Stub occupation " + code, confidence)
    if confidence >= threshold:
        return Coding(best, ())
    return Coding(None, (best, *_alternatives(seed, confidence)))


def _alternatives(seed: int, confidence: float) -> list[Candidate]:
    codes = [str(100_000 + (seed + step * 7919) % 800_000) for step in range(1, 1 + seed % 3)]
    return [Candidate(code, "Stub occupation " + code, confidence / 2) for code in codes]
