"""The stack uses free ports, identifies its processes by id, and reports what does not start."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from airflow.cli.cli_parser import get_parser

from include.stack.processes import (
    Stack,
    StackError,
    StackState,
    _is_listening,
    free_port,
    measure_start,
    read_boot_id,
)
from tests.local_service.conftest import Caller

STATE = StackState(api_port=1, service_port=2, processes={})
#: The part of the file of a stack that does not name its processes.
PORTS = {"api_port": 1, "service_port": 2, "boot_id": read_boot_id()}


def test_a_port_in_use_is_not_chosen() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert free_port(port) not in (0, port)
    assert free_port(port) == port


def test_a_dead_stack_is_not_running_even_if_its_process_id_is_reused(tmp_path: Path) -> None:
    process = psutil.Process()
    state = {
        "api_port": 1,
        "service_port": 2,
        "processes": {"scheduler": [process.pid, measure_start(process) - 100]},
    }
    (tmp_path / "stack.json").write_text(json.dumps(state))
    assert not Stack(tmp_path).is_running


def test_stopping_ends_the_processes_of_the_stack_and_their_children_and_no_others(tmp_path: Path) -> None:
    script = "import subprocess, sys, time; subprocess.Popen(['sleep', '60']); print(1, flush=True); time.sleep(60)"
    ours, other = (
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True) for _ in "ab"
    )
    try:
        for process in (ours, other):
            assert process.stdout is not None
            process.stdout.readline()
        children = psutil.Process(ours.pid).children()
        start = measure_start(psutil.Process(ours.pid))
        state = {**PORTS, "processes": {"scheduler": [ours.pid, start]}}
        (tmp_path / "stack.json").write_text(json.dumps(state))
        Stack(tmp_path).stop()
        assert not psutil.pid_exists(ours.pid)
        assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
        assert other.poll() is None
    finally:
        for process in (ours, other):
            os.killpg(process.pid, 9) if process.poll() is None else None
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def test_stopping_ends_the_children_of_a_process_that_was_killed(tmp_path: Path) -> None:
    script = "import subprocess, time; print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True, text=True) as killed:
        assert killed.stdout is not None
        child = psutil.Process(int(killed.stdout.readline()))
        start = measure_start(psutil.Process(killed.pid))
        state = {**PORTS, "processes": {"scheduler": [killed.pid, start]}}
        (tmp_path / "stack.json").write_text(json.dumps(state))
        stack = Stack(tmp_path)
        killed.kill()
        killed.wait()
        assert child.is_running()
        stack.stop()
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_stack_that_ran_before_the_machine_was_booted_is_not_running(tmp_path: Path) -> None:
    process = psutil.Process()
    state = {**PORTS, "boot_id": "an earlier boot", "processes": {"scheduler": [process.pid, measure_start(process)]}}
    (tmp_path / "stack.json").write_text(json.dumps(state))
    assert not Stack(tmp_path).is_running


@pytest.mark.parametrize("correction_s", [-1.0, 1.0, 3600.0])
def test_a_stack_is_found_and_stopped_after_the_clock_of_the_machine_was_corrected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, correction_s: float
) -> None:
    boot = psutil.boot_time()
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as process:
        start = measure_start(psutil.Process(process.pid))
        state = {**PORTS, "processes": {"scheduler": [process.pid, start]}}
        (tmp_path / "stack.json").write_text(json.dumps(state))
        # psutil derives every time of day from that of the boot, which the system computes from its clock
        monkeypatch.setattr(psutil._psplatform, "boot_time", lambda: boot + correction_s)
        stack = Stack(tmp_path)
        try:
            assert stack.is_complete()
            stack.stop()
            assert not psutil.pid_exists(process.pid)
        finally:
            process.kill()


def test_airflow_settings_in_the_environment_of_the_caller_do_not_reach_the_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "CeleryExecutor")
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", "{}")
    environment = Stack(tmp_path).environment(STATE)
    assert environment["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"
    assert "AIRFLOW_CONN_OTHER" not in environment


def test_keys_and_password_are_generated_once_and_readable_by_their_owner_only(tmp_path: Path) -> None:
    first = Stack(tmp_path).login
    assert Stack(tmp_path).login == first
    Stack(tmp_path).environment(STATE)
    files = list((tmp_path / "secrets").iterdir())
    assert {path.name for path in files} >= {"fernet_key", "client_secret", "passwords.json"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700


def test_no_secret_is_in_the_environment_or_on_the_command_line_of_a_process(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    shown = json.dumps([stack.environment(STATE), stack._commands(STATE)])
    contents = {path.name: path.read_text() for path in stack.secrets.iterdir()}
    assert len(set(contents.values())) == len(contents) == 6
    assert [name for name, secret in contents.items() if secret in shown] == []


def test_airflow_reads_its_keys_from_the_files_of_the_secrets(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    stack = Stack(folder)
    script = """
