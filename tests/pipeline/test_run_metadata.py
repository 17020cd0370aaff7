"""What the scheduler writes into the conf of a run, and what the tasks read from it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from include.coding.errors import PlanError
from include.pipeline import run_metadata
from include.pipeline.alerts import ScheduledRunDue
from include.pipeline.run_metadata import PoolSize, RunMetadata, read_metadata


@pytest.mark.parametrize("conf", [None, {}, {"model": "latest"}])
def test_a_run_that_no_scheduler_started_has_no_metadata(conf: dict[str, str] | None) -> None:
    assert read_metadata(SimpleNamespace(conf=conf)) is None


@pytest.mark.parametrize(
    "metadata",
    [RunMetadata("3 of 2026-10-07T00:00:00+00:00", PoolSize(4, True), 0), RunMetadata(None, None, 2)],
    ids=["backfill", "no pool"],
)
def test_the_metadata_is_an_entry_of_the_conf(metadata: RunMetadata) -> None:
    conf = {"model": "latest", "_airflow": metadata.to_dict()}
    assert read_metadata(SimpleNamespace(conf=conf)) == metadata


def test_metadata_of_another_form_is_refused() -> None:
    with pytest.raises(PlanError, match="RunMetadata .*: pool"):
        read_metadata(SimpleNamespace(conf={"_airflow": {"backfill": None, "pool": 4, "earlier": 0}}))


@pytest.mark.parametrize(
    ("pool", "max_operations"),
    [(PoolSize(4, True), 4), (PoolSize(4, False), None), (PoolSize(-1, True), None), (PoolSize(0, True), None)],
)
def test_a_pool_limits_the_operations_only_if_waiting_tasks_occupy_slots(
    pool: PoolSize, max_operations: int | None
) -> None:
    assert pool.max_operations == max_operations


def test_the_plugin_registers_the_listener_and_the_deadline() -> None:
    from occupation_coding_plugin import OccupationCodingPlugin

    assert OccupationCodingPlugin.listeners == (run_metadata,)
    assert OccupationCodingPlugin.deadline_references == (ScheduledRunDue,)
