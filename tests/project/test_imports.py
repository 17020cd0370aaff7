"""Which module can import which (docs/architecture.md), checked by reading the imports of all modules.

Imports inside functions and under TYPE_CHECKING count too.
"""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = ROOT / "plugins"

#: Room -> rooms or modules that it can import. The longest name that fits a module is its rule. No arrow points up.
ROOMS = """
dags                      -> include.pipeline, coding_service
occupation_coding_plugin  -> include.pipeline, include.page
include.page              -> include.page, include.pipeline, include.coding.handoff, coding_service
include.stack             -> include.stack, include.pipeline.names, include.coding.files
include.local_service     -> include.local_service
include.pipeline          -> include.pipeline, include.comparison, include.coding, include.warehouse, coding_service
include.pipeline.names    ->
include.comparison        -> include.comparison, include.coding, include.warehouse
include.coding            -> include.coding, include.warehouse
include.warehouse         -> include.warehouse
include                   ->
coding_service            -> coding_service
"""
#: The same inside the provider, where every module has a row.
PROVIDER = """
operators                 -> lineage, sensors, links, part_operation, triggers, hooks, input_file, storage, retry, upstream, models, errors
sensors                   -> lineage, links, triggers, hooks, polling, retry, upstream, models, errors
lineage                   -> hooks, models
part_operation            -> hooks, polling, storage, models, errors
triggers                  -> hooks, polling, models, errors, redaction
hooks                     -> calls, connection_test, tls, transfer, storage, shared_state, settings, protocol, clock, answer_limits, bounded_connections, models, errors, redaction
calls                     -> tokens, call_budget, shared_state, settings, protocol, errors
transfer                  -> partial_download, input_file, storage, storage_answers, bounded_connections, models, errors, redaction
partial_download          -> storage
input_file                -> storage, errors
tls                       -> settings, bounded_connections, errors, redaction
tokens                    -> shared_state, errors
call_budget               -> shared_state, errors
shared_state              -> errors
polling                   -> models, errors
retry                     -> errors
upstream                  ->
links                     ->
storage                   -> errors
settings                  -> addresses, errors, redaction
protocol                  -> answer_limits, models, errors, redaction
models                    -> errors, redaction
storage_answers           -> redaction
bounded_connections       ->
answer_limits             ->
clock                     ->
connection_test           -> errors
provider_info             ->
errors                    -> redaction
addresses                 ->
redaction                 ->
"""
#: Rooms and modules that can import Airflow, and modules in them that cannot.
AIRFLOW = [
    "dags", "occupation_coding_plugin", "include.page", "include.pipeline", "include.warehouse.connect", "coding_service.hooks",
    "coding_service.lineage", "coding_service.links", "coding_service.operators", "coding_service.sensors", "coding_service.triggers", "coding_service.part_operation",
    "coding_service.retry", "coding_service.storage", "coding_service.upstream",
]  # fmt: skip
WITHOUT_AIRFLOW = ["include.pipeline.__main__", "include.pipeline.check", "include.pipeline.names"]


def read_table(table: str, prefix: str = "") -> dict[str, list[str]]:
    """Return the rows of a table, from top to bottom."""
    rows = [line.split("->") for line in table.strip().splitlines()]
    return {
        prefix + module.strip(): [prefix + target for target in targets.replace(",", " ").split()]
        for module, targets in rows
    }


