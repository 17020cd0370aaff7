"""The documents agree with the code: citations of the contract, settings, params and links."""

from __future__ import annotations

import ast
import importlib
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from include.pipeline.form import DEFAULT_PARAMS, PARAMS, name_default

ROOT = Path(__file__).resolve().parents[2]
CONTRACT, SETTINGS = ROOT / "docs" / "service-contract.md", ROOT / "docs" / "settings.md"
COMPOSE_FILE, ENV_TEMPLATE = ROOT / "docker-compose.yaml", ROOT / ".env.example"

CODE_FOLDERS = ("dags", "plugins", "include", "bench")
#: Files that set settings or pass them on.
CONFIGURATION = (
    COMPOSE_FILE,
    ENV_TEMPLATE,
    ROOT / "Dockerfile",
    ROOT / "Makefile",
    ROOT / "docs" / "helm-values.yaml",
)
PYTHON_FILES = sorted(path for folder in (*CODE_FOLDERS, "tests") for path in (ROOT / folder).rglob("*.py"))
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG", "SECURITY")),
    *sorted((ROOT / "docs").glob("*.md")),
]
#: Files that may cite the contract.
CITING_FILES = [*PYTHON_FILES, *PAGES, *sorted((ROOT / "include").rglob("*.md")), *(ROOT / "include").rglob("*.sql")]

NUMBER = r"\d+(?:\.\d+)?"
#: A citation with all its numbers: `service-contract.md 2.7 to 2.10, 8.28`. It may go over a line of a comment.
CITATION = re.compile(rf"service-contract\.md[\s#:]+(?P<numbers>{NUMBER}(?:(?:,| and| to)[\s#:]+{NUMBER})*)")
#: How code cited the contract before it was a document: by the word "contract" or "question" and a number.
OLD_CITATION = re.compile(r"\b(?:contract,?|questions?)\s+(?:open\s+)?(?:questions?\s+)?\d", re.IGNORECASE)
#: A setting; not a part of a longer name such as AIRFLOW_CONN_CODING_SERVICE_DEFAULT.
SETTING = re.compile(r"(?<![A-Z_])CODING(?:_[A-Z]+)+(?![A-Z_*])")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def matches(pattern: re.Pattern[str], paths: list[Path]) -> Iterator[tuple[str, re.Match[str]]]:
    """Yield each match with its place, as `file:line`."""
    for path in paths:
        text = read(path)
        for match in pattern.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            yield f"{relative(path)}:{line}", match


def section(page: Path, heading: str) -> str:
    """Return the text below a heading of the second level."""
    _, _, text = read(page).partition(f"\n## {heading}\n")
    return text.partition("\n## ")[0]


# ---- citations of the contract -------------------------------------------------------------------------------------


@cache
def contract_numbers() -> set[str]:
    """Return the numbers of the contract's sections, and of the rows of its numbered tables."""
    sections = re.findall(rf"^#{{2,3}} ({NUMBER})\b", read(CONTRACT), re.MULTILINE)
    rows = re.findall(r"^\| (\d+\.\d+) \|", read(CONTRACT), re.MULTILINE)
    return {*sections, *rows}


def test_the_contract_has_all_its_sections_and_rows() -> None:
    counts = {2: 10, 3: 7, 8: 42, 9: 14, 10: 11, 11: 5}
    parts = {f"{number}.{part}" for number, count in counts.items() for part in range(1, count + 1)}
    assert contract_numbers() == {*map(str, range(12)), *parts}


def test_every_citation_of_the_contract_has_a_target() -> None:
    citations = list(matches(CITATION, CITING_FILES))
    without_target = [
        f"{place}: {number}"
        for place, citation in citations
        for number in re.findall(NUMBER, citation["numbers"])
        if number not in contract_numbers()
    ]
    assert without_target == []
    assert len(citations) > 50, "the code cites the contract in many places"


def test_every_citation_of_the_contract_names_its_document() -> None:
    citations = matches(OLD_CITATION, [path for path in CITING_FILES if path != CONTRACT])
    assert [f"{place}: {citation[0]!r}" for place, citation in citations] == []


# ---- settings, and variables of docker compose ---------------------------------------------------------------------


