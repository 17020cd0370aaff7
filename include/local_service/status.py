"""``python -m include.local_service status``: ask a running service how it stands."""

from __future__ import annotations

import argparse
import json
import sys
import urllib.request
from typing import Any

DEFAULT_URL = "http://127.0.0.1:8070"
TIMEOUT = 10.0
"""Seconds."""


def add_status_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``status``."""
    parser.add_argument("--url", default=DEFAULT_URL, help="base URL of the running service")


def status_command(chosen: argparse.Namespace) -> int:
    """Print topics, models and operations of a running service; return the exit status."""
    try:
        print(describe_state(ask_state(chosen.url)))
    except (OSError, ValueError) as error:
        sys.exit(f"no local coding service answers at {chosen.url}: {error}")
    return 0


def ask_state(url: str) -> dict[str, Any]:
    """Return what the service says of itself.

    :raises OSError, ValueError: when nothing answers, or something else does.
    """
    # Without proxies: the service is on this machine, whatever the environment says.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{url.rstrip('/')}/_local/state", timeout=TIMEOUT) as answer:
        state: dict[str, Any] = json.load(answer)
    return state


def describe_state(state: dict[str, Any]) -> str:
    """Write the state for people to read."""
    operations = ", ".join(f"{count} {name}" for name, count in state["operations"].items() if count)
    faults = ", ".join(f"{fault['name']} x{fault['count']}" for fault in state["faults"])
    lines = [line for name, topic in state["topics"].items() for line in _describe_topic(name, topic)]
    return "\n".join(
        [
            *lines,
            f"operations   {operations or 'none yet'}",
            f"coder        {state['coder']}",
            f"progression  {state['progression']} (polls {state['polls']}, seconds {state['seconds']:g})",
            f"throttle     {'on' if state['throttle'] else 'off'}",
            f"faults       {faults or 'none pending'}",
            f"clock        {state['now']}",
        ]
    )


def _describe_topic(name: str, topic: dict[str, Any]) -> list[str]:
    models = [
        f"  model {model['modelVersion']}    {model['modelId']}  released {model['modelReleaseDate']}"
        for model in topic["models"]
    ]
    return [f"{name:<12} {topic['fullName']}", *models]
