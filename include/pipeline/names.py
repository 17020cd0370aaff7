"""Names that several places share. It imports nothing, so that anything can import it."""

RECODE_DAG_ID = "recode_occupations"
#: Airflow tag of all DAGs that `recode_dag` makes, by which `watch_models` finds them.
RECODE_TAG = "recode_dag"

#: Airflow pool of the tasks that call the service; each deferred operation occupies a slot.
POOL = "coding_service"
POOL_SLOTS = 4

#: Timezone whose days are the response dates.
TIMEZONE = "Australia/Sydney"

#: Assets: dates that `recode_occupations` published, and models of the service.
CODED_RECORDS = "coded_records"
CODING_MODELS = "coding_models"

#: Airflow connections.
CODING_SERVICE_CONN_ID = "coding_service_default"
WAREHOUSE_CONN_ID = "warehouse_default"
STAGING_CONN_ID = "staging_default"
AIRFLOW_API_CONN_ID = "airflow_api"

COMPARE_DAG_ID = "compare_models"
#: The Coding page below the root of Airflow's UI, and its page on an operation as the operators take it.
PAGE_PATH = "/occupation-coding"
OPERATION_LINK = PAGE_PATH + "/run?dag={dag_id}&run={run_id}#operation-{operation_id}"

#: Bounds of the trigger form.
MAX_LOOK_BACK_DAYS = 366
MAX_TRIAL_RECORDS = 1_000_000


def name_coded_records(dag_id: str) -> str:
    """Return the name of the asset whose events are the dates that a DAG has published."""
    return CODED_RECORDS if dag_id == RECODE_DAG_ID else f"{CODED_RECORDS}_{dag_id}"
