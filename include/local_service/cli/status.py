"""The command ``status``: shows the state of a running service."""

from __future__ import annotations

import argparse
import json
import sys
import urllib.request
from typing import Any

DEFAULT_URL = "http://127.0.0.1:8070"
TIMEOUT_S = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``status``."""
    parser.add_argument("--url", default=DEFAULT_URL, help="base URL of the running service")


def run(options: argparse.Namespace) -> int:
    """Print topics, models and operations of a running service; return the exit status."""
    try:
        print(format_state(fetch_state(options.url)))
    except (OSError, ValueError) as error:
        sys.exit(f"no local coding service responds at {options.url}: {error}")
    return 0


def fetch_state(url: str) -> dict[str, Any]:
    """Return the state of a running service.

    :raises OSError, ValueError: if there is no response, or not one of a local service.
    """
    # Without proxies, whatever the environment configures: the service is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{url.rstrip('/')}/_local/state", timeout=TIMEOUT_S) as response:
        state: dict[str, Any] = json.load(response)
    return state


def format_state(state: dict[str, Any]) -> str:
    """Return the state as text."""
    operations = ", ".join(f"{count} {name}" for name, count in state["operations"].items() if count)
    faults = ", ".join(f"{fault['name']} x{fault['count']}" for fault in state["faults"])
    lines = [line for name, topic in state["topics"].items() for line in _format_topic(name, topic)]
    lines += [
        f"operations   {operations or 'none yet'}",
        f"coder        {state['coder']}",
        f"progression  {state['progression']} (polls {state['polls']}, seconds {state['seconds']:g})",
        f"throttle     {'on' if state['throttle'] else 'off'}",
        f"faults       {faults or 'none pending'}",
        f"clock        {state['now']}",
    ]
    return "\n".join(lines)


def _format_topic(name: str, topic: dict[str, Any]) -> list[str]:
    models = [
        f"  model {model['modelVersion']}    {model['modelId']}  released {model['modelReleaseDate']}"
        for model in topic["models"]
    ]
    return [f"{name:<12} {topic['fullName']}", *models]
