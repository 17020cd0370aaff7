"""Two Celery workers with separate disks: they share the metadata database, the warehouse and staging in S3."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.end_to_end.conftest import SERVICE_OPTIONS, FastStack, run_stack, wait_until
from tests.support.celery_stack import CeleryStack
from tests.support.postgres import Postgres
from tests.support.s3 import S3, SECRET

pytestmark = [pytest.mark.airflow, pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")]
WORKERS = ("worker-a", "worker-b")


class Cluster(CeleryStack, FastStack):
    """A fast stack with Celery workers."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres, s3: S3) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"), postgres, s3, WORKERS, SERVICE_OPTIONS)
    with run_stack(cluster):
        for name in WORKERS:
            wait_until(lambda name=name: cluster.is_ready(name), f"{name} is ready")
        yield cluster


def test_both_workers_code_a_run_and_keep_no_file_of_it(cluster: Cluster, s3: S3) -> None:
    run_id = cluster.api.trigger({"from_date": "2026-10-01", "to_date": "2026-10-30", "records_per_part": 1200})
    assert cluster.api.wait(run_id) == "success"
    assert cluster.api.xcom(run_id, "land")["operations"] > 2
    assert cluster.query("SELECT count(*) FROM coding.coded_records") == cluster.query(
        "SELECT count(*) FROM survey_responses"
    )
    for name in WORKERS:
        logs = cluster.disk(name) / "logs"
        assert list(logs.glob(f"dag_id=*/run_id={run_id}/task_id=*")), f"{name} ran no task"
        files = cluster.disk(name).rglob("*")
        assert [path.name for path in files if path.suffix in (".jsonl", ".parquet", ".duckdb")] == []
    assert [path for path in cluster.folder.rglob("*.log") if SECRET in path.read_text(errors="replace")] == []
    # the scheduled run can have landed too
    assert {key.rpartition("/")[2] for key in s3.keys(cluster.bucket)} == {"report.html", "report.json", "report.md"}
