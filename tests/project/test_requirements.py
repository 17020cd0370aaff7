"""The lock files and the images: each contains the packages of its purpose, and no other."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
LOCAL_ONLY = {"scikit-learn", "scipy", "joblib", "threadpoolctl"}


def read_lock(name: str) -> dict[str, set[str]]:
    """Return the versions of each package in a lock file; there are several where they depend on the Python version."""
    versions: dict[str, set[str]] = {}
    for package, version in re.findall(r"^([\w.-]+)(?:\[.+\])?==([\w.]+)", (ROOT / name).read_text(), re.MULTILINE):
        versions.setdefault(package, set()).add(version)
    return versions


LOCKS = {path.name: read_lock(path.name) for path in sorted(ROOT.glob("requirements*.lock"))}
PRODUCTION, LOCAL = LOCKS["requirements.lock"], LOCKS["requirements-local.lock"]


def read_stages() -> dict[str, list[str]]:
    """Return the instructions of each stage of the Dockerfile, those of the stage that it starts from included."""
    stages: dict[str, list[str]] = {}
    for instruction in re.sub(r"\\\n", "", (ROOT / "Dockerfile").read_text()).splitlines():
        if match := re.fullmatch(r"FROM (\S+) AS (\S+)", instruction):
            stages[match[2]] = [*stages.get(match[1], []), instruction]
        elif stages:
            stages[list(stages)[-1]].append(instruction)
    return stages


STAGES = read_stages()


def test_production_does_not_install_the_packages_of_the_local_service() -> None:
    assert not LOCAL_ONLY & PRODUCTION.keys()
    assert LOCAL.keys() >= LOCAL_ONLY


def test_a_package_has_the_same_version_in_every_lock() -> None:
    for lock in LOCKS.values():
        for other in LOCKS.values():
            assert {name: lock[name] for name in lock if name in other} == {
                name: other[name] for name in other if name in lock
            }


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_has_hashes_and_names_no_package_index(name: str) -> None:
    text = (ROOT / name).read_text()
    entries = re.findall(r"^[^\s#].*(?:\n .*)*", text, re.MULTILINE)
    assert len(entries) >= len(LOCKS[name]) > 10
    assert all("--hash=sha256:" in entry for entry in entries)
    assert not re.search(r"://|--(extra-)?index|--find-links|--trusted-host", text)


@pytest.mark.parametrize(
    ("stage", "locks"),
    [("airflow", ["requirements.lock"]), ("coding-service", ["requirements.lock", "requirements-local.lock"])],
)
def test_an_image_installs_only_the_locks_of_its_purpose(stage: str, locks: list[str]) -> None:
    installs = [
        instruction
        for instruction in STAGES[stage]
        if re.search(r"\b(pip|uv|apt|apt-get)\b", instruction) and "/opt/airflow/provider" not in instruction
    ]
    assert [re.findall(r"-r /opt/airflow/(\S+)", install) for install in installs] == [[lock] for lock in locks]
    assert all("pip install" in install and "--require-hashes --no-deps" in install for install in installs)
    assert re.findall(r"^USER (\S+)$", "\n".join(STAGES[stage]), re.MULTILINE)[-1] == "airflow"


def test_the_entry_point_creates_files_for_the_owner_only_and_runs_the_command() -> None:
    (line,) = re.findall(r"^ENTRYPOINT (.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    init, separator, base, *command = json.loads(line)
    assert (init, separator, base) == ("/usr/bin/dumb-init", "--", "/entrypoint"), "as in the base image"
    assert command[0] == "bash", "which the entry point of the base image runs as it stands"
    shown = subprocess.run([*command, "sh", "-c", "umask; echo $1", "-", "a b"], capture_output=True, text=True)
    assert shown.stdout.split("\n")[:2] == ["0077", "a b"]
    assert re.findall(r"--mode=(\d+) \\\n\s+(.+) \\", (ROOT / "Dockerfile").read_text())[0][0] == "0700"


def test_the_image_and_the_environment_install_the_provider_with_the_backend_of_the_lock_and_no_index() -> None:
    assert "setuptools" in PRODUCTION
    (in_image,) = (line for line in STAGES["airflow"] if "pip install" in line and "/opt/airflow/provider" in line)
    (in_environment,) = re.findall(
        r"^\t.*pip install .*--editable \.$", (ROOT / "Makefile").read_text(), re.MULTILINE
    )
    for install in (in_image, in_environment):
        assert {"--no-index", "--no-deps", "--no-build-isolation"} <= set(install.split())
    copies = [line for line in STAGES["airflow"] if line.startswith("COPY")]
    assert not any(re.search(r" plugins /opt/airflow/plugins$", line) for line in copies), "it would be there twice"


def test_the_image_for_airflow_is_the_default_target() -> None:
    assert list(STAGES)[-1] == "airflow"


def test_the_base_image_has_the_airflow_version_of_the_lock_and_the_python_version_of_the_tests() -> None:
    (base,) = re.findall(r"^FROM (\S+:[^\s@]+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    (setup,) = (step for step in workflow["jobs"]["check"]["steps"] if "setup-python" in step.get("uses", ""))
    (airflow,) = PRODUCTION["apache-airflow"]
    assert base == f"apache/airflow:{airflow}-python{setup['with']['python-version']}"


def test_production_modules_can_be_imported_without_the_packages_of_the_local_service() -> None:
    modules = {
        module
        for module, packages in importlib.metadata.packages_distributions().items()
        if {package.lower() for package in packages} & (LOCAL.keys() - PRODUCTION.keys())
    }
    assert {"sklearn", "scipy", "joblib"} <= modules
    files = [path.relative_to(ROOT) for path in (ROOT / "include").rglob("*.py")]
    names = [".".join(path.with_suffix("").parts) for path in files if path.parts[1] != "local_service"]
    names += [path.stem for folder in ("dags", "plugins") for path in (ROOT / folder).glob("*.py")]
    assert len(names) > 30
    folders = [str(ROOT / folder) for folder in ("", "plugins", "dags")]
    program = (
        f"import importlib, sys; sys.path[:0] = {folders}; sys.modules |= dict.fromkeys({modules})\n"
        f"for name in {names}: importlib.import_module(name)"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
