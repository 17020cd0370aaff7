"""The topics of the service and their models (docs/service-contract.md 3.1, 3.2).

There are always two topics, which use the shipped classification. A classification imported into the data folder
replaces that of the topic with the same name, or makes a new topic.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from include.local_service.coder.classifications import EDITIONS, IMPORT_FOLDER, SHIPPED_CLASSIFICATION
from include.local_service.core.errors import ModelTopicMismatchError, UnknownModelError, UnknownTopicError
from include.local_service.core.store import Store

INPUT_FORMAT = ("occp_text", "tasks_text")
INITIAL_VERSIONS = EDITIONS  # every topic starts with one model version for each edition of the classification
FIRST_RELEASE = date(2025, 6, 30)
RELEASE_INTERVAL = timedelta(days=114)
MIN_THRESHOLD = 0.3


class ImportedTopicError(ValueError):
    """A topic does not exist or its imported files are damaged; the message names the topic or the file."""


@dataclass(frozen=True)
class Topic:
    """A classification that texts can be coded to.

    :param version: the version of the classification.
    :param classification: its file.
    :param digest: start of the SHA-256 of an imported classification file; empty for the shipped one.
    """

    uri_name: str
    full_name: str
    version: str = "sample 1"
    classification: Path = field(default=SHIPPED_CLASSIFICATION, compare=False)
    digest: str = ""


@dataclass(frozen=True)
class Model:
    """One trained version of a topic."""

    topic: Topic
    version: int

    @property
    def model_id(self) -> str:
        """The model's GUID: the same on every machine, different for every classification."""
        parts = [part for part in (self.topic.uri_name, self.topic.digest, str(self.version)) if part]
        return str(uuid5(NAMESPACE_URL, "/".join(["local-coding-service", *parts])))

    @property
    def edition(self) -> int:
        """The edition of the classification that the model is trained on; later versions share the last one."""
        return min(self.version, EDITIONS)

    @property
    def release_date(self) -> date:
        """The day of the model's release."""
        return FIRST_RELEASE + RELEASE_INTERVAL * (self.version - 1)

    @property
    def threshold(self) -> float:
        """The minimum confidence (0 to 1) of a result; it is lower in every later version."""
        return round(MIN_THRESHOLD + 0.3 * (2 / 3) ** (self.version - 1), 4)

    def describe(self) -> dict[str, Any]:
        """Return the model as the service shows it (docs/service-contract.md 3.2)."""
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
    """The topics of one service, and the model versions of each released so far.

    :param data_dir: may contain imported classifications, which are read once.
    :param store: stores the number of released versions.
    :raises ImportedTopicError: if an imported file is damaged.
    """

    def __init__(self, data_dir: Path, store: Store) -> None:
        self._store = store
        self._topics = read_topics(data_dir)

    @property
    def topics(self) -> tuple[Topic, ...]:
        """Every topic."""
        return tuple(self._topics.values())

    def topic(self, uri_name: str) -> Topic:
        """Return the topic with this name.

        :raises UnknownTopicError: if there is none.
        """
        if uri_name not in self._topics:
            raise UnknownTopicError(uri_name)
        return self._topics[uri_name]

    def models(self, topic: Topic) -> tuple[Model, ...]:
        """Return the models of a topic, oldest first; the last is the latest."""
        versions = int(self._store.setting(f"versions/{topic.uri_name}", str(INITIAL_VERSIONS)))
        return tuple(Model(topic, version) for version in range(1, versions + 1))

    def release(self, topic: Topic) -> None:
        """Release another model version."""
        self._store.save_setting(f"versions/{topic.uri_name}", str(len(self.models(topic)) + 1))

    def model(self, topic: Topic, model_id: str | None = None) -> Model:
        """Return the topic's model with this GUID, or the latest one.

        :raises UnknownModelError: if no topic has such a model.
        :raises ModelTopicMismatchError: if another topic has it.
        """
        if model_id is None:
            return self.models(topic)[-1]
        models = (model for other in self.topics for model in self.models(other))
        match = next((model for model in models if model.model_id == model_id.lower()), None)
        if match is None:
            raise UnknownModelError(model_id)
        if match.topic != topic:
            raise ModelTopicMismatchError(model_id)
        return match


def read_topics(data_dir: Path) -> dict[str, Topic]:
    """Return every topic by its name: the shipped ones, then the imported ones, which replace shipped ones.

    An imported topic has two files: ``TOPIC.jsonl`` with the classification, and ``TOPIC.json`` with its names.

    :raises ImportedTopicError: if an imported file is damaged.
    """
    imported = map(_read_topic, sorted((data_dir / IMPORT_FOLDER).glob("*.jsonl")))
    return {topic.uri_name: topic for topic in (*SHIPPED_TOPICS, *imported)}


def _read_topic(classification: Path) -> Topic:
    names_file = classification.with_suffix(".json")
    try:
        names = json.loads(names_file.read_text(encoding="utf-8"))
        full_name, version = str(names["fullName"]), str(names["topicVersion"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ImportedTopicError(
            f"cannot read the names of topic {classification.stem}: {names_file}: {error!r}. Import the topic again."
        ) from error
    digest = hashlib.sha256(classification.read_bytes()).hexdigest()[:16]
    return Topic(classification.stem, full_name, version, classification, digest)
