"""The command ``train``: trains the coders of a topic."""

from __future__ import annotations

import argparse

from include.local_service.cli.topics import add_topic_arguments, exit_on_error, find_topic, make_coders
from include.local_service.core.catalogue import INITIAL_VERSIONS, Model

add_arguments = add_topic_arguments


def run(options: argparse.Namespace) -> int:
    """Train what the service would train at the first use of each model; return the exit status."""
    with exit_on_error():
        topic = find_topic(options.data, options.topic)
        coders = make_coders(options.data)
        for version in range(1, INITIAL_VERSIONS + 1):
            coders.coder(Model(topic, version))
            print(f"{topic.uri_name}: model {version} is ready")
    return 0
