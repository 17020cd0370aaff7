"""The links of tasks, as Airflow's API reads them from the serialized DAG and the XComs of a run."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.support.dag_runner import DagRunner

# Airflow warns about its own reader of .airflowignore and about its database.
pytestmark = pytest.mark.filterwarnings("default")

STEPS = ("create", "upload", "poll", "download")


@pytest.fixture
def read_links() -> Callable[[Any], dict[str, dict[str, str]]]:
    """Return a function that reads the links of each task instance of the last run of a DAG."""

    def read(dag: Any) -> dict[str, dict[str, str]]:
        from airflow.models.dagrun import DagRun
        from airflow.serialization.serialized_objects import DagSerialization
        from airflow.utils.session import create_session
        from sqlalchemy import select

        serialized = DagSerialization.from_dict(DagSerialization.to_dict(dag))
        links: dict[str, dict[str, str]] = {}
        with create_session() as session:
            run = session.scalars(
                select(DagRun).where(DagRun.dag_id == dag.dag_id).order_by(DagRun.id.desc()).limit(1)
            ).one()
            for ti in run.get_task_instances(session=session):
                name = ti.task_id if ti.map_index < 0 else f"{ti.task_id}[{ti.map_index}]"
                task = serialized.get_task(ti.task_id)
                links[name] = {link: task.get_extra_links(ti, link) or "" for link in task.extra_links}
            links["run"] = {"id": run.run_id}
        return links

    return read


def test_each_step_of_each_part_links_to_its_operation_and_the_report_to_itself(
    runner: DagRunner, read_links: Callable[[Any], dict[str, dict[str, str]]]
) -> None:
    import recode_occupations

    assert runner.run(parts=2).state == "success"
    links = read_links(recode_occupations.dag)
    run_id = links.pop("run")["id"]
    assert re.search(r"[+:]", run_id)  # what a URL quotes
    operations = set()
    for part in (0, 1):
        steps = {links[f"code.{step}[{part}]"]["Operation"] for step in STEPS}
        (link,) = map(urlsplit, steps)
        assert link.path == "/occupation-coding/run"
        assert parse_qs(link.query) == {"dag": ["recode_occupations"], "run": [run_id]}
        operations.add(link.fragment.removeprefix("operation-"))
    assert operations == {operation["operation_id"] for operation in runner.list_operations()}
    report = urlsplit(links["report"]["Report"])
    assert report.path == "/occupation-coding/report"
    assert parse_qs(report.query) == {"dag": ["recode_occupations"], "run": [run_id]}
    assert {name for name, names in links.items() if names} == {
        "report", *(f"code.{step}[{part}]" for step in STEPS for part in (0, 1)),
    }  # fmt: skip


def test_a_comparison_links_to_its_report_only_once_it_has_one(
    runner: DagRunner, read_links: Callable[[Any], dict[str, dict[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import compare_models

    from include.pipeline import steps

    monkeypatch.setattr(steps, "compare_models", lambda *arguments: "file:///report.html")
    compare_models.dag.test()
    links = read_links(compare_models.dag)
    link = urlsplit(links["compare"]["Report"])
    assert link.path == "/occupation-coding/report"
    assert parse_qs(link.query) == {"dag": ["compare_models"], "run": [links["run"]["id"]]}

    def fail(*arguments: Any) -> str:
        raise ValueError("no records of this model")

    monkeypatch.setattr(steps, "compare_models", fail)
    monkeypatch.setattr(compare_models.dag.get_task("compare"), "retries", 0)
    compare_models.dag.test()
    assert read_links(compare_models.dag)["compare"] == {"Report": ""}
