"""What a run may read as its source or crosswalk: the rules of the deployment, checked before anything is read.

Whoever may start a run names a table or a file, and its texts are sent to the service. So the deployment says which
tables and folders may be named. What is refused is refused in the same words whether it exists or not.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from include.coding.errors import PlanError, SourceError
from include.coding.files import path_from_uri
from include.coding.tables import is_project_table
from include.warehouse.warehouse import Session, quote_column

#: Schemas of the warehouses themselves; their names, or how these begin.
_SYSTEM_SCHEMAS, _SYSTEM_PREFIXES = ("information_schema",), ("pg_",)


@dataclass(frozen=True)
class SourceAccess:
    """The tables and folders that runs may read. By default: tables of the connection's own schema, and no files.

    :param tables: `schema.table` or `schema.*`, as the warehouse's catalogue writes them; empty for the default
    :param folders: absolute paths
    :param project_schema: schema of the project's tables, which are never a source
    """

    tables: tuple[str, ...] = ()
    folders: tuple[Path, ...] = ()
    project_schema: str = "coding"

    @classmethod
    def from_settings(
        cls, tables: str, folders: str, project_schema: str, private_folders: Iterable[Path], staging: Path | None
    ) -> SourceAccess:
        """Return what two settings allow.

        :param tables: `CODING_SOURCE_TABLES`, separated by commas
        :param folders: `CODING_SOURCE_FOLDERS`, separated by commas
        :param private_folders: folders that no allowed folder may be or contain
        :param staging: folder of the files of all runs, which may not contain an allowed folder either
        :raises PlanError: an entry cannot be used
        """
        return cls(
            tuple(map(_parse_table, _split(tables))),
            tuple(_parse_folder(folder, private_folders, staging) for folder in _split(folders)),
            project_schema,
        )

    def describe_tables(self) -> str:
        """Return the rule about tables as a clause of a message."""
        return ", ".join(self.tables) or "those of the schema of the connection"

    def allows_table(self, schema: str, name: str, current_schema: str | None) -> bool:
        """Return whether a run may read a table or view.

        :param current_schema: schema of the connection
        """
        is_system = schema.lower() in _SYSTEM_SCHEMAS or schema.lower().startswith(_SYSTEM_PREFIXES)
        # The schemas of trials, and of DAGs with tables of their own, begin with that of the project.
        is_of_project = f"{schema}_".lower().startswith(f"{self.project_schema}_".lower())
        if is_system or (is_of_project and is_project_table(name.lower())):
            return False
        if not self.tables:
            return schema == current_schema
        return f"{schema}.*" in self.tables or f"{schema}.{name}" in self.tables


#: What runs may read if no setting says otherwise.
DEFAULT_ACCESS = SourceAccess()


@dataclass(frozen=True)
class SourceFile:
    """A file that a run may read.

    :param path: without symbolic links
    :param content: what :func:`identify_content` returned when access was checked
    """

    path: Path
    content: tuple[int, ...]


def _split(setting: str) -> list[str]:
    return [entry.strip() for entry in setting.split(",") if entry.strip()]


def _parse_table(entry: str) -> str:
    schema, _, name = entry.partition(".")
    if not schema or not name or "." in name or "*" in schema or ("*" in name and name != "*"):
        raise PlanError(f"CODING_SOURCE_TABLES names {entry!r}; expected 'schema.table' or 'schema.*'")
    return entry


def _parse_folder(entry: str, private_folders: Iterable[Path], staging: Path | None) -> Path:
    if not entry.startswith("/"):
        raise PlanError(f"CODING_SOURCE_FOLDERS names {entry!r}; expected the absolute path of a folder")
    folder = Path(entry).resolve()
    for private_folder in (*private_folders, *filter(None, [staging])):
        if private_folder.resolve().is_relative_to(folder):
            raise PlanError(
                f"CODING_SOURCE_FOLDERS names {entry!r}, which is or contains {str(private_folder)!r}: name a folder"
                " that contains nothing but data"
            )
    if staging is not None and folder.is_relative_to(staging.resolve()):
        raise PlanError(
            f"CODING_SOURCE_FOLDERS names {entry!r}, which is in the staging area, where texts of all runs are: name"
            " a folder outside it"
        )
    return folder


def find_table(name: str, access: SourceAccess, session: Session) -> str | None:
    """Return the SQL name, with its schema, of a table or view that a run may read; None if there is none.

    It is looked up in the catalogue, because an engine can take the name of a missing table for something else:
    DuckDB for a file, PostgreSQL for a table of its own.

    :param name: `table`, which is in the schema of the connection, or `schema.table`
    """
    ((current_schema,),) = session.execute("SELECT CAST(current_schema() AS VARCHAR)")
    schema, dot, table = name.rpartition(".")
    match = session.look_up_table(schema if dot else current_schema or "", table)
    if match is None or not access.allows_table(*match, current_schema):
        return None
    return ".".join(map(quote_column, match))


def find_path(source: str, access: SourceAccess) -> Path | None:
    """Return the path of a file that a run may read, without symbolic links; None if `source` names a table. The file
    may not exist.

    :raises SourceError: it is in none of the allowed folders, or `source` is neither a table nor a local file
    """
    scheme = urlsplit(source).scheme
    if scheme and scheme != "file":
        raise SourceError(f"source {source!r} is not supported: use a file:// URI or a table of the warehouse")
    if not scheme and not source.startswith("/"):
        return None
    path = path_from_uri(source) if scheme else Path(source)
    try:
        resolved = path.resolve()
        is_allowed = ".." not in path.parts and any(
            resolved.is_relative_to(folder.resolve()) for folder in access.folders
        )
    except (OSError, RuntimeError, ValueError):  # a loop of links, or a NUL
        is_allowed = False
    if not is_allowed:
        folders = ", ".join(map(str, access.folders)) or "none"
        raise SourceError(
            f"source {source!r} is not in a folder from which runs may read files (allowed: {folders}). Move the file"
            " into such a folder, or have its folder added to CODING_SOURCE_FOLDERS"
        )
    return resolved


def open_source_file(source: str, path: Path) -> SourceFile:
    """Return the file of a path that :func:`find_path` returned.

    :raises SourceError: it was replaced by a link after the check, or it also has a name elsewhere
    """
    content = identify_content(path)
    if not content or path.resolve() != path:
        raise SourceError(f"source {source!r} cannot be read, or was replaced by a link while it was checked")
    if path.stat().st_nlink > 1:
        raise SourceError(
            f"source {source!r} has more than one name (hard links), so it can be a file of another folder: copy it"
        )
    return SourceFile(path, content)


def identify_content(path: Path) -> tuple[int, ...]:
    """Return values that change when a regular file is replaced, removed or written to; none for anything else, such
    as a symbolic link or a pipe."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ()
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    is_file = stat.S_ISREG(status.st_mode)
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns) if is_file else ()
