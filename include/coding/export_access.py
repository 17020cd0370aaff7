"""Where a run may write an export: the rules of the deployment, checked before anything is sent and before writing.

Whoever may start a run names the file. So the deployment says in which folders it may be, and no run ever writes over
a file that another one can read. What is outside is refused in the same words whether it exists or not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from include.coding.errors import PlanError
from include.coding.files import path_from_uri
from include.coding.source_access import (
    DEFAULT_ACCESS,
    SourceAccess,
    find_path,
    is_allowed_object,
    is_object,
    parse_folders,
    resolve_allowed_path,
)


@dataclass(frozen=True)
class ExportAccess:
    """The folders to which runs may write exports. By default none.

    :param folders: absolute paths
    :param prefixes: URIs of object storage that stand for all objects below them
    :param sources: what runs may read
    :param open_storage: returns the fsspec file system of a URI
    """

    folders: tuple[Path, ...] = ()
    prefixes: tuple[str, ...] = ()
    sources: SourceAccess = DEFAULT_ACCESS
    open_storage: Callable[[str, str | None], Any] | None = field(default=None, compare=False)

    @classmethod
    def from_settings(
        cls, folders: str, sources: SourceAccess, private_folders: Iterable[Path], staging: Path | str | None
    ) -> ExportAccess:
        """Return what a setting allows.

        :param folders: `CODING_EXPORT_FOLDERS`, separated by commas
        :param private_folders, staging: as in :meth:`SourceAccess.from_settings`
        :raises PlanError: an entry cannot be used
        """
        paths, prefixes = parse_folders("CODING_EXPORT_FOLDERS", folders, private_folders, staging)
        return cls(paths, prefixes, sources, sources.open_storage)


@dataclass(frozen=True)
class ExportTarget:
    """The file that an export writes.

    :param uri: as a person named it
    :param path: without symbolic links; None for an object
    """

    uri: str
    path: Path | None


def find_target(export: str, source: str, access: ExportAccess) -> ExportTarget:
    """Return the file that the param `export` names.

    :param source: of the run
    :raises PlanError: runs may not write there, it is the source of the run, or its folder does not exist
    """
    if is_object(export):
        if not is_allowed_object(export, access.prefixes):
            raise _refuse_folder(export, access)
        if is_object(source) and source == export:
            raise _refuse_source(export)
        return ExportTarget(export, None)
    path = resolve_allowed_path(path_from_uri(export) if export.startswith("file:") else Path(export), access.folders)
    if path is None:
        raise _refuse_folder(export, access)
    if _is_source(path, source, access.sources):
        raise _refuse_source(export)
    if path.is_dir() or not path.parent.is_dir():
        raise PlanError(
            f"`export` {export!r} cannot be written: it is a folder, or its folder does not exist; create the folder,"
            " or name a file in another one"
        )
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise PlanError(f"`export` {export!r} cannot be written: the worker has no permission to write to its folder")
    return ExportTarget(export, path)


def check_new(target: ExportTarget, access: ExportAccess) -> None:
    """Refuse to replace a file in a folder from which runs read, because it can be the source of another run.

    :raises PlanError: there is such a file
    """
    path = target.path
    if path is not None and path.exists() and resolve_allowed_path(path, access.sources.folders):
        raise PlanError(
            f"`export` {target.uri!r} exists already, in a folder from which runs read files, where nothing is"
            " replaced: name another file, or remove it"
        )


def _is_source(path: Path, source: str, sources: SourceAccess) -> bool:
    """Return whether a file is the source of the run, or would be one of its files."""
    if is_object(source):
        return False
    source_path = find_path(source, sources)
    if source_path is None:
        return False
    if source_path.is_dir():
        return path.is_relative_to(source_path)
    if re.search(r"[*?\[]", source_path.name) and path.parent == source_path.parent and path.match(source_path.name):
        return True
    return path == source_path or (path.exists() and source_path.exists() and path.samefile(source_path))


def _refuse_folder(export: str, access: ExportAccess) -> PlanError:
    folders = ", ".join([*map(str, access.folders), *access.prefixes]) or "none"
    return PlanError(
        f"`export` {export!r} is not in a folder to which runs may write (allowed: {folders}). Name a file in such a"
        " folder, or have its folder added to CODING_EXPORT_FOLDERS"
    )


def _refuse_source(export: str) -> PlanError:
    return PlanError(f"`export` {export!r} is the source of the run, or one of its files: name another file")
