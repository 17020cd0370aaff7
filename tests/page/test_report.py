"""The report of a run, as the page serves it from the staging area."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from airflow.models.connection import Connection

from include.coding.document import Document, Section, Table, store_document
from include.coding.run_keys import make_run_key
from include.pipeline import reports, settings
from tests.page.conftest import Metadata, TestClient
from tests.page.test_pages import HOSTILE, read_text
from tests.support.s3 import S3

Client = Callable[..., TestClient]
DAG = "recode_occupations"


@pytest.fixture
def staging(metadata: Metadata, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A staging area without files, and a run."""
    monkeypatch.setenv("CODING_STAGING", (tmp_path / "staging").as_uri())
    monkeypatch.delenv("CODING_REPORT_TEXTS", raising=False)
    metadata.add_run("night")


def write_report(
    run_id: str = "night", dag_id: str = DAG, *, title: str = "Occupation coding", text: str | None = None
) -> None:
    """Write the report of a run as its task does.

    :param text: what a person wrote; None for a report without texts
    """
    key, area = (
        (run_id, settings.COMPARISONS)
        if dag_id == "compare_models"
        else (make_run_key(dag_id, run_id), settings.RUNS)
    )
    rows = [] if text is None else [(text, 3)]
    table = Table(("occupation", "records"), rows, ("occupation",))
    with settings.open_staging(key, area) as files:
        store_document(Document(title, HOSTILE, sections=[Section("Uncoded", table)]), files)


def find_report(run_id: str = "night") -> Path:
    return Path(settings.run_folder(run_id).removeprefix("file://")) / "report.html"


@pytest.mark.usefixtures("staging")
def test_a_report_runs_nothing_and_loads_nothing(client: Client) -> None:
    write_report(title=HOSTILE)
    answer = client("viewer").get(f"/report?dag={DAG}&run=night")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = [directive.strip() for directive in answer.headers["content-security-policy"].split(";")]
    assert {"default-src 'none'", "frame-ancestors 'self'", "sandbox"} <= set(policy)
    assert {directive.split()[0] for directive in policy} == {
        "default-src",
        "style-src",
        "frame-ancestors",
        "sandbox",
    }
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "&lt;script&gt;" in answer.text
    assert "<script" not in answer.text


@pytest.mark.usefixtures("staging")
def test_a_report_of_another_dag_of_ours_has_its_own_folder(client: Client, metadata: Metadata) -> None:
    metadata.add_dag("recode_labour_force")
    metadata.add_run("night", dag_id="recode_labour_force")
    write_report(dag_id="recode_labour_force", title="Labour force")
    browser = client("viewer")
    assert "Labour force" in browser.get("/report?dag=recode_labour_force&run=night").text
    assert browser.get(f"/report?dag={DAG}&run=night").status_code == 404


@pytest.mark.usefixtures("staging")
def test_a_report_of_a_comparison_is_for_those_who_may_read_that_dag(client: Client, metadata: Metadata) -> None:
    metadata.add_dag("compare_models", tag="coding")
    metadata.add_run("comparison", dag_id="compare_models")
    write_report("comparison", "compare_models", title="Comparison")
    query = "/report?dag=compare_models&run=comparison"
    assert "Comparison" in client("viewer").get(query).text
    assert client("none").get(query).status_code == 403


@pytest.mark.parametrize("dag_id", ["payroll", "no-such-dag"])
@pytest.mark.usefixtures("staging")
def test_a_report_of_a_dag_that_is_not_ours_is_refused(client: Client, metadata: Metadata, dag_id: str) -> None:
    metadata.add_dag("payroll", tag="finance")
    metadata.add_run("secret-run", dag_id="payroll")
    write_report("secret-run", "payroll")
    answer = client("viewer").get(f"/report?dag={dag_id}&run=secret-run")
    assert answer.status_code == 403
    assert "payroll" not in answer.text


@pytest.mark.parametrize("run_id", ["other", "", "../night", "night/../night", "%00"])
@pytest.mark.usefixtures("staging")
def test_there_is_a_report_only_of_runs_that_airflow_knows(client: Client, run_id: str) -> None:
    write_report()
    write_report("other")
    answer = client("viewer").get(f"/report?run={run_id}")
    assert answer.status_code == 404
    assert read_text(answer.text) == "This DAG has no such run."


def remove(path: Path) -> None:
    path.unlink()


