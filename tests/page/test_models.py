"""The page Models: models with records, comparisons with their pictures, and how to start one."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from airflow.api_fastapi.app import get_auth_manager

from include.pipeline import settings
from tests.page.conftest import MODEL, NONCE, Metadata, TestClient, make_landing, make_plan

Client = Callable[..., TestClient]
OLD_MODEL = "0a1b2c3d-0000-4000-8000-000000000002"
RUN_ID = "manual__2026-11-02T01:02:03+00:00"
SVG = '<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


def add_comparison(metadata: Metadata, run_id: str = RUN_ID, has_report: bool = True, **conf: Any) -> None:
    report = "file:///somewhere/report.html" if has_report else None
    metadata.add_run(
        run_id, None, kind="manual", dag_id="compare_models", conf=conf, user="ada",
        xcoms={("compare", -1, "return_value"): report},
    )  # fmt: skip


@pytest.fixture
def comparisons(metadata: Metadata, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Metadata:
    """A finished comparison with its picture in the staging area."""
    monkeypatch.setenv("CODING_STAGING", (tmp_path / "staging").as_uri())
    metadata.add_dag("compare_models", tag="coding")
    add_comparison(metadata, model_before="previous", topic="osca")
    with settings.open_staging(RUN_ID, settings.COMPARISONS) as staging:
        staging.scratch.mkdir(parents=True)
        (staging.scratch / "picture.svg").write_text(SVG)
    return metadata


@pytest.fixture
def forbid_comparisons(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function after which nobody may read the DAG `compare_models`."""

    def forbid() -> None:
        manager = get_auth_manager()
        is_authorized = manager.is_authorized_dag
        monkeypatch.setattr(
            manager, "is_authorized_dag",
            lambda *, details=None, **rest: details.id != "compare_models" and is_authorized(details=details, **rest),
        )  # fmt: skip

    return forbid


def test_the_models_with_records_have_their_dates_and_records(client: Client, metadata: Metadata) -> None:
    for model, version, day in (
        (OLD_MODEL, 2.0, "2026-11-01"),
        (MODEL, 3.0, "2026-11-02"),
        (MODEL, 3.0, "2026-11-03"),
    ):
        plan = make_plan(day, model_id=model, model_version=version)
        metadata.add_run(f"{model}-{day}", day, plan=plan, land=make_landing(day))
    again = make_plan("2026-11-03", model_id=MODEL)
    metadata.add_run("again", "2026-11-03", plan=again, land=make_landing("2026-11-03"))
    metadata.add_run("trial", plan=make_plan(max_records=5, model_id="t"), land=make_landing("2026-11-01"))
    html = client("viewer").get("/models").text
    rows = [re.sub(r"<[^>]+>", "|", row) for row in re.findall(r"<tr><td>(.*?)</tr>", html, re.DOTALL)]
    assert len(rows) == 2
    assert MODEL in rows[0]
    assert "2026-11-02 to 2026-11-03" in rows[0]
    assert "4,074" in rows[0]  # a date that was coded twice counts once
    assert OLD_MODEL in rows[1]
    assert "2,037" in rows[1]


def test_two_models_of_a_topic_give_the_values_of_a_comparison_and_its_command(
    client: Client, metadata: Metadata
) -> None:
    for model, version in ((OLD_MODEL, 2.0), (MODEL, 3.0)):
        metadata.add_run(
            model, plan=make_plan(model_id=model, model_version=version), land=make_landing("2026-11-01")
        )
    html = unescape(client("viewer").get("/models").text)
    assert "/dags/compare_models" in html
    command = shlex.split(re.findall(r"<pre>(.+?)</pre>", html)[0])
    assert command[:-1] == ["airflow", "dags", "trigger", "compare_models", "--conf"]
    values = {"topic": "osca", "model_before": OLD_MODEL, "model_after": MODEL}
    assert json.loads(command[-1]) == values
    assert all(f"<code>{value}</code>" in html for value in values.values())


def test_a_comparison_links_to_its_report_and_shows_its_picture(client: Client, comparisons: Metadata) -> None:
    html = unescape(client("viewer").get("/models").text)
    quoted = quote(RUN_ID, safe="")
    assert f'href="report?dag=compare_models&run={quoted}"' in html
    assert f'src="models/picture?dag=recode_occupations&run={quoted}"' in html
    assert "topic osca, model before previous" in html
    assert "started by ada" in html


def test_a_comparison_without_a_report_has_no_link_and_no_picture(client: Client, comparisons: Metadata) -> None:
    add_comparison(comparisons, "failed-one", has_report=False)
    browser = client("viewer")
    assert not re.search(r"(report|picture)\?[^\"]*failed-one", browser.get("/models").text)
    assert browser.get("/models/picture?run=failed-one").status_code == 404


def test_a_picture_runs_no_script_even_if_it_contains_one(client: Client, comparisons: Metadata) -> None:
    answer = client("viewer").get("/models/picture", params={"run": RUN_ID})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("image/svg+xml")
    assert answer.text == SVG
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "sandbox" in policy
    assert "allow" not in policy


@pytest.mark.parametrize("run_id", ["other", "../../secret", "recode_occupations/night", ""])
def test_there_is_a_picture_only_for_runs_of_the_dag(client: Client, comparisons: Metadata, run_id: str) -> None:
    assert client("viewer").get("/models/picture", params={"run": run_id}).status_code == 404


def test_who_may_not_read_the_comparisons_sees_nothing_of_them(
    client: Client, comparisons: Metadata, forbid_comparisons: Callable[[], None]
) -> None:
    browser = client("viewer")
    assert RUN_ID in browser.get("/models").text
    forbid_comparisons()
    answer = browser.get("/models")
    assert answer.status_code == 200
    assert "compare_models" not in answer.text
    assert RUN_ID not in answer.text
    pictures = [browser.get("/models/picture", params={"run": name}) for name in (RUN_ID, "no-such-run")]
    assert [picture.status_code for picture in pictures] == [403, 403]
    assert NONCE.sub("", pictures[0].text) == NONCE.sub("", pictures[1].text)


def test_nobody_sees_a_picture_without_logging_in(client: Client, comparisons: Metadata) -> None:
    assert client().get("/models/picture", params={"run": RUN_ID}).status_code == 401


def test_hostile_values_are_shown_as_text(client: Client, comparisons: Metadata) -> None:
    hostile = '<script>alert("1")</script>'
    add_comparison(comparisons, hostile, topic=hostile, model_before=[hostile], model_after="x" * 5000)
    html = client("viewer").get("/models").text
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "x" * 101 not in html
