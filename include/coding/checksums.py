"""Checksums by which a run recognizes what is published already: of its records, and of the file that has them."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

import duckdb

from include.coding.engine import Engine
from include.coding.plan import Plan
from include.coding.source_access import SourceFile, identify_content
from include.coding.texts import RULES

#: Fields of a plan on which it does not depend which records a run reads from a file, and how they are validated.
_OTHER_FIELDS = frozenset({
    "run_id", "schema", "memory_mb", "records_per_part", "force_new", "dry_run", "export", "changed_only",
    "competing_runs", "unreachable_dates", "max_uncoded_share", "max_rejected_share", "min_records_for_limits",
})  # fmt: skip


def compute_checksum(engine: Engine, plan: Plan) -> tuple[int, str, int]:
    """Return the number of records in the engine's `source`, a checksum of the records (in any order) and of the
    rules that validate them, and the bytes of the longest text."""
    ((records, total, longest),) = engine.execute(
        "SELECT count(*), sum(hash(record_id, response_date, occp_text, tasks_text)),"
        " coalesce(max(greatest(strlen(occp_text), strlen(tasks_text))), 0) FROM source"
    ).fetchall()
    # Another version of the engine can hash differently; then the run does its work again.
    rules = f"{RULES} {plan.clean} {plan.max_characters} {plan.model_version}"
    content = f"{records} {total} {duckdb.__version__} {rules}"
    return records, hashlib.sha256(content.encode()).hexdigest(), longest


def compute_file_checksum(file: SourceFile, plan: Plan) -> str | None:
    """Return a checksum of the bytes of a file, or of the files of a folder, and of all that decides which records
    the plan reads from them; None if it is an object, or is changed or removed meanwhile.

    With the same checksum, a run reads the same records. This takes a fraction of the time of reading them.
    """
    if not file.paths:
        return None
    fields = {name: value for name, value in plan.to_dict().items() if name not in _OTHER_FIELDS}
    checksum = hashlib.sha256(f"{json.dumps(fields, sort_keys=True)} {_describe_readers()}".encode())
    for path in file.paths:
        try:
            with path.open("rb") as content:
                checksum.update(hashlib.file_digest(content, "sha256").digest())
        except OSError:
            return None
    return checksum.hexdigest() if tuple(map(identify_content, file.paths)) == file.content else None


@cache
def _describe_readers() -> str:
    """Return what changes whenever the engine, or our code that reads sources, does."""
    code = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        code.update(path.read_bytes())
    return f"{duckdb.__version__} {code.hexdigest()}"
