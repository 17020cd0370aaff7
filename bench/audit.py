"""`python -m bench.audit`: look the packages of the lock files up in the database of known vulnerabilities of PyPI.

The exit status is 1 if a package has one. Without the network nothing is known: that is said, and is no failure.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from include.stack.processes import PROJECT

TIMEOUT_S = 300.0
LOCKS = ("requirements.lock", "requirements-local.lock", "requirements-dev.lock")
PIP_AUDIT = (
    sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "--progress-spinner=off", "--format=json",
    "--timeout=5",
)  # fmt: skip


def audit(locks: Sequence[Path], command: Sequence[str] = PIP_AUDIT, timeout_s: float = TIMEOUT_S) -> int:
    """Print what is known about the packages of these files, and return the exit status.

    :param command: pip-audit with its options
    """
    arguments = [word for lock in locks for word in ("--requirement", str(lock))]
    try:
        process = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, timeout=timeout_s, check=False
        )
        packages: list[dict[str, Any]] = json.loads(process.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        print(f"Dependency audit skipped: no answer within {timeout_s:g} s")
        return 0
    except ValueError:  # pip-audit writes no JSON if it cannot reach the database
        reason = (process.stderr.strip().splitlines() or ["no output"])[-1]
        print(f"Dependency audit skipped: {reason}")
        return 0
    vulnerable = [package for package in packages if package.get("vulns")]
    for package in vulnerable:
        for vulnerability in package["vulns"]:
            fixes = ", ".join(vulnerability["fix_versions"]) or "no version"
            print(f"{package['name']} {package['version']}: {vulnerability['id']}, fixed in {fixes}")
    skipped = sum("skip_reason" in package for package in packages)
    print(f"Dependency audit: {len(packages) - skipped} packages checked, {len(vulnerable)} vulnerable")
    if skipped:
        print(f"Not in the database, so not checked: {skipped} packages")
    return 1 if vulnerable else 0


if __name__ == "__main__":
    sys.exit(audit([PROJECT / name for name in LOCKS]))
