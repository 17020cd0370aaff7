"""Where a run may write an export: the rules of the deployment, checked before anything is sent and before writing.

Whoever may start a run names the file. So the deployment says in which folders it may be, and none of them may be one
from which runs read. What is outside is refused in the same words whether it exists or not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from include.coding.errors import PlanError
from include.coding.files import path_from_uri
from include.coding.source_access import (
    DEFAULT_ACCESS,
    SourceAccess,
    is_allowed_object,
    is_below,
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
        for entry, source in [*product(paths, sources.folders), *product(prefixes, sources.prefixes)]:
            if is_below(str(entry), str(source)) or is_below(str(source), str(entry)):
                raise PlanError(
                    f"CODING_EXPORT_FOLDERS names {str(entry)!r}, and CODING_SOURCE_FOLDERS {str(source)!r}: an"
                    " export could replace what other runs read. Name folders of which none contains another"
                )
        return cls(paths, prefixes, sources, sources.open_storage)


@dataclass(frozen=True)
class ExportTarget:
    """The file that an export writes.

    :param uri: as a person named it
    :param path: without symbolic links; None for an object
    """

    uri: str
    path: Path | None


def find_target(export: str, access: ExportAccess) -> ExportTarget:
    """Return the file that the param `export` names.

    :raises PlanError: runs may not write there, or its folder does not exist
    """
    if is_object(export):
        # `?versionId=` and the like are no part of the name of an object
        if re.search("[?#]", export) or not is_allowed_object(export, access.prefixes):
            raise _refuse_folder(export, access)
        return ExportTarget(export, None)
    path = resolve_allowed_path(path_from_uri(export) if export.startswith("file:") else Path(export), access.folders)
    if path is None:
        raise _refuse_folder(export, access)
    if path.is_dir() or not path.parent.is_dir():
        raise PlanError(
            f"`export` {export!r} cannot be written: it is a folder, or its folder does not exist; create the folder,"
            " or name a file in another one"
        )
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise PlanError(f"`export` {export!r} cannot be written: the worker has no permission to write to its folder")
    return ExportTarget(export, path)


def _refuse_folder(export: str, access: ExportAccess) -> PlanError:
    folders = ", ".join([*map(str, access.folders), *access.prefixes]) or "none"
    return PlanError(
        f"`export` {export!r} is not in a folder to which runs may write (allowed: {folders}). Name a file in such a"
        " folder, or have its folder added to CODING_EXPORT_FOLDERS"
    )
