"""Ways to do the two data steps, side by side; each is a module with the functions `prepare` and `land`.

`prepare`: read the Parquet, clean and judge the texts, give each a key, keep each once, write the JSONL lines to send
and a Parquet of all records with their keys. `land`: read the output JSONL, check it, keep the texts, join them with
the records, write the table of records. Both return what they counted.
"""
