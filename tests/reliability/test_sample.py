"""Samples of the matrices of faults and crashes, with the command that `make soak` runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run_command(*options: str) -> list[str]:
    """Run the command and return the lines that it printed, one for each case."""
    command = [sys.executable, "-m", "tests.reliability", *options]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'plugins'}"}
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1200, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout.splitlines()


def test_a_sample_of_faults_and_pairs_of_faults_breaks_no_invariant() -> None:
    lines = run_command("--crashes", "0", "--singles", "4", "--pairs", "4")
    assert len(lines) == 8
    assert all(line.endswith(": holds") for line in lines)


@pytest.mark.airflow
def test_a_sample_of_crashes_breaks_no_invariant() -> None:
    lines = run_command("--crashes", "2", "--singles", "0", "--pairs", "0")
    assert len(lines) == 2
    assert all(": success (" in line and line.endswith(": holds") for line in lines)
