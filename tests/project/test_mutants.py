"""Mutants are changes of behaviour, in Python and in SQL, and not of annotations or documentation."""

from __future__ import annotations

import pytest

pytest.importorskip("cosmic_ray", reason="`make mutants` installs cosmic-ray")
from bench.mutants import MODULES, Project, format_score, make_mutants

SOURCE = '''"""A module."""
def count(rows: int | None, limit: int = 3) -> list[int] | None:
    """Return SELECT x FROM rows WHERE a = b."""
    return None if rows > limit else query("SELECT 1 FROM t WHERE a = 1 AND b IS NULL")
'''


def test_python_and_sql_are_changed_and_annotations_and_docstrings_are_not() -> None:
    mutants = make_mutants(SOURCE)
    assert {mutant.line for mutant in mutants} == {2, 4}
    sources = [mutant.source for mutant in mutants]
    assert any("rows >= limit" in source for source in sources)
    assert any("limit: int = 4" in source for source in sources)
    assert any("a <> 1 AND" in source for source in sources)
    assert any("a = 1 OR b" in source for source in sources)
    assert any("b IS NOT NULL" in source for source in sources)
    assert all("Return SELECT x FROM rows WHERE a = b." in source for source in sources)
    assert len(set(sources)) == len(sources)


def test_every_module_and_its_tests_exist(tmp_path) -> None:
    project = Project(tmp_path)
    for module, tests in MODULES.items():
        assert all((project.folder / name).is_file() for name in (module, *tests))


def test_a_score_without_a_test_is_none() -> None:
    assert format_score(34, 40) == " 85%, 34 killed of 40 tested"
    assert format_score(0, 0) == "   no time, 0 tested"
