"""The processes of the stack: how they are configured, started, found again and stopped by their process ids."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import duckdb
import psutil
from cryptography.fernet import Fernet

from include.coding.files import create_files_for_owner_only, write_atomically
from include.pipeline.names import CODING_SERVICE_CONN_ID, POOL, POOL_SLOTS, RECODE_DAG_ID, WAREHOUSE_CONN_ID
from include.stack.airflow_api import AirflowApi
from include.stack.sample import write_sample

PROJECT = Path(__file__).resolve().parents[2]
USER = "admin"
SIMPLE_AUTH = "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager"
#: Which file of the secrets folder Airflow reads an option from.
SECRET_OPTIONS = {
    "AIRFLOW__CORE__FERNET_KEY_CMD": "fernet_key",
    "AIRFLOW__API__SECRET_KEY_CMD": "secret_key",
    "AIRFLOW__API_AUTH__JWT_SECRET_CMD": "jwt_secret",
}
COMPONENTS = {"metadatabase", "scheduler", "triggerer", "dag_processor"}
START_TIMEOUT_S, STOP_TIMEOUT_S = 240.0, 20.0
#: File of Linux with an id that is another one after each boot.
BOOT_ID_FILE = Path("/proc/sys/kernel/random/boot_id")
#: How far two readings of the start of a process can differ: the time of the boot is known to a second.
START_TOLERANCE_S = 2.0


class StackError(Exception):
    """The stack cannot start, or is not in the state that a call needs."""


@dataclass(frozen=True)
class StackState:
    """The ports of a running stack, and its processes by name, as (process id, :func:`measure_start` of it).

    :param boot_id: identifies the boot of the machine since which the processes run; empty where this is not known
    """

    api_port: int
    service_port: int
    processes: dict[str, tuple[int, float]]
    boot_id: str = ""


def free_port(preferred: int = 0) -> int:
    """Return an unused port of 127.0.0.1: the preferred one if it is free."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise StackError("127.0.0.1 has no free port")


def coding_connection(service_url: str, client_secret: str = "local-secret") -> dict[str, Any]:
    """Return the Airflow connection to a local coding service, which allows more calls than the real one.

    It has a port beside its host, because Airflow 3.3 does not test a stored connection without one.
    """
    return {
        "conn_type": "coding_service",
        "description": "The local coding service, started with this Airflow",
        "host": service_url,
        "port": urlsplit(service_url).port,
        "login": "local-client",
        "password": client_secret,
        "extra": {"auth_host": service_url, "requests_per_second": 10, "poll_interval": 1},
    }


