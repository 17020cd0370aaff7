"""The command ``evaluate``: measures the coder of a topic on titles that it was not trained on."""

from __future__ import annotations

import argparse
import sys

from include.local_service.cli.progress_bar import ProgressBar
from include.local_service.cli.topics import add_topic_arguments, exit_on_error, find_topic, parse_share
from include.local_service.coder.evaluation import evaluate, report_lines
from include.local_service.coder.hierarchy import read_categories


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``evaluate``."""
    add_topic_arguments(parser)
    parser.add_argument("--share", type=parse_share, default=0.2, help="share of the titles (0 to 1) to hold out")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random selection")


def run(options: argparse.Namespace) -> int:
    """Print the report; return the exit status."""
    with exit_on_error():
        categories = read_categories(find_topic(options.data, options.topic).classification.read_bytes())
        evaluation = evaluate(categories, options.share, options.seed, ProgressBar(sys.stderr))
        print("\n".join(report_lines(evaluation)))
    return 0
