"""
An example to copy: two more surveys in one short file, side by side with `recode_occupations`.

Each of these DAGs has the form, the tasks and the alerts of `recode_occupations`. When one has published a date, it
emits an event of its own asset, `coded_records_example_labour_force` or `coded_records_example_graduates`. All DAGs
share one call budget and one pool of Airflow.

Here they are started by hand only. To run one every night, give it a time of the day, `schedule="30 1 * * *"`.
"""

from include.pipeline.airflow_dags import recode_dag

# Another classification: its codes are in the tables of `recode_occupations`, with the topic `anzsco`.
recode_dag(
    "example_labour_force", source="labour_force_responses", topic="anzsco", columns={"occp_text": "job_title"}
)

# The classification of `recode_occupations`: `schema` gives the survey tables of its own, here in `coding_graduates`.
recode_dag("example_graduates", source="graduate_responses", topic="osca", schema="graduates", look_back_days=30)
