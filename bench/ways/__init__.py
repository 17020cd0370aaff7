"""Ways to do the two data steps. Each is a module with the functions `prepare` and `land`, which return counts.

`prepare` reads the Parquet file, cleans and validates the texts, gives each a key, keeps each once, and writes the
JSONL lines to send and a Parquet file of all records with their keys. `land` reads the output JSONL, checks it,
stores the texts, joins them with the records and writes the table of records.
"""
