"""The rooms of the local service import each other one way only: cli -> http -> core -> coder."""

import ast
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

PACKAGE = "include.local_service"
ROOT = Path(__file__).parents[2]
ROOMS = ("coder", "core", "http", "cli")  # each imports itself and those before it
OURS = ("include", "coding_service", "dags", "bench", "tests")
HTTP_LIBRARIES = ("starlette", "uvicorn", "http", "urllib", "requests", "httpx")


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


SOURCES = {module_name(path): path.read_text() for path in sorted((ROOT / "include" / "local_service").rglob("*.py"))}


def find_imports(source: str) -> set[str]:
    """Return the imported modules, those of functions and of TYPE_CHECKING blocks included."""
    imports = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imports |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            names = {f"{base}.{alias.name}" for alias in node.names}
            imports |= {name for name in names if name in SOURCES} or {base}
    return imports


def room(module: str) -> str:
    """Return the room of a module of the local service, or the module itself at the top of the package."""
    return module.removeprefix(PACKAGE).removeprefix(".").partition(".")[0]


def find_violations(module: str, source: str) -> list[str]:
    """Return the imports that a module is not allowed to have."""
    own_room = room(module)
    rooms = {"": (), "__main__": ("cli",), **{name: ROOMS[: number + 1] for number, name in enumerate(ROOMS)}}
    allowed = tuple(f"{PACKAGE}.{name}." for name in rooms[own_room])
    banned = HTTP_LIBRARIES if own_room in ("coder", "core") else ()
    violations = []
    for name in sorted(find_imports(source)):
        top = name.partition(".")[0]
        if (top in OURS and not name.startswith(allowed)) or top in banned or name.startswith("."):
            violations.append(name)
    return violations


@pytest.mark.parametrize("module", SOURCES)
def test_a_module_imports_only_from_its_room_and_the_rooms_below(module: str) -> None:
    assert room(module) in ("", "__main__", *ROOMS)
    assert find_violations(module, SOURCES[module]) == []


def test_every_room_exists_and_depends_on_the_one_below() -> None:
    for below, above in pairwise(ROOMS):
        imports = {name for module in SOURCES if room(module) == above for name in find_imports(SOURCES[module])}
        assert any(name.startswith(f"{PACKAGE}.{below}.") for name in imports), (above, below)


def find_cycle(imports_by_module: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(imports_by_module).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_modules_import_each_other_in_a_cycle() -> None:
    imports_by_module = {module: find_imports(source) & SOURCES.keys() for module, source in SOURCES.items()}
    assert sum(map(len, imports_by_module.values())) > 100
    assert find_cycle(imports_by_module) == []


def test_only_the_command_table_imports_modules_by_name() -> None:
    dynamic = [module for module, source in SOURCES.items() if "import_module" in source or "__import__" in source]
    assert dynamic == [f"{PACKAGE}.cli.commands"]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("coder.models", "from include.local_service.core.catalogue import Model"),
        ("coder.models", "from include.local_service.core import catalogue"),
        ("core.batch", "import include.local_service.http.api"),
        ("core.batch", "if TYPE_CHECKING:\n    from include.local_service.http.api import Call"),
        ("core.batch", "def load():\n    from include.local_service.cli import serve"),
        ("core.batch", "from starlette.requests import Request"),
        ("http.api", "from include.local_service.cli.serve import run"),
        ("cli.serve", "from include.local_service import __main__"),
        ("cli.serve", "from include.coding.files import path_from_uri"),
        ("cli.serve", "import coding_service"),
        ("cli.serve", "from . import topics"),
        ("__main__", "from include.local_service.http.server import LocalService"),
    ],
)
def test_a_forbidden_import_is_noticed(module: str, source: str) -> None:
    assert len(find_violations(f"{PACKAGE}.{module}", source)) == 1


def test_a_cycle_is_noticed() -> None:
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) != []
