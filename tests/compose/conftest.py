"""One stack of containers for all tests in this folder, with a project name, images and a port of its own."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from include.stack.airflow_api import AirflowApi
from include.stack.processes import USER, free_port

ROOT = Path(__file__).resolve().parents[2]
UP_TIMEOUT_S = 1800  # the first time, the images are built


def wait_until(condition: Callable[[], Any], description: str, timeout: float = 180) -> Any:
    """Return the value of a condition as soon as it is true."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"timed out after {timeout} s waiting for {description}"
        time.sleep(0.3)
    return value


class Containers:
    """A running project of docker-compose.yaml."""

    def __init__(self) -> None:
        self._project = f"coding-test-{secrets.token_hex(4)}"
        self._port = free_port()
        # the settings of the caller's shell and of .env have no effect
        inherited = {
            name: value for name, value in os.environ.items() if name in ("PATH", "HOME") or "DOCKER" in name
        }
        images = {
            "CODING_IMAGE": "occupation-coding:compose-test",
            "CODING_LOCAL_SERVICE_IMAGE": "occupation-coding-local-service:compose-test",
        }
        self.environment = {**inherited, **images, "AIRFLOW_PORT": str(self._port)}

    def compose(self, *arguments: str, timeout: float = 120, **environment: str) -> str:
        """Run `docker compose` and return its output."""
        command = ["docker", "compose", "--project-name", self._project, "--env-file", os.devnull, *arguments]
        process = subprocess.run(
            command, cwd=ROOT, env={**self.environment, **environment}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
        output = f"{process.stdout[-4000:]}\n{process.stderr[-4000:]}"
        assert process.returncode == 0, f"{' '.join(command)}\n{output}"
        return process.stdout

    def up(self, **environment: str) -> None:
        """Start everything and wait until it is healthy."""
        self.compose("up", "--detach", "--wait", timeout=UP_TIMEOUT_S, **environment)

    def down(self) -> None:
        """Remove everything, volumes included."""
        self.compose("--profile", "*", "down", "--volumes", "--timeout", "5", timeout=300)

    def execute(self, service: str, *command: str, timeout: float = 120) -> str:
        """Run a command in a container of a service, and return its output."""
        return self.compose("exec", "-T", service, *command, timeout=timeout)

    @property
    def api(self) -> AirflowApi:
        """The REST API of Airflow, through the published port."""
        password = self.execute("api-server", "cat", "/opt/secrets/admin_password")
        return AirflowApi(f"http://127.0.0.1:{self._port}", USER, password)

    def query(self, sql: str) -> list[list[str]]:
        """Return the rows of a query on the warehouse."""
        psql = ("psql", "--no-psqlrc", "--tuples-only", "--no-align", "--username=postgres", "--dbname=warehouse")
        return [line.split("|") for line in self.execute("postgres", *psql, "--command", sql).splitlines()]

    def number(self, sql: str) -> int:
        """Return the only value of a query as a number."""
        return int(self.query(sql)[0][0])

    def knob(self, knob: str, **body: Any) -> Any:
        """Set a knob of the local coding service, or read it if there is no body."""
        data = ["--data", json.dumps(body)] if body else []
        url = f"http://127.0.0.1:8070/_local/{knob}"
        return json.loads(self.execute("coding-service", "curl", "--fail", "--silent", *data, url))

    def journal(self, since: int = 0) -> list[dict[str, Any]]:
        """Return the requests that the coding service has received."""
        return list(self.knob(f"journal?since={since}")["entries"])

    def last_sequence(self) -> int:
        """Return the sequence number of the last request in the journal."""
        entries = self.journal()
        return int(entries[-1]["sequence"]) if entries else 0

    def operations(self, since: int) -> tuple[int, int]:
        """Return the numbers of operations created and of input files uploaded after a sequence number."""
        entries = self.journal(since)
        creates = [entry for entry in entries if entry["method"] == "POST" and "batch-code" in entry["path"]]
        uploads = [entry for entry in entries if entry["method"] == "PUT" and entry["status"] == 200]
        return len(creates), len(uploads)

    def workers(self) -> set[str]:
        """Return the hostnames of the running workers."""
        return {line[:12] for line in self.compose("ps", "--quiet", "worker").split()}


@pytest.fixture(scope="session")
def containers() -> Iterator[Containers]:
    assert shutil.which("docker"), "these tests need docker with compose"
    project = Containers()
    try:
        project.up()
        yield project
    finally:
        project.down()
