"""The topics on offer and the models of each (contract 3.1, 3.2).

Two topics are always there, with the shipped classification behind them. A classification that was imported
into the data folder takes the place of the shipped one in the topic of its name, or makes a new topic.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from include.local_service.errors import ModelTopicMismatchError, UnknownModelError, UnknownTopicError
from include.local_service.store import Store

INPUT_FORMAT = ("occp_text", "tasks_text")
CLASSIFICATIONS = "classifications"
"""Folder of imported classifications in the data folder."""

SHIPPED = Path(__file__).with_name("classification.jsonl")
SHIPPED_VERSIONS = 2
FIRST_RELEASE = date(2025, 6, 30)
BETWEEN_RELEASES = timedelta(days=114)
LOWEST_THRESHOLD = 0.3


class ImportedTopicError(ValueError):
    """What lies in the folder of imported classifications is no topic; the message names the file."""


@dataclass(frozen=True)
class Topic:
    """A classification that texts can be coded to.

    :param version: the version of the classification, as it calls itself.
    :param classification: the file that describes it.
    :param digest: of that file when it was imported, empty for the shipped one.
    """

    uri_name: str
    full_name: str
    version: str = "sample 1"
    classification: Path = field(default=SHIPPED, compare=False)
    digest: str = ""


@dataclass(frozen=True)
class Model:
    """One trained version of a topic."""

    topic: Topic
    version: int

    @property
    def model_id(self) -> str:
        """The model's GUID: the same on every machine, another one for every classification."""
        parts = [part for part in (self.topic.uri_name, self.topic.digest, str(self.version)) if part]
        return str(uuid5(NAMESPACE_URL, "/".join(["local-coding-service", *parts])))

    @property
    def edition(self) -> int:
        """Which training the model comes from; versions later than those shipped only lower the threshold."""
        return min(self.version, SHIPPED_VERSIONS)

    @property
    def release_date(self) -> date:
        """The day the model was released."""
        return FIRST_RELEASE + BETWEEN_RELEASES * (self.version - 1)

    @property
    def threshold(self) -> float:
        """The confidence (0 to 1) from which a code counts as found; it falls with every version."""
        return round(LOWEST_THRESHOLD + 0.3 * (2 / 3) ** (self.version - 1), 4)

    def describe(self) -> dict[str, Any]:
        """Return the model as the service shows it (contract 3.2)."""
        return {
            "modelId": self.model_id,
            "modelVersion": self.version,
            "modelReleaseDate": self.release_date.isoformat(),
            "modelType": "hsvm",
            "inputFormat": list(INPUT_FORMAT),
            "topicStandard": self.topic.full_name,
            "topicVersion": self.topic.version,
        }


SHIPPED_TOPICS = (
    Topic("osca", "Local sample classification (small, for trials; not OSCA itself)"),
    Topic("anzsco", "Local sample classification (small, for trials; not ANZSCO itself)"),
)


class Catalogue:
    """The topics of one service, and the models of each that have been released so far.

    :param imported: folder of imported classifications; need not exist. Read once.
    :param store: keeps how many versions have been released.
    :raises ImportedTopicError: when a file there is not as the import writes it.
    """

    def __init__(self, imported: Path, store: Store) -> None:
        self._store = store
        self._topics = {topic.uri_name: topic for topic in (*SHIPPED_TOPICS, *read_topics(imported))}

    @property
    def topics(self) -> tuple[Topic, ...]:
        """Every topic."""
        return tuple(self._topics.values())

    def topic(self, uri_name: str) -> Topic:
        """Return the topic of this name.

        :raises UnknownTopicError: when there is none.
        """
        if uri_name not in self._topics:
            raise UnknownTopicError(uri_name)
        return self._topics[uri_name]

    def models(self, topic: Topic) -> tuple[Model, ...]:
        """Return the models of a topic, oldest first; the last is the latest."""
        released = int(self._store.setting(f"versions/{topic.uri_name}", str(SHIPPED_VERSIONS)))
        return tuple(Model(topic, version) for version in range(1, released + 1))

    def release(self, topic: Topic) -> None:
        """Release a further model version."""
        self._store.keep_setting(f"versions/{topic.uri_name}", str(len(self.models(topic)) + 1))

    def model(self, topic: Topic, model_id: str | None = None) -> Model:
        """Return the topic's model of this GUID, or the latest one.

        :raises UnknownModelError: when no topic has such a model.
        :raises ModelTopicMismatchError: when another topic has it.
        """
        if model_id is None:
            return self.models(topic)[-1]
        known = (model for one in self.topics for model in self.models(one))
        found = next((model for model in known if model.model_id == model_id.lower()), None)
        if found is None:
            raise UnknownModelError(model_id)
        if found.topic != topic:
            raise ModelTopicMismatchError(model_id)
        return found


def read_topics(imported: Path) -> list[Topic]:
    """Return the imported topics in the order of their names.

    :param imported: folder with ``TOPIC.jsonl``, the classification, and ``TOPIC.json``, its names, for each.
    :raises ImportedTopicError: when a file is not as the import writes it.
    """
    return [_read_topic(path) for path in sorted(imported.glob("*.jsonl"))]


def _read_topic(classification: Path) -> Topic:
    names = classification.with_suffix(".json")
    try:
        described = json.loads(names.read_text(encoding="utf-8"))
        full_name, version = str(described["fullName"]), str(described["topicVersion"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ImportedTopicError(f"{names} does not name the topic beside it ({error!r}); import it again") from error
    digest = hashlib.sha256(classification.read_bytes()).hexdigest()[:16]
    return Topic(classification.stem, full_name, version, classification, digest)
