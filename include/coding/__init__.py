"""Data work between a warehouse and the coding service: no Airflow, no HTTP."""
