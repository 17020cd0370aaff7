"""`python -m bench.mutants`: how many small faults in the most critical modules the tests notice.

A mutant is a copy of a module with one change. Python is changed by the operators of Cosmic Ray: comparisons,
arithmetic, numbers, conditions, loops, exceptions. It leaves strings alone, so the words and signs of SQL in
:data:`SQL_CHANGES` are changed here. A change of annotations or docstrings alone is not a mutant. A mutant is
killed if the tests of its module fail, or take much longer than without it.

The mutants are a random sample, the same for the same seed. The tests run in a copy of the project.
"""

from __future__ import annotations

import argparse
import ast
import io
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

from include.stack.processes import PROJECT

MIN_SCORE = 0.85
#: The tests of each module that is measured, quickest first.
MODULES: dict[str, tuple[str, ...]] = {
    "include/coding/texts.py": ("tests/coding/test_texts.py", "tests/coding/test_prepare.py"),
    "include/coding/results.py": ("tests/coding/test_results.py", "tests/coding/test_recoding.py"),
    "include/coding/collect.py": ("tests/coding/test_recoding.py", "tests/coding/test_landing.py"),
    "include/coding/isolation.py": ("tests/coding/test_isolation.py",),
    "include/coding/handoff.py": (
        "tests/coding/test_handoff.py",
        "tests/pipeline/test_edited_xcoms.py",
        "tests/pipeline/test_handoffs.py",
    ),
    "include/pipeline/handoffs.py": (
        "tests/pipeline/test_handoffs.py",
        "tests/pipeline/test_edited_xcoms.py",
        "tests/pipeline/test_steps.py",
    ),
    "plugins/coding_service/polling.py": ("tests/coding_service/test_polling.py",),
    "plugins/coding_service/protocol.py": ("tests/coding_service/test_protocol.py",),
}
#: What is changed in SQL: each word or sign, and what replaces it.
SQL_CHANGES = {
    r"\bAND\b": "OR",
    r"\bOR\b": "AND",
    r"\bIS NULL\b": "IS NOT NULL",
    r"\bIS NOT NULL\b": "IS NULL",
    r"\bNOT (?=IN|BETWEEN|LIKE|EXISTS|\()": "",
    r"\bLEFT JOIN\b": "JOIN",
    r"\bUNION ALL\b": "UNION",
    r"\bDISTINCT\b": "",
    r"\bmin\(": "max(",
    r"\bmax\(": "min(",
    r" = ": " <> ",
    r" <> ": " = ",
    r" < ": " <= ",
    r" <= ": " < ",
    r" > ": " >= ",
    r" >= ": " > ",
    r" \+ ": " - ",
    r" - ": " + ",
}
SQL_STRING = re.compile(r"\b(SELECT|FROM|WHERE|JOIN|CASE|WHEN|COALESCE|GROUP BY|ORDER BY|regexp_\w+)\b")
#: Operators that are not used: without a decorator a property is a method, which no test can miss. The others change
#: nothing that can be seen, because `is` compares with None and members of enumerations here.
WITHOUT = (
    "NoOp", "RemoveDecorator", "ReplaceComparisonOperator_Is_Eq", "ReplaceComparisonOperator_IsNot_NotEq",
)  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """A changed copy of a module."""

    line: int
    change: str
    source: str = field(repr=False)


def make_mutants(source: str) -> list[Mutant]:
    """Return all mutants of a module that behave differently, as far as the syntax tells."""
    original = _strip(source)
    mutants = [*_mutate_python(source), *_mutate_sql(source)]
    return [mutant for mutant in mutants if _strip(mutant.source) not in (original, "")]


def _mutate_python(source: str) -> Iterator[Mutant]:
    nodes = list(ast_nodes(get_ast(source)))
    for name in operator_names():
        operator_class = get_operator(name)
        if operator_class.arguments() or name.removeprefix("core/") in WITHOUT:
            continue
        operator = operator_class()
        positions = [position for node in nodes for position in operator.mutation_positions(node)]
        for occurrence, ((line, _), _) in enumerate(positions):
            if mutated := mutate_code(source, operator, occurrence):
                yield Mutant(line, name.removeprefix("core/"), mutated)


