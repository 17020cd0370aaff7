"""Scratch folders: local folders for the files that a task works on, which contain people's texts.

A task holds a lock in its folder, so the folder of a killed task is known by a lock that nobody holds. Its age says
nothing, because a long task can leave the folder itself unchanged for hours.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from include.coding.errors import StagingError

PREFIX = "coding-scratch-"
#: Parts of a scratch folder: the file that names the deployment and that the task locks, and the task's files.
LOCK_FILE, FILES = "owner.lock", "files"

log = logging.getLogger(__name__)


@contextmanager
def open_scratch(base: Path, deployment: str) -> Iterator[Path]:
    """Yield a new folder for the files of a task, and remove it at the end of the block.

    :param base: folder in which to create it
    :param deployment: distinguishes this deployment from others that use the same base
    :raises StagingError: it cannot be created
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        (folder / FILES).mkdir()
        lock_file = (folder / LOCK_FILE).open("x", encoding="utf-8")
    except OSError as error:
        raise StagingError(
            f"no folder for scratch files can be created in {str(base)!r} ({type(error).__name__}): check"
            " CODING_SCRATCH, the free space, and this worker's permissions"
        ) from None
    with lock_file:
        fcntl.flock(lock_file, fcntl.LOCK_EX)
        lock_file.write(deployment)  # after the lock: without the name the folder is not removed
        lock_file.flush()
        try:
            yield folder / FILES
        finally:
            _remove(folder)


def remove_stale_scratch(base: Path, deployment: str) -> None:
    """Remove the scratch folders that killed tasks of this deployment left behind.

    Folders of running tasks, of other deployments and of other users stay, as does everything that was not created by
    :func:`open_scratch`. Symbolic links are not followed.
    """
    for folder in base.glob(f"{PREFIX}*"):
        lock_path = folder / LOCK_FILE
        if not (_is_own(folder) and folder.is_dir() and _is_own(lock_path)):
            continue
        with suppress(OSError), lock_path.open("r+", encoding="utf-8") as lock_file:
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails if its task is running
            if lock_file.read() == deployment:
                _remove(folder)
                log.info("Removed the scratch folder %s, which a killed task left behind", folder)


def _is_own(path: Path) -> bool:
    """Return whether a path exists, belongs to this user and is not a symbolic link."""
    try:
        return path.lstat().st_uid == os.geteuid() and not path.is_symlink()
    except OSError:
        return False


def _remove(folder: Path) -> None:
    """Remove a scratch folder, its lock file last, so that an incomplete removal is completed by another task."""
    shutil.rmtree(folder / FILES)
    (folder / LOCK_FILE).unlink()
    folder.rmdir()
