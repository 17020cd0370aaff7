"""The crash matrix: real Airflow processes, one of which is killed at a chosen moment of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import psutil
import psycopg
import requests

from include.pipeline.names import CODING_SERVICE_CONN_ID, RECODE_DAG_ID
from include.stack.airflow_api import FINAL_STATES
from include.stack.processes import StackState
from tests.end_to_end.conftest import SERVICE_OPTIONS, FastStack, run_stack, wait_until
from tests.reliability.invariants import Evidence, find_violations
from tests.reliability.results import Result
from tests.support.metadata import read_database
from tests.support.postgres import Postgres
from tests.support.unreliable_proxy import NetworkFault, UnreliableProxy

AIRFLOW_PROCESSES = ("api-server", "scheduler", "dag-processor", "triggerer")
RECORDS = 40
FIRST_DAY = date(2020, 1, 1)
#: Seconds within which a moment has to be reached, and a run has to end after a crash.
MOMENT_TIMEOUT_S, RECOVERY_TIMEOUT_S = 300, 300


@dataclass(frozen=True)
class Moment:
    """A moment of a run at which everything waits.

    :param step: the task that waits.
    :param request: (kind of hold, method, part of the path) of the request that waits, or None.
    :param table: table of the warehouse on which the step waits for a lock.
    """

    name: str
    step: str
    request: tuple[str, str, str] | None = None
    table: str = ""

    @property
    def victims(self) -> tuple[str, ...]:
        """What can be killed at this moment."""
        if self.step == "poll":
            return ("triggerer", "scheduler", "service", "machine")
        return ("task", "supervisor", "scheduler", "warehouse" if self.table else "service", "machine")


#: The status call that `poll` makes in the triggerer.
STATUS = ("hold_before", "GET", "/operations/")
MOMENTS = (
    Moment("plan: before the topics arrive", "plan", ("hold_after", "GET", "/topics")),
    Moment("prepare: reading the coded texts", "prepare", table="coded_texts"),
    Moment("create: before the request", "create", ("hold_before", "POST", "/batch-code")),
    Moment("create: before the answer", "create", ("hold_after", "POST", "/batch-code")),
    Moment("upload: before the bytes", "upload", ("hold_before", "PUT", "")),
    Moment("upload: before the answer", "upload", ("hold_after", "PUT", "")),
    Moment("poll: before the answer", "poll", ("hold_after", "GET", "/operations/")),
    Moment("download: before the request", "download", ("hold_before", "GET", "X-Amz-Signature")),
    Moment("download: before the answer", "download", ("hold_after", "GET", "X-Amz-Signature")),
    Moment("collect: storing the results", "collect", STATUS, table="coded_texts"),
    Moment("land: publishing", "land", STATUS, table="coded_records"),
)


@dataclass(frozen=True)
class Crash:
    """Who dies, and when."""

    moment: Moment
    victim: str

    @property
    def name(self) -> str:
        return f"{self.moment.name}; {self.victim} dies"


def list_crashes() -> list[Crash]:
    """Return every crash of the matrix."""
    return [Crash(moment, victim) for moment in MOMENTS for victim in moment.victims]


class CrashStack(FastStack):
    """A stack that reaches the service through a proxy, has its warehouse in PostgreSQL, and notices deaths soon."""

    def __init__(self, folder: Path, postgres: Postgres) -> None:
        self._database, self._postgres = postgres.create_database(), postgres
        self._proxy: UnreliableProxy | None = None
        scheduler = "AIRFLOW__SCHEDULER__"
        settings = {
            "AIRFLOW_CONN_WAREHOUSE_DEFAULT": postgres.connection(self._database),
            f"{scheduler}ORPHANED_TASKS_CHECK_INTERVAL": "5",
            f"{scheduler}SCHEDULER_HEALTH_CHECK_THRESHOLD": "8",
            f"{scheduler}TASK_INSTANCE_HEARTBEAT_SEC": "2",
            f"{scheduler}TASK_INSTANCE_HEARTBEAT_TIMEOUT": "12",
            f"{scheduler}TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
        }
        super().__init__(folder, settings, SERVICE_OPTIONS)

    @property
    def proxy(self) -> UnreliableProxy:
        assert self._proxy is not None, "the stack has not been started"
        return self._proxy

    def connections(self, state: StackState) -> dict[str, dict[str, Any]]:
        self._proxy = self._proxy or UnreliableProxy(f"http://127.0.0.1:{state.service_port}")
        connections = super().connections(state)
        service = connections[CODING_SERVICE_CONN_ID]
        service["host"] = service["extra"]["auth_host"] = self._proxy.url
        return connections

    def stop(self) -> None:
        super().stop()
        if self._proxy:
            self._proxy.__exit__()

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self._postgres.conninfo(self._database))

    def query(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        with self.connect() as connection:
            return connection.execute(sql, values).fetchall()

    def kill(self, victim: str, run_id: str, step: str) -> None:
        """Kill a part of the system with SIGKILL, and start it again as its supervisor would.

        :param run_id, step: the run, and its task that waits
        """
        match victim:
            case "task":
                self._find_task(run_id, step).kill()
            case "supervisor":
                parent = self._find_task(run_id, step).parent()
                assert parent is not None
                parent.kill()
            case "warehouse":
                self._postgres.restart()
            case "service":
                self._kill_and_restart("local-service")
            case "machine":
                self._kill_and_restart(*AIRFLOW_PROCESSES)
            case _:
                self._kill_and_restart(victim)

    def _find_task(self, run_id: str, step: str) -> psutil.Process:
        """Wait for the process of a running task and return it."""
        tasks: list[psutil.Process] = []

        def look_for_task() -> bool:
            tasks[:] = self._list_processes(run_id, step)
            return len(tasks) == 1

        wait_until(look_for_task, f"the process of {step} runs", 30)
        return tasks[0]

    def _list_processes(self, run_id: str, step: str) -> list[psutil.Process]:
        """Return the processes of a task: their titles have the id of the task instance, as those of their supervisors,
        the workers of the executor."""
        ids = [
            instance["id"]
            for instance in self.api.task_instances(run_id)
            if instance["task_id"].rpartition(".")[2] == step and instance["state"] == "running"
        ]
        workers = self.process("scheduler").children()
        children = [child for worker in workers for child in worker.children()]
        return [child for child in children if any(number in _title(child) for number in ids)]

    def _kill_and_restart(self, *names: str) -> None:
        processes = [self.process(name) for name in names]
        if len(names) > 1:  # a machine takes everything with it
            processes += [child for process in processes for child in process.children(recursive=True)]
        for process in processes:
            process.kill()
        psutil.wait_procs(processes, timeout=20)
        for name in names:
            self.restart(name)

    def _load_sample(self) -> None:
        columns = "record_id TEXT, response_date DATE, occp_text TEXT, tasks_text TEXT"
        with self.connect() as connection:
            connection.execute(f"CREATE TABLE survey_responses ({columns})")


def _title(process: psutil.Process) -> str:
    """Return the title of a process; empty if it has ended."""
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


class CrashLab:
    """Runs crashes one after the other on one stack, each with records of a date of its own."""

    def __init__(self, stack: CrashStack) -> None:
        self.stack = stack
        self._number = 0
        wait_until(self._is_idle, "the scheduled run of a new deployment ends")
        assert self._run_without_crash() == "success"  # creates the tables

    def run(self, crash: Crash) -> Result:
        """Start a run, kill the victim at the moment, and return what remains when the run has ended."""
        stack, proxy, moment = self.stack, self.stack.proxy, crash.moment
        day = self._add_records()
        hold = NetworkFault(*(moment.request or STATUS))
        lock_early = bool(moment.table) and moment.request is None
        proxy.faults, proxy.inputs = ([] if lock_early else [hold]), []
        operations = len(self._list_operations())
        with self._lock(moment.table if lock_early else "") as is_waiting:
            run_id = stack.api.trigger({"from_date": str(day)})
            if lock_early:
                wait_until(is_waiting, f"{moment.step} waits for the lock", MOMENT_TIMEOUT_S)
                stack.kill(crash.victim, run_id, moment.step)
        if not lock_early:
            wait_until(hold.was_hit.is_set, f"{moment.name} is reached", MOMENT_TIMEOUT_S)
            with self._lock(moment.table) as is_waiting:
                if moment.table:
                    hold.is_released.set()
                    wait_until(is_waiting, f"{moment.step} waits for the lock", MOMENT_TIMEOUT_S)
                stack.kill(crash.victim, run_id, moment.step)
            hold.is_released.set()
        state = self._wait(run_id)
        violations = find_violations(self._collect_evidence(day))
        if state != "success":
            violations.insert(0, f"the run is {state} after {RECOVERY_TIMEOUT_S} s or less")
        return Result(crash.name, (state,), len(self._list_operations()) - operations, len(proxy.inputs), violations)

    def _is_idle(self) -> bool:
        runs = self.stack.api.request("GET", f"/dags/{RECODE_DAG_ID}/dagRuns")["dag_runs"]
        return bool(runs) and all(run["state"] in FINAL_STATES for run in runs)

    def _run_without_crash(self) -> str:
        return self._wait(self.stack.api.trigger({"from_date": str(self._add_records())}))

    def _wait(self, run_id: str) -> str:
        """Wait until a run ends and return its state; the last state if it does not end in time."""

        def has_ended() -> bool:
            return bool(self.stack.api.healthy_components()) and self.stack.api.run(run_id)["state"] in FINAL_STATES

        with suppress(AssertionError):
            wait_until(has_ended, f"{run_id} ends", RECOVERY_TIMEOUT_S)
        return str(self.stack.api.run(run_id)["state"])

    def _add_records(self) -> date:
        """Add records of another day, each with a new text, and return the day."""
        self._number += 1
        day = FIRST_DAY + timedelta(days=self._number)
        with self.stack.connect() as connection:
            connection.execute(
                "INSERT INTO survey_responses SELECT 'R' || n, %s, %s || n, 'MARKED tasks'"
                " FROM generate_series(1, %s) AS numbers(n)",
                (day, f"case {self._number} job ", RECORDS),
            )
        return day

    def _list_operations(self) -> list[Any]:
        return list(requests.get(f"{self.stack.service_url}/_local/operations", timeout=10).json()["operations"])

    @contextmanager
    def _lock(self, table: str) -> Iterator[Callable[[], bool]]:
        """Lock a table so that every other session waits, and yield a function that says whether one does."""
        if not table:
            yield lambda: False
            return
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        connection = self.stack.connect()
        try:
            connection.execute(f"LOCK TABLE coding.{table} IN ACCESS EXCLUSIVE MODE")
            yield lambda: self.stack.query(waiting)[0][0] > 0
        finally:
            connection.close()  # also after the server was restarted, which ends the lock itself

    def _collect_evidence(self, day: date) -> Evidence:
        stack, airflow = self.stack, self.stack.folder / "airflow"
        logs = [path for part in (stack.logs, airflow / "logs") for path in part.rglob("*.log")]
        staging = stack.folder / "staging"
        files = [path for path in staging.rglob("*") if path.is_file()]
        reports = [path for path in files if path.name.startswith("report")]
        return Evidence(
            record_ids=[f"R{number}" for number in range(1, RECORDS + 1)],
            published=stack.query(
                "SELECT record_id, outcome FROM coding.coded_records WHERE response_date = %s", day
            ),
            counts=stack.query("SELECT records, coded, uncoded, rejected FROM coding.coding_runs"),
            keys=stack.query("SELECT text_key, topic, model_id FROM coding.coded_texts"),
            inputs=stack.proxy.inputs,
            places=[
                *((str(path.relative_to(stack.folder)), path.read_bytes()) for path in [*logs, *reports]),
                *read_database(airflow / "airflow.db"),
                *((path.name, path.read_bytes()) for path in airflow.glob("airflow.db*")),
            ],
            secrets=frozenset(
                {*stack.proxy.secrets, *(path.read_bytes() for path in stack.secrets.iterdir() if path.suffix == "")}
            ),
            remains=[str(path.relative_to(staging)) for path in files if path not in reports],
        )


@contextmanager
def open_crash_lab(folder: Path, postgres: Postgres) -> Iterator[CrashLab]:
    """Start a stack, and yield the laboratory that uses it."""
    with run_stack(CrashStack(folder, postgres)) as stack:
        assert isinstance(stack, CrashStack)
        yield CrashLab(stack)