@cache
def settings_of_code() -> dict[str, str]:
    """Return each setting that code or configuration names, with a file that does.

    In Python only strings count: a constant such as `CODING_MODELS` is no setting. Of the tests, `tests/contract` has
    settings of its own.
    """
    places: dict[str, str] = {}
    for path in PYTHON_FILES:
        if relative(path).startswith("tests/") and not relative(path).startswith("tests/contract/"):
            continue
        for node in ast.walk(ast.parse(read(path))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                places |= dict.fromkeys(SETTING.findall(node.value), relative(path))
    places |= {name_default(param): "include/pipeline/form.py" for param in DEFAULT_PARAMS}
    for path in CONFIGURATION:
        places |= dict.fromkeys(SETTING.findall(read(path)), relative(path))
    return places


def settings_of_page() -> set[str]:
    return set(SETTING.findall(read(SETTINGS)))


def test_every_setting_of_the_code_is_documented() -> None:
    undocumented = {name: place for name, place in settings_of_code().items() if name not in settings_of_page()}
    assert undocumented == {}
    assert len(settings_of_code()) > 20


def test_every_documented_setting_is_in_the_code() -> None:
    assert sorted(settings_of_page() - set(settings_of_code())) == []


def test_every_setting_and_variable_has_exactly_one_row() -> None:
    cells = re.findall(r"^\| (`[A-Z][^|]*) \|", read(SETTINGS), re.MULTILINE)
    names = [name for cell in cells for name in re.findall(r"`([A-Z][A-Z0-9_]+)`", cell)]
    assert sorted(names) == sorted(set(names))
    assert sorted(settings_of_page() - set(names)) == []


def test_every_variable_of_docker_compose_is_documented_and_in_the_template() -> None:
    variables = set(re.findall(r"\$\{([A-Z0-9_]+)", read(COMPOSE_FILE)))
    documented = set(re.findall(r"`([A-Z][A-Z0-9_]+)`", read(SETTINGS)))
    template = set(re.findall(r"^#?([A-Z0-9_]+)=", read(ENV_TEMPLATE), re.MULTILINE))
    assert sorted(variables - documented) == []
    assert sorted(variables - template) == []


def test_the_documented_defaults_of_docker_compose_are_those_of_the_file() -> None:
    defaults = dict(re.findall(r"\$\{([A-Z0-9_]+):-([^}]+)\}", read(COMPOSE_FILE)))
    documented: dict[str, str] = {}
    for cells in re.findall(
        r"^\| (`[^|]+) \| ([^|]+) \|", section(SETTINGS, "Variables of docker compose"), re.MULTILINE
    ):
        names, values = (re.findall(r"`([^`]+)`", cell) for cell in cells)
        documented |= dict(zip(names, values, strict=False))
    assert documented.keys() >= {"WORKERS", "WORKER_MEMORY", "AIRFLOW_PORT", "CODING_IMAGE"}
    assert {name: value for name, value in documented.items() if name in defaults} == {
        name: value for name, value in defaults.items() if name in documented
    }


# ---- params --------------------------------------------------------------------------------------------------------


def as_cell(default: Any) -> str:
    return default if isinstance(default, str) else json.dumps(default)


@pytest.mark.parametrize("dag_id", ["recode_occupations", "compare_models"])
def test_every_param_is_documented_with_its_default(dag_id: str) -> None:
    params = importlib.import_module(dag_id).dag.params.dump()
    rows = re.findall(r"^\| `(\w+)` \| `([^`]*)` \|", section(SETTINGS, f"Params of {dag_id}"), re.MULTILINE)
    assert dict(rows) == {name: as_cell(default) for name, default in params.items()}


def test_every_setting_of_the_nightly_run_is_documented_with_the_default_of_its_param() -> None:
    rows = re.findall(r"^\| `(CODING_DEFAULT_\w+)` \| ([^|]+) \| as `(\w+)` \|", read(SETTINGS), re.MULTILINE)
    documented = {name: (cell, param) for name, cell, param in rows}
    for param in DEFAULT_PARAMS:
        default = PARAMS[param].value
        cell = "none" if default is None else f"`{as_cell(default)}`"
        assert documented[name_default(param)] == (cell, param)


# ---- links ---------------------------------------------------------------------------------------------------------


def without_code(page: Path) -> str:
    """Return Markdown without code blocks and code spans, in which brackets and hashes mean something else."""
    return re.sub(r"`[^`\n]*`", "", without_code_blocks(page))


def without_code_blocks(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", read(page), flags=re.MULTILINE | re.DOTALL)


def relative_links(page: Path) -> list[tuple[str, Path, str]]:
    """Return each link to a file of the project: as it stands, the file, and the anchor."""
    links = [
        link for link in LINK.findall(without_code(page)) if "://" not in link and not link.startswith("mailto:")
    ]
    parts = [(link, *link.partition("#")[::2]) for link in links]
    return [(link, (page.parent / path).resolve() if path else page, anchor) for link, path, anchor in parts]


@cache
def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub makes them."""
    slugs: list[str] = []
    for heading in re.findall(r"^#{1,6} (.+?)\s*$", without_code_blocks(page), re.MULTILINE):
        title = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slugs.append(re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-"))
    return {f"{slug}-{number}" if (number := slugs[:index].count(slug)) else slug for index, slug in enumerate(slugs)}


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_relative_link_points_to_a_file_and_a_heading_that_exist(page: Path) -> None:
    assert [link for link, target, _ in relative_links(page) if not target.exists()] == []
    to_headings = [(link, target, anchor) for link, target, anchor in relative_links(page) if anchor]
    assert [link for link, target, anchor in to_headings if anchor not in anchors(target)] == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    reachable, queue = set(), [ROOT / "README.md"]
    while queue:
        page = queue.pop()
        reachable.add(page)
        queue += [target for _, target, _ in relative_links(page) if target in PAGES and target not in reachable]
    assert sorted(relative(page) for page in PAGES if page not in reachable) == []


#: A file of tests that a page names, perhaps with one of its tests.
NAMED_TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def test_every_test_that_a_page_names_exists() -> None:
    tests = {match for page in PAGES for match in NAMED_TEST.findall(page.read_text(encoding="utf-8"))}
    assert len(tests) > 20
    missing = [
        f"{file}::{name}"
        for file, name in sorted(tests)
        if not (ROOT / file).exists() or (name and f"def {name}(" not in (ROOT / file).read_text(encoding="utf-8"))
    ]
    assert missing == []
