"""Who may see the page."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from include.page.app import app
from tests.page.conftest import NONCE, Metadata, TestClient

PAGES = ["/", "/dates", "/runs", "/models", "/help"]
#: All that the app answers to, with pages of a single run.
PATHS = [route.path for route in app.routes]  # type: ignore[attr-defined]
Client = Callable[..., TestClient]


@pytest.mark.parametrize("page", PATHS)
def test_nobody_sees_a_page_without_logging_in(client: Client, page: str) -> None:
    assert client().get(page).status_code == 401


@pytest.mark.parametrize("page", PATHS)
def test_a_person_without_rights_on_the_dag_sees_no_page(client: Client, page: str) -> None:
    answer = client("none").get(page)
    assert answer.status_code == 403
    assert "recode_occupations" not in answer.text


@pytest.mark.parametrize("page", PAGES)
def test_a_viewer_sees_every_page(client: Client, page: str) -> None:
    answer = client("viewer").get(page)
    assert answer.status_code == 200, answer.text
    assert "script" not in answer.headers["content-security-policy"]


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json"])
def test_fastapi_serves_no_page_of_its_own(client: Client, path: str) -> None:
    assert client("admin").get(path).status_code == 404


def test_only_dags_that_code_a_source_can_be_chosen(client: Client, metadata: Metadata) -> None:
    metadata.add_dag("recode_labour_force")
    metadata.add_dag("payroll", tag="finance")
    metadata.add_run("secret-run", dag_id="payroll")
    metadata.add_run("other-run", dag_id="recode_labour_force")
    browser = client("viewer")
    assert "other-run" in browser.get("/runs?dag=recode_labour_force").text
    assert "other-run" not in browser.get("/runs").text
    answers = [browser.get(f"/runs?dag={name}") for name in ("payroll", "no-such-dag")]
    assert [answer.status_code for answer in answers] == [403, 403]
    assert NONCE.sub("", answers[0].text) == NONCE.sub("", answers[1].text)


def test_the_setup_is_shown_only_to_those_who_may_read_connections(client: Client) -> None:
    assert "coding_service_default" in client("admin").get("/").text
    assert "coding_service_default" not in client("viewer").get("/").text
