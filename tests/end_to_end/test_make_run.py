"""`make run` as a newcomer runs it, with the real coder, twice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from include.stack.processes import PROJECT

pytestmark = pytest.mark.airflow


def make_run(folder: Path) -> str:
    """What `make run` calls, in a folder of its own."""
    command = [sys.executable, "-m", "include.stack", "run", "--folder", str(folder)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_make_run_codes_the_sample_shows_it_and_sends_nothing_the_second_time(tmp_path: Path) -> None:
    first = make_run(tmp_path)
    assert "Records read: 20000:" in first
    assert "code.poll[3]         deferred" in first, "a line for each change of state"
    assert "run                  success" in first
    assert first.count("\nR0") == 10, "ten coded rows"
    for place in ("report.md", "warehouse.duckdb"):
        (line,) = (line for line in first.splitlines() if place in line)
        assert Path(line.split()[1]).exists()

    second = make_run(tmp_path)
    assert "Nothing was sent or written: run `manual__" in second
    assert "sent: 0 in 0 operations" in second
    left = [
        process.pid for process in psutil.process_iter(["cmdline"]) if str(tmp_path) in str(process.info["cmdline"])
    ]
    assert left == []
