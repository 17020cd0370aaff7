"""What the commands about classifications share: options, topics, progress, and errors as messages."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from include.local_service.cli.progress_bar import ProgressBar
from include.local_service.coder.hierarchy import ClassificationError
from include.local_service.coder.workbooks import TopicNameError, WorkbookError
from include.local_service.core.catalogue import ImportedTopicError, Topic, read_topics
from include.local_service.core.coders import Coders
from include.local_service.core.settings import DEFAULT_DATA_DIR, CoderKind


def add_topic_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that select a topic."""
    add = parser.add_argument
    add("--topic", default="osca", help="name of the topic, as in the service's URLs")
    add("--data", type=Path, default=DEFAULT_DATA_DIR, metavar="DIR", help="data folder of the service")


def find_topic(data_dir: Path, name: str) -> Topic:
    """Return an imported or shipped topic.

    :raises ImportedTopicError: if there is none with this name, or if an imported file is damaged.
    """
    topics = read_topics(data_dir)
    if name not in topics:
        raise ImportedTopicError(f"unknown topic {name!r} in {data_dir}. Use one of: {', '.join(topics)}.")
    return topics[name]


def make_coders(data_dir: Path) -> Coders:
    """Return the coders of a data folder; a training shows its progress."""
    return Coders(CoderKind.SVM, data_dir, ProgressBar(sys.stderr))


def parse_share(text: str) -> float:
    """Return a number from 0 to 1, for the type of an option."""
    share = float(text)
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, not {text!r}")
    return share


@contextmanager
def exit_on_error() -> Iterator[None]:
    """End the program with the message of an expected error; any other error is a bug and shows its traceback."""
    try:
        yield
    except (ClassificationError, ImportedTopicError, WorkbookError, TopicNameError, OSError) as error:
        sys.exit(f"error: {error}")
