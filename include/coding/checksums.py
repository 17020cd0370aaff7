"""Checksums by which a run recognizes what is published already: of its records, and of the file that has them."""

from __future__ import annotations

import hashlib
import json
import sys
from importlib.metadata import version
from pathlib import Path

import duckdb

from include.coding.engine import Engine, execute_within_memory
from include.coding.plan import Plan
from include.coding.source import LONGEST_TEXT
from include.coding.source_access import SourceFile, identify_content
from include.coding.texts import RULES

#: Fields of a plan that change neither which records are read from a file, nor how these are validated.
_IRRELEVANT_FIELDS = frozenset({
    "run_id", "schema", "memory_mb", "records_per_part", "force_new", "dry_run", "export", "selection",
    "changed_only", "competing_runs", "unreachable_dates", "max_uncoded_share", "max_rejected_share",
    "min_records_for_limits",
})  # fmt: skip
#: A larger file has no checksum: its other columns can be much larger than those that are read.
MAX_HASHED_BYTES = 1 << 30
#: Libraries that read files.
_READER_PACKAGES = ("duckdb", "pyarrow", "python-calamine")


def hash_modules(folder: Path) -> str:
    """Return a hash of the modules in a folder."""
    code = hashlib.sha256()
    for path in sorted(folder.glob("[!.]*.py")):
        code.update(path.read_bytes())
    return code.hexdigest()


#: What changes whenever files can be read in another way. It is computed when the code is imported, because a new
#: version of the project can be installed while this one runs.
READER_VERSIONS = " ".join([sys.version, *map(version, _READER_PACKAGES), hash_modules(Path(__file__).parent)])


def compute_checksum(engine: Engine, plan: Plan) -> tuple[int, str, int]:
    """Return the number of records in the engine's `source`, a checksum of the records (in any order) and of the
    rules that validate them, and the bytes of the longest text."""
    ((records, total, longest_bytes),) = execute_within_memory(
        engine,
        f"SELECT count(*), sum(hash(record_id, response_date, occp_text, tasks_text)), {LONGEST_TEXT} FROM source",  # noqa: S608
    ).fetchall()
    # Another version of the engine can hash differently; then the run does its work again.
    rules = f"{RULES} {plan.clean} {plan.max_characters} {plan.model_version}"
    content = f"{records} {total} {duckdb.__version__} {rules}"
    return records, hashlib.sha256(content.encode()).hexdigest(), longest_bytes


def compute_file_checksum(file: SourceFile, plan: Plan) -> str | None:
    """Return a checksum of the bytes of a file, or of the files of a folder, and of all that decides which records
    the plan reads from them; None if it is an object or very large, or is changed or removed meanwhile.

    With the same checksum, a run reads the same records.
    """
    if not file.paths:
        return None
    fields = {name: value for name, value in plan.to_dict().items() if name not in _IRRELEVANT_FIELDS}
    checksum = hashlib.sha256(f"{json.dumps(fields, sort_keys=True)} {RULES} {READER_VERSIONS}".encode())
    try:
        if sum(path.stat().st_size for path in file.paths) > MAX_HASHED_BYTES:
            return None
        for path in file.paths:
            with path.open("rb") as content:
                checksum.update(hashlib.file_digest(content, "sha256").digest())
    except OSError:
        return None
    return checksum.hexdigest() if tuple(map(identify_content, file.paths)) == file.content else None
