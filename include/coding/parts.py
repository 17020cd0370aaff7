"""Parts: the texts to send, split into input files of the service."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from include.coding.errors import PlanError
from include.coding.handoff import Count, Guid, Handoff, InputFile, PartNumber, Seconds, Sha256, Topic
from include.coding.plan import Plan

if TYPE_CHECKING:  # imported by the function that needs it, because small tasks that read a part load no engine
    from include.coding.engine import Engine
    from include.coding.staging import Staging

#: Airflow maps a task over at most this many parts ([core] max_map_length).
MAX_PARTS = 1024
#: The smaller of the two meanings of 5 GB (docs/service-contract.md 8.31).
MAX_PART_BYTES = 5_000_000_000

#: SQL of the lines of an input file, from a table of texts.
SELECT_INPUT_LINES = "SELECT text_key AS recordId, occp_text, tasks_text FROM {texts}"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fingerprint(Handoff):
    """What an operation codes: the topic, the GUID of the model, and the SHA-256 (hexadecimal) of the input file."""

    topic: Topic
    model_id: Guid
    input_sha256: Sha256


@dataclass(frozen=True)
class Part(Handoff):
    """A slice of the texts to send: one input file, one operation.

    :param part: number of the part, from 0
    :param input_uri: input file: JSONL, each line with `recordId` (the key of the text), `occp_text`, `tasks_text`
    :param records, bytes, sha256: number of lines, size, and hexadecimal hash of the file
    :param expected_seconds: expected duration of its operation, judging by earlier ones; None if unknown
    """

    part: PartNumber
    topic: Topic
    model_id: Guid
    force_new: bool
    input_uri: InputFile
    records: Count
    bytes: Count
    sha256: Sha256
    expected_seconds: Seconds | None = None

    @property
    def fingerprint(self) -> Fingerprint:
        """What its operation codes."""
        return Fingerprint(self.topic, self.model_id, self.sha256)


def write_parts(engine: Engine, plan: Plan, staging: Staging) -> tuple[Part, ...]:
    """Write the engine's table `memory.new_texts` (text_key, occp_text, tasks_text; ordered by key) as parts to
    `staging`.

    The same texts give the same parts, byte by byte. Each file appears complete or not at all.

    :raises PlanError: more than 1,024 parts, or a part above 5 GB
    """
    ((lines,),) = engine.execute("SELECT count(*) FROM memory.new_texts").fetchall()
    count = -(-lines // plan.records_per_part)
    if count > MAX_PARTS:
        raise PlanError(
            f"{lines:,} texts make {count:,} parts of {plan.records_per_part:,}, but Airflow can map at most"
            f" {MAX_PARTS:,}: raise records_per_part to {-(-lines // MAX_PARTS)} or more, or run fewer dates"
        )
    return tuple(_write_part(engine, plan, staging, number, lines) for number in range(count))


def _write_part(engine: Engine, plan: Plan, staging: Staging, number: int, lines: int) -> Part:
    first = number * plan.records_per_part
    last = min(first + plan.records_per_part, lines)
    draft = staging.scratch / f"part-{number:04}.jsonl"
    select = SELECT_INPUT_LINES.format(texts="memory.new_texts")
    size, digest = _copy_lines(engine, f"{select} WHERE rowid >= {first} AND rowid < {last} ORDER BY rowid", draft)
    if size > MAX_PART_BYTES:
        raise PlanError(
            f"part {number + 1} has {size:,} bytes, but the service accepts {MAX_PART_BYTES:,}: lower"
            " records_per_part"
        )
    # Named by its content, so that another attempt of this task never replaces a file that was sent.
    path = draft.replace(staging.scratch / f"part-{number:04}-{digest[:12]}.jsonl")
    log.info("Part %d: %s texts, %s bytes", number + 1, f"{last - first:,}", f"{size:,}")
    return Part(number, plan.topic, plan.model_id, plan.force_new, staging.keep(path), last - first, size, digest)


def _copy_lines(engine: Engine, select: str, draft: Path) -> tuple[int, str]:
    """Write the rows of a query as the lines of an input file. Return its bytes and SHA-256."""
    from include.coding.engine import copy_to_file

    copy_to_file(engine, select, draft, "FORMAT json")
    with draft.open("rb") as file:
        return draft.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()


def write_input_file(engine: Engine, select: str, staging: Staging) -> tuple[str, int, str]:
    """Write the rows of a query as an input file beside those of the parts. Return its URI, bytes and SHA-256."""
    draft = staging.scratch / "piece.jsonl"
    size, digest = _copy_lines(engine, select, draft)
    return staging.keep(name_input_file(draft, digest)), size, digest


def name_input_file(draft: Path, sha256: str) -> Path:
    """Give an input file that is no part its name, by its content, and return its path."""
    return draft.replace(draft.with_name(f"piece-{sha256[:16]}.jsonl"))
