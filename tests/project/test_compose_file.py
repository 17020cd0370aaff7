"""What every service of docker-compose.yaml must have, judged without an engine. `make lint` checks the schema too."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FILE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
ONE_SHOT = {name for name, service in SERVICES.items() if service["restart"] == "no"}
LASTING = sorted(set(SERVICES) - ONE_SHOT)
#: Settings that hold a secret wherever they stand.
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|FERNET|JWT|SQL_ALCHEMY_CONN|BROKER_URL|ACCESS_KEY|LOGIN")

every = pytest.mark.parametrize("name", sorted(SERVICES))
lasting = pytest.mark.parametrize("name", LASTING)


def environment_of(service: dict[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in service.get("environment", {}).items()}


@lasting
def test_what_lasts_is_started_again_and_says_whether_it_is_well(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    assert {"test", "interval", "timeout", "start_period"} <= set(service["healthcheck"])


def test_what_is_done_once_is_waited_for_until_it_has_succeeded() -> None:
    for name in ONE_SHOT:
        waiting = [
            service["depends_on"][name] for service in SERVICES.values() if name in service.get("depends_on", {})
        ]
        assert waiting, f"nobody waits for {name}, so `up --wait` would take its end for a failure"
        assert {wait["condition"] for wait in waiting} == {"service_completed_successfully"}


@every
def test_every_dependency_has_a_condition_and_exists(name: str) -> None:
    for other, wait in SERVICES[name].get("depends_on", {}).items():
        assert wait["condition"] == ("service_completed_successfully" if other in ONE_SHOT else "service_healthy")
        optional = bool(set(SERVICES[other].get("profiles", [])) - set(SERVICES[name].get("profiles", [])))
        assert wait.get("required", True) is not optional


@every
def test_nobody_is_root_or_may_become_it(name: str) -> None:
    user = str(SERVICES[name]["user"]).partition(":")[0]
    assert user not in ("", "root", "0")
    assert SERVICES[name]["cap_drop"] == ["ALL"]
    assert SERVICES[name]["security_opt"] == ["no-new-privileges:true"]
    assert not SERVICES[name].get("privileged")


@every
def test_memory_processor_and_processes_have_a_limit(name: str) -> None:
    assert set(SERVICES[name]["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}


@every
def test_logs_are_rotated(name: str) -> None:
    assert set(SERVICES[name]["logging"]["options"]) == {"max-size", "max-file"}


@every
def test_a_secret_is_a_file_or_comes_from_the_users_environment(name: str) -> None:
    for setting, value in environment_of(SERVICES[name]).items():
        if not SECRET.search(setting):
            continue
        by_file = setting.endswith(("_FILE", "_CMD", "_USERS")) and re.match(
            r"(cat )?/opt/secrets/|admin:admin$", value
        )
        assert by_file or re.fullmatch(r"\$\{[A-Z_]+:-\}", value), f"{setting} has a value of its own"


@every
def test_what_airflow_reads_by_command_is_an_option_that_it_reads_so(name: str) -> None:
    from airflow.configuration import conf

    for setting in environment_of(SERVICES[name]):
        if matched := re.fullmatch(r"AIRFLOW__([A-Z_]+?)__([A-Z_]+)_CMD", setting):
            section, option = map(str.lower, matched.groups())
            assert (section, option) in conf.sensitive_config_values


@every
def test_ports_are_open_to_this_machine_only(name: str) -> None:
    assert all(str(port).startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


@every
def test_images_are_pinned(name: str) -> None:
    image = re.sub(r"\$\{\w+:-(.+)\}", r"\1", SERVICES[name]["image"])
    assert re.search(r":\d[\w.]*$", image), image


@every
def test_only_named_volumes_are_mounted_and_secrets_read_only_but_for_who_writes_them(name: str) -> None:
    for volume in SERVICES[name].get("volumes", []):
        source, target, *mode = volume.split(":")
        assert source in FILE["volumes"]
        if target == "/opt/secrets":
            assert (mode == ["ro"]) is (name not in ("secrets", "api-server"))


def test_the_image_is_built_once_and_its_base_is_the_airflow_that_is_pinned() -> None:
    assert [name for name, service in SERVICES.items() if "build" in service] == ["secrets"]
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    (base,) = re.findall(r"^FROM apache/airflow:(\S+)$", dockerfile, re.MULTILINE)
    assert f"apache-airflow=={base}" in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert re.findall(r"^USER (\S+)$", dockerfile, re.MULTILINE)[-1] == "airflow"


def test_the_example_names_each_variable_that_is_read_and_no_other() -> None:
    compose = (ROOT / "docker-compose.yaml").read_text(encoding="utf-8")
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    read = set(re.findall(r"(?<!\$)\$\{(\w+)", compose))
    assert set(re.findall(r"^#(\w+)=", example, re.MULTILINE)) == read | {"COMPOSE_PROFILES"}
