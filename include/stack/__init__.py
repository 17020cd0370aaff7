"""The project on one machine: the local coding service, Airflow, an embedded warehouse and sample data."""
