"""The main DAG: it codes every night, on demand, and as a backfill. Its form and its tasks are in
include/pipeline/form.py and include/pipeline/airflow_dags.py.

The settings `CODING_DEFAULT_...` (docs/settings.md) set the defaults of its form, so that another source needs no
change of this file. DAGs for further surveys or classifications have files of their own, see example_two_surveys.py.
"""

from include.pipeline import names
from include.pipeline.airflow_dags import recode_dag
from include.pipeline.form import PARAMS, read_default_params

__all__ = ["PARAMS", "dag"]

#: Set it to False for a deployment without a triggerer: the wait is then rescheduled between status calls.
DEFERRABLE = True

dag = recode_dag(names.RECODE_DAG_ID, schedule="0 0 * * *", deferrable=DEFERRABLE, **read_default_params())
