"""The page of figures: tables, and the machine they were measured on."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version

import psutil

PACKAGES = ("duckdb", "apache-airflow", "pandas", "polars", "pyarrow")


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table; its first column contains words, the others figures."""
    lines = [headers, ["---", *["---:"] * (len(headers) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def heading(title: str, command: str) -> str:
    """Return the first lines of a page: when and on what machine it was measured, and how to measure it again.

    :param command: writes the page again
    """
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return f"""# {title}

`{command}` measures again and writes this page; no figure is typed in. The seconds are those of one machine on one
day. Compare the ratios, which are measured side by side in one run.

{datetime.now(UTC):%Y-%m-%d} (UTC), {os.cpu_count()} cores, {psutil.virtual_memory().total / 10**9:.0f} GB of memory,
{platform.system()} {platform.machine()}, Python {platform.python_version()}, {packages}. 1 MB is 1,000,000 bytes."""
