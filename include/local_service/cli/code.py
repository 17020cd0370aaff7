"""The command ``code``: codes one text without a running service."""

from __future__ import annotations

import argparse

from include.local_service.cli.topics import add_topic_arguments, exit_on_error, find_topic, make_coders, parse_share
from include.local_service.coder.coding import Coding
from include.local_service.core.catalogue import INITIAL_VERSIONS, SHIPPED_TOPICS, Model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``code``."""
    add = parser.add_argument
    add("occp", metavar="OCCUPATION", help="the answer to the question about the occupation")
    add("--tasks", default="", metavar="TEXT", help="the answer to the question about the tasks")
    add("--threshold", type=parse_share, default=Model(SHIPPED_TOPICS[0], INITIAL_VERSIONS).threshold,
        help="minimum confidence (0 to 1) of a code")  # fmt: skip
    add_topic_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Print the code or the suggestions for the text; return the exit status."""
    with exit_on_error():
        model = Model(find_topic(options.data, options.topic), INITIAL_VERSIONS)
        coder = make_coders(options.data).coder(model).with_threshold(options.threshold)
        (coding,) = coder.code([(options.occp, options.tasks)])
        print("\n".join(_format_coding(coding, options.threshold)))
    return 0


def _format_coding(coding: Coding, threshold: float) -> list[str]:
    heading = [] if coding.result else [f"no code reaches a confidence of {threshold:.0%}; suggestions:"]
    codes = [coding.result] if coding.result else coding.suggestions
    return [*heading, *(f"{code.code:6}  {code.label}  {code.confidence:.0%}" for code in codes)]
