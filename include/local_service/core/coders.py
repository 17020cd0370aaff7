"""The interface that the service requires of a coder, and the coder of each model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from include.local_service.coder.classifications import EDITIONS, write_first_edition
from include.local_service.coder.coding import Coding
from include.local_service.coder.stub import StubCoder
from include.local_service.core.catalogue import Model
from include.local_service.core.progress import LOG
from include.local_service.core.settings import CoderKind

MODEL_FOLDER = "coder"  # in the data folder


class CoderLike(Protocol):
    """Codes pairs of occupation text and tasks text, in order."""

    def code(self, pairs: Sequence[tuple[str, str]]) -> Sequence[Coding]: ...
    def with_threshold(self, threshold: float) -> CoderLike: ...


class Coders:
    """The coders of a service. Each is trained, or loaded from its model file, at its first use.

    :param kind: a `CoderKind`.
    :param data_dir: the service's data folder; model files are stored there.
    :param on_progress: called during a training with what is being trained, the finished steps and all steps.
    :raises ValueError: if there is no such kind.
    """

    def __init__(
        self, kind: str, data_dir: Path, on_progress: Callable[[str, int, int], None] = lambda what, done, total: None
    ) -> None:
        self._kind = CoderKind(kind)
        self._folder = data_dir / MODEL_FOLDER
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._cache: dict[tuple[Path, int], CoderLike] = {}

    def coder(self, model: Model) -> CoderLike:
        """Return the coder of a model; topics with the same classification share their coders."""
        key = (model.topic.classification, model.edition)
        coder = self._cache.get(key) or self._load_once(key)
        return coder.with_threshold(model.threshold)

    def _load_once(self, key: tuple[Path, int]) -> CoderLike:
        with self._lock:
            if key not in self._cache:
                self._cache[key] = self._load(*key)
            return self._cache[key]

    def _load(self, classification: Path, edition: int) -> CoderLike:
        if self._kind is CoderKind.STUB:
            return StubCoder(edition=edition)
        # Imported here because it loads scipy, which a service with the stub does not need.
        from include.local_service.coder.coder import Coder

        start = time.monotonic()
        if edition < EDITIONS:
            classification = write_first_edition(classification, self._folder / f"first-{classification.name}")
        coder: CoderLike = Coder.load(self._folder, classification, self._on_progress)
        LOG.info("coder on %s: ready after %.1f s", classification.name, time.monotonic() - start)
        return coder
