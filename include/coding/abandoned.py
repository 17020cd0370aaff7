"""Operations that were opened but never used: recorded in `coding_operations`, so that somebody can see them.

The step that opens an operation writes a file about it to the folder of the run. So operations are found even if the
run was deleted, as long as its files exist. Another file there says which run it is, and which tables it has.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from include.coding.errors import PlanError
from include.coding.handoff import Handoff, RunId, SchemaName
from include.coding.plan import Plan
from include.coding.staging import Staging
from include.coding.tables import create_tables, table
from include.warehouse.warehouse import Session, Warehouse

ABANDONED, UNKNOWN = "abandoned", "unknown"
#: Names of the files begin with this; the id of the operation follows.
FILE_PREFIX = "operation-"
#: Name of the file about the run itself.
OWNER_FILE = "run.json"

#: Largest file that describes an operation; ours have a few hundred bytes.
MAX_FILE_BYTES = 1 << 14

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpenedOperation(Handoff):
    """An operation that a run opened.

    :param records: number of lines of its input file; None if unknown
    :param is_sent: whether its input was sent, or may have been
    """

    operation_id: str
    run_id: str
    part: int
    topic: str
    model_id: str
    records: int | None
    is_sent: bool


@dataclass(frozen=True)
class FolderOwner(Handoff):
    """The run whose files a folder has: its key, and the schema of its tables."""

    run_id: RunId
    schema: SchemaName


def write_owner(plan: Plan, staging: Staging) -> None:
    """Write to the folder of a run which run it is, for those who find its files without the run."""
    staging.scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = staging.scratch / OWNER_FILE
    path.unlink(missing_ok=True)
    path.write_text(json.dumps(FolderOwner(plan.run_id, plan.schema).to_dict()), encoding="utf-8")
    staging.keep(path)


def read_owner(staging: Staging) -> FolderOwner | None:
    """Return the run of a folder; None if that is not known, as for runs of earlier versions."""
    content = staging.read_text(f"{staging.uri}/{OWNER_FILE}", MAX_FILE_BYTES)
    if content is None:
        return None
    try:
        return FolderOwner.from_dict(json.loads(content))
    except (ValueError, RecursionError, PlanError):
        log.warning("The file %s of %s does not describe a run", OWNER_FILE, staging.uri)
        return None


def read_opened_operations(staging: Staging) -> list[OpenedOperation]:
    """Return the operations that the files of a run name. A file with other content is skipped."""
    operations = []
    for uri in staging.find(FILE_PREFIX):
        try:
            operations.append(OpenedOperation.from_dict(json.loads(staging.read_text(uri, MAX_FILE_BYTES) or "")))
        except (ValueError, RecursionError, PlanError):
            log.warning("Skipped %s: it does not describe an operation", uri)
    return operations


def record_abandoned_operations(
    open_warehouse: Callable[[], Warehouse], schema: str, staging: Staging, run_id: str | None = None
) -> None:
    """Record the operations of a run that were opened but never used, if there are any.

    :param open_warehouse: called only if the run has opened operations
    :param run_id: key of the run; None: the id that the files name, which is the key of a run of `recode_occupations`

    Those that have a row already stay as they are, unless all that is known is that they were opened.
    """
    operations = read_opened_operations(staging)
    if not operations:
        return
    with open_warehouse().session() as session:
        create_tables(session, schema)
        with session.transaction(lock=table(schema, "coding_runs")):
            _record(session, schema, operations, run_id)


def list_abandoned_operations(session: Session, schema: str, run_id: str) -> list[str]:
    """Return the ids of the recorded operations that a run opened and never used."""
    query = f"SELECT operation_id FROM {table(schema, 'coding_operations')} WHERE run_id = ? AND state = ? ORDER BY 1"  # noqa: S608
    return [operation_id for (operation_id,) in session.execute(query, [run_id, ABANDONED])]


def _record(session: Session, schema: str, operations: Iterable[OpenedOperation], run_id: str | None) -> None:
    name = table(schema, "coding_operations")
    for operation in operations:
        if not operation.is_sent:  # no result can come any more
            session.execute(
                f"DELETE FROM {name} WHERE operation_id = ? AND state = ? AND usable = 0",  # noqa: S608
                [operation.operation_id, UNKNOWN],
            )
        if session.execute(f"SELECT 1 FROM {name} WHERE operation_id = ?", [operation.operation_id]):  # noqa: S608
            continue
        records = operation.records or 0 if operation.is_sent else 0
        error = "its input was sent, but its results were not collected" if operation.is_sent else "it got no input"
        row = (
            operation.operation_id, run_id or operation.run_id, operation.part, operation.topic, operation.model_id,
            records, 0, ABANDONED, error, 0, 0, None, session.now(), None,
        )  # fmt: skip
        session.execute(f"INSERT INTO {name} VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608
        log.warning("Operation %s was opened and is abandoned: %s", operation.operation_id, error)
