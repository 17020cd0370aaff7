"""The HTTP side of the service: token endpoint, API, object storage and knobs."""
