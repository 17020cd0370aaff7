"""One stack of containers for all tests here, with a project, an image and a port of its own."""

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
UP_SECONDS = 1800  # the first time, the image is built


def until(condition: Callable[[], Any], what: str, seconds: float = 180) -> Any:
    """Wait for a condition and return what it gave."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.3)
    return found


class Containers:
    """The project of docker-compose.yaml and the questions that tests ask of it."""

    def __init__(self) -> None:
        self._project = f"coding-test-{secrets.token_hex(4)}"
        self._port = free_port()
        # what the caller's shell or .env says of the project does not count
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME") or "DOCKER" in name}
        image = {"CODING_IMAGE": "occupation-coding:compose-test"}
        self.environment = {**kept, **image, "AIRFLOW_PORT": str(self._port)}

    def compose(self, *arguments: str, seconds: float = 120, **environment: str) -> str:
        """Call `docker compose` and return what it says."""
        command = ["docker", "compose", "--project-name", self._project, "--env-file", os.devnull, *arguments]
        done = subprocess.run(
            command, cwd=ROOT, env={**self.environment, **environment}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=seconds, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def up(self, **environment: str) -> None:
        """Bring everything up and wait until it is healthy."""
        self.compose("up", "--detach", "--wait", seconds=UP_SECONDS, **environment)

    def down(self) -> None:
        """Remove everything, volumes too."""
        self.compose("--profile", "*", "down", "--volumes", "--timeout", "5", seconds=300)

    def execute(self, service: str, *command: str, seconds: float = 120) -> str:
        """Run a command in a container of a service."""
        return self.compose("exec", "-T", service, *command, seconds=seconds)

    @property
    def api(self) -> AirflowApi:
        """The REST API, as somebody on this machine calls it."""
        password = self.execute("api-server", "cat", "/opt/secrets/admin_password")
        return AirflowApi(f"http://127.0.0.1:{self._port}", USER, password)

    def query(self, sql: str) -> list[list[str]]:
        """Ask the warehouse."""
        asked = ("psql", "--no-psqlrc", "--tuples-only", "--no-align", "--username=postgres", "--dbname=warehouse")
        return [line.split("|") for line in self.execute("postgres", *asked, "--command", sql).splitlines()]

    def number(self, sql: str) -> int:
        """The one number that a query gives."""
        return int(self.query(sql)[0][0])

    def knob(self, knob: str, **body: Any) -> Any:
        """Turn a knob of the local coding service, or ask it with an empty body."""
        data = ["--data", json.dumps(body)] if body else []
        url = f"http://127.0.0.1:8070/_local/{knob}"
        return json.loads(self.execute("coding-service", "curl", "--fail", "--silent", *data, url))

    def journal(self, since: int = 0) -> list[dict[str, Any]]:
        """Requests that the coding service has seen."""
        return list(self.knob(f"journal?since={since}")["entries"])

    def mark(self) -> int:
        """Where the journal stands now."""
        entries = self.journal()
        return int(entries[-1]["sequence"]) if entries else 0

    def operations(self, since: int) -> tuple[int, int]:
        """How many operations were created and how many input files sent since a mark."""
        entries = self.journal(since)
        created = [entry for entry in entries if entry["method"] == "POST" and "batch-code" in entry["path"]]
        sent = [entry for entry in entries if entry["method"] == "PUT" and entry["status"] == 200]
        return len(created), len(sent)

    def workers(self) -> set[str]:
        """Hostnames of the workers that run."""
        return {line[:12] for line in self.compose("ps", "--quiet", "worker").split()}


@pytest.fixture(scope="session")
def containers() -> Iterator[Containers]:
    assert shutil.which("docker"), "these tests take docker with compose"
    found = Containers()
    try:
        found.up()
        yield found
    finally:
        found.down()