class Stack:
    """The local coding service and Airflow, with all their files in one folder, which only its owner can access.

    Each secret is a file in the folder `secrets`. None is in an environment or on a command line, where tools for
    processes show it, and none is passed on to a process that does not need it.

    :param folder: the folder of the stack; created if it does not exist
    :param settings: additional environment variables of all processes
    :param service_options: additional command-line options of the local coding service
    """

    def __init__(
        self, folder: Path, settings: dict[str, str] | None = None, service_options: tuple[str, ...] = ()
    ) -> None:
        self.folder = folder.resolve()
        self.logs, self.secrets = self.folder / "logs", self.folder / "secrets"
        self.warehouse = self.folder / "warehouse.duckdb"
        self.source_files = self.folder / "source-files"
        self._settings, self._service_options = settings or {}, service_options
        self._state_file = self.folder / "stack.json"
        self._children: list[subprocess.Popen[bytes]] = []
        self._state: StackState | None = self._read_state()

    # ---- configuration -----------------------------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        """Whether the stack was started and not stopped."""
        return self._state is not None

    @property
    def state(self) -> StackState:
        """The state of the running stack.

        :raises StackError: it is not running
        """
        if self._state is None:
            raise StackError(f"no stack is running in {self.folder}")
        return self._state

    @property
    def api(self) -> AirflowApi:
        """A client of the running Airflow."""
        return AirflowApi(f"http://127.0.0.1:{self.state.api_port}", USER, self.read_secret("password"))

    @property
    def service_url(self) -> str:
        """Base URL of the running local coding service."""
        return f"http://127.0.0.1:{self.state.service_port}"

    @property
    def login(self) -> tuple[str, str]:
        """User and password of Airflow's UI."""
        return USER, self.read_secret("password")

    def environment(self, state: StackState) -> dict[str, str]:
        """Return the environment of the processes, without the `AIRFLOW_...` variables of the caller.

        Write the files of the secrets that it names.
        """
        home = self.folder / "airflow"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
        api = f"http://127.0.0.1:{state.api_port}"
        # calls within this machine must not go through a proxy that is set for its package index
        hosts = (inherited.get("no_proxy") or inherited.get("NO_PROXY"), "127.0.0.1,localhost")
        no_proxy = ",".join(filter(None, hosts))
        return {
            **inherited,
            "NO_PROXY": no_proxy,
            "no_proxy": no_proxy,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{inherited.get('PATH', '')}",
            "PYTHONPATH": str(PROJECT),
            "PYTHONUNBUFFERED": "1",
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": "4",
            **{name: f"cat {shlex.quote(str(self._secret_file(file)))}" for name, file in SECRET_OPTIONS.items()},
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{api}/execution/",
            "AIRFLOW__CORE__AUTH_MANAGER": SIMPLE_AUTH,
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(self.secrets / "passwords.json"),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}?timeout=60",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(state.api_port),
            "AIRFLOW__API__BASE_URL": api,
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__LOGGING__FILE_TASK_HANDLER_NEW_FILE_PERMISSIONS": "0o600",
            "AIRFLOW__LOGGING__FILE_TASK_HANDLER_NEW_FOLDER_PERMISSIONS": "0o700",
            "AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK": "False",
            # else a task that could start waits for up to a second
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.25",
            "CODING_STAGING": (self.folder / "staging").as_uri(),
            "CODING_SOURCE_FOLDERS": str(self.source_files),
            **self._settings,
        }

    def connections(self, state: StackState) -> dict[str, dict[str, Any]]:
        """Return the connections that each start stores in Airflow. A setting `AIRFLOW_CONN_...` replaces one."""
        service_url = f"http://127.0.0.1:{state.service_port}"
        return {
            CODING_SERVICE_CONN_ID: coding_connection(service_url, self.read_secret("client_secret")),
            WAREHOUSE_CONN_ID: {
                "conn_type": "duckdb",
                "description": "The embedded warehouse, one file with the sample and its codes",
                "host": str(self.warehouse),
            },
        }

    def read_secret(self, name: str) -> str:
        """Return a key or password of this folder's stack, which is generated once and kept for the owner only."""
        return self._secret_file(name).read_text()

    def _secret_file(self, name: str) -> Path:
        path = self.secrets / name
        if not path.exists():
            self._make_owner_only(self.secrets)
            for other, value in _generate_secrets().items():
                write_atomically(self.secrets / other, value)
        return path

    def store_connections(self, state: StackState) -> None:
        """Store the connections, without those that a setting replaces, in Airflow's metadata database.

        :raises StackError: Airflow did not take them
        """
        connections = {
            conn_id: fields
            for conn_id, fields in self.connections(state).items()
            if f"AIRFLOW_CONN_{conn_id.upper()}" not in self._settings
        }
        environment, path = self.environment(state), self.secrets / "connections.json"
        write_atomically(path, json.dumps(connections))
        try:
            self._run_once(["airflow", "connections", "import", "--overwrite", str(path)], environment)
        finally:
            path.unlink()

    @staticmethod
    def _make_owner_only(folder: Path) -> None:
        """Create a folder, or take the rights of others to an existing one away."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)

    # ---- start and stop ----------------------------------------------------------------------------------------

    def start(self, print_line: Callable[[str], None] = lambda line: None) -> None:
        """Start all processes and return when Airflow is ready for runs.

        :param print_line: called with a line of text before each step
        :raises StackError: the stack is already running, or a process does not start; the message names its log
        """
        if self.is_running:
            raise StackError(f"a stack is already running in {self.folder}")
        with create_files_for_owner_only():
            self._start(print_line)

    def _start(self, print_line: Callable[[str], None]) -> None:
        for folder in (self.folder, self.logs, self.folder / "airflow", self.source_files):
            self._make_owner_only(folder)
        print_line("Loading the sample data into the embedded warehouse")
        self._load_sample()
        state = StackState(*self._choose_ports(), {}, read_boot_id())
        environment = self.environment(state)
        print_line("Creating the metadata database")
        self._run_once(["airflow", "db", "migrate"], environment)
        print_line("Storing the connections")
        self.store_connections(state)
        print_line("Starting the local coding service, API server, scheduler, dag processor and triggerer")
        self._state = state
        try:
            for name, command in self._commands(state).items():
                self._spawn(name, command, environment)
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the processes of this stack and all processes that they started, but no others."""
        if not self.is_running:
            return
        alive = [process for ids in self.state.processes.values() for process in _find_family(*ids)]
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in alive:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
            _, alive = psutil.wait_procs(alive, timeout=STOP_TIMEOUT_S)
        for child in self._children:
            child.wait(STOP_TIMEOUT_S)
        self._state_file.unlink(missing_ok=True)
        self._state = None

    def is_complete(self) -> bool:
        """Return whether all processes of the stack are alive."""
        return self.is_running and all(_find_process(*ids) for ids in self.state.processes.values())

    def process(self, name: str) -> psutil.Process:
        """Return a running process by the name of its log.

        :raises StackError: the stack or the process is not running
        """
        process = _find_process(*self.state.processes[name])
        if process is None:
            raise StackError(f"{name} has ended. See its log: {self.logs / name}.log")
        return process

    def restart(self, name: str) -> None:
        """Start a process again after it was killed."""
        with create_files_for_owner_only():
            self._spawn(name, self._commands(self.state)[name], self.environment(self.state))

    def _choose_ports(self) -> tuple[int, int]:
        """Return the ports of the API server and of the local service."""
        return free_port(8080), free_port(8070)

    def _commands(self, state: StackState) -> dict[str, list[str]]:
        service = [
            "--port", str(state.service_port), "--data", str(self.folder / "service"),
            "--client-secret-file", str(self._secret_file("client_secret")),
        ]  # fmt: skip
        return {
            "local-service": [sys.executable, "-m", "include.local_service", *service, *self._service_options],
            "api-server": ["airflow", "api-server"],
            # Airflow's log servers listen on all addresses. The API server reads the logs from the folder itself.
            "scheduler": ["airflow", "scheduler", "--skip-serve-logs"],
            "dag-processor": ["airflow", "dag-processor"],
            "triggerer": ["airflow", "triggerer", "--skip-serve-logs"],
        }

    def _spawn(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        with (self.logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command, env=environment, cwd=PROJECT, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self._children.append(process)
        self.state.processes[name] = process.pid, measure_start(psutil.Process(process.pid))
        write_atomically(self._state_file, json.dumps(asdict(self.state)))

    def _run_once(self, command: list[str], environment: dict[str, str]) -> None:
        log = self.logs / f"{'-'.join(command[:3])}.log"
        with log.open("wb") as output:
            result = subprocess.run(command, env=environment, cwd=PROJECT, stdout=output, stderr=output, check=False)
        if result.returncode != 0:
            raise StackError(f"{' '.join(command)!r} failed. See its log: {log}")

    def _wait_until_ready(self) -> None:
        api, service_port, deadline = self.api, self.state.service_port, time.monotonic() + START_TIMEOUT_S
        self._wait_for("local-service", deadline, lambda: _is_listening(service_port))
        self._wait_for("api-server", deadline, lambda: api.healthy_components() >= COMPONENTS)
        self._wait_for("dag-processor", deadline, lambda: has_parsed_dag(api))
        api.create_pool(POOL, POOL_SLOTS)
        api.unpause()

    def _wait_for(self, name: str, deadline: float, condition: Callable[[], bool]) -> None:
        while not condition():
            for process in self.state.processes:
                self.process(process)  # raises an error if it has ended
            if time.monotonic() > deadline:
                raise StackError(f"{name} is not ready after {START_TIMEOUT_S:.0f} s. See the logs in {self.logs}")
            time.sleep(0.5)

    def _load_sample(self) -> None:
        sample = self.folder / "sample.parquet"
        if not sample.exists():
            write_sample(sample)
        with duckdb.connect(str(self.warehouse)) as connection:
            query = "CREATE TABLE IF NOT EXISTS survey_responses AS SELECT * FROM read_parquet(?)"
            connection.execute(query, [str(sample)])

    def _read_state(self) -> StackState | None:
        """Return the state of the stack in this folder, None if none of its processes is alive."""
        if not self._state_file.exists():
            return None
        state = StackState(**json.loads(self._state_file.read_text()))
        is_same_boot = state.boot_id == read_boot_id()
        return state if is_same_boot and any(_find_process(*ids) for ids in state.processes.values()) else None


def _generate_secrets() -> dict[str, str]:
    """Return new secrets by the names of their files."""
    password = secrets.token_urlsafe(9)
    return {
        "fernet_key": Fernet.generate_key().decode(),
        "jwt_secret": secrets.token_urlsafe(48),
        "secret_key": secrets.token_urlsafe(48),
        "client_secret": secrets.token_urlsafe(24),
        "password": password,
        "passwords.json": json.dumps({USER: password}),
    }


def read_boot_id() -> str:
    """Return what identifies the boot of the machine; empty on a system other than Linux."""
    return BOOT_ID_FILE.read_text().strip() if BOOT_ID_FILE.exists() else ""


def measure_start(process: psutil.Process) -> float:
    """Return when a process started, in seconds after the boot. The time of day would change with the clock, which a
    time server can correct at any moment."""
    return process.create_time() - psutil.boot_time()


def _has_started_at(process: psutil.Process, start: float) -> bool:
    """Return whether this is the process that started then: the system can reuse the id of one that has ended."""
    return abs(measure_start(process) - start) < START_TOLERANCE_S


def _find_process(pid: int, start: float) -> psutil.Process | None:
    """Return the process with this id that started then, None if it has ended."""
    try:
        process = psutil.Process(pid)
        is_alive = _has_started_at(process, start) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return process if is_alive else None


def _find_family(pid: int, start: float) -> set[psutil.Process]:
    """Return a process, its descendants, and the processes of its session, which can outlive it."""
    family: set[psutil.Process] = set()
    with contextlib.suppress(psutil.NoSuchProcess):
        leader = psutil.Process(pid)
        if not _has_started_at(leader, start):
            return family
        family = {leader, *leader.children(recursive=True)}
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(process.pid) == pid:
                family.add(process)
    return family


def has_parsed_dag(api: AirflowApi) -> bool:
    """Return whether Airflow has parsed the DAG.

    :raises StackError: a DAG file cannot be imported
    """
    if errors := api.request("GET", "/importErrors")["import_errors"]:
        raise StackError(f"a DAG file cannot be imported: {errors[0]['stack_trace']}")
    return api.request("GET", f"/dags/{RECODE_DAG_ID}", ignore=(404,)) is not None


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
