"""The runbook as HTML: every class of error has its row, every link leads somewhere, and nothing in it is markup."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from coding_service import errors as service_errors
from include.coding import errors as data_errors
from include.page.runbook import RUNBOOK, make_anchor, read_errors, render_runbook
from include.warehouse import errors as warehouse_errors
from tests.page.test_access import Client

ROOT = Path(__file__).parents[2]
#: Bases of classes, and an error that the transfer handles itself.
WITHOUT_ROW = {"CodingServiceError", "RetryableError", "FinalError", "ExpiredError", "DataError", "LinkExpiredError"}


@pytest.mark.parametrize(
    "module", [service_errors, data_errors, warehouse_errors], ids=lambda module: module.__name__
)
def test_the_runbook_has_a_row_for_each_error_that_can_end_a_task(module: ModuleType) -> None:
    names = {name for name, value in vars(module).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert names - WITHOUT_ROW <= read_errors().keys()


def test_a_row_has_what_the_error_means_and_what_to_do_with_links_to_help() -> None:
    advice = read_errors()["IncompleteError"]
    assert "operations are incomplete" in advice.meaning
    assert advice.retries == "no"
    assert '<a href="help#texts-without-a-result">' in advice.remedy
    assert read_errors()["TransferError"].remedy == read_errors()["UploadInterruptedError"].remedy


def test_each_class_of_error_is_an_anchor_and_every_link_leads_to_one() -> None:
    html = render_runbook()
    anchors = Counter(re.findall(r' id="([^"]+)"', html))
    assert set(anchors) >= read_errors().keys() | {"a-run-failed", "the-codes-are-late", "what-the-errors-mean"}
    assert max(anchors.values()) == 1
    targets = re.findall(r'href="([^"]*)"', html)
    assert len(targets) > 10
    assert {target.removeprefix("#") for target in targets} <= set(anchors)


def test_a_link_to_another_document_names_its_file() -> None:
    html = render_runbook()
    assert "requirements and rights (docs/deployment.md#several-machines-and-the-call-budget)" in html
    for path in re.findall(r"\((docs/[\w./-]+\.md|[\w-]+\.md)(?:#[\w-]+)?\)", html):
        assert (ROOT / path).is_file(), path


def test_html_in_the_runbook_is_shown_as_text(tmp_path: Path) -> None:
    path = tmp_path / "runbook.md"
    path.write_text(
        "# Runbook\n\n## <script>alert(1)</script>\n\n<b onclick=x>\n\n| Class | Meaning | Retried | What to do |\n"
        "|---|---|---|---|\n| `BadError` | <script>x</script> | no | [go](javascript:alert(1)) [x](https://e.example) |\n"
    )
    html = render_runbook(path)
    advice = read_errors(path)["BadError"]
    for text in (html, advice.meaning, advice.remedy):
        assert not re.search(r"<(script|b )|href", text)
    assert "&lt;script&gt;" in advice.meaning
    assert "x (https://e.example)" in advice.remedy


def test_a_machine_without_the_runbook_has_no_rows(tmp_path: Path) -> None:
    assert read_errors(tmp_path / "missing.md") == {}
    assert render_runbook(tmp_path / "missing.md") == ""


def test_anchors_are_those_of_github() -> None:
    assert make_anchor("The day's calls are used up") == "the-days-calls-are-used-up"


def test_help_shows_the_runbook(client: Client) -> None:
    answer = client("viewer").get("/help")
    assert answer.status_code == 200
    assert '<code id="QuotaExceededError">' in answer.text
    assert '<a href="#QuotaExceededError">' in answer.text


def test_the_image_has_the_runbook_where_the_page_looks_for_it() -> None:
    assert RUNBOOK.relative_to(ROOT).as_posix() == "docs/runbook.md"
    assert "COPY --chown=airflow:root docs/runbook.md /opt/airflow/docs/" in (ROOT / "Dockerfile").read_text()
    assert "!docs/runbook.md" in (ROOT / ".dockerignore").read_text().splitlines()
