"""
An example to copy: do something with the codes of a response date as soon as they have landed.

It is paused until somebody switches it on. When `recode_occupations` has landed a date, at night, by hand or by a
backfill, it emits an event of the asset `coded_records`, and this DAG runs once for that date.
"""

from __future__ import annotations

import logging
from typing import Any

import pendulum
from airflow.sdk import DAG, Asset, PartitionedAssetTimetable, task

CODED_RECORDS = Asset("coded_records")

#: Codes by their first digit. `current_codes` has one row for each record and topic, that of the newest model.
CODES = """
SELECT substr(code, 1, 1) AS first_digit, count(*) AS records, avg(confidence) AS confidence
FROM {codes}
WHERE response_date = ? AND topic = ? AND outcome = 'coded'
GROUP BY 1 ORDER BY 1
"""

log = logging.getLogger(__name__)


@task
def count_codes(*, dag_run: Any = None, triggering_asset_events: Any = None) -> list[list[Any]]:
    """Log how many records of the date have which first digit."""
    from datetime import date

    from coding_settings import open_warehouse, setting
    from include.coding.tables import table

    # What the run that landed says of itself, of all its dates. This one may have landed more than once by now.
    landed = max(triggering_asset_events[CODED_RECORDS], key=lambda event: event.timestamp).extra
    log.info("Run %(run_id)s, model %(model_id)s: %(read)s records from %(from_date)s to %(to_date)s", landed)

    # The key of the event is the response date, and so is that of the run that it starts.
    query = CODES.format(codes=table(setting("CODING_SCHEMA", "coding"), "current_codes"))
    with open_warehouse().session(read_only=True) as session:
        rows = session.execute(query, [date.fromisoformat(dag_run.partition_key), landed["topic"]])

    lines = [f"{digit:>11} {records:>8} {confidence:>10.3f}" for digit, records, confidence in rows]
    log.info("Codes of %s\n%s", dag_run.partition_key, "\n".join(["first digit  records confidence", *lines]))
    return [list(row) for row in rows]  # XCom is for what is small; write the rest to a table


with DAG(
    "example_use_codes",
    doc_md=__doc__,
    # Not `schedule=[CODED_RECORDS]`: an event with a partition key starts only what asks for partitions.
    schedule=PartitionedAssetTimetable(assets=CODED_RECORDS),
    start_date=pendulum.datetime(2026, 1, 1, tz="Australia/Sydney"),
    is_paused_upon_creation=True,
    tags=["occupation", "example"],
) as dag:
    count_codes()
