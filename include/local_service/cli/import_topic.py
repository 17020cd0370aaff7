"""The command ``import``: makes a topic from the workbooks of a classification."""

from __future__ import annotations

import argparse
from pathlib import Path

from include.local_service.cli import train
from include.local_service.cli.topics import add_topic_arguments, exit_on_error
from include.local_service.coder.hierarchy import read_categories
from include.local_service.coder.workbooks import count_levels, import_classification


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``import``."""
    add = parser.add_argument
    add_topic_arguments(parser)
    add("--structure", type=Path, required=True, metavar="FILE", help="workbook or CSV with all codes and labels")
    add("--descriptions", type=Path, metavar="FILE",
        help="workbook or CSV with titles, lead statements and tasks (OSCA)")  # fmt: skip
    add("--index", type=Path, metavar="FILE", help="workbook or CSV with further titles (ANZSCO)")
    add("--full-name", default="", metavar="NAME", help="full name of the classification")
    add("--topic-version", default="", metavar="NAME", help="edition of the classification, such as '2024 v1.0'")
    add("--no-train", action="store_true", help="do not train now, but with `train` or at the first use")


def run(options: argparse.Namespace) -> int:
    """Import the workbooks and train the coders; return the exit status."""
    with exit_on_error():
        path = import_classification(
            options.data,
            options.topic,
            options.structure,
            options.descriptions,
            options.index,
            options.full_name,
            options.topic_version,
        )
        levels = count_levels(read_categories(path.read_bytes()))
        counts = ", ".join(f"{count:,} of {digits} digit{'s' * (digits > 1)}" for digits, count in levels.items())
        print(f"{path}: {counts}")
    return 0 if options.no_train else train.run(options)
