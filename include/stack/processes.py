"""The processes of the stack: started with an environment of their own, found again, and stopped by their ids."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb
import psutil
from cryptography.fernet import Fernet

from include.stack.airflow_api import AirflowApi
from include.stack.sample import write_sample

PROJECT = Path(__file__).resolve().parents[2]
POOL, POOL_SLOTS = "coding_service", 4
USER = "admin"
SIMPLE_AUTH = "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager"
COMPONENTS = {"metadatabase", "scheduler", "triggerer", "dag_processor"}
#: Seconds in which everything must be up, and seconds a process gets to stop.
START_SECONDS, STOP_SECONDS = 240.0, 20.0


class StackError(Exception):
    """The stack does not start."""


@dataclass(frozen=True)
class Running:
    """A stack that runs: its ports, and its processes as (id, time of creation)."""

    api_port: int
    service_port: int
    processes: dict[str, tuple[int, float]]


def free_port(preferred: int = 0) -> int:
    """A port of 127.0.0.1 that nobody listens on: the preferred one if it is free."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise StackError("no port of 127.0.0.1 is free")


def coding_connection(service: str) -> dict[str, Any]:
    """Airflow connection to a local coding service, which may be asked more often than the real one."""
    return {
        "conn_type": "coding_service",
        "host": service,
        "login": "local-client",
        "password": "local-secret",
        "extra": {"auth_host": service, "requests_per_second": 10, "poll_interval": 1},
    }


