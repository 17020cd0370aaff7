"""Names that several places share."""

POOL = "coding_service"
POOL_SLOTS = 4
RECODE_DAG_ID = "recode_occupations"
CODING_SERVICE_CONN_ID = "coding_service_default"
WAREHOUSE_CONN_ID = "warehouse_default"
STAGING_CONN_ID = "staging_default"
