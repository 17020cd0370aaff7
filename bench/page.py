"""The page of figures: tables, and the machine they were measured on."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version

import psutil

PACKAGES = ("duckdb", "apache-airflow", "pandas", "polars", "pyarrow", "msgspec")


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; the first column holds words, the others figures."""
    lines = [headers, ["---", *["---:"] * (len(headers) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def heading() -> str:
    """When, on what, and how to make the page anew."""
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return f"""# Performance

`make bench` measures all of this anew and writes this page: nothing here is typed by hand. Seconds are of one machine
and one day; the ratios, measured side by side in one run, are what can be compared.

{datetime.now(UTC):%Y-%m-%d} (UTC), {os.cpu_count()} cores, {psutil.virtual_memory().total / 10**9:.0f} GB of memory,
{platform.system()} {platform.machine()}, Python {platform.python_version()}, {packages}. MB are 1,000,000 bytes."""
