"""What a run may read as its source or crosswalk: the rules of the deployment, checked before anything is read.

Whoever may start a run names a table or a file, and its texts are sent to the service. So the deployment says which
tables and folders may be named. What is refused is refused in the same words whether it exists or not.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from include.coding.errors import PlanError, SourceError
from include.coding.files import path_from_uri
from include.coding.tables import is_project_table
from include.warehouse.warehouse import Session, quote_column

#: Largest number of files of a folder.
MAX_FILES = 10_000
#: Schemas of the warehouses themselves; their names, or how these begin.
_SYSTEM_SCHEMAS, _SYSTEM_PREFIXES = ("information_schema",), ("pg_",)


@dataclass(frozen=True)
class SourceAccess:
    """The tables and folders that runs may read. By default: tables of the connection's own schema, and no files.

    :param tables: `schema.table` or `schema.*`, as the warehouse's catalogue writes them; empty for the default
    :param folders: absolute paths
    :param project_schema: schema of the project's tables, which are never a source
    :param prefixes: URIs of object storage, such as `s3://bucket/answers`, that stand for all objects below them
    :param open_storage: returns the fsspec file system of a URI, with an Airflow connection or the usual one
    """

    tables: tuple[str, ...] = ()
    folders: tuple[Path, ...] = ()
    project_schema: str = "coding"
    prefixes: tuple[str, ...] = ()
    open_storage: Callable[[str, str | None], Any] | None = field(default=None, compare=False)

    @classmethod
    def from_settings(
        cls,
        tables: str,
        folders: str,
        project_schema: str,
        private_folders: Iterable[Path],
        staging: Path | str | None,
        open_storage: Callable[[str, str | None], Any] | None = None,
    ) -> SourceAccess:
        """Return what two settings allow.

        :param tables: `CODING_SOURCE_TABLES`, separated by commas
        :param folders: `CODING_SOURCE_FOLDERS`, separated by commas
        :param private_folders: folders that no allowed folder may be or contain
        :param staging: folder of the files of all runs, or its URI in object storage; it may not contain an allowed
            folder either
        :raises PlanError: an entry cannot be used
        """
        paths, prefixes = parse_folders("CODING_SOURCE_FOLDERS", folders, private_folders, staging)
        return cls(tuple(map(_parse_table, _split(tables))), paths, project_schema, prefixes, open_storage)

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
    """A file that a run may read, or the Parquet files of a folder.

    :param paths: without symbolic links; none for an object
    :param content: what :func:`identify_content` returned for each when access was checked
    :param uri: of an object, which has to be copied before it is read
    """

    paths: tuple[Path, ...]
    content: tuple[tuple[int, ...], ...] = ()
    uri: str | None = None


def _split(setting: str) -> list[str]:
    return [entry.strip() for entry in setting.split(",") if entry.strip()]


def parse_folders(
    setting: str, value: str, private_folders: Iterable[Path], staging: Path | str | None
) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Return the folders, and the prefixes of object storage, that a setting lists.

    :param setting: its name
    :param private_folders, staging: as in :meth:`SourceAccess.from_settings`
    :raises PlanError: an entry cannot be used
    """
    entries, local_staging = _split(value), staging if isinstance(staging, Path) else None
    return (
        tuple(
            _parse_folder(setting, entry, private_folders, local_staging) for entry in entries if not is_object(entry)
        ),
        tuple(_parse_prefix(setting, entry, staging) for entry in entries if is_object(entry)),
    )


def _parse_table(entry: str) -> str:
    schema, _, name = entry.partition(".")
    if not schema or not name or "." in name or "*" in schema or ("*" in name and name != "*"):
        raise PlanError(f"CODING_SOURCE_TABLES names {entry!r}; expected 'schema.table' or 'schema.*'")
    return entry


def is_object(source: str) -> bool:
    """Return whether a source or a setting names something in object storage."""
    return source.lower().startswith("s3://")


def _parse_prefix(setting: str, entry: str, staging: Path | str | None) -> str:
    parts = urlsplit(entry)
    prefix = entry.rstrip("/")
    if not parts.netloc or parts.query or parts.fragment or _has_dots(entry) or any(c in entry for c in "*?["):
        raise PlanError(f"{setting} names {entry!r}; expected 's3://bucket' or 's3://bucket/prefix' without patterns")
    if isinstance(staging, str) and (is_below(staging, prefix) or is_below(prefix, staging)):
        raise PlanError(
            f"{setting} names {entry!r}, which is in the staging area or contains it, where texts of all"
            " runs are: name a prefix outside it"
        )
    return prefix


