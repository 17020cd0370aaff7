"""What every service of docker-compose.yaml must have, checked without an engine. `make lint` checks the schema too."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.cli.cli_parser import get_parser

ROOT = Path(__file__).resolve().parents[2]
FILE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
ONE_SHOT = {name for name, service in SERVICES.items() if service["restart"] == "no"}
LONG_RUNNING = sorted(set(SERVICES) - ONE_SHOT)
#: Names of settings whose value is a secret.
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|FERNET|JWT|SQL_ALCHEMY_CONN|BROKER_URL|ACCESS_KEY|LOGIN")

every = pytest.mark.parametrize("name", sorted(SERVICES))
long_running = pytest.mark.parametrize("name", LONG_RUNNING)


def read_environment(service: dict[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in service.get("environment", {}).items()}


@long_running
def test_a_long_running_service_restarts_and_has_a_health_check(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    assert {"test", "interval", "timeout", "start_period"} <= set(service["healthcheck"])


def test_other_services_wait_until_a_one_shot_service_has_succeeded() -> None:
    for name in ONE_SHOT:
        dependents = [
            service["depends_on"][name] for service in SERVICES.values() if name in service.get("depends_on", {})
        ]
        assert dependents, f"no service waits for {name}, so `up --wait` would treat its end as a failure"
        assert {dependency["condition"] for dependency in dependents} == {"service_completed_successfully"}


@every
def test_every_dependency_exists_and_has_a_condition(name: str) -> None:
    for other, dependency in SERVICES[name].get("depends_on", {}).items():
        assert dependency["condition"] == (
            "service_completed_successfully" if other in ONE_SHOT else "service_healthy"
        )
        is_optional = bool(set(SERVICES[other].get("profiles", [])) - set(SERVICES[name].get("profiles", [])))
        assert dependency.get("required", True) is not is_optional


@every
def test_no_service_is_root_or_can_become_root(name: str) -> None:
    user = str(SERVICES[name]["user"]).partition(":")[0]
    assert user not in ("", "root", "0")
    assert SERVICES[name]["cap_drop"] == ["ALL"]
    assert SERVICES[name]["security_opt"] == ["no-new-privileges:true"]
    assert not SERVICES[name].get("privileged")


@every
def test_every_service_limits_memory_processors_and_processes(name: str) -> None:
    assert set(SERVICES[name]["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}


@every
def test_logs_are_rotated(name: str) -> None:
    assert set(SERVICES[name]["logging"]["options"]) == {"max-size", "max-file"}


@every
def test_a_secret_is_a_file_or_comes_from_the_users_environment(name: str) -> None:
    for setting, value in read_environment(SERVICES[name]).items():
        if not SECRET.search(setting):
            continue
        is_file = setting.endswith(("_FILE", "_CMD", "_USERS")) and re.match(
            r"(cat )?/opt/secrets/|admin:admin$", value
        )
        assert is_file or re.fullmatch(r"\$\{[A-Z_]+:-\}", value), f"{setting} has a fixed value"


@every
def test_airflow_supports_a_command_for_every_option_that_is_set_by_one(name: str) -> None:
    from airflow.configuration import conf

    for setting in read_environment(SERVICES[name]):
        if match := re.fullmatch(r"AIRFLOW__([A-Z_]+?)__([A-Z_]+)_CMD", setting):
            section, option = map(str.lower, match.groups())
            assert (section, option) in conf.sensitive_config_values


@every
def test_ports_are_published_on_this_machine_only(name: str) -> None:
    assert all(str(port).startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


@every
def test_images_are_pinned(name: str) -> None:
    image = re.sub(r"\$\{\w+:-(.+)\}", r"\1", SERVICES[name]["image"])
    assert re.search(r":\d+(\.\d+)+(@sha256:[0-9a-f]{64})?$", image), image


AIRFLOW = [name for name, service in SERVICES.items() if service.get("command", [""])[0] == "airflow"]


@pytest.mark.parametrize("name", AIRFLOW)
def test_no_log_server_starts_and_logs_are_for_their_owner_only(name: str) -> None:
    arguments = get_parser().parse_args(SERVICES[name]["command"][1:])
    assert getattr(arguments, "skip_serve_logs", True) is True
    environment = read_environment(SERVICES[name])
    assert environment["AIRFLOW__LOGGING__FILE_TASK_HANDLER_NEW_FILE_PERMISSIONS"] == "0o600"
    assert environment["AIRFLOW__LOGGING__FILE_TASK_HANDLER_NEW_FOLDER_PERMISSIONS"] == "0o700"


def test_every_airflow_process_is_started_by_the_entry_point_as_a_command_with_arguments() -> None:
    assert len(AIRFLOW) == 5


@every
def test_mounts_are_named_volumes_and_secrets_are_read_only_except_for_services_that_write_them(name: str) -> None:
    for volume in SERVICES[name].get("volumes", []):
        source, target, *mode = volume.split(":")
        assert source in FILE["volumes"]
        if target == "/opt/secrets":
            assert (mode == ["ro"]) is (name not in ("secrets", "api-server"))


def test_each_image_is_built_by_one_service() -> None:
    targets = {name: service["build"]["target"] for name, service in SERVICES.items() if "build" in service}
    assert targets == {"secrets": "airflow", "coding-service": "coding-service"}
    assert SERVICES["coding-service"]["image"] != SERVICES["secrets"]["image"]
    for name, service in SERVICES.items():
        if name not in targets and service["image"] == SERVICES["secrets"]["image"]:
            assert service["pull_policy"] == "never"


def test_the_example_lists_exactly_the_variables_that_the_file_reads() -> None:
    compose = (ROOT / "docker-compose.yaml").read_text(encoding="utf-8")
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    variables = set(re.findall(r"(?<!\$)\$\{(\w+)", compose))
    assert set(re.findall(r"^#(\w+)=", example, re.MULTILINE)) == variables | {"COMPOSE_PROFILES"}
