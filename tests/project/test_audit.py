"""The dependency audit fails for a known vulnerability only; without the network it says that it was skipped."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bench.audit import audit

SAFE = {"name": "safe", "version": "1.0", "vulns": []}
VULNERABLE = {"name": "old", "version": "0.1", "vulns": [{"id": "CVE-1", "fix_versions": ["0.2", "0.3"]}]}
SKIPPED = {"name": "private", "skip_reason": "not found"}


def run(script: str, timeout_s: float = 60) -> int:
    return audit([Path("requirements.lock")], (sys.executable, "-c", script), timeout_s)


def test_a_vulnerable_package_is_named_with_the_versions_that_fix_it(capsys: pytest.CaptureFixture[str]) -> None:
    output = json.dumps({"dependencies": [SAFE, VULNERABLE, SKIPPED], "fixes": []})
    assert run(f"import sys; print({output!r}); sys.exit(1)") == 1
    assert capsys.readouterr().out.splitlines() == [
        "old 0.1: CVE-1, fixed in 0.2, 0.3",
        "Dependency audit: 2 packages checked, 1 vulnerable",
        "Not in the database, so not checked: 1 packages",
    ]


def test_packages_without_a_vulnerability_pass() -> None:
    assert run(f"print({json.dumps({'dependencies': [SAFE]})!r})") == 0


@pytest.mark.parametrize(
    ("script", "timeout_s", "reason"),
    [
        (
            "import sys; sys.exit('ERROR:pip_audit._cli:Connection refused')",
            60,
            "ERROR:pip_audit._cli:Connection refused",
        ),
        ("import time; time.sleep(600)", 0.5, "no answer within 0.5 s"),
    ],
)
def test_without_the_network_the_audit_is_skipped_with_a_notice(
    script: str, timeout_s: float, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(script, timeout_s) == 0
    assert capsys.readouterr().out == f"Dependency audit skipped: {reason}\n"
