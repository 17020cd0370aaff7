"""The data engine: DuckDB inside the worker, with a memory limit, spilling to the run's own folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from include.coding.errors import StagingError
from include.coding.texts import install_macros
from include.warehouse.warehouse import quote_literal

Engine = duckdb.DuckDBPyConnection


@contextmanager
def open_engine(folder: Path, name: str, memory_mb: int) -> Iterator[Engine]:
    """Yield an engine that works in `folder` and leaves nothing there; files of a killed attempt are removed first.

    :param folder: created if missing
    :param name: prefix of its files
    :param memory_mb: megabytes that the engine uses before it spills to disk
    :raises StagingError: the disk or the memory is full
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # owner only: its files hold people's texts
    database, spill = folder / f"{name}.duckdb", folder / f"{name}.spill"
    config = {"memory_limit": f"{memory_mb}MB", "temp_directory": str(spill), "autoinstall_known_extensions": False}
    _remove(database, spill)
    try:
        with duckdb.connect(str(database), config=config) as engine:  # type: ignore[arg-type]
            engine.execute("SET enable_progress_bar = false")  # it would be drawn into the log of the task
            install_macros(engine)
            yield engine
    except duckdb.OperationalError as error:  # the disk or the engine's memory is full
        raise StagingError(
            f"the data engine ran out of disk space in {folder} or out of memory: free disk space, or raise"
            f" CODING_MEMORY_MB ({' '.join(str(error).split())[:300]})"
        ) from error
    finally:
        _remove(database, spill)


def _remove(database: Path, spill: Path) -> None:
    shutil.rmtree(spill, ignore_errors=True)
    for path in (database, database.with_name(database.name + ".wal")):
        path.unlink(missing_ok=True)


def copy_to_file(engine: Engine, select: str, path: Path, options: str) -> None:
    """Write the rows of a query to a file that appears only when it is complete.

    :param options: options of COPY, such as `FORMAT json`
    """
    partial = path.with_name(path.name + ".partial")
    engine.execute(f"COPY ({select}) TO {quote_literal(str(partial))} ({options})")
    partial.replace(path)
