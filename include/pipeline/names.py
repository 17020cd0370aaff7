"""Names that several places share. It imports nothing, so that anything can import it."""

RECODE_DAG_ID = "recode_occupations"

#: Airflow pool of the tasks that call the service; each deferred operation occupies a slot.
POOL = "coding_service"
POOL_SLOTS = 4

#: Timezone whose days are the response dates.
TIMEZONE = "Australia/Sydney"

#: Assets: dates that were published, and models of the service.
CODED_RECORDS = "coded_records"
CODING_MODELS = "coding_models"

#: Airflow connections.
CODING_SERVICE_CONN_ID = "coding_service_default"
WAREHOUSE_CONN_ID = "warehouse_default"
STAGING_CONN_ID = "staging_default"
AIRFLOW_API_CONN_ID = "airflow_api"

#: Bounds of the trigger form.
MAX_LOOK_BACK_DAYS = 366
MAX_TRIAL_RECORDS = 1_000_000
