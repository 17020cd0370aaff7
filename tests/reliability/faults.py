"""The fault matrix: every fault of the local service and of the network, singly and in pairs, through the whole DAG."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from include.local_service.core.faults import OPERATION_FAULTS, REQUEST_FAULTS
from include.local_service.http.server import LocalService
from tests.reliability.invariants import Evidence, find_violations
from tests.reliability.results import Result
from tests.support.dag_runner import TEXTS, DagRunner, open_runner
from tests.support.deviations import HARMLESS
from tests.support.metadata import read_database
from tests.support.unreliable_proxy import NetworkFault, UnreliableProxy

#: Requests of a run: what is asked for, with the method and a part of the path.
REQUESTS = {
    "token": ("POST", "/oauth2/token"),
    "catalogue": ("GET", "/models"),
    "create": ("POST", "/batch-code"),
    "upload": ("PUT", ""),
    "status": ("GET", "/operations/"),
    "download": ("GET", "X-Amz-Signature"),
}
NETWORK_KINDS = ("closed", "reset", "reset_after", "stalled", "slow", "truncated", "too_long")
#: Faults with which the service fails work that it has accepted, so that texts have to be sent again.
LOSSES = ("operation_fails", "operation_times_out", "short_output", "garbage_line", "missing_line")
#: Waits after which a network that was down works again.
OUTAGE_WAITS = 3
#: Seconds without an answer after which a call fails. It is short, so that stalled connections end soon.
TIMEOUT_S = 2


@dataclass(frozen=True)
class Case:
    """What goes wrong in a run.

    :param service: faults of the local service, as its knob takes them.
    :param network: arguments of `NetworkFault`.
    :param outage: `refused` or `dns`: no connection at all until some time has passed.
    """

    name: str
    service: tuple[dict[str, Any], ...] = ()
    network: tuple[dict[str, Any], ...] = ()
    outage: str = ""

    def __add__(self, other: Case) -> Case:
        name = f"{self.name} + {other.name}"
        return Case(name, self.service + other.service, self.network + other.network, self.outage or other.outage)

    @property
    def max_sends(self) -> int:
        """How often a text may be sent: once, and once more for each time the service fails its operation."""
        return 1 + sum(fault.get("count", 1) for fault in self.service if fault["name"] in LOSSES)


def list_single_cases() -> list[Case]:
    """Return each fault by itself."""
    names = [*REQUEST_FAULTS, *OPERATION_FAULTS]
    stages = [(kind, request) for request in REQUESTS for kind in NETWORK_KINDS]
    return [
        *(Case(f"deviation {row}", tuple(faults)) for row, faults in HARMLESS.items()),
        *(Case(name, ({"name": name},)) for name in names),
        *(Case(f"{kind}: {request}", network=(_network_fault(kind, request),)) for kind, request in stages),
        *(Case(f"{outage}", outage=outage) for outage in ("refused", "dns")),
    ]


def _network_fault(kind: str, request: str) -> dict[str, Any]:
    method, path = REQUESTS[request]
    return {"kind": kind, "method": method, "path_contains": path}


def choose_pairs(chance: random.Random) -> Iterator[Case]:
    """Yield random pairs of faults, without end."""
    cases = list_single_cases()
    while True:
        first, second = chance.sample(cases, 2)
        yield first + second


class FaultLab:
    """Runs cases one after the other, each with an empty warehouse.

    :param folder: a new folder below it holds the files of each case.
    :param log: file to which the process writes its output.
    """

    def __init__(self, service: LocalService, folder: Path, log: Path) -> None:
        self.service, self.folder, self.log = service, folder, log
        self._number = 0

    def run(self, case: Case) -> Result:
        """Run a case, and once more without faults if its run fails."""
        self._number += 1
        folder = self.folder / f"case-{self._number}"
        folder.mkdir()
        log_start = self.log.stat().st_size
        with UnreliableProxy(self.service.url) as proxy:
            with _outage(case.outage, proxy) as on_wait:
                options = {"url": proxy.url, "on_wait": on_wait, "timeout": TIMEOUT_S}
                with open_runner(self.service, folder, **options) as runner:
                    proxy.faults = [NetworkFault(**fault) for fault in case.network]
                    for fault in case.service:
                        runner.fault(**fault)
                    outcome = runner.run()
                    states, other_files = [outcome.state], set[Path]()
                    if outcome.state != "success":
                        # A failed run keeps its files, so that it can be resumed.
                        other_files = set(runner.staging.rglob("*"))
                        proxy.faults = []
                        runner.clear_faults()
                        outcome = runner.run()
                        states.append(outcome.state)
                    evidence = self._collect_evidence(runner, proxy, log_start, other_files)
            violations = find_violations(evidence, case.max_sends)
            if states[-1] != "success":
                violations.insert(0, "the run fails without any fault")
        return Result(case.name, tuple(states), outcome.operations, outcome.uploads, violations)

    def _collect_evidence(
        self, runner: DagRunner, proxy: UnreliableProxy, log_start: int, other_files: set[Path]
    ) -> Evidence:
        database = Path(os.environ["AIRFLOW_HOME"]) / "airflow.db"
        files = [path for path in runner.staging.rglob("*") if path.is_file()]
        reports = [path for path in files if path.name.startswith("report")]
        handles = [file.path for file in psutil.Process().open_files()]
        with self.log.open("rb") as log:
            log.seek(log_start)
            output = log.read()
        return Evidence(
            record_ids=[f"R{number}" for number in range(TEXTS)],
            published=runner.query("SELECT record_id, outcome FROM coding.coded_records"),
            counts=runner.query("SELECT records, coded, uncoded, rejected FROM coding.coding_runs"),
            keys=runner.query("SELECT text_key, topic, model_id FROM coding.coded_texts"),
            inputs=proxy.inputs,
            places=[
                ("the log", output),
                *read_database(database),
                *((path.name, path.read_bytes()) for path in database.parent.glob("airflow.db*")),
                *((path.name, path.read_bytes()) for path in reports),
            ],
            secrets=frozenset({b"local-secret", *proxy.secrets}),
            remains=[
                *(str(path.relative_to(runner.staging)) for path in files if path not in {*reports, *other_files}),
                *(path for path in handles if path.startswith(str(runner.folder))),
            ],
        )


@contextmanager
def _outage(kind: str, proxy: UnreliableProxy) -> Iterator[Callable[[], None]]:
    """Make connections impossible, and yield a function that has to be called a few times until they work again."""
    waits = OUTAGE_WAITS if kind else 0
    resolve = socket.getaddrinfo

    def on_wait() -> None:
        nonlocal waits
        waits -= 1
        if waits == 0 and kind == "refused":
            proxy.listen()

    def fail_to_resolve(host: Any, port: Any, *args: Any, **kwargs: Any) -> Sequence[Any]:
        if waits > 0 and port == int(proxy.url.rpartition(":")[2]):
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return resolve(host, port, *args, **kwargs)

    with pytest.MonkeyPatch.context() as monkeypatch:
        if kind == "refused":
            proxy.refuse()
        if kind == "dns":
            monkeypatch.setattr(socket, "getaddrinfo", fail_to_resolve)
        yield on_wait
        if waits > 0 and kind == "refused":
            proxy.listen()
