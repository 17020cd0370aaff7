"""Parts: the texts to send, cut into input files of the service."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass

import duckdb

from include.coding.engine import copy_to
from include.coding.errors import PlanError
from include.coding.plan import Plan
from include.coding.staging import Staging

#: Airflow maps a task over so many parts at most ([core] max_map_length).
MAX_PARTS = 1024
#: The smaller reading of 5 GB (contract 8, question 31).
MAX_PART_BYTES = 5_000_000_000

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """A slice of the texts to send: one input file, one operation.

    :param part: its number, from 0
    :param uri: of the input file: JSONL, each line `recordId` (the text's key), `occp_text`, `tasks_text`
    :param records: lines of the file
    :param bytes: size of the file
    :param sha256: of the file, hexadecimal
    :param expected_seconds: that its operation takes, after what earlier ones took; None if that is not known
    """

    part: int
    topic: str
    model_id: str
    force_new: bool
    uri: str
    records: int
    bytes: int
    sha256: str
    expected_seconds: float | None = None


def write_parts(engine: duckdb.DuckDBPyConnection, plan: Plan, staging: Staging) -> tuple[Part, ...]:
    """Write the engine's table `new_texts` (text_key, occp_text, tasks_text, place) as parts to `staging`.

    The same texts give the same parts, byte by byte. Files appear whole or not at all.

    :raises PlanError: more than 1,024 parts
    """
    ((lines,),) = engine.execute("SELECT count(*) FROM new_texts").fetchall()
    count = -(-lines // plan.records_per_part)
    if count > MAX_PARTS:
        raise PlanError(
            f"{lines} texts make {count} parts of {plan.records_per_part}; at most {MAX_PARTS} can be mapped: raise"
            f" records_per_part to {-(-lines // MAX_PARTS)} or more, or run fewer dates"
        )
    return tuple(_write_part(engine, plan, staging, number, lines) for number in range(count))


def _write_part(engine: duckdb.DuckDBPyConnection, plan: Plan, staging: Staging, number: int, lines: int) -> Part:
    first = number * plan.records_per_part
    last = min(first + plan.records_per_part, lines)
    written = staging.scratch / f"part-{number:04}.jsonl"
    copy_to(
        engine,
        "SELECT text_key AS recordId, occp_text, tasks_text FROM new_texts"
        f" WHERE place >= {first} AND place < {last} ORDER BY place",
        written,
        "FORMAT json",
    )
    size = written.stat().st_size
    if size > MAX_PART_BYTES:
        raise PlanError(f"part {number} has {size} bytes, the service takes {MAX_PART_BYTES}: lower records_per_part")
    with written.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    # named by its content: what another try of this task prepares never takes the place of what was sent
    path = written.replace(staging.scratch / f"part-{number:04}-{digest[:12]}.jsonl")
    log.info("Part %d: %d texts, %d bytes", number, last - first, size)
    return Part(number, plan.topic, plan.model_id, plan.force_new, staging.keep(path), last - first, size, digest)
