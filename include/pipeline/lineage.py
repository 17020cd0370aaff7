"""Lineage of `prepare` and `land` for OpenLineage: the source, the parts, and the tables that a run writes.

Airflow's OpenLineage provider is optional. Without it, or while it is not configured, nothing here does anything.
Lineage that cannot be sent never fails a task.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook

from coding_service.lineage import is_active, make_coding_facet, name_file
from include.coding.plan import Plan
from include.pipeline import settings
from include.pipeline.names import WAREHOUSE_CONN_ID

if TYPE_CHECKING:
    from include.coding.landing import LandingSummary
    from include.coding.prepare import Prepared

log = logging.getLogger(__name__)


def _never_fail(send: Callable[..., None]) -> Callable[..., None]:
    """Return a function that does nothing while lineage is not active, and logs the type of an error at most."""

    @wraps(send)
    def send_if_active(*arguments: Any) -> None:
        try:
            if is_active():
                send(*arguments)
        except Exception as error:  # noqa: BLE001 - its words can contain an address with a key
            log.warning("The lineage of this task was not sent (%s); the task goes on", type(error).__name__)

    return send_if_active


@_never_fail
def send_preparation(ti: Any, plan: Plan, prepared: Prepared) -> None:
    """Say that the parts of a run were made from its source."""
    parts = [(name_file(part.input_uri), part.records, part.bytes) for part in prepared.parts]
    outputs = [_make_output(name, rows, size) for name, rows, size in parts if name]
    _send(ti, plan, [_name_source(plan)], outputs, records=prepared.read)


@_never_fail
def send_landing(ti: Any, plan: Plan, summary: LandingSummary) -> None:
    """Say that the records of a run were published from its source and the texts that are coded."""
    outputs = []
    if summary.published_by_run is None:
        rows = sum(counts.read for counts in summary.dates)
        outputs = [
            _make_output(_name_table(plan, "coded_records"), rows),
            _make_output(_name_table(plan, "coding_runs")),
        ]
    inputs = [_name_source(plan), _name_table(plan, "coded_texts")]
    _send(ti, plan, inputs, outputs, records=summary.read, operations=summary.operations)


def _send(ti: Any, plan: Plan, inputs: Iterable[tuple[str, str] | None], outputs: list[Any], **counts: int) -> None:
    from airflow.providers.common.compat.openlineage.facet import InputDataset
    from airflow.providers.openlineage.api import emit_dataset_lineage

    facet = make_coding_facet(
        topic=plan.topic, modelId=plan.model_id, modelVersion=plan.model_version, fromDate=plan.from_date,
        toDate=plan.to_date, **counts,
    )  # fmt: skip
    emit_dataset_lineage(
        inputs=[InputDataset(*name) for name in inputs if name],
        outputs=outputs,
        task_instance=ti,
        additional_run_facets=facet,
        raise_on_error=True,
    )


def _make_output(name: tuple[str, str], rows: int | None = None, size: int | None = None) -> Any:
    from airflow.providers.common.compat.openlineage.facet import OutputDataset, OutputStatisticsOutputDatasetFacet

    statistics: Any = {} if rows is None else {"outputStatistics": OutputStatisticsOutputDatasetFacet(rows, size)}
    return OutputDataset(*name, outputFacets=statistics)


def _name_source(plan: Plan) -> tuple[str, str] | None:
    """Return namespace and name of the source; None if there is no such table."""
    from include.coding.source_access import find_path, find_table, is_object

    access = settings.read_source_access()
    path = find_path(plan.source, access)
    if path is not None:
        return "file", str(path)
    if is_object(plan.source):
        return name_file(plan.source)
    with settings.open_warehouse(plan.engine_memory_mb).session(read_only=True) as session:
        table = find_table(plan.source, access, session)
    return _name_in_warehouse(table.replace('"', "")) if table else None


def _name_table(plan: Plan, table: str) -> tuple[str, str]:
    """Return namespace and name of a table of the project."""
    return _name_in_warehouse(f"{plan.schema}.{table}")


def _name_in_warehouse(table: str) -> tuple[str, str]:
    """Return namespace and name of a table with its schema, as OpenLineage's own integrations write them.

    For a DuckDB file, that is the one with dbt: its path is the namespace, and its stem the name of the database.
    """
    connection = BaseHook.get_connection(WAREHOUSE_CONN_ID)
    if connection.conn_type == "duckdb":
        path = Path(str(connection.host)).absolute()
        return f"duckdb://{path}", f"{path.stem}.{table}"
    hook: Any
    if connection.conn_type == "redshift":
        from airflow.providers.amazon.aws.hooks.redshift_sql import RedshiftSQLHook

        hook = RedshiftSQLHook(redshift_conn_id=WAREHOUSE_CONN_ID)
    else:
        from airflow.providers.postgres.hooks.postgres import PostgresHook

        hook = PostgresHook(postgres_conn_id=WAREHOUSE_CONN_ID)
    info = hook.get_openlineage_database_info(connection)
    # as for libpq, the database of a connection without one is that of its user
    return f"{info.scheme}://{info.authority}", f"{info.database or connection.login}.{table}"
