"""The Coding page of Airflow's UI: what was coded, what is under way, and what needs a person.

It reads Airflow's metadata only: never the warehouse, whose embedded file has one writer, and no file of a worker. So
it shows what tasks reported, no text of a person, and works while a run is writing.
"""
