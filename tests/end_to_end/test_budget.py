"""The call budget, kept by all processes of Airflow together."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import duckdb
import pytest

from include.stack.processes import POOL, Running
from tests.end_to_end.conftest import Harness, LaneStack, until

pytestmark = pytest.mark.airflow
DAYS, OPERATIONS = 4, 40


class Budgeted(LaneStack):
    """The stack with the budget that the service grants a partner: one call a second."""

    def environment(self, running: Running) -> dict[str, str]:
        environment = super().environment(running)
        connection = json.loads(environment["AIRFLOW_CONN_CODING_SERVICE_DEFAULT"])
        connection["extra"] |= {"requests_per_second": 1, "poll_interval": 10}
        return {**environment, "AIRFLOW_CONN_CODING_SERVICE_DEFAULT": json.dumps(connection)}


@pytest.fixture(scope="module")
def budgeted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    options = ("--coder", "stub", "--progression", "by_time", "--seconds", "3600")
    stack = Budgeted(tmp_path_factory.mktemp("budgeted"), service_options=options)
    stack.start()
    try:
        yield Harness(stack)
    finally:
        stack.stop()


def test_forty_operations_in_flight_never_exceed_one_call_a_second(budgeted: Harness, tmp_path: Path) -> None:
    path = tmp_path / "answers.parquet"
    duckdb.execute(
        f"COPY (SELECT 'T' || i AS record_id, DATE '2026-09-01' + CAST(i % {DAYS} AS INTEGER) AS response_date,"
        " 'job number ' || i AS occp_text, 'tasks' AS tasks_text"
        f" FROM range({OPERATIONS}) AS numbers(i)) TO '{path}' (FORMAT parquet)"
    )
    pool = {"name": POOL, "slots": OPERATIONS, "include_deferred": True}
    budgeted.api.request("PATCH", f"/pools/{POOL}", json=pool)
    runs = [
        budgeted.api.trigger(
            {"source": path.as_uri(), "from_date": f"2026-09-0{day}", "records_per_part": 1, "max_uncoded_share": 1}
        )
        for day in range(1, DAYS + 1)
    ]

    def states() -> list[str]:
        return [state for run_id in runs for state in budgeted.api.tasks(run_id).values()]

    until(lambda: states().count("deferred") == OPERATIONS, f"{OPERATIONS} operations in flight", 400)
    assert not {"running", "queued", "scheduled"} & set(states()), "who waits holds no worker"
    budgeted.knob("progression", progression="immediate")
    assert [budgeted.api.wait(run_id) for run_id in runs] == ["success"] * DAYS

    calls = [entry for entry in budgeted.journal() if "/v1/" in entry["path"]]
    assert not [entry for entry in calls if entry["status"] == 429]
    times = sorted(entry["time"] for entry in calls)
    assert len(times) >= 4 * OPERATIONS
    # a call is sent at its moment, but it arrives when a busy machine lets it: by so much two may come closer
    jitter = 0.9
    for seconds in (1, 10, 60):
        most = max(sum(start <= time < start + seconds for time in times) for start in times)
        assert most <= seconds + 1 + jitter, f"{most} calls arrived within {seconds} s"
    together = sum(later - earlier < 0.5 for earlier, later in pairwise(times))
    print(f"{len(times)} calls in {times[-1] - times[0]:.0f} s, {together} of them within half a second of another")
    assert sum(entry["path"] == "/oauth2/token" for entry in budgeted.journal()) == 1
