"""
An example to copy: use the codes of a response date as soon as they are published.

It is paused until you switch it on. When `recode_occupations` has published a date, nightly, on demand or in a
backfill, it emits an event of the asset `coded_records`, and this DAG runs once for that date.
"""

from __future__ import annotations

import logging
from typing import Any

import pendulum
from airflow.sdk import DAG, Asset, PartitionedAssetTimetable, task

from include.pipeline import names

CODED_RECORDS = Asset(names.CODED_RECORDS)

#: Codes by their first digit. `current_codes` has, for each topic and date, the rows of the newest model.
CODES = """
SELECT substr(code, 1, 1) AS first_digit, count(*) AS records, avg(confidence) AS confidence
FROM {codes}
WHERE response_date = ? AND topic = ? AND outcome = 'coded'
GROUP BY 1 ORDER BY 1
"""

log = logging.getLogger(__name__)


@task
def count_codes(*, dag_run: Any = None, triggering_asset_events: Any = None) -> list[list[Any]]:
    """Log the number of records of the date by the first digit of their code."""
    from datetime import date

    from include.pipeline.settings import open_warehouse, qualified_table

    # The event describes all dates of the publishing run. If this date was published several times, use the last one.
    summary = max(triggering_asset_events[CODED_RECORDS], key=lambda event: event.timestamp).extra
    # The partition key of the event is the response date, and the run that it starts has the same key. A run of more
    # than 100 dates does not list their counts, nor does a run that found this date unchanged.
    counts = summary["dates"].get(dag_run.partition_key, "not in the event")
    log.info(
        "%s: run %s, model %s, records: %s", dag_run.partition_key, summary["run_id"], summary["model_id"], counts
    )

    query = CODES.format(codes=qualified_table("current_codes"))
    with open_warehouse().session(read_only=True) as session:
        rows = session.execute(query, [date.fromisoformat(dag_run.partition_key), summary["topic"]])

    lines = [f"{digit:>11} {records:>8} {confidence:>10.3f}" for digit, records, confidence in rows]
    log.info("Codes of %s\n%s", dag_run.partition_key, "\n".join(["first digit  records confidence", *lines]))
    return [list(row) for row in rows]  # XCom is for small values; write larger ones to a table


with DAG(
    "example_use_codes",
    doc_md=__doc__,
    # Not `schedule=[CODED_RECORDS]`: an event with a partition key only starts DAGs that are scheduled by partition.
    schedule=PartitionedAssetTimetable(assets=CODED_RECORDS),
    start_date=pendulum.datetime(2026, 1, 1, tz=names.TIMEZONE),
    is_paused_upon_creation=True,
    tags=["occupation", "example"],
) as dag:
    count_codes()