def name_module(path: Path) -> str:
    parts = path.relative_to(PLUGINS if PLUGINS in path.parents else ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


FILES = {name_module(path): path for room in ("dags", "include", "plugins") for path in (ROOT / room).rglob("*.py")}
RULES = read_table(ROOMS) | read_table(PROVIDER, "coding_service.")


def is_inside(module: str, *rooms: str) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def find_rule(module: str) -> str:
    return max((name for name in RULES if is_inside(module, name)), key=len)


def parse_imports(source: str) -> set[str]:
    """Return the modules that a source imports, and the names that it imports from modules, with their module."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    # DAG files can import each other by their bare names, because Airflow puts their folder on the path.
    return {f"dags.{name}" if f"dags.{name.partition('.')[0]}" in FILES else name for name in names}


def find_modules_of_ours(source: str) -> set[str]:
    """Return the modules of this project that a source imports."""
    names = {name for name in parse_imports(source) if is_inside(name, *RULES)}
    return {name if name in FILES else name.rpartition(".")[0] for name in names}


def find_wrong_imports(module: str, source: str) -> list[str]:
    """Return the imports that the rule of a module does not allow, and those of Airflow away from the rim."""
    is_rim = is_inside(module, *AIRFLOW) and module not in WITHOUT_AIRFLOW
    airflow = {name for name in parse_imports(source) if is_inside(name, "airflow") and not is_rim}
    allowed = RULES[find_rule(module)]
    return sorted({name for name in find_modules_of_ours(source) if not is_inside(name, *allowed)} | airflow)


@pytest.mark.parametrize("module", sorted(FILES))
def test_a_module_imports_only_what_its_rule_allows(module: str) -> None:
    assert find_wrong_imports(module, FILES[module].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("module", "source", "wrong_import"),
    [
        ("dags.recode_occupations", "def plan():\n    from include.coding.plan import Plan", "include.coding.plan"),
        ("dags.recode_occupations", "from include.warehouse import errors", "include.warehouse.errors"),
        ("dags.watch_models", "import recode_occupations", "dags.recode_occupations"),
        ("include.pipeline.steps", "from include.stack import sample", "include.stack.sample"),
        ("include.pipeline.names", "import include.pipeline.settings", "include.pipeline.settings"),
        ("include.pipeline.names", "from airflow.sdk import Asset", "airflow.sdk.Asset"),
        ("include.coding.plan", "if TYPE_CHECKING:\n    import coding_service.models", "coding_service.models"),
        (
            "include.coding.plan",
            "from include.comparison.comparison import Comparison",
            "include.comparison.comparison",
        ),
        ("include.warehouse.warehouse", "from include.coding.plan import Plan", "include.coding.plan"),
        ("include.warehouse.warehouse", "import airflow", "airflow"),
        ("include.local_service.coder", "from include.coding import files", "include.coding.files"),
        (
            "include.stack.processes",
            "from include.pipeline.settings import read_setting",
            "include.pipeline.settings",
        ),
        ("include.new_room.module", "from include.coding.plan import Plan", "include.coding.plan"),
        ("coding_service.calls", "from coding_service.hooks import CONN_ID", "coding_service.hooks"),
        ("coding_service.retry", "from coding_service import CodingServiceHook", "coding_service"),
        ("coding_service.models", "from include.coding.plan import Plan", "include.coding.plan"),
        ("coding_service.calls", "from airflow.sdk import BaseHook", "airflow.sdk.BaseHook"),
    ],
)
def test_a_wrong_import_is_noticed(module: str, source: str, wrong_import: str) -> None:
    assert find_wrong_imports(module, source) == [wrong_import]


def test_no_module_imports_itself_through_others() -> None:
    graph = {module: find_modules_of_ours(path.read_text(encoding="utf-8")) for module, path in FILES.items()}
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError
    assert set(FILES) <= set(order)


@pytest.mark.parametrize("table", [ROOMS, PROVIDER], ids=["rooms", "provider"])
def test_no_arrow_points_up(table: str) -> None:
    prefix = "coding_service." if table == PROVIDER else ""
    rows = read_table(table, prefix)
    order = list(rows)
    upward = [
        (module, target)
        for module, targets in rows.items()
        for target in targets
        if target != module and order.index(find_rule(target)) <= order.index(module)
    ]
    assert upward == []


def test_every_name_in_a_rule_is_that_of_a_module() -> None:
    names = {*RULES, *(target for targets in RULES.values() for target in targets), *AIRFLOW, *WITHOUT_AIRFLOW}
    assert [name for name in sorted(names) if not any(is_inside(module, name) for module in FILES)] == []


def test_every_module_of_the_provider_has_a_rule_of_its_own() -> None:
    assert [name for name in FILES if is_inside(name, "coding_service") and name not in RULES] == []


def test_there_are_no_relative_imports() -> None:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in FILES.values()]
    imports = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert [node for node in imports if node.level] == []
