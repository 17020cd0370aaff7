"""Settings of the deployment: Airflow Variables, or environment variables of the same names."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import Variable

from coding_service.facts import FACTS
from coding_service.storage import storage_path
from include.coding.errors import PlanError
from include.coding.plan import Plan
from include.coding.staging import Staging
from include.warehouse.warehouse import Warehouse

if TYPE_CHECKING:
    from include.coding.estimate import Estimate
    from include.coding.prepare import Prepared

#: Calls of the service: to plan a run (topics, model), and to code a part (create, status before the upload, twice
#: while it is coded, and for the links), if nothing goes wrong.
CALLS_OF_PLAN, CALLS_OF_PART = 2, 5
#: Folders of the staging area.
RUNS, EXCHANGE = "occupation-coding-runs", "occupation-coding-exchange"
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


def staging_of(run_id: str) -> str:
    """URI of the folder of a run."""
    readable = re.sub(r"[^A-Za-z0-9._-]", "-", run_id)[:80]  # two run ids may read alike: the hash tells them apart
    return f"{staging_base()}/{RUNS}/{readable}-{hashlib.sha256(run_id.encode()).hexdigest()[:8]}"


def check_pool(dag_run: Any, name: str) -> None:
    """Say at once that the pool is missing: Airflow's scheduler would let the tasks wait for it, without a word.

    :raises PlanError: there is no such pool
    """
    facts = facts_of(dag_run)
    if facts is not None and facts["pool"] is None:
        raise PlanError(
            f"there is no pool {name!r}, so no task of `code` would ever start: make it by `airflow pools set {name}"
            " 4 'Operations at once' --include-deferred`, or in the UI under Admin > Pools, then clear this task"
        )


def pin_model(plan: Plan, dag_run: Any) -> Plan:
    """The plan with the GUID of its model in place of what was asked for; one for all runs of a backfill.

    :raises CodingServiceError: the service does not know the topic or the model, or cannot be asked
    """
    from coding_service import CodingServiceHook
    from include.coding.pins import pin_model

    def ask() -> tuple[str, float | None]:
        model = CodingServiceHook().pin_model(plan.topic, plan.model_id)
        return model.model_id, model.version

    backfill = (facts_of(dag_run) or {}).get("backfill")
    if backfill is None:
        model_id, version = ask()
    else:
        model_id, version = pin_model(open_warehouse(plan), plan.schema, backfill, plan.topic, plan.model_id, ask)
    return replace(plan, model_id=model_id, model_version=version)


def approval_limit(params: Mapping[str, Any]) -> int | None:
    """Distinct texts above which a person has to approve: the form's number, else the setting's; None: never.

    :raises PlanError: the setting is no number
    """
    if params["approve_above"] is not None:
        return int(params["approve_above"])
    value = setting("CODING_APPROVE_ABOVE", "")
    if value and not value.isdecimal():
        raise PlanError(
            f"the setting CODING_APPROVE_ABOVE is {value!r}; expected a whole number of texts, or nothing"
        )
    return int(value) if value else None


def estimate_sending(prepared: Prepared, dag_run: Any) -> Estimate:
    """What the prepared run sends, and how long that takes at the connection's budget and the pool's size."""
    from coding_service import CodingServiceHook
    from include.coding.estimate import estimate

    pool = (facts_of(dag_run) or {}).get("pool") or {}
    per_second = CodingServiceHook().settings.requests_per_second
    return estimate(prepared.as_dict(), prepared.parts, CALLS_OF_PLAN, CALLS_OF_PART, per_second, pool.get("slots"))


def facts_of(dag_run: Any) -> dict[str, Any] | None:
    """What the scheduler knows of a run, and its tasks do not: see `plugins/coding_service_plugin.py`. None without
    a scheduler, as in `airflow dags test`."""
    return (dag_run.conf or {}).get(FACTS)


def open_warehouse(plan: Plan | None = None) -> Warehouse:
    """The warehouse of the connection `warehouse_default`; Redshift hands rows over beside the runs.

    :param plan: of the run, whose tasks may take so much memory; others take little
    """
    # not before: tasks without a warehouse need no driver of one
    from include.warehouse.connect import MEMORY_MB, connect

    memory_mb = MEMORY_MB if plan is None else plan.engine_memory_mb
    return connect(memory_mb=memory_mb, exchange=f"{staging_base()}/{EXCHANGE}")


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