def _mutate_sql(source: str) -> Iterator[Mutant]:
    starts = [0]
    for text_line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(text_line))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.STRING or not SQL_STRING.search(token.string):
            continue
        offset = starts[token.start[0] - 1] + token.start[1]
        for pattern, replacement in SQL_CHANGES.items():
            for match in re.finditer(pattern, token.string):
                start, end = offset + match.start(), offset + match.end()
                line = source.count("\n", 0, start) + 1
                change = f"SQL {match[0].strip()!r} to {replacement.strip()!r}"
                yield Mutant(line, change, source[:start] + replacement + source[end:])


def _strip(source: str) -> str:
    """Return the syntax of a module without annotations and docstrings; "" if it has a syntax error."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return ""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.FunctionDef | ast.AsyncFunctionDef):
            setattr(node, "annotation" if isinstance(node, ast.arg) else "returns", None)
        if isinstance(node, ast.AnnAssign):
            node.annotation = ast.Name("object")
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            node.value.value = ""
    return ast.dump(tree)


class Project:
    """A copy of the project in which modules are changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        files = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, text=True, check=True)
        for name in filter(None, files.stdout.split("\0")):
            if (PROJECT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes((PROJECT / name).read_bytes())

    def run_tests(self, tests: tuple[str, ...], timeout_s: float) -> bool:
        """Return whether the tests of a module pass in time. The first failure ends them."""
        command = [sys.executable, "-m", "pytest", "-qx", "-p", "no:cacheprovider", "-m", "not airflow", *tests]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"}
        process = subprocess.Popen(
            command, cwd=self.folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            return process.wait(timeout_s) == 0
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
            return False

    def measure(self, module: str, sample: int, seed: int, deadline: float) -> tuple[int, int]:
        """Return how many mutants of a module were killed, and how many were tested before the deadline."""
        path, tests = self.folder / module, MODULES[module]
        source = path.read_text(encoding="utf-8")
        start = time.monotonic()
        if not self.run_tests(tests, max(deadline - start, 0)):
            raise SystemExit(f"the tests of {module} fail without a change, or there is no time left for them")
        timeout_s = 30 + 4 * (time.monotonic() - start)
        mutants = make_mutants(source)
        selection = random.Random(seed).sample(mutants, min(sample, len(mutants)))
        killed = tested = 0
        for mutant in selection:
            if time.monotonic() > deadline:
                break
            path.write_text(mutant.source, encoding="utf-8")
            has_survived = self.run_tests(tests, timeout_s)
            tested, killed = tested + 1, killed + (not has_survived)
            if has_survived:
                print(f"  survived: {module}:{mutant.line}: {mutant.change}", flush=True)
        path.write_text(source, encoding="utf-8")
        print(f"{module:<36} {format_score(killed, tested)} of {len(mutants)} mutants", flush=True)
        return killed, tested


def format_score(killed: int, tested: int) -> str:
    """Return a score as `92 %, 37 killed of 40 tested`; without a test there is none."""
    return f"{killed / tested:4.0%}, {killed} killed of {tested} tested" if tested else "   no time, 0 tested"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.mutants", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"default: {' '.join(MODULES)}")
    parser.add_argument("--sample", type=int, default=40, help="mutants of each module (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="another seed chooses other mutants (%(default)s)")
    parser.add_argument("--minutes", type=float, default=60, help="time limit of everything (%(default)s)")
    arguments = parser.parse_args()
    modules = arguments.modules or list(MODULES)
    if unknown := [module for module in modules if module not in MODULES]:
        parser.error(f"unknown module {unknown[0]!r}. Choose from {', '.join(MODULES)}")
    start, total = time.monotonic(), [0, 0]
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        project = Project(Path(folder))
        for number, module in enumerate(modules, 1):  # each module gets its share of the time
            deadline = start + 60 * arguments.minutes * number / len(modules)
            score = project.measure(module, arguments.sample, arguments.seed, deadline)
            total = [sum(pair) for pair in zip(total, score, strict=True)]
    print(f"{'total':<36} {format_score(*total)}")
    return 0 if total[1] and total[0] / total[1] >= MIN_SCORE else 1


if __name__ == "__main__":
    sys.exit(main())
