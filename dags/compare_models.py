"""
Compare the codes that two models gave the same records, and report which kept, changed, gained or lost a code.

Use it after coding history again with a new model or classification. It only reads the warehouse: nothing is sent to
the service, and nothing in the warehouse changes. docs/comparison.md explains the report.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param, task

from coding_service import CodingServiceRetryPolicy
from include.pipeline.dag_arguments import PERMANENT_ERRORS
from include.pipeline.documentation import WAREHOUSE_ERRORS, document_dag, name_dag
from include.pipeline.links import add_report_link
from include.pipeline.names import COMPARE_DAG_ID

PARAMS = {
    "topic": Param(
        "osca", type="string", minLength=1, title="Topic",
        description="uriName of the classification.",
    ),
    "model_before": Param(
        "previous", type="string", minLength=1, title="Model before",
        description_md="`previous` or `newest` (by version, among models with records of the topic), or a GUID.",
    ),
    "model_after": Param(
        "newest", type="string", minLength=1, title="Model after",
        description_md="`newest`, `previous`, or the GUID of a model.",
    ),
    "from_date": Param(
        None, type=["null", "string"], format="date", title="From",
        description="First response date. Empty: the earliest.",
    ),
    "to_date": Param(
        None, type=["null", "string"], format="date", title="To",
        description="Last response date, inclusive. Empty: the latest.",
    ),
    "schema": Param(
        None, type=["null", "string"], pattern=r"^[A-Za-z0-9_]{1,50}$", title="Schema", section="Tables",
        description_md="For a DAG with tables of its own: the `schema` that its file names. Empty: the tables of"
        " `recode_occupations`.",
    ),
    "topic_after": Param(
        None, type=["null", "string"], title="Topic after", section="Another classification",
        description_md="uriName of the classification of the second model, if it differs. Then set the model before"
        " to `newest` or a GUID, and name a crosswalk.",
    ),
    "crosswalk": Param(
        None, type=["null", "string"], title="Crosswalk", section="Another classification",
        description="Table or view with the columns from_code and to_code, one row for each pair. A record keeps its"
        " code if the new code is one of those that the old code maps to.",
    ),
    "samples": Param(
        50, type="integer", minimum=0, maximum=1000, title="Samples", section="Report",
        description="Maximum number of records with another code to list, one for each text.",
    ),
    "with_texts": Param(
        False, type="boolean", title="With texts", section="Report",
        description="Include the texts of the samples, which people wrote. The report stays until somebody removes"
        " it; the texts are never logged.",
    ),
}  # fmt: skip


@task(
    doc_md="Counts which records kept, changed, gained or lost a code, and writes the report. If it fails, correct"
    " what its message names in the form, then start another run; nothing in the warehouse has changed.",
    multiple_outputs=False, show_return_value_in_logs=False,
)  # fmt: skip
def compare(*, params: Any = None, dag_run: Any = None) -> str:
    """Count what changed, write the report, and return its URI."""
    from include.pipeline import steps

    return steps.compare_models(params, dag_run, PARAMS)


with DAG(
    COMPARE_DAG_ID,
    dag_display_name=name_dag("Compare two models", COMPARE_DAG_ID),
    description="Compares on demand the codes that two models gave the same records; it only reads the warehouse.",
    doc_md=document_dag(__doc__, "SettingsError", *WAREHOUSE_ERRORS),
    schedule=None,
    is_paused_upon_creation=False,
    params=PARAMS,
    default_args={
        "execution_timeout": timedelta(hours=12),  # it reads all records of two models
        "retries": 3,
        "retry_delay": timedelta(seconds=30),
        "retry_policy": CodingServiceRetryPolicy(final=PERMANENT_ERRORS),
    },
    tags=["occupation", "coding"],
) as dag:
    add_report_link(compare())
