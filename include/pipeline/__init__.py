"""The steps of the pipeline, where the coding service and the data meet."""
