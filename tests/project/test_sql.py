"""How statements are composed: values are bound, and every exception is listed here.

A statement that is composed at all, of quoted names and of constants and conditions of ours, has `# noqa: S608`. A new
one needs a look at what is put into it, and then a larger number here.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from include.warehouse.warehouse import inline_values, quote_date

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(path for room in ("dags", "include", "plugins") for path in (ROOT / room).rglob("*.py"))

#: Statements that are composed, by file. Unless a comment says otherwise: of names that `table` or the quoting helpers
#: have quoted, of lists of `?`, and of conditions whose values are bound.
COMPOSED_STATEMENTS = {
    "include/coding/abandoned.py": 4,
    "include/coding/checksums.py": 1,  # a constant
    "include/coding/claims.py": 8,
    "include/coding/csv_files.py": 1,  # a relation with quoted literals
    "include/coding/collect.py": 14,
    "include/coding/export.py": 6,  # also the types and expressions of columns of ours
    "include/coding/json_files.py": 1,  # quoted literals
    "include/coding/landing.py": 2,
    "include/coding/model_pins.py": 2,
    "include/coding/parquet_files.py": 2,  # also two constants
    "include/coding/prepare.py": 14,  # also a number of rows, and expressions on columns of ours
    "include/coding/publish.py": 7,  # also a constant
    "include/coding/recoding.py": 1,  # the number of a part
    "include/coding/report.py": 10,  # also constants
    "include/coding/results.py": 5,  # constants only
    "include/coding/run_log.py": 18,  # also constants
    "include/coding/source.py": 18,  # also a constant, numbers of characters and of rows, dates, by `quote_date`, and conditions on quoted columns
    "include/coding/staged_records.py": 3,  # also constants
    "include/coding/tables.py": 2,
    "include/coding/text_claims.py": 10,
    "include/comparison/changes.py": 7,  # also the number of samples
    "include/comparison/comparison.py": 1,
    "include/local_service/core/store.py": 3,  # names of the fields of our dataclasses
    "include/warehouse/duckdb_warehouse.py": 3,
    "include/warehouse/postgres_warehouse.py": 1,
    "include/warehouse/redshift_warehouse.py": 1,
}

#: Literals that are composed by hand, by file: what is between the quotes. All others pass `quote_literal` or
#: `quote_date`.
COMPOSED_LITERALS = {
    "include/coding/export_files.py": {"text"},  # a cell of a CSV file
    "include/coding/publish.py": {"REFUSED_BY_SERVICE"},  # a constant
    "include/coding/response_dates.py": {"MIN_DATE", "MAX_DATE", "shape", "problem"},  # constants; a message
    "include/coding/results.py": {"_LINE_TYPE"},  # a constant
    "include/coding/run_log.py": {"name"},  # one of three constants
    "include/coding/texts.py": {"_ENTITY", "_INVISIBLE", "_character_class(_SPELLINGS)"},  # constants
    "include/warehouse/duckdb_warehouse.py": {"operator_bytes", "memory_mb", "optimizers"},  # numbers; a constant
    "include/warehouse/warehouse.py": {"day.isoformat()"},  # quote_date itself
    "plugins/coding_service/hooks.py": {"operation.status"},  # a message
}  # fmt: skip


def name_file(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_ruff_looks_for_composed_statements_everywhere_but_in_tests_and_measurements() -> None:
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert "S608" in lint["select"]
    assert {pattern for pattern, rules in lint["per-file-ignores"].items() if "S608" in rules} == {
        "tests/*",
        "bench/*",
    }


def test_the_composed_statements_are_those_of_the_list() -> None:
    counts = {name_file(path): len(re.findall("# noqa: .*S608", path.read_text("utf-8"))) for path in FILES}
    assert {name: count for name, count in counts.items() if count} == COMPOSED_STATEMENTS


def find_composed_literals(tree: ast.AST) -> Iterator[str]:
    """Yield what f-strings put directly after a single quote."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            for before, value in zip(node.values, node.values[1:], strict=False):
                is_after_quote = isinstance(before, ast.Constant) and str(before.value).endswith("'")
                if is_after_quote and isinstance(value, ast.FormattedValue) and value.conversion == -1:
                    yield ast.unparse(value.value)


def test_a_literal_in_a_statement_is_quoted_by_a_helper() -> None:
    literals = {name_file(path): set(find_composed_literals(ast.parse(path.read_text("utf-8")))) for path in FILES}
    assert {name: values for name, values in literals.items() if values} == COMPOSED_LITERALS


def test_the_rule_about_literals_finds_what_a_person_could_inject() -> None:
    assert list(find_composed_literals(ast.parse("""f"SELECT * FROM t WHERE d = DATE '{plan.to_date}'" """))) == [
        "plan.to_date"
    ]


def test_no_field_of_a_plan_or_of_a_param_is_put_into_a_statement() -> None:
    fields = re.compile(r"\b(plan|params|prepared|summary|piece|part)\.(?!schema\b)")
    values_of_runs: Counter[str] = Counter()
    for path in FILES:
        lines = path.read_text("utf-8").splitlines()
        for node in ast.walk(ast.parse("\n".join(lines))):
            if not isinstance(node, ast.JoinedStr):
                continue
            if not any("S608" in line for line in lines[node.lineno - 1 : node.end_lineno]):
                continue
            values = [ast.unparse(part.value) for part in ast.walk(node) if isinstance(part, ast.FormattedValue)]
            values_of_runs.update(f"{name_file(path)}: {value}" for value in values if fields.search(value))
    assert not values_of_runs


@pytest.mark.parametrize("value", ["2026-10-05", "2026-10-05' OR 1=1 --", 5, None])
def test_only_a_date_becomes_a_date_in_a_statement(value: Any) -> None:
    assert quote_date(date(2026, 10, 5)) == "DATE '2026-10-05'"
    with pytest.raises(TypeError):
        quote_date(value)


def test_a_text_cannot_end_its_literal() -> None:
    assert inline_values("SELECT ?", ["a'; DROP TABLE x; --"]) == "SELECT 'a''; DROP TABLE x; --'"