import json
from airflow.configuration import conf
options = [conf.get(*option) for option in (("core", "fernet_key"), ("api", "secret_key"), ("api_auth", "jwt_secret"))]
print(json.dumps(options))
"""
    process = subprocess.run(
        [sys.executable, "-c", script], env=stack.environment(STATE), capture_output=True, text=True, check=True
    )
    names = ("fernet_key", "secret_key", "jwt_secret")
    assert json.loads(process.stdout.splitlines()[-1]) == [*map(stack.read_secret, names)]


class ImportingStack(Stack):
    """A stack that keeps the files of connections that Airflow is to store, in place of running Airflow."""

    imported: dict[str, Any]

    def _run_once(self, command: list[str], environment: dict[str, str]) -> None:
        self.imported = json.loads(Path(command[-1]).read_text())


def test_the_connections_are_stored_and_their_file_with_the_secret_is_removed(tmp_path: Path) -> None:
    stack = ImportingStack(tmp_path)
    stack.store_connections(STATE)
    service = stack.imported["coding_service_default"]
    assert (service["conn_type"], service["host"], service["port"]) == ("coding_service", "http://127.0.0.1:2", 2)
    assert service["password"] == stack.read_secret("client_secret")
    assert stack.imported["warehouse_default"]["conn_type"] == "duckdb"
    assert all(fields["description"] for fields in stack.imported.values())
    assert not (stack.secrets / "connections.json").exists()
    assert stack.environment(STATE)["AIRFLOW__CORE__TEST_CONNECTION"] == "Enabled"


def test_a_setting_replaces_a_connection_of_the_stack(tmp_path: Path) -> None:
    stack = ImportingStack(tmp_path, {"AIRFLOW_CONN_WAREHOUSE_DEFAULT": '{"conn_type": "postgres"}'})
    assert stack.environment(STATE)["AIRFLOW_CONN_WAREHOUSE_DEFAULT"] == '{"conn_type": "postgres"}'
    stack.store_connections(STATE)
    assert stack.imported.keys() == {"coding_service_default"}


def test_every_server_of_the_stack_listens_on_loopback_and_the_log_servers_do_not_start(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    environment, commands = stack.environment(STATE), stack._commands(STATE)
    assert environment["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert environment["AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK"] == "False"
    assert "--host" not in commands["local-service"], "its default is loopback"
    for name in ("scheduler", "triggerer"):
        assert get_parser().parse_args(commands[name][1:]).skip_serve_logs is True


class ServiceStack(Stack):
    """A stack of the local coding service only."""

    def _commands(self, state: StackState) -> dict[str, list[str]]:
        command = super()._commands(state)["local-service"]
        return {"local-service": [*command, "--coder", "stub"]}

    def _run_once(self, command: list[str], environment: dict[str, str]) -> None:
        """There is no Airflow."""

    def _wait_until_ready(self) -> None:
        self._wait_for("local-service", time.monotonic() + 60, lambda: _is_listening(self.state.service_port))


def find_open_files(folder: Path) -> list[str]:
    """Return the files and folders that the group or others can access."""
    return [str(path) for path in (folder, *folder.rglob("*")) if path.lstat().st_mode & 0o077]


def test_files_of_the_stack_are_for_their_owner_only_whatever_the_umask(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o755)  # as an earlier version left it
    stack = ServiceStack(folder)
    previous = os.umask(0)
    try:
        stack.start()
        code_a_text(stack)
        process = stack.process("local-service")
        process.kill()
        process.wait()
        stack.restart("local-service")
    finally:
        stack.stop()
        os.umask(previous)
    parts = {path.relative_to(folder).parts[0] for path in folder.rglob("*")}
    assert parts >= {"airflow", "logs", "sample.parquet", "secrets", "service", "warehouse.duckdb"}
    assert list((folder / "service").rglob("complete/*")), "the service stored the files of an operation"
    assert find_open_files(folder) == []


def code_a_text(stack: Stack) -> None:
    """Code a text with the running local service, so that it stores an input file and an output file."""
    with requests.Session() as session:
        session.trust_env = False
        caller = Caller(stack.service_url, session, ("local-client", stack.read_secret("client_secret")))
        caller.output(caller.submit(b'{"recordId": "1", "occp_text": "chef", "tasks_text": "cooks"}\n'))


@pytest.mark.airflow
def test_a_stack_whose_service_dies_at_once_names_its_log_and_stops_the_other_processes(tmp_path: Path) -> None:
    stack = Stack(tmp_path, service_options=("--no-such-option",))
    with pytest.raises(StackError, match=r"local-service has ended. See its log: .*local-service.log"):
        stack.start()
    assert not stack.is_running
    assert not [
        p
        for p in psutil.process_iter(["environ"])
        if (p.info["environ"] or {}).get("AIRFLOW_HOME") == str(tmp_path / "airflow")
    ]
