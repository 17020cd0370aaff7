"""The page of figures: tables, and the machine they were measured on."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

from bench.measure import ROOT

PACKAGES = ("duckdb", "apache-airflow", "pandas", "polars", "pyarrow")


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table; its first column contains words, the others figures."""
    lines = [headers, ["---", *["---:"] * (len(headers) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def write_page(title: str, command: str, texts: Iterable[str], path: Path) -> str:
    """Write a page of figures, and return a sentence that says so.

    :param command: writes the page again
    """
    path.write_text("\n\n".join([heading(title, command), *texts]) + "\n", encoding="utf-8")
    return f"Wrote {path.relative_to(ROOT)}"


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