def _has_dots(uri: str) -> bool:
    return any(part in (".", "..") for part in uri.split("/"))


def is_below(path: str, folder: str) -> bool:
    """Return whether a path or a URI is a folder or prefix, or is below it, by its name alone."""
    return f"{path.rstrip('/')}/".startswith(f"{folder.rstrip('/')}/")


def _parse_folder(setting: str, entry: str, private_folders: Iterable[Path], staging: Path | None) -> Path:
    if not entry.startswith("/"):
        raise PlanError(f"{setting} names {entry!r}; expected the absolute path of a folder, or 's3://bucket/prefix'")
    folder = Path(entry).resolve()
    for private_folder in (*private_folders, *filter(None, [staging])):
        if private_folder.resolve().is_relative_to(folder):
            raise PlanError(
                f"{setting} names {entry!r}, which is or contains {str(private_folder)!r}: name a folder"
                " that contains nothing but data"
            )
    if staging is not None and folder.is_relative_to(staging.resolve()):
        raise PlanError(
            f"{setting} names {entry!r}, which is in the staging area, where texts of all runs are: name"
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
    """Return the path of a file that a run may read, without symbolic links; None if `source` names a table or an
    object that it may read. The file may not exist, and its name may be a pattern.

    :raises SourceError: it is in none of the allowed folders, or `source` is neither a table nor a local file
    """
    if is_object(source):
        _check_object(source, access)
        return None
    scheme = _find_scheme(source)
    if scheme and scheme != "file":
        raise SourceError(
            f"source {source!r} is not supported: use a file:// or an s3:// URI, or a table of the warehouse"
        )
    if not scheme and not source.startswith("/"):
        return None
    path = resolve_allowed_path(path_from_uri(source) if scheme else Path(source), access.folders)
    if path is None:
        raise _refuse_folder(source, access)
    return path


def resolve_allowed_path(path: Path, folders: Iterable[Path]) -> Path | None:
    """Return a path without symbolic links if it is in one of the folders, else None."""
    try:
        resolved = path.resolve()
        is_allowed = ".." not in path.parts and any(resolved.is_relative_to(folder.resolve()) for folder in folders)
    except (OSError, RuntimeError, ValueError):  # a loop of links, or a NUL
        return None
    return resolved if is_allowed else None


def _find_scheme(source: str) -> str:
    try:
        return urlsplit(source).scheme
    except ValueError:  # of a pattern such as [0-9]
        return "file" if source.startswith("file:") else ""


def _refuse_folder(source: str, access: SourceAccess) -> SourceError:
    folders = ", ".join([*map(str, access.folders), *access.prefixes]) or "none"
    return SourceError(
        f"source {source!r} is not in a folder from which runs may read files (allowed: {folders}). Move the file"
        " into such a folder, or have its folder added to CODING_SOURCE_FOLDERS"
    )


def _check_object(source: str, access: SourceAccess) -> None:
    """Check that a run may read an object, by its name alone. S3 knows no folders, so a name is compared as it is."""
    if not is_allowed_object(source, access.prefixes):
        raise _refuse_folder(source, access)


def is_allowed_object(uri: str, prefixes: Iterable[str]) -> bool:
    """Return whether an object is below one of the prefixes."""
    is_plain = not _has_dots(uri) and uri.startswith("s3://")
    return is_plain and any(is_below(uri, prefix) for prefix in prefixes)


def open_source_files(source: str, paths: Iterable[Path], access: SourceAccess) -> SourceFile:
    """Return the files of paths that are below one that :func:`find_path` returned.

    :raises SourceError: one is in no allowed folder, was replaced by a link after the check, or also has a name
        elsewhere
    """
    resolved = [path.resolve() for path in paths]
    folders = [folder.resolve() for folder in access.folders]
    if not all(any(path.is_relative_to(folder) for folder in folders) for path in resolved):
        raise _refuse_folder(source, access)
    return SourceFile(tuple(resolved), tuple(_identify_file(source, path) for path in resolved))


def _identify_file(source: str, path: Path) -> tuple[int, ...]:
    content = identify_content(path)
    if not content or path.resolve() != path:
        raise SourceError(f"source {source!r} cannot be read, or was replaced by a link while it was checked")
    if path.stat().st_nlink > 1:
        raise SourceError(
            f"source {source!r} has more than one name (hard links), so it can be a file of another folder: copy it"
        )
    return content


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
