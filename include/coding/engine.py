"""The data engine: DuckDB inside the worker, with a memory limit, spilling to the run's own folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from include.coding.errors import EngineError, StagingError
from include.coding.files import escape_glob
from include.coding.texts import install_text_key
from include.warehouse.duckdb_warehouse import is_out_of_memory, restrict_access, save_memory
from include.warehouse.warehouse import ArrowRows, quote_literal

Engine = duckdb.DuckDBPyConnection


@contextmanager
def open_engine(folder: Path, name: str, memory_mb: int, source_files: Iterable[Path] = ()) -> Iterator[Engine]:
    """Yield an engine that works in `folder` and leaves nothing there; files of a killed attempt are removed first.

    It can use no other files, and load no extension. Tables of its database `memory` are written without compression,
    which takes half the time; they go to the disk only if the memory is full.

    :param folder: created if missing
    :param name: prefix of its files
    :param memory_mb: megabytes that the engine uses before it spills to disk
    :param source_files: files elsewhere that it can read
    :raises StagingError: the disk or the memory is full
    :raises EngineError: the engine rejects a statement
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # owner only: its files hold people's texts
    database, spill = folder / f"{name}.duckdb", folder / f"{name}.spill"
    config = {"memory_limit": f"{memory_mb}MB", "temp_directory": str(spill)}
    patterns = [name for path in source_files for name in (str(path), escape_glob(path))]
    _remove(database, spill)
    try:
        with duckdb.connect(str(database), config=config) as engine:  # type: ignore[arg-type]
            restrict_access(engine, [str(folder), escape_glob(folder)], patterns)
            engine.execute("SET enable_progress_bar = false")  # it would be drawn into the log of the task
            engine.execute("ATTACH ':memory:' AS memory")
            install_text_key(engine)
            yield engine
    except duckdb.Error as error:  # not chained, because the text of an engine can quote the values of a row
        raise _describe_failure(error, folder, memory_mb) from None
    finally:
        _remove(database, spill)


def find_folder(engine: Engine) -> Path:
    """Return the folder in which an engine works."""
    ((path,),) = engine.execute(
        "SELECT path FROM duckdb_databases() WHERE database_name = current_database()"
    ).fetchall()
    return Path(path).parent


def _describe_failure(error: duckdb.Error, folder: Path, memory_mb: int) -> Exception:
    """Return our error for one of the engine, without its text."""
    kind = type(error).__name__
    if is_out_of_memory(error):
        return StagingError(
            f"the data engine ran out of its {memory_mb} MB of memory, although it spills to {folder}: raise"
            " CODING_MEMORY_MB, or free disk space there"
        )
    if isinstance(error, duckdb.OperationalError):
        return StagingError(
            f"the data engine ran out of disk space in {folder}, or a file there cannot be read or written ({kind}):"
            " free disk space, and check the permissions of the folder"
        )
    return EngineError(
        f"the data engine rejected a statement ({kind}): see the traceback for the step, and check the source and the"
        " files of the run"
    )


def _remove(database: Path, spill: Path) -> None:
    shutil.rmtree(spill, ignore_errors=True)
    for path in (database, database.with_name(database.name + ".wal")):
        path.unlink(missing_ok=True)


def execute_within_memory(engine: Engine, sql: str, values: Any = None) -> Engine:
    """Run a statement and return the engine with its rows. If it runs out of memory, it is repeated in a way that
    needs less: see :func:`save_memory`."""
    try:
        return engine.execute(sql, values)
    except duckdb.OutOfMemoryException:
        save_memory(engine)
        return engine.execute(sql, values)


def create_table(engine: Engine, name: str, rows: ArrowRows) -> None:
    """Create or replace a table of the engine with these rows. They can be a stream, so the statement is not repeated
    if the memory does not suffice."""
    engine.register("rows", rows)
    engine.execute(f"CREATE OR REPLACE TABLE {name} AS FROM rows")
    engine.unregister("rows")


@contextmanager
def use_one_thread(engine: Engine) -> Iterator[None]:
    """Let an engine use one thread within the block, for rows that are read as a stream: each thread holds rows of
    its own, and a stream that runs out of memory cannot be repeated."""
    ((threads,),) = engine.execute("SELECT current_setting('threads')").fetchall()
    engine.execute("SET threads = 1")
    try:
        yield
    finally:
        engine.execute(f"SET threads = {threads}")


def copy_to_file(engine: Engine, select: str, path: Path, options: str) -> None:
    """Write the rows of a query to a file that appears only when it is complete.

    :param options: options of COPY, such as `FORMAT json`
    """
    partial = path.with_name(path.name + ".partial")
    execute_within_memory(engine, f"COPY ({select}) TO {quote_literal(str(partial))} ({options})")
    partial.replace(path)