class Stack:
    """The local coding service and Airflow, with all their files in one folder.

    :param folder: where everything lies; made if missing
    :param settings: further environment variables of all processes
    :param service_options: further options of the local coding service
    """

    def __init__(
        self, folder: Path, settings: dict[str, str] | None = None, service_options: tuple[str, ...] = ()
    ) -> None:
        self.folder = folder.resolve()
        self.logs = self.folder / "logs"
        self.warehouse = self.folder / "warehouse.duckdb"
        self._settings, self._service_options = settings or {}, service_options
        self._state = self.folder / "stack.json"
        self._children: list[subprocess.Popen[bytes]] = []
        self.running: Running | None = self._find()

    # ---- what it is made of ------------------------------------------------------------------------------------

    @property
    def api(self) -> AirflowApi:
        """The REST API of the running Airflow."""
        assert self.running is not None, "the stack does not run"
        return AirflowApi(f"http://127.0.0.1:{self.running.api_port}", USER, self._secrets()["password"])

    @property
    def service_url(self) -> str:
        """Base URL of the running local coding service."""
        assert self.running is not None, "the stack does not run"
        return f"http://127.0.0.1:{self.running.service_port}"

    @property
    def login(self) -> tuple[str, str]:
        """User and password of Airflow's UI."""
        return USER, self._secrets()["password"]

    def environment(self, running: Running) -> dict[str, str]:
        """Environment of the Airflow processes. What the caller's environment says of Airflow does not count."""
        home, secret = self.folder / "airflow", self._secrets()
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
        api = f"http://127.0.0.1:{running.api_port}"
        service = f"http://127.0.0.1:{running.service_port}"
        # a machine that reaches its package index through a proxy reaches itself without one
        direct = ",".join(
            filter(None, (inherited.get("no_proxy") or inherited.get("NO_PROXY"), "127.0.0.1,localhost"))
        )
        return {
            **inherited,
            "NO_PROXY": direct,
            "no_proxy": direct,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{inherited.get('PATH', '')}",
            "PYTHONPATH": str(PROJECT),
            "PYTHONUNBUFFERED": "1",
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__CORE__FERNET_KEY": secret["fernet_key"],
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{api}/execution/",
            "AIRFLOW__CORE__AUTH_MANAGER": SIMPLE_AUTH,
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(self.folder / "passwords.json"),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}?timeout=60",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(running.api_port),
            "AIRFLOW__API__BASE_URL": api,
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API__SECRET_KEY": secret["secret_key"],
            "AIRFLOW__API_AUTH__JWT_SECRET": secret["jwt_secret"],
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port(8793)),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port(8794)),
            "AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK": "False",
            "AIRFLOW_CONN_CODING_SERVICE_DEFAULT": json.dumps(coding_connection(service)),
            "AIRFLOW_CONN_WAREHOUSE_DEFAULT": json.dumps({"conn_type": "duckdb", "host": str(self.warehouse)}),
            "CODING_STAGING": (self.folder / "staging").as_uri(),
            **self._settings,
        }

    def _secrets(self) -> dict[str, str]:
        """Keys and the password of this folder's Airflow, made once, readable by the owner only."""
        path = self.folder / "secrets.json"
        if not path.exists():
            made = {
                "fernet_key": Fernet.generate_key().decode(),
                "jwt_secret": secrets.token_urlsafe(48),
                "secret_key": secrets.token_urlsafe(48),
                "password": secrets.token_urlsafe(9),
            }
            write_private(path, json.dumps(made))
            write_private(self.folder / "passwords.json", json.dumps({USER: made["password"]}))
        found: dict[str, str] = json.loads(path.read_text())
        return found

    # ---- start and stop ----------------------------------------------------------------------------------------

    def start(self, say: Callable[[str], None] = lambda line: None) -> None:
        """Start everything and return when it is ready for runs.

        :param say: told what happens, a line at a time
        :raises StackError: something does not start; the message names its log
        """
        if self.running is not None:
            raise StackError(f"a stack runs in {self.folder} already")
        for folder in (self.folder, self.logs, self.folder / "airflow"):
            folder.mkdir(parents=True, exist_ok=True)
        say("Sample data into the embedded warehouse")
        self._load_sample()
        running = Running(*self._choose_ports(), {})
        environment = self.environment(running)
        say("Metadata database")
        self._run_once(["airflow", "db", "migrate"], environment)
        say("Local coding service, API server, scheduler, dag processor, triggerer")
        try:
            for name, command in self._commands(running).items():
                running.processes[name] = self._spawn(name, command, environment)
                write_private(self._state, json.dumps(asdict(running)))
            self.running = running
            self._wait_until_ready()
        except BaseException:
            self.running = running
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the processes that were started here, and theirs; nothing else."""
        if self.running is None:
            return
        families = [process for known in self.running.processes.values() for process in _family(*known)]
        for process in families:
            _signal(process, signal.SIGTERM)
        _, alive = psutil.wait_procs(families, timeout=STOP_SECONDS)
        for process in alive:
            _signal(process, signal.SIGKILL)
        psutil.wait_procs(alive, timeout=STOP_SECONDS)
        for child in self._children:
            child.wait()
        self._state.unlink(missing_ok=True)
        self.running = None

    def is_whole(self) -> bool:
        """Whether all processes of the stack live."""
        return self.running is not None and all(_process(*known) for known in self.running.processes.values())

    def process(self, name: str) -> psutil.Process:
        """One of the running processes, by the name of its log.

        :raises StackError: it does not run
        """
        assert self.running is not None, "the stack does not run"
        process = _process(*self.running.processes[name])
        if process is None:
            raise StackError(f"{name} has ended; its log: {self.logs / name}.log")
        return process

    def restart(self, name: str) -> None:
        """Start one process again, after it was killed."""
        assert self.running is not None, "the stack does not run"
        command = self._commands(self.running)[name]
        self.running.processes[name] = self._spawn(name, command, self.environment(self.running))
        write_private(self._state, json.dumps(asdict(self.running)))

    def _choose_ports(self) -> tuple[int, int]:
        """Ports of the API server and of the local service."""
        return free_port(8080), free_port(8070)

    def _commands(self, running: Running) -> dict[str, list[str]]:
        service = ["--port", str(running.service_port), "--data", str(self.folder / "service")]
        return {
            "local-service": [sys.executable, "-m", "include.local_service", *service, *self._service_options],
            **{name: ["airflow", name] for name in ("api-server", "scheduler", "dag-processor", "triggerer")},
        }

    def _spawn(self, name: str, command: list[str], environment: dict[str, str]) -> tuple[int, float]:
        with (self.logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command, env=environment, cwd=PROJECT, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self._children.append(process)
        return process.pid, psutil.Process(process.pid).create_time()

    def _run_once(self, command: list[str], environment: dict[str, str]) -> None:
        log = self.logs / f"{'-'.join(command)}.log"
        with log.open("wb") as output:
            done = subprocess.run(command, env=environment, cwd=PROJECT, stdout=output, stderr=output, check=False)
        if done.returncode != 0:
            raise StackError(f"{' '.join(command)!r} failed; its log: {log}")

    def _wait_until_ready(self) -> None:
        assert self.running is not None
        deadline = time.monotonic() + START_SECONDS
        self._until("local-service", deadline, lambda: _listens(self.running.service_port))  # type: ignore[union-attr]
        self._until("api-server", deadline, lambda: self.api.healthy() >= COMPONENTS)
        api = self.api
        self._until("dag-processor", deadline, lambda: is_parsed(api))
        api.create_pool(POOL, POOL_SLOTS)
        api.unpause()

    def _until(self, name: str, deadline: float, condition: Callable[[], bool]) -> None:
        while not condition():
            for process in self.running.processes if self.running else ():
                self.process(process)
            if time.monotonic() > deadline:
                raise StackError(f"{name} is not ready after {START_SECONDS:.0f} s; logs: {self.logs}")
            time.sleep(0.5)

    def _load_sample(self) -> None:
        sample = self.folder / "sample.parquet"
        if not sample.exists():
            write_sample(sample)
        with duckdb.connect(str(self.warehouse)) as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS survey_responses AS SELECT * FROM read_parquet(?)", [str(sample)]
            )

    def _find(self) -> Running | None:
        """The stack that runs in this folder, if one does."""
        if not self._state.exists():
            return None
        known = json.loads(self._state.read_text())
        processes = {name: (pid, created) for name, (pid, created) in known["processes"].items()}
        if not any(_process(*process) for process in processes.values()):
            return None
        return Running(known["api_port"], known["service_port"], processes)


def _process(pid: int, created: float) -> psutil.Process | None:
    """The process with this id, unless it has ended and another one has its id now."""
    try:
        process = psutil.Process(pid)
        alive = process.create_time() == created and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return process if alive else None


def _family(pid: int, created: float) -> set[psutil.Process]:
    """What lives of a process and those it started: its children, and its session, which outlives it."""
    leader = _process(pid, created)
    if leader is None and _is_another(pid, created):
        return set()
    family = {leader, *leader.children(recursive=True)} if leader else set()
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(process.pid) == pid:
                family.add(process)
    return family


def _is_another(pid: int, created: float) -> bool:
    """Whether a process with this id is not the one that was created then."""
    try:
        return psutil.Process(pid).create_time() != created
    except psutil.NoSuchProcess:
        return False


def _signal(process: psutil.Process, number: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def is_parsed(api: AirflowApi) -> bool:
    """Whether the DAG is there.

    :raises StackError: it does not import, so it never will be
    """
    if errors := api.import_errors():
        raise StackError(f"the DAG does not import: {errors[0]}")
    return api.has_dag()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def write_private(path: Path, text: str) -> None:
    """Write a file that its owner alone may read; it appears whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    partial.replace(path)
