"""The occupation coder: trains on a classification and codes texts. Knows nothing of the service around it."""
