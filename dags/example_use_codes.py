"""
An example to copy: use the codes of a response date as soon as they are published.

It is paused until you switch it on. When `recode_occupations` has published a date, nightly, on demand or in a
backfill, it emits an event of the asset `coded_records`, and this DAG runs once for that date. A run that is
started by hand uses the date of its form, or the newest one that is published.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import pendulum
from airflow.sdk import DAG, Asset, Param, PartitionedAssetTimetable, task

from include.pipeline import names
from include.pipeline.documentation import document_dag, name_dag

CODED_RECORDS = Asset(names.CODED_RECORDS)

#: Codes by their first digit. `current_codes` has, for each topic and date, the rows of the newest model.
CODES = """
SELECT substr(code, 1, 1) AS first_digit, count(*) AS records, avg(confidence) AS confidence
FROM {codes}
WHERE response_date = ? AND topic = ? AND outcome = 'coded'
GROUP BY 1 ORDER BY 1
"""

NEWEST_DATE = "SELECT max(response_date) FROM {codes} WHERE topic = ? AND outcome = 'coded'"

#: For runs that are started by hand; those that an event starts take both from the event.
PARAMS = {
    "topic": Param("osca", type="string", minLength=1, title="Topic", description="uriName of the classification."),
    "response_date": Param(
        None, type=["null", "string"], format="date", title="Response date",
        description="Date of the codes to use. Empty: the newest date that is published.",
    ),
}  # fmt: skip

log = logging.getLogger(__name__)


@task(
    doc_md="Logs the number of records of the date by the first digit of their code. Without codes, it is skipped. If"
    " it fails, look at the warehouse and at the form of the run, then clear it.",
    multiple_outputs=False, show_return_value_in_logs=False,
)  # fmt: skip
def count_codes(*, params: Any = None, dag_run: Any = None, triggering_asset_events: Any = None) -> list[list[Any]]:
    """Log the number of records of the date by the first digit of their code."""
    from datetime import date

    from airflow.sdk.exceptions import AirflowSkipException

    from include.pipeline.params import check_params
    from include.pipeline.settings import open_warehouse, qualified_table

    check_params(params, dag_run.conf, PARAMS)

    # If this date was published several times, use the last event. A run that was started by hand has none.
    event = max(triggering_asset_events[CODED_RECORDS], key=lambda event: event.timestamp, default=None)
    topic = event.extra["topic"] if event else params["topic"]
    if event:
        # A run of more than 100 dates does not list their counts, nor does a run that found this date unchanged.
        day, run_id, model_id = dag_run.partition_key, event.extra["run_id"], event.extra["model_id"]
        counts = event.extra["dates"].get(day, "not in the event")
        log.info("Run %s, model %s, records of %s: %s", run_id, model_id, day, counts)

    # The tables of the DAG that emitted the event. Other DAGs than `recode_occupations` can have their own.
    codes = qualified_table("current_codes", event.extra.get("schema") if event else None)
    with open_warehouse().session(read_only=True) as session:
        # The partition key of the event is the response date, and the run that it starts has the same key.
        if day := dag_run.partition_key or params["response_date"]:
            day = date.fromisoformat(day)
        else:
            ((day,),) = session.execute(NEWEST_DATE.format(codes=codes), [topic])
            log.info("The run has no date; using %s, the newest that is published", day)
        rows = session.execute(CODES.format(codes=codes), [day, topic]) if day else []
    if not rows:
        raise AirflowSkipException(f"no codes of topic {topic!r} are published for {day or 'any date'}")

    lines = [f"{digit:>11} {records:>8} {confidence:>10.3f}" for digit, records, confidence in rows]
    log.info("Codes of %s, topic %s\n%s", day, topic, "\n".join(["first digit  records confidence", *lines]))
    return [list(row) for row in rows]  # XCom is for small values; write larger ones to a table


with DAG(
    "example_use_codes",
    dag_display_name=name_dag("Example: use the codes", "example_use_codes"),
    description="An example to copy: counts the codes of a date as soon as `recode_occupations` has published it.",
    doc_md=document_dag(__doc__, "PlanError", "WarehouseError", "WarehouseSettingsError"),
    # Not `schedule=[CODED_RECORDS]`: an event with a partition key only starts DAGs that are scheduled by partition.
    schedule=PartitionedAssetTimetable(assets=CODED_RECORDS),
    start_date=pendulum.datetime(2026, 1, 1, tz=names.TIMEZONE),
    is_paused_upon_creation=True,
    params=PARAMS,
    default_args={"execution_timeout": timedelta(hours=1)},
    tags=["occupation", "example"],
) as dag:
    count_codes()
