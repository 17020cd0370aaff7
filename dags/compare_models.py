"""
Compare what two models made of the same records, and write a report: what moved, what gained or lost a code.

For a new model or a new classification, after history was coded again. It reads the warehouse only: nothing is sent
to the service, and nothing in the warehouse changes. docs/comparison.md says how to read the report.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param, task

from coding_service import CodingServiceRetryPolicy
from include.coding.errors import DataError
from include.warehouse.errors import WarehouseSettingsError

PARAMS = {
    "topic": Param(
        "osca", type="string", minLength=1, title="Topic", section="What to compare",
        description="uriName of the classification",
    ),
    "model_before": Param(
        "previous", type="string", minLength=1, title="Model before", section="What to compare",
        description="`previous` or `newest` (by version, of those with records of the topic), or the GUID of a model",
    ),
    "model_after": Param(
        "newest", type="string", minLength=1, title="Model after", section="What to compare",
        description="`newest` or `previous`, or the GUID of a model",
    ),
    "from_date": Param(
        None, type=["null", "string"], format="date", title="From", section="What to compare",
        description="First response date. Leave it empty to begin with the first.",
    ),
    "to_date": Param(
        None, type=["null", "string"], format="date", title="To", section="What to compare",
        description="Last response date, inclusive. Leave it empty to end with the last.",
    ),
    "topic_after": Param(
        None, type=["null", "string"], title="Topic after", section="Another classification",
        description="uriName of the classification of the model after, if it is another one. Then the model before is"
        " `newest` as well, or a GUID, and a crosswalk is needed.",
    ),
    "crosswalk": Param(
        None, type=["null", "string"], title="Crosswalk", section="Another classification",
        description="Table or view of the warehouse with the columns from_code and to_code. A code may stand in many"
        " rows: a record keeps its code if the new one is among those that the old one maps to.",
    ),
    "samples": Param(
        50, type="integer", minimum=0, maximum=1000, title="Samples", section="What to show",
        description="Moved records that are named at most, one of each text.",
    ),
    "with_texts": Param(
        False, type="boolean", title="With texts", section="What to show",
        description="Put the texts of the samples into the report. People wrote them, and the report stays until"
        " somebody removes it. They are never logged.",
    ),
}  # fmt: skip


@task
def compare(*, params: Any = None, run_id: Any = None) -> str:
    """Count what changed, write the report, and return its URI."""
    from coding_settings import COMPARISONS, open_staging, open_warehouse, setting, staging_of
    from include.comparison.comparison import Comparison
    from include.comparison.report import write_comparison

    comparison = Comparison(**params, schema=setting("CODING_SCHEMA", "coding"))
    # a quarter is left for what an engine takes beyond its limit
    warehouse = open_warehouse(int(setting("CODING_MEMORY_MB", "512")) * 3 // 4)
    with open_staging(staging_of(run_id, COMPARISONS)) as staging:
        return write_comparison(comparison, warehouse, staging)


with DAG(
    "compare_models",
    doc_md=__doc__,
    schedule=None,
    is_paused_upon_creation=False,
    params=PARAMS,
    default_args={
        "retries": 3,
        "retry_delay": timedelta(seconds=30),
        "retry_policy": CodingServiceRetryPolicy(final=(DataError, WarehouseSettingsError)),
    },
    tags=["occupation", "coding"],
) as dag:
    compare()
