"""No file of the project contains a secret, by the detectors of detect-secrets, which need no network.

What they take for one and is none is in `.secrets.baseline`. After a look at each finding of this test:
`.venv/bin/detect-secrets scan --baseline .secrets.baseline FILE` for a file that has new ones.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

detect_secrets = pytest.importorskip("detect_secrets", reason="`make lint` installs detect-secrets")
from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class  # noqa: E402
from detect_secrets.core.scan import scan_file  # noqa: E402
from detect_secrets.settings import default_settings, transient_settings  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
BASELINE = ROOT / ".secrets.baseline"
#: Files of hashes or of words, which these detectors read for minutes and find nothing in.
WITHOUT = (".lock", ".svg", "classification.jsonl", "transliteration.txt", BASELINE.name)
#: Detectors that judge by names and by randomness. Tests are full of invented passwords, so there they do not count.
GUESSES = {"Secret Keyword", "Basic Auth Credentials", "Hex High Entropy String", "Base64 High Entropy String"}

EXACT = [
    {"name": detector.__name__}
    for kind, detector in get_mapping_from_secret_type_to_class().items()
    if kind not in GUESSES
]

Finding = tuple[str, str, str]


def scan(path: Path, name: str) -> set[Finding]:
    """Return the findings in a file, as (name, kind, hash)."""
    with transient_settings({"plugins_used": EXACT}) if name.startswith("tests/") else default_settings():
        return {(name, secret.type, secret.secret_hash) for secret in scan_file(str(path))}


def test_no_tracked_file_contains_a_secret() -> None:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("the files of the project are known to git only")
    names = [name for name in listing.stdout.split("\0") if name and not name.endswith(WITHOUT)]
    findings = {finding for name in names if (ROOT / name).is_file() for finding in scan(ROOT / name, name)}
    baseline = json.loads(BASELINE.read_text())["results"]
    known = {(name, each["type"], each["hashed_secret"]) for name, group in baseline.items() for each in group}
    assert sorted((name, kind) for name, kind, _ in findings - known) == []
    assert len(names) > 200


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("docs/settings.md", "aws_access_key_id AKIA" + "Q7XNB3KVJ5TRW2LM"),
        ("tests/test_new.py", "-----BEGIN RSA " + "PRIVATE KEY-----"),
        ("include/new.py", 'client_secret = "' + 'vQ2xR8kLm4ZpTs7w"'),
        ("dags/new.py", 'url = "https://me:' + 'vQ2xR8kLm4@api.example.org"'),
    ],
)
def test_a_new_secret_is_noticed(tmp_path: Path, name: str, line: str) -> None:
    path = tmp_path / Path(name).name
    path.write_text(f"{line}\n")
    assert scan(path, name)
