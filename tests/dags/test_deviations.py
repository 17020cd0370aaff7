"""Each deviation of docs/service-contract.md 10, through the whole DAG, against the local service."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from include.coding.isolation import MAX_EXTRA_OPERATIONS
from include.local_service.http.server import LocalService
from tests.support.dag_runner import TEXTS, DagRunner, Outcome
from tests.support.deviations import HARMLESS

# Airflow warns about its own reader of .airflowignore and about its database.
pytestmark = pytest.mark.filterwarnings("default")

#: Count of a fault that does not end within a run.
EVERY_REQUEST = 1000


@pytest.mark.parametrize("faults", HARMLESS.values(), ids=HARMLESS)
def test_a_deviation_costs_no_second_operation_and_no_second_upload(
    runner: DagRunner, faults: list[dict[str, Any]]
) -> None:
    for fault in faults:
        runner.fault(**fault)
    parts = 2 if "download" in faults[0]["name"] else 1
    assert runner.run(parts) == Outcome("success", operations=parts, uploads=parts, texts=TEXTS)
    assert sum(runner.count_published().values()) == TEXTS
    assert runner.list_pending_faults() == []


def test_an_upload_url_that_dies_before_its_time_costs_one_more_operation_and_no_second_upload(
    runner: DagRunner,
) -> None:
    runner.fault("storage_error", code="ExpiredToken", method="PUT")  # 10.3
    assert runner.run() == Outcome("success", operations=2, uploads=1, texts=TEXTS)


def test_a_text_that_makes_operations_fail_is_rejected_and_the_others_are_coded_within_the_bound(
    runner: DagRunner,
) -> None:
    runner.fault("operation_fails", count=EVERY_REQUEST, part_contains='"job number 7"')  # 10.8
    outcome = runner.run()
    assert outcome.state == "success"
    assert runner.count_published()["rejected"] == 1
    assert sum(runner.count_published().values()) == TEXTS
    assert outcome.operations == outcome.uploads <= 1 + MAX_EXTRA_OPERATIONS
    # Each text is sent in its part twice, and then in ever smaller pieces of the part that failed.
    assert outcome.texts <= 4 * TEXTS
    reasons = "SELECT reason, count(*) FROM coding.coded_records WHERE reason IS NOT NULL GROUP BY reason"
    assert runner.query(reasons) == [("refused_by_service", 1)]
    assert runner.run() == outcome, "another run of the same records sends nothing"


def test_a_text_that_is_never_answered_is_sent_twice_and_published_without_a_code(runner: DagRunner) -> None:
    runner.fault("missing_line", count=EVERY_REQUEST, part_contains='"job number 7"')  # 10.8
    assert runner.run() == Outcome("success", operations=2, uploads=2, texts=TEXTS + 1)
    assert sum(runner.count_published().values()) == TEXTS
    assert runner.query("SELECT count(*) FROM coding.coded_records WHERE reason = 'no_result'") == [(1,)]


@pytest.fixture(scope="module")
def tls_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalService]:
    folder = tmp_path_factory.mktemp("tls-service")
    with LocalService(folder, coder="stub", progression="immediate", tls=True) as service:
        yield service


def test_an_upload_that_storage_refuses_over_tls_costs_one_more_operation_at_most(
    make_runner: Callable[..., DagRunner], tls_service: LocalService
) -> None:
    runner = make_runner(tls_service, verify=str(tls_service.ca_file))
    runner.fault("abrupt_refusal")  # 10.5
    outcome = runner.run()
    assert (outcome.state, outcome.uploads, outcome.texts) == ("success", 1, TEXTS)
    assert outcome.operations <= 2


def test_an_untrusted_certificate_ends_the_run_before_anything_is_sent(
    make_runner: Callable[..., DagRunner], tls_service: LocalService, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = make_runner(tls_service, verify=str(tls_service.ca_file))
    runner.connect(monkeypatch, verify=True)  # 10.11
    assert runner.run() == Outcome("failed", operations=0, uploads=0, texts=0)
    assert runner.offset_s == 0, "no attempt waited"
