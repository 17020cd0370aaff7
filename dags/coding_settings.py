"""Settings of the deployment: Airflow Variables, or environment variables of the same names."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from airflow.sdk import Variable

from coding_service.storage import storage_path
from include.coding.staging import Staging
from include.warehouse.warehouse import Warehouse

#: Folders of the staging area. What is in the last one stays: reports that people asked for.
RUNS, EXCHANGE = "occupation-coding-runs", "occupation-coding-exchange"
COMPARISONS = "occupation-coding-comparisons"
#: Begin of the names of scratch folders, and seconds after which one that nobody writes to is no task's any more.
SCRATCH, LONGEST_TASK = "occupation-coding-", 86_400.0


def setting(name: str, default: str) -> str:
    """Value of the Airflow Variable `name`, else of the environment variable, else the default."""
    return Variable.get(name, default=None) or os.environ.get(name) or default


def staging_base() -> str:
    """URI below which everything lies that tasks hand to each other (`CODING_STAGING`).

    :raises InputFileError: it is neither a `file:///` nor an `s3://` URI
    """
    home = Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()
    base = setting("CODING_STAGING", (home / "staging").as_uri()).rstrip("/")
    storage_path(base)
    return base


def staging_of(run_id: str, area: str = RUNS) -> str:
    """URI of the folder of a run."""
    readable = re.sub(r"[^A-Za-z0-9._-]", "-", run_id)[:80]  # two run ids may read alike: the hash tells them apart
    return f"{staging_base()}/{area}/{readable}-{hashlib.sha256(run_id.encode()).hexdigest()[:8]}"


def open_warehouse(memory_mb: int | None = None) -> Warehouse:
    """The warehouse of the connection `warehouse_default`; Redshift hands rows over beside the runs.

    :param memory_mb: of an embedded one; None: little
    """
    from include.warehouse.connect import MEMORY_MB, connect  # not before: most tasks need no driver of a warehouse

    return connect(memory_mb=memory_mb or MEMORY_MB, exchange=f"{staging_base()}/{EXCHANGE}")


def file_system_of(uri: str) -> Any:
    """The fsspec file system of a URI of object storage; None for `file://`."""
    path = storage_path(uri)
    return None if isinstance(path, Path) else path.fs


@contextmanager
def open_staging(uri: str) -> Iterator[Staging]:
    """The files of a run, by the URI of their folder, for as long as a task works on them.

    What is worked on lies in the folder itself, or, if that is in object storage, in a folder of the try's own below
    `CODING_SCRATCH` (the system's folder for temporary files), where nothing is left.
    """
    path = storage_path(uri)
    if isinstance(path, Path):
        yield Staging(uri, path)
        return
    base = Path(setting("CODING_SCRATCH", tempfile.gettempdir()))
    remove_what_killed_tasks_left(base)
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=base) as scratch:
        yield Staging(uri, Path(scratch), path.fs)


def remove_what_killed_tasks_left(base: Path) -> None:
    """People's texts lie there, and another worker may have taken up the task since."""
    for folder in base.glob(f"{SCRATCH}*"):
        with suppress(FileNotFoundError):  # another task does the same
            if time.time() - folder.stat().st_mtime > LONGEST_TASK:
                shutil.rmtree(folder, ignore_errors=True)
