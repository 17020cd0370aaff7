"""The stack uses free ports, identifies its processes by id, and reports what does not start."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from include.stack.processes import Stack, StackError, StackState, free_port


def test_a_port_in_use_is_not_chosen() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert free_port(port) not in (0, port)
    assert free_port(port) == port


def test_a_dead_stack_is_not_running_even_if_its_process_id_is_reused(tmp_path: Path) -> None:
    process = psutil.Process()
    state = {"api_port": 1, "service_port": 2, "processes": {"scheduler": [process.pid, process.create_time() - 100]}}
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
        created = psutil.Process(ours.pid).create_time()
        state = {"api_port": 1, "service_port": 2, "processes": {"scheduler": [ours.pid, created]}}
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
        created = psutil.Process(killed.pid).create_time()
        state = {"api_port": 1, "service_port": 2, "processes": {"scheduler": [killed.pid, created]}}
        (tmp_path / "stack.json").write_text(json.dumps(state))
        stack = Stack(tmp_path)
        killed.kill()
        killed.wait()
        assert child.is_running()
        stack.stop()
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_airflow_settings_in_the_environment_of_the_caller_do_not_reach_the_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "CeleryExecutor")
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", "{}")
    environment = Stack(tmp_path).environment(StackState(1, 2, {}))
    assert environment["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"
    assert "AIRFLOW_CONN_OTHER" not in environment


def test_keys_and_password_are_generated_once_and_readable_by_their_owner_only(tmp_path: Path) -> None:
    first = Stack(tmp_path).login
    assert Stack(tmp_path).login == first
    for name in ("secrets.json", "passwords.json"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


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
