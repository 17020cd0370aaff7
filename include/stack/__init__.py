"""Everything on one machine: the local coding service, real Airflow processes, an embedded warehouse, a sample."""
