"""Who may import whom (docs/architecture.md): the layers of the project, held by reading its imports."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: Module of ours -> the modules of ours that it may import. A prefix stands for all below it; the longest one counts.
ALLOWED = {
    "dags": {"coding_service", "include.coding", "include.comparison", "include.warehouse"},
    "coding_service.errors": set(),
    "coding_service.facts": set(),
    "coding_service.models": {"coding_service.errors"},
    "coding_service.settings": {"coding_service.errors"},
    "coding_service.shared_file": set(),
    "coding_service.shared_row": {"coding_service.errors"},
    "coding_service.polling": {"coding_service.errors"},
    "coding_service.protocol": {"coding_service.models", "coding_service.errors"},
    "coding_service.limiter": {"coding_service.errors"},
    "coding_service.tokens": {"coding_service.shared_file"},
    "coding_service.storage": {"coding_service.errors"},
    "coding_service.partials": {"coding_service.storage"},
    "coding_service.transfer": {
        "coding_service.models", "coding_service.errors", "coding_service.partials", "coding_service.storage",
    },
    "coding_service.hooks": {
        "coding_service.errors", "coding_service.limiter", "coding_service.models", "coding_service.protocol",
        "coding_service.settings", "coding_service.shared_file", "coding_service.shared_row",
        "coding_service.storage", "coding_service.tokens", "coding_service.transfer",
    },
    "coding_service.retry": {"coding_service.errors"},
    "coding_service.triggers": {
        "coding_service.errors", "coding_service.hooks", "coding_service.models", "coding_service.polling",
    },
    "coding_service.alerts": {"coding_service.errors"},
    "coding_service.sensors": {
        "coding_service.errors", "coding_service.hooks", "coding_service.polling", "coding_service.retry",
        "coding_service.triggers",
    },
    "coding_service.operators": {
        "coding_service.errors", "coding_service.hooks", "coding_service.models", "coding_service.retry",
        "coding_service.storage",
    },
    "coding_service": {"coding_service"},
    "include.warehouse": {"include.warehouse"},
    "include.coding": {"include.coding", "include.warehouse"},
    "include.local_service": {"include.local_service"},
    "include.comparison": {"include.comparison", "include.coding", "include.warehouse"},
    "include.pipeline.names": set(),
    "include.stack": {"include.stack", "include.pipeline.names", "include.coding.files"},
    "include": set(),
}  # fmt: skip
MAY_IMPORT_AIRFLOW = (
    "dags", "coding_service.hooks", "coding_service.triggers", "coding_service.operators", "coding_service.sensors",
    "coding_service.retry", "coding_service.storage", "coding_service.facts", "coding_service.alerts",
    "include.warehouse.connect",
)  # fmt: skip
FILES = {
    **dict.fromkeys((ROOT / "plugins" / "coding_service").rglob("*.py"), "coding_service"),
    **dict.fromkeys((ROOT / "include").rglob("*.py"), "include"),
    **dict.fromkeys((ROOT / "dags").rglob("*.py"), "dags"),
}


def module_of(path: Path) -> str:
    base = ROOT / "plugins" if FILES[path] == "coding_service" else ROOT
    parts = path.relative_to(base).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def covers(prefix: str, module: str) -> bool:
    return module == prefix or module.startswith(prefix + ".")


@pytest.mark.parametrize("path", sorted(FILES), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_its_layer_may(path: Path) -> None:
    module = module_of(path)
    rule = max((prefix for prefix in ALLOWED if covers(prefix, module)), key=len)
    ours = {name for name in imports_of(path) if name.partition(".")[0] in ("coding_service", "include", "dags")}
    assert [name for name in sorted(ours) if not any(covers(allowed, name) for allowed in ALLOWED[rule])] == []


@pytest.mark.parametrize("path", sorted(FILES), ids=lambda path: str(path.relative_to(ROOT)))
def test_airflow_is_imported_only_at_the_rim(path: Path) -> None:
    airflow = [name for name in imports_of(path) if covers("airflow", name)]
    assert not airflow or any(covers(rim, module_of(path)) for rim in MAY_IMPORT_AIRFLOW)


def test_every_rule_is_about_a_module_that_exists() -> None:
    modules = {module_of(path) for path in FILES}
    assert [prefix for prefix in ALLOWED if not any(covers(prefix, module) for module in modules)] == []