def lock(path: Path) -> None:
    path.parent.chmod(0)


def replace_by_link(path: Path) -> None:
    path.rename(path.parents[2] / "elsewhere.html")
    path.symlink_to(path.parents[2] / "elsewhere.html")


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("damage", [remove, lock, replace_by_link, replace_by_folder, replace_by_pipe])
@pytest.mark.usefixtures("staging")
def test_a_report_that_cannot_be_read_is_a_page_with_a_sentence(
    client: Client, damage: Callable[[Path], None], request: pytest.FixtureRequest
) -> None:
    if damage is lock and os.geteuid() == 0:
        pytest.skip("root may read every folder")
    write_report()
    folder = find_report().parent
    request.addfinalizer(lambda: folder.chmod(0o700))
    damage(find_report())
    answer = client("viewer").get("/report?run=night")
    assert answer.status_code == 404
    words = read_text(answer.text)
    assert words.startswith("There is no report to show: the run has not written it yet")
    assert str(folder) not in answer.text


@pytest.mark.parametrize("place", ["nowhere", "https://example.com/staging", "file://host/staging", "s3://"], ids=str)
@pytest.mark.usefixtures("staging")
def test_a_staging_area_that_cannot_be_read_is_a_page_with_a_sentence(
    client: Client, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODING_STAGING", place)
    assert client("viewer").get("/report?run=night").status_code == 404


@pytest.mark.usefixtures("staging")
def test_a_report_that_is_too_large_is_not_served(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report()
    size = find_report().stat().st_size
    for limit, status in ((size, 200), (size - 1, 404)):
        monkeypatch.setattr(reports, "MAX_REPORT_BYTES", limit)
        assert client("viewer").get("/report?run=night").status_code == status


@pytest.mark.usefixtures("staging")
def test_a_report_that_quotes_people_is_shown_only_if_the_setting_allows_it(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(text="teh secret job")
    answer = client("viewer").get("/report?run=night")
    assert answer.status_code == 403
    assert "secret job" not in answer.text
    assert "CODING_REPORT_TEXTS" in answer.text
    monkeypatch.setenv("CODING_REPORT_TEXTS", "true")
    assert "secret job" in client("viewer").get("/report?run=night").text


@pytest.mark.usefixtures("staging")
def test_a_report_is_read_without_changing_how_the_process_creates_files(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API server answers in many threads, which share one umask."""
    write_report()
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the umask changes"))
    assert client("viewer").get("/report?run=night").status_code == 200


@pytest.fixture(params=["in the environment", "in Airflow"])
def bucket(request: pytest.FixtureRequest, s3: S3, metadata: Metadata, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket with the staging area, with its connection in the environment or stored in Airflow."""
    name = s3.create_bucket()
    monkeypatch.setenv("CODING_STAGING", f"s3://{name}/staging")
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "server")  # what Airflow sets in the API server
    if request.param == "in Airflow":
        connection = Connection.from_json(s3.connection(), "staging_default")
        with metadata.make_session.begin() as session:
            session.add(connection)
    else:
        monkeypatch.setenv("AIRFLOW_CONN_STAGING_DEFAULT", s3.connection())
    metadata.add_run("night")
    return name


def test_a_report_in_object_storage_is_served_as_soon_as_it_is_written(
    client: Client, s3: S3, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODING_SCRATCH", str(tmp_path / "scratch"))
    browser = client("viewer")
    assert browser.get("/report?run=night").status_code == 404
    key = f"{settings.run_folder('night').removeprefix(f's3://{bucket}/')}/report.html"
    s3.client.put_object(Bucket=bucket, Key=key, Body=b"<h1>Occupation coding</h1>")
    answer = browser.get("/report?run=night")
    assert (answer.status_code, answer.text) == (200, "<h1>Occupation coding</h1>")
    s3.client.put_object(Bucket=bucket, Key=key, Body=b"<h1>Again</h1>")
    assert browser.get("/report?run=night").text == "<h1>Again</h1>"
    assert not (tmp_path / "scratch").exists()


def test_object_storage_that_does_not_answer_is_a_page_with_a_sentence(
    client: Client, metadata: Metadata, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODING_STAGING", "s3://no-such-bucket/staging")
    monkeypatch.setenv("AIRFLOW_CONN_STAGING_DEFAULT", s3.connection())
    metadata.add_run("night")
    assert client("viewer").get("/report?run=night").status_code == 404
