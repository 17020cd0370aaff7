"""The commands about classifications and their coders: import, train, evaluate and code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from include.local_service.catalogue import (
    CLASSIFICATIONS,
    SHIPPED_TOPICS,
    SHIPPED_VERSIONS,
    ImportedTopicError,
    Model,
    Topic,
    read_topics,
)
from include.local_service.coders import TRAINED, Coders, CodingLike
from include.local_service.evaluation import evaluate, report_lines
from include.local_service.hierarchy import ClassificationError, read_categories
from include.local_service.progress_bar import ProgressBar
from include.local_service.serve import DEFAULT_DATA
from include.local_service.settings import CoderKind
from include.local_service.workbooks import TopicNameError, WorkbookError, count_levels, import_classification


def add_import_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``import``."""
    add = parser.add_argument
    _add_place(parser)
    add(
        "--structure",
        type=Path,
        required=True,
        metavar="FILE",
        help="workbook or CSV with all codes and their labels",
    )
    add("--descriptions", type=Path, metavar="FILE", help="one with titles, lead statements and tasks (OSCA)")
    add("--index", type=Path, metavar="FILE", help="one with further titles (ANZSCO)")
    add("--full-name", default="", metavar="NAME", help="the classification's name for people")
    add("--topic-version", default="", metavar="NAME", help="its edition, such as '2024 v1.0'")
    add("--no-train", action="store_true", help="leave the training to `train` or to the first call")


def import_command(chosen: argparse.Namespace) -> int:
    """Make a topic of workbooks and train its coders; return the exit status."""
    with _told_errors():
        path = import_classification(
            chosen.data,
            chosen.topic,
            chosen.structure,
            chosen.descriptions,
            chosen.index,
            chosen.full_name,
            chosen.topic_version,
        )
        levels = count_levels(read_categories(path.read_bytes()))
        counted = ", ".join(f"{count:,} of {digits} digit{'s' * (digits > 1)}" for digits, count in levels.items())
        print(f"{path}: {counted}")
    return 0 if chosen.no_train else train_command(chosen)


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``train``."""
    _add_place(parser)


def train_command(chosen: argparse.Namespace) -> int:
    """Train the coders behind the models of a topic; return the exit status."""
    with _told_errors():
        train_topic(chosen.data, chosen.topic)
    return 0


def train_topic(data_dir: Path, name: str) -> None:
    """Train what the service would train at the first call of each model, unless that was done already.

    :raises ImportedTopicError, ClassificationError: when there is no such topic, or it is damaged.
    """
    topic = find_topic(data_dir, name)
    coders = _coders_of(data_dir)
    for version in range(1, SHIPPED_VERSIONS + 1):
        coders.coder(Model(topic, version))
        print(f"{name}: model {version} is ready")


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``evaluate``."""
    add = parser.add_argument
    _add_place(parser)
    add(
        "--share",
        type=_read_share,
        default=0.2,
        help="part of the titles (0 to 1) that the coder does not get to see",
    )
    add("--seed", type=int, default=0, help="another one holds out other titles")


def evaluate_command(chosen: argparse.Namespace) -> int:
    """Show how good the coder of a topic is on titles held out of its training; return the exit status."""
    with _told_errors():
        categories = read_categories(find_topic(chosen.data, chosen.topic).classification.read_bytes())
        found = evaluate(categories, chosen.share, chosen.seed, ProgressBar(sys.stderr))
        print("\n".join(report_lines(found)))
    return 0


def add_code_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``code``."""
    add = parser.add_argument
    add("occp", metavar="OCCUPATION", help="what somebody wrote when asked for the occupation")
    add("--tasks", default="", metavar="TEXT", help="and when asked for the tasks")
    add("--threshold", type=_read_share, default=Model(SHIPPED_TOPICS[0], SHIPPED_VERSIONS).threshold,
        help="confidence (0 to 1) from which a code counts")  # fmt: skip
    _add_place(parser)


def code_command(chosen: argparse.Namespace) -> int:
    """Code one text and show what became of it; return the exit status."""
    with _told_errors():
        model = Model(find_topic(chosen.data, chosen.topic), SHIPPED_VERSIONS)
        coder = _coders_of(chosen.data).coder(model)
        (coding,) = coder.with_threshold(chosen.threshold).code([(chosen.occp, chosen.tasks)])
        print("\n".join(_describe_coding(coding, chosen.threshold)))
    return 0


def find_topic(data_dir: Path, name: str) -> Topic:
    """Return an imported or shipped topic.

    :raises ImportedTopicError: when there is none of this name, or one that was imported is damaged.
    """
    topics = {topic.uri_name: topic for topic in (*SHIPPED_TOPICS, *read_topics(data_dir / CLASSIFICATIONS))}
    if name not in topics:
        raise ImportedTopicError(f"no topic {name!r} in {data_dir}; there are: {', '.join(topics)}")
    return topics[name]


def _coders_of(data_dir: Path) -> Coders:
    return Coders(CoderKind.SVM, data_dir / TRAINED, ProgressBar(sys.stderr))


def _describe_coding(coding: CodingLike, threshold: float) -> list[str]:
    heading = [] if coding.result else [f"no code reaches a confidence of {threshold:.0%}; suggestions:"]
    shown = [coding.result] if coding.result else coding.suggestions
    return [*heading, *(f"{one.code:6}  {one.label}  {one.confidence:.0%}" for one in shown)]


def _add_place(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--topic", default="osca", help="name of the topic, as in the service's URLs")
    add("--data", type=Path, default=DEFAULT_DATA, metavar="DIR", help="folder that holds the service's state")


def _read_share(text: str) -> float:
    share = float(text)
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"a number from 0 to 1 is wanted, not {text!r}")
    return share


@contextmanager
def _told_errors() -> Iterator[None]:
    """End the program with the error's message; what is raised otherwise is a fault of ours and shows itself."""
    try:
        yield
    except (ClassificationError, ImportedTopicError, WorkbookError, TopicNameError, OSError) as error:
        sys.exit(f"error: {error}")
