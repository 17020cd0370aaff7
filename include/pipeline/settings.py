"""Settings of the deployment, and the warehouse and staging area that they define.

A setting is an Airflow Variable, or an environment variable of the same name. docs/settings.md lists them all.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import Connection, Variable
from airflow.sdk.exceptions import AirflowNotFoundException

from coding_service.errors import InputFileError
from coding_service.storage import storage_path
from include.coding.errors import PlanError
from include.coding.run_keys import make_run_key
from include.pipeline.names import STAGING_CONN_ID, WAREHOUSE_CONN_ID
from include.warehouse.folder_names import add_checksum

if TYPE_CHECKING:
    from include.coding.export_access import ExportAccess
    from include.coding.source_access import SourceAccess
    from include.coding.staging import Staging
    from include.warehouse.warehouse import Warehouse

#: Folders of the staging area: files of runs, rows exchanged with Redshift, and (never swept) reports of comparisons.
RUNS, EXCHANGE = "occupation-coding-runs", "occupation-coding-exchange"
COMPARISONS = "occupation-coding-comparisons"
#: A schema that leaves room for the end of the name of its trials, because PostgreSQL cuts off what is above 63.
SCHEMA_NAME, TRIAL = r"[A-Za-z_][A-Za-z0-9_]{0,56}", "_trial"
PROJECT = Path(__file__).resolve().parents[2]
#: Schemas of the DAGs with tables of their own, without the part that all schemas begin with. `recode_dag` adds them
#: when a process imports a DAG file, and every task has imported that of its DAG.
SCHEMA_SUFFIXES: dict[str, str] = {}


def read_setting(name: str, default: str = "") -> str:
    """Return the Airflow Variable `name`, else the environment variable, else the default."""
    return Variable.get(name, default=None) or os.environ.get(name) or default


def read_flag(name: str) -> bool:
    """Return whether a setting is switched on; by default none is."""
    return read_setting(name, "false").lower() in ("1", "true", "yes")


def read_memory_mb() -> int:
    """Return the megabytes that all data engines of a task use together (`CODING_MEMORY_MB`)."""
    return int(read_setting("CODING_MEMORY_MB", "512"))


def read_schema(suffix: str | None = None, *, is_trial: bool = False) -> str:
    """Return a schema of the project's tables in the warehouse (`CODING_SCHEMA`).

    :param suffix: the argument `schema` of `recode_dag`, for the tables of a DAG that has its own
    :param is_trial: whether that of trials is needed, whose rows must never be mistaken for published ones
    :raises PlanError: it is not a plain name
    """
    schema = read_setting("CODING_SCHEMA", "coding")
    if not re.fullmatch(SCHEMA_NAME, schema):
        raise PlanError(
            f"CODING_SCHEMA is {schema!r}; expected the name of a schema with letters, digits and underscores only,"
            " at most 57 of them"
        )
    if suffix is not None:
        schema = f"{schema}_{check_schema_suffix(suffix)}"
        if not re.fullmatch(SCHEMA_NAME, schema):
            raise PlanError(
                f"the name of the schema {schema!r} is too long: shorten the argument `schema` of recode_dag"
            )
    return schema + (TRIAL if is_trial else "")


def check_schema_suffix(suffix: str) -> str:
    """Return the end of the name of a schema.

    :raises PlanError: it is not a plain name, or that of the schema for trials of another DAG
    """
    if not re.fullmatch(r"[A-Za-z0-9_]{1,50}", suffix) or f"_{suffix}".lower().endswith(TRIAL):
        raise PlanError(
            f"`schema` is {suffix!r}; expected letters, digits and underscores, at most 50 of them, that do not end"
            " with 'trial', such as 'labour_force': the schema is CODING_SCHEMA with an underscore and these"
        )
    return suffix


def read_dag_schema(dag_id: str, *, is_trial: bool = False) -> str:
    """Return the schema of the tables of a DAG, in a process that has imported its file.

    :raises PlanError: it is not a plain name
    """
    return read_schema(SCHEMA_SUFFIXES.get(dag_id), is_trial=is_trial)


def qualified_table(name: str, schema: str | None = None) -> str:
    """Return the SQL name of one of the project's tables or views, with its schema.

    :param schema: None for that of `recode_occupations`
    """
    from include.coding.tables import table

    return table(schema or read_schema(), name)


def read_approval_limit() -> int | None:
    """Return the number of distinct texts above which a run needs approval (`CODING_APPROVE_ABOVE`); None for never.

    :raises PlanError: it is not a number
    """
    value = read_setting("CODING_APPROVE_ABOVE")
    if value and not value.isdecimal():
        raise PlanError(f"CODING_APPROVE_ABOVE is {value!r}; expected a whole number of texts, or nothing")
    return int(value) if value else None


def read_source_access() -> SourceAccess:
    """Return what runs may read as source or crosswalk (`CODING_SOURCE_TABLES`, `CODING_SOURCE_FOLDERS`).

    :raises PlanError: a setting has an entry that cannot be used
    """
    from include.coding.source_access import SourceAccess

    return SourceAccess.from_settings(
        read_setting("CODING_SOURCE_TABLES"),
        read_setting("CODING_SOURCE_FOLDERS"),
        read_schema(),
        private_folders=_list_private_folders(),
        staging=_find_staging(),
        open_storage=_open_source_storage,
    )


def read_export_access() -> ExportAccess:
    """Return where runs may write exports (`CODING_EXPORT_FOLDERS`), beside what they may read.

    :raises PlanError: a setting has an entry that cannot be used
    """
    from include.coding.export_access import ExportAccess

    folders = read_setting("CODING_EXPORT_FOLDERS")
    return ExportAccess.from_settings(folders, read_source_access(), _list_private_folders(), _find_staging())


def _list_private_folders() -> tuple[Path, ...]:
    """Return the folders that no run may read from or write to, except below them."""
    return PROJECT, PROJECT / ".run", _airflow_home()


def _find_staging() -> Path | str:
    """Return the folder of the staging area, or its URI in object storage."""
    staging = storage_path(staging_base(), STAGING_CONN_ID)
    return staging if isinstance(staging, Path) else staging_base()


def _open_source_storage(uri: str, connection: str | None) -> Any:
    """Return the fsspec file system of a source in object storage.

    :param connection: Airflow connection that `read_options` names; None for `staging_default`
    :raises PlanError: there is no such connection
    """
    if connection is not None:
        try:  # a missing one would be replaced by the credentials that AWS finds on the machine
            Connection.get(connection)
        except AirflowNotFoundException:
            raise PlanError(
                f"`connection` in `read_options` is {connection!r}, which does not exist; name one of type aws"
            ) from None
    return open_file_system(uri, connection or STAGING_CONN_ID)


def _airflow_home() -> Path:
    return Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()


def staging_base() -> str:
    """Return the URI of the folder for all files that tasks hand to each other (`CODING_STAGING`).

    :raises InputFileError: it is neither a `file:///` nor an `s3://` URI
    """
    base = read_setting("CODING_STAGING", (_airflow_home() / "staging").as_uri()).rstrip("/")
    try:
        storage_path(base, STAGING_CONN_ID)
    except InputFileError as error:
        raise InputFileError(f"{error}, and set CODING_STAGING to it") from None
    return base


def read_run_key(run: Any) -> str:
    """Return the key of a DAG run, or of the run of a task instance."""
    return make_run_key(run.dag_id, run.run_id)


def run_folder(run_key: str, area: str = RUNS) -> str:
    """Return the URI of the folder of a run."""
    # The hash distinguishes keys that differ only in special characters.
    name = f"{re.sub(r'[^A-Za-z0-9._-]', '-', run_key)[:70]}-{hashlib.sha256(run_key.encode()).hexdigest()[:8]}"
    return add_checksum(f"{staging_base()}/{area}", name)


def open_file_system(uri: str, conn_id: str = STAGING_CONN_ID) -> Any:
    """Return the fsspec file system of a URI of object storage; None for `file://`."""
    path = storage_path(uri, conn_id)
    return None if isinstance(path, Path) else path.fs


def open_warehouse(memory_mb: int | None = None) -> Warehouse:
    """Return the warehouse of the connection `warehouse_default`. Redshift exchanges rows through the staging area.

    :param memory_mb: megabytes that an embedded warehouse uses; None for a small default
    """
    from include.warehouse.connect import MEMORY_MB, connect  # imported here, because most tasks need no driver

    return connect(
        WAREHOUSE_CONN_ID,
        memory_mb=memory_mb or MEMORY_MB,
        exchange_uri=f"{staging_base()}/{EXCHANGE}",
        open_exchange=open_file_system,
        storage_conn_id=STAGING_CONN_ID,
    )


@contextmanager
def open_staging(run_key: str, area: str = RUNS) -> Iterator[Staging]:
    """Yield the files of a run. Their folder is computed from the key of the run, never taken from another task.
    In the block, new files are for their owner only.

    Files in progress are in the same folder if it is local, else in a temporary folder of this attempt below
    `CODING_SCRATCH` (by default the system's folder for temporary files).
    """
    from include.coding.files import create_files_for_owner_only
    from include.coding.scratch import open_scratch, remove_stale_scratch
    from include.coding.staging import Staging

    uri = run_folder(run_key, area)
    path = storage_path(uri, STAGING_CONN_ID)
    if isinstance(path, Path):
        with create_files_for_owner_only():
            yield Staging(uri, path)
        return
    base, deployment = Path(read_setting("CODING_SCRATCH", tempfile.gettempdir())), staging_base()
    remove_stale_scratch(base, deployment)
    with create_files_for_owner_only(), open_scratch(base, deployment) as scratch:
        yield Staging(uri, scratch, path.fs)
