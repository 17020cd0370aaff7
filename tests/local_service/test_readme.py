"""The commands, knobs and states in the README."""

import re
import subprocess
from pathlib import Path

import pytest

from include.local_service.core.faults import FAULT_OPTIONS
from include.local_service.core.operation import TRANSITIONS
from include.local_service.http.knobs import KNOBS

README = (Path(__file__).parents[2] / "include" / "local_service" / "README.md").read_text()
CURLS = re.findall(r"^    (curl .*?)(?: +# .*)?$", README, re.MULTILINE)


@pytest.mark.parametrize("line", CURLS)
def test_a_curl_command_of_the_readme_succeeds(caller, line):
    script = f"U={caller.url}/_local\n{line} -w '\\n%{{http_code}}'"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout.splitlines()[-1] == "200", done.stdout


def test_the_readme_has_every_knob_and_every_fault():
    text = "\n".join(CURLS)
    assert {name for _, name in KNOBS} <= set(re.findall(r"\$U/(\w+)", text))
    assert set(FAULT_OPTIONS) == set(re.findall(r'"name": "(\w+)"', text))


def test_the_readme_has_every_transition():
    rows = set(re.findall(r"^\| `(\w+)` \| .* \| `(\w+)`", README, re.MULTILINE))
    assert rows == {(str(before), str(after)) for (before, _), after in TRANSITIONS.items()}
