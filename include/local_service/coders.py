"""What the service asks of a coder, and which coder stands behind a model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from include.local_service.catalogue import SHIPPED_VERSIONS, Model
from include.local_service.editions import write_first_edition
from include.local_service.progress import LOG
from include.local_service.settings import CoderKind
from include.local_service.stub import StubCoder

TRAINED = "coder"
"""Folder of trained coders in the data folder."""


class CandidateLike(Protocol):
    """A code that may fit a text; the confidence lies between 0 and 1."""

    @property
    def code(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def confidence(self) -> float: ...


class CodingLike(Protocol):
    """The outcome for one text: a result, or else suggestions."""

    @property
    def result(self) -> CandidateLike | None: ...
    @property
    def suggestions(self) -> Sequence[CandidateLike]: ...


class CoderLike(Protocol):
    """Codes pairs of occupation text and tasks text, in order."""

    def code(self, pairs: Sequence[tuple[str, str]]) -> Sequence[CodingLike]: ...
    def with_threshold(self, threshold: float) -> CoderLike: ...


class Coders:
    """The coders of a service; each is trained, or read from the cache, when it is first needed.

    :param kind: as `CoderKind`.
    :param cache_dir: where trained coders are kept between starts.
    :param on_progress: told while one is trained: what is being done, and how many steps of how many are.
    :raises ValueError: when there is no such kind.
    """

    def __init__(
        self,
        kind: str,
        cache_dir: Path,
        on_progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    ) -> None:
        self._kind = CoderKind(kind)
        self._cache_dir = cache_dir
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._loaded: dict[tuple[Path, int], CoderLike] = {}

    def coder(self, model: Model) -> CoderLike:
        """Return the coder behind a model, ready to code.

        Topics with the same classification share theirs.
        """
        key = (model.topic.classification, model.edition)
        loaded = self._loaded.get(key) or self._load_once(key)
        return loaded.with_threshold(model.threshold)

    def _load_once(self, key: tuple[Path, int]) -> CoderLike:
        with self._lock:
            if key not in self._loaded:
                self._loaded[key] = self._load(*key)
            return self._loaded[key]

    def _load(self, classification: Path, edition: int) -> CoderLike:
        if self._kind is CoderKind.STUB:
            return StubCoder(edition=edition)
        # Only now: the real coder brings in scikit-learn, which a load test has no use for.
        from include.local_service.coder import Coder

        began = time.monotonic()
        if edition < SHIPPED_VERSIONS:
            classification = write_first_edition(classification, self._cache_dir / f"first-{classification.name}")
        coder: CoderLike = Coder.load(self._cache_dir, classification, self._on_progress)
        LOG.info("coder on %s: ready after %.1f s", classification.name, time.monotonic() - began)
        return coder
