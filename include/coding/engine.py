"""The data engine: DuckDB inside the worker, with a memory limit, spilling into the run's own folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from include.coding import texts
from include.coding.errors import StagingError
from include.warehouse.warehouse import quote_literal


@contextmanager
def open_engine(folder: Path, name: str, memory_mb: int) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield an engine that works in `folder` and leaves nothing behind; what a dead try left there is thrown away.

    :param folder: of the run; made if missing
    :param name: of the work, for its files
    :param memory_mb: megabytes that the engine takes before it spills to disk
    :raises StagingError: there is no room for what it keeps or spills
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # it holds people's texts
    database, spill = folder / f"{name}.duckdb", folder / f"{name}.spill"
    config = {"memory_limit": f"{memory_mb}MB", "temp_directory": str(spill), "autoinstall_known_extensions": False}
    _remove(database, spill)
    try:
        with duckdb.connect(str(database), config=config) as engine:  # type: ignore[arg-type]
            engine.execute("SET enable_progress_bar = false")  # else it draws one into the task's log
            texts.install(engine)
            yield engine
    except duckdb.OperationalError as error:  # what it could not write, to the disk or to its memory
        raise StagingError(
            f"the data engine ran out of room in {folder}, or in its memory: free some, or raise CODING_MEMORY_MB"
            f" ({' '.join(str(error).split())[:300]})"
        ) from error
    finally:
        _remove(database, spill)


def _remove(database: Path, spill: Path) -> None:
    shutil.rmtree(spill, ignore_errors=True)
    for path in (database, database.with_name(database.name + ".wal")):
        path.unlink(missing_ok=True)


def copy_to(engine: duckdb.DuckDBPyConnection, select: str, path: Path, options: str) -> None:
    """Write the rows of `select` to a file that appears when it is whole.

    :param options: of COPY, such as `FORMAT json`
    """
    partial = path.with_name(path.name + ".partial")
    engine.execute(f"COPY ({select}) TO {quote_literal(str(partial))} ({options})")
    partial.replace(path)
